"""Altering a VM where it is: to what is wanted now, or back to what it was before somebody else altered it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from vmprov.engine import power
from vmprov.engine.context import Context
from vmprov.engine.judging.watch import Beginning
from vmprov.engine.objects.annotate import annotate
from vmprov.engine.objects.definition import keep_definition, kept_definition
from vmprov.engine.objects.nics import connect
from vmprov.engine.objects.prepare import (
    make_disk,
    make_firmware,
    make_seed,
    prepare_key,
    prepare_networks,
)
from vmprov.engine.objects.remove import remove_strays
from vmprov.engine.objects.volumes import disk_of, volumes_of
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


@dataclass(frozen=True)
class _Before:
    """A domain as it was found; ``definition`` is empty where there was none."""

    state: DomainState
    definition: str


class Alteration:
    """One change of one VM, and the way back."""

    def __init__(self, ctx: Context, change: Change) -> None:
        assert change.record is not None
        self._ctx = ctx
        self._change = change
        self._vm: VMRecord = change.record
        self._before: _Before | None = None
        # Of the definition that it had, what was right.
        self._right = ""
        self._defined = False
        # Whether the guest noticed, or may have.
        self.disturbs = False
        self._grown: set[str] = set()
        self._replaced: dict[str, Any] = {}

    def do(self) -> Beginning | None:
        """Make the change; returns where the watch begins if the VM was powered on for it.

        It can be called again after a failure. The record is changed last: whatever is killed before that is found
        again as a difference.
        """
        ctx, vm, change = self._ctx, self._vm, self._change
        found = self._find()
        before = self._before = self._before or found
        if found.state is DomainState.PAUSED:
            ctx.hypervisor.resume_domain(vm.domain)
        make_private(ctx.home.vm(vm.name))
        # First what can fail without the guest noticing.
        drifts = {reason.field for reason in change.reasons if reason.drift}
        self._make_again(drifts)
        definition = self._new_definition(before)
        if change.reboot:
            self._power_off()
        if definition:
            definition = self._with_disks(definition)
            self._defined = True
            ctx.hypervisor.define_domain(definition)
            keep_definition(ctx, vm)
        self._record()
        annotate(ctx, vm.name)
        if before.state.is_on and not change.reboot:
            return power.go_on(ctx, vm, limit=vm.machine.limit) if "judgement" in drifts else None
        off = not before.state.is_on and not change.starts
        return None if off else self._power_on()

    def _find(self) -> _Before:
        found = self._ctx.hypervisor.domain(self._vm.domain)
        if found.state is DomainState.MISSING:
            if self._vm.adopted:
                raise Failed("its domain is gone since a moment ago", hint="look at the new plan")
            return _Before(found.state, "")
        if found.uuid != self._vm.uuid:
            raise Failed(f"somebody else's domain is called {found.name!r}", hint="remove or rename that")
        return _Before(found.state, self._ctx.hypervisor.domain_definition(found.name))

    def _make_again(self, lost: Collection[str]) -> None:
        """Make again what surrounds the domain, and was lost."""
        ctx, vm = self._ctx, self._vm
        if "network" in lost:
            prepare_networks(ctx, [vm])
            connect(ctx, vm)
        if "nvram" in lost:
            make_firmware(ctx, vm, vm.machine)
        if "seed" in lost:
            prepare_key(ctx, vm.lab)
            make_seed(ctx, vm)

    def undo(self) -> None:
        """Give the VM back what it had."""
        ctx, vm, before = self._ctx, self._vm, self._before
        if before is None:
            return
        if self.disturbs:
            # A guest may be about to shut down still.
            ctx.hypervisor.power_off_domain(vm.domain)
        if self._defined:
            ctx.hypervisor.define_domain(before.definition or self._right)
            keep_definition(ctx, vm, self._right)
        # What was judged of a guest that ran on stays true.
        judged = ("state", "verdict", "why", "flow", "judgement") if self.disturbs else ()
        if columns := {name: getattr(vm, name) for name in judged} | self._replaced:
            ctx.store.update_vm(vm.name, **columns)
        annotate(ctx, vm.name)
        if self.disturbs and before.state.is_on:
            ctx.hypervisor.start_domain(vm.domain)
        if self._grown:
            told = ", ".join(sorted(self._grown))
            ctx.events.emit(Note(text=f"{vm.name} has what it had, but disks do not shrink: {told} stays larger"))
        self.finish()

    def finish(self) -> None:
        """Remove the volumes of disks that the VM does not have; from here on, there is no way back."""
        vm = self._ctx.store.vm(self._vm.name)
        if volumes_of(self._ctx, vm).strays:
            remove_strays(self._ctx, vm)
            annotate(self._ctx, vm.name)

    def _power_off(self) -> None:
        self.disturbs = True
        try:
            power.stop(self._ctx, self._vm, Deadline(_SHUTDOWN_LIMIT), force=False)
        except WaitTimeout:
            self._ctx.events.emit(Note(text=f"{self._vm.name} does not shut down when asked; pulling the plug"))
            self._ctx.hypervisor.power_off_domain(self._vm.domain)

    # the definition

    def _new_definition(self, before: _Before) -> str:
        """The one it has, or the kept one, with what is wanted put into it; empty if it can stay as it is."""
        ctx, vm, wanted = self._ctx, self._vm, self._change.wanted
        if vm.adopted or wanted is None:
            return ""
        fields = {reason.field for reason in self._change.reasons}
        # Of a definition that others changed, more may be wrong than we look at.
        drifted = any(reason.drift and reason.field in _HARDWARE for reason in self._change.reasons)
        if before.definition and not drifted and fields.isdisjoint(_DEFINED):
            return ""
        self._right = before.definition if before.definition and not drifted else kept_definition(ctx, vm)
        definition = with_memory(with_cpus(self._right, wanted.cpus), wanted.memory)
        if "disks" in fields:
            strays = (disk_of(stray.name) for stray in volumes_of(ctx, vm).strays)
            for name in (*self._change.dropped, *strays):
                definition = without_disk(definition, name)
            had = {disk.name for disk in vm.machine.disks}
            for disk in wanted.disks:
                if disk.name not in had:
                    make_disk(ctx, vm, disk)
        return definition

    def _with_disks(self, definition: str) -> str:
        """The definition with all data disks that are wanted, which have their sizes then; nobody may be using them."""
        ctx, vm, wanted = self._ctx, self._vm, self._change.wanted
        assert wanted is not None
        fields = {reason.field for reason in self._change.reasons}
        if "disk" in fields and wanted.disk is not None:
            ctx.hypervisor.grow_volume(ctx.host.pool, volumes_of(ctx, vm).disk(""), wanted.disk)
            self._grown.add("the system disk")
        if "disks" in fields:
            sizes = {disk.name: disk.size for disk in vm.machine.disks}
            for disk in wanted.disks:
                made = make_disk(ctx, vm, disk)
                definition = with_disk(definition, made.path, serial=made.serial)
                if disk.size > sizes.get(disk.name, disk.size):
                    self._grown.add(disk.name)
        return definition

    def _record(self) -> None:
        """Write down what differs by the plan, and nothing else: others may have changed the rest meanwhile."""
        vm, wanted = self._vm, self._change.wanted
        told = {reason.field for reason in self._change.reasons if not reason.drift}
        if wanted is None or not told:
            return
        changed: dict[str, Any] = {}
        if "labels" in told:
            changed["labels"] = labels_column(wanted.labels)
        if "protect" in told:
            changed["protected"] = wanted.protect
        if "ttl" in told:
            changed["expires"] = self._ctx.store.expiry(wanted.ttl)
        if not told <= {"labels", "protect"}:
            machine = wishes_of(wanted) if not vm.adopted else vm.machine.model_copy(update={"ttl": wanted.ttl})
            changed["spec"] = machine.model_dump_json()
            if not vm.adopted:
                changed |= {"cpus": machine.cpus, "memory": machine.memory, "disk": machine.disk or vm.disk}
        self._replaced = {name: labels_column(vm.labels) if name == "labels" else getattr(vm, name) for name in changed}
        self._ctx.store.update_vm(vm.name, **changed)

    def _power_on(self) -> Beginning:
        self.disturbs = True
        vm = self._ctx.store.vm(self._vm.name)
        return power.switch_on(self._ctx, vm, limit=vm.machine.limit)


# What somebody else may have changed in a definition, and all that we change in one.
_HARDWARE = ("cpus", "memory", "nics", "consoles")
_DEFINED = (*_HARDWARE, "disk", "disks")
