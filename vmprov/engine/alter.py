"""Altering a VM where it is: to what is wanted now, or back to what it was before somebody else altered it."""

from __future__ import annotations

from vmprov.engine import power
from vmprov.engine.context import Context
from vmprov.engine.definition import keep_definition, kept_definition
from vmprov.engine.observe import observe_one
from vmprov.engine.plan import Action, Change
from vmprov.engine.prepare import data_volume, make_consoles, make_data_disks, mend_networks
from vmprov.engine.watch import Beginning
from vmprov.errors import WaitTimeout
from vmprov.events import Note
from vmprov.hypervisor import DomainState
from vmprov.hypervisor.hardware import with_cpus, with_disk, with_memory, without_disk
from vmprov.spec.machine import Machine
from vmprov.store import VMRecord
from vmprov.waiting import Deadline

# Seconds for which a guest is asked to shut down, before the plug is pulled.
_SHUTDOWN_LIMIT = 60.0


class Alteration:
    """One change of one VM, and the way back."""

    def __init__(self, ctx: Context, change: Change) -> None:
        assert change.record is not None
        self._ctx = ctx
        self._change = change
        self._vm: VMRecord = change.record
        self._definition = ""
        self._was_running = False

    def do(self) -> Beginning | None:
        """Make the change; returns where the watch begins if the VM was powered on for it.

        The record is changed last: whatever is killed before that is found again as a difference.
        """
        ctx, vm, change = self._ctx, self._vm, self._change
        found = ctx.hypervisor.domain(vm.domain)
        self._was_running = found.state in (DomainState.RUNNING, DomainState.PAUSED)
        if found.state is DomainState.PAUSED:
            ctx.hypervisor.resume_domain(vm.domain)
        if change.reboot:
            self._power_off()
        if any(reason.field == "network" for reason in change.reasons):
            mend_networks(ctx, vm)
        self._define(found.state is DomainState.MISSING)
        self._record()
        if self._was_running and not change.reboot:
            return None
        return self._power_on()

    def undo(self) -> None:
        """Give the VM back what it had."""
        if not self._definition:
            return
        ctx, vm = self._ctx, self._vm
        ctx.hypervisor.power_off_domain(vm.domain)
        ctx.hypervisor.define_domain(self._definition)
        ctx.store.update_vm(
            vm.name, cpus=vm.cpus, memory=vm.memory, spec=vm.spec, labels=vm.labels_column, protected=vm.protected,
            state=vm.state, verdict=vm.verdict, why=vm.why, judgement=vm.judgement,
        )  # fmt: skip
        if self._was_running:
            ctx.hypervisor.start_domain(vm.domain)

    def drop_disks(self) -> None:
        """Remove the volumes of data disks that the VM no longer has."""
        ctx, vm = self._ctx, self._vm
        for name in self._change.lost:
            volume = data_volume(vm, name)
            ctx.hypervisor.remove_volume(ctx.host.pool, volume)
            for owned in ctx.store.owned(vm=vm.name, kind="volume"):
                if owned.name == volume:
                    ctx.store.disown(owned.id)

    def _power_off(self) -> None:
        try:
            power.stop(self._ctx, self._vm, Deadline(_SHUTDOWN_LIMIT), force=False)
        except WaitTimeout:
            self._ctx.events.emit(Note(text=f"{self._vm.name} does not shut down when asked; pulling the plug"))
            self._ctx.hypervisor.power_off_domain(self._vm.domain)
