"""Altering a VM where it is: to what is wanted now, or back to what it was before somebody else altered it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vmprov.console.keeper import ensure_keeper
from vmprov.engine import power
from vmprov.engine.context import Context
from vmprov.engine.judging.ready import proof_of
from vmprov.engine.judging.watch import Beginning, begin
from vmprov.engine.objects import volumes
from vmprov.engine.objects.annotate import annotate
from vmprov.engine.objects.definition import keep_definition, kept_definition
from vmprov.engine.objects.nics import connect
from vmprov.engine.objects.prepare import (
    make_consoles,
    make_disk,
    make_firmware,
    make_seed,
    prepare_lab,
    prepare_networks,
)
from vmprov.engine.plan import Change, wishes_of
from vmprov.errors import Failed, WaitTimeout
from vmprov.events import Note
from vmprov.hypervisor import DomainState
from vmprov.hypervisor.hardware import with_cpus, with_disk, with_memory, without_disk
from vmprov.paths import make_private
from vmprov.store import VMRecord, labels_column
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
        # What it had, and what of it was right.
        self._definition = ""
        self._right = ""
        self._was_running = False
        self._powered_on = False
        self._defined = False
        self._grown: list[str] = []
        self._added: list[str] = []

    def do(self) -> Beginning | None:
        """Make the change; returns where the watch begins if the VM was powered on for it.

        The record is changed last: whatever is killed before that is found again as a difference.
        """
        ctx, vm, change = self._ctx, self._vm, self._change
        found = ctx.hypervisor.domain(vm.domain)
        if vm.adopted and (found.state is DomainState.MISSING or found.uuid != vm.uuid):
            raise Failed("its domain is gone since a moment ago", hint="look at the new plan")
        self._was_running = found.state in (DomainState.RUNNING, DomainState.PAUSED)
        if found.state is DomainState.PAUSED:
            ctx.hypervisor.resume_domain(vm.domain)
        make_private(ctx.home.vm(vm.name))
        # First what can fail without the guest noticing.
        self._make_again({reason.field for reason in change.reasons if reason.drift})
        if change.reboot:
            self._power_off()
        self._define(found.state is DomainState.MISSING)
        self._record()
        annotate(ctx, vm.name)
        if self._was_running and not change.reboot:
            return None
        off = not self._was_running and not any(reason.field == "state" for reason in change.reasons)
        return None if off else self._power_on()

    def _make_again(self, lost: Collection[str]) -> None:
        """Make again what surrounds the domain, and was lost."""
        ctx, vm = self._ctx, self._vm
        if "network" in lost:
            prepare_networks(ctx, [vm])
            connect(ctx, vm)
        if "nvram" in lost:
            make_firmware(ctx, vm, vm.machine)
        if "seed" in lost:
            prepare_lab(ctx, vm.lab, [vm])
            make_seed(ctx, vm)

    def undo(self) -> None:
        """Give the VM back what it had."""
        ctx, vm = self._ctx, self._vm
        if self._defined or (self._change.reboot and self._definition):
            ctx.hypervisor.power_off_domain(vm.domain)
            ctx.hypervisor.define_domain(self._definition)
        if self._right:
            keep_definition(ctx, vm, self._right)
        had = {disk.name for disk in vm.machine.disks}
        self._remove_disks([name for name in self._added if name not in had])
        ctx.store.update_vm(
            vm.name, cpus=vm.cpus, memory=vm.memory, disk=vm.disk, spec=vm.spec, labels=labels_column(vm.labels),
            protected=vm.protected, expires=vm.expires, state=vm.state, verdict=vm.verdict, why=vm.why, flow=vm.flow,
            judgement=vm.judgement,
        )  # fmt: skip
        annotate(ctx, vm.name)
        if self._was_running:
            ctx.hypervisor.start_domain(vm.domain)
        elif self._powered_on:
            ctx.hypervisor.power_off_domain(vm.domain)
        if self._grown:
            told = ", ".join(self._grown)
            ctx.events.emit(Note(text=f"{vm.name} has what it had, but disks do not shrink: {told} stays larger"))

    def drop_disks(self) -> None:
        """Remove the volumes of data disks that the VM no longer has."""
        self._remove_disks(self._change.dropped)
        annotate(self._ctx, self._vm.name)

    def _remove_disks(self, names: Iterable[str]) -> None:
        ctx, vm = self._ctx, self._vm
        for name in names:
            volume = volumes.of_disk(ctx, vm, name)
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

    # the definition

    def _define(self, missing: bool) -> None:
        """Give the domain its definition: the one it has, or the kept one, with what is wanted put into it."""
        ctx, vm = self._ctx, self._vm
        fields = {reason.field for reason in self._change.reasons}
        if not missing:
            self._definition = ctx.hypervisor.domain_definition(vm.domain)
        # Of a definition that others changed, more may be wrong than we look at.
        drifted = missing or any(reason.drift and reason.field in _HARDWARE for reason in self._change.reasons)
        if not drifted and not fields & set(_DEFINED):
            return
        wanted = wishes_of(self._change.wanted) if self._change.wanted is not None else vm.machine
        self._right = kept_definition(ctx, vm) if drifted else self._definition
        self._definition = self._definition or self._right
        definition = with_memory(with_cpus(self._right, wanted.cpus), wanted.memory)
        if "disk" in fields and wanted.disk is not None:
            self._grown.append("the system disk")
            ctx.hypervisor.grow_volume(ctx.host.pool, volumes.of_disk(ctx, vm, ""), wanted.disk)
        definition = self._with_data_disks(definition) if "disks" in fields else definition
        self._defined = True
        ctx.hypervisor.define_domain(definition)
        keep_definition(ctx, vm)

    def _with_data_disks(self, definition: str) -> str:
        ctx, vm = self._ctx, self._vm
        assert self._change.wanted is not None
        for disk in vm.machine.disks:
            if disk.name in self._change.dropped:
                definition = without_disk(definition, disk.name)
        sizes = {disk.name: disk.size for disk in vm.machine.disks}
        for disk in self._change.wanted.disks:
            if disk.size > sizes.get(disk.name, disk.size):
                self._grown.append(disk.name)
            if ctx.hypervisor.volume(ctx.host.pool, volumes.of_disk(ctx, vm, disk.name)) is None:
                self._added.append(disk.name)
            made = make_disk(ctx, vm, disk)
            definition = with_disk(definition, made.path, serial=made.serial)
        return definition

    def _record(self) -> None:
        wanted = self._change.wanted
        if wanted is None:
            return
        machine = wishes_of(wanted)
        if self._vm.adopted:
            kept = {"labels": machine.labels, "protect": machine.protect, "ttl": machine.ttl}
            machine = self._vm.machine.model_copy(update=kept)
            cpus, memory, disk = self._vm.cpus, self._vm.memory, self._vm.disk
        else:
            cpus, memory, disk = machine.cpus, machine.memory, machine.disk or self._vm.disk
        expires = self._vm.expires
        if any(reason.field == "ttl" for reason in self._change.reasons):
            expires = self._ctx.store.expiry(machine.ttl)
        self._ctx.store.update_vm(
            self._vm.name, cpus=cpus, memory=memory, disk=disk, spec=machine.model_dump_json(),
            labels=labels_column(wanted.labels), protected=wanted.protect, expires=expires,
        )  # fmt: skip

    def _power_on(self) -> Beginning:
        ctx, vm = self._ctx, self._ctx.store.vm(self._vm.name)
        ctx.stage(vm.name, "power on")
        make_consoles(ctx, vm)
        ensure_keeper(ctx.home, ctx.settings, ctx.runner)
        flow, proof = proof_of(vm, None)
        beginning = begin(ctx, vm, flow, limit=vm.machine.limit, proof=proof)
        self._powered_on = True
        ctx.hypervisor.start_domain(vm.domain)
        return beginning


# What somebody else may have changed in a definition, and all that we change in one.
_HARDWARE = ("cpus", "memory", "nics", "consoles")
_DEFINED = (*_HARDWARE, "disk", "disks")
