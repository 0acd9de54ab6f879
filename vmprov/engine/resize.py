"""Resizing: what a VM has becomes more, or less where nothing is lost by it; the same change that ``apply`` makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmprov.engine.context import Context
from vmprov.engine.feasible import check_room
from vmprov.engine.outcome import Outcome
from vmprov.engine.plan import Change, Plan, alteration, shrinking, spec_of
from vmprov.engine.work import Work
from vmprov.errors import Failed, SpecError
from vmprov.hypervisor import DomainState, foreign
from vmprov.spec.machine import Disk
from vmprov.store import Operation, VMRecord


@dataclass(frozen=True)
class Sizes:
    """What a VM is to have; ``None``: as before. Sizes in bytes, ``disks`` those of data disks by name."""

    cpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    disks: Mapping[str, int] = field(default_factory=dict)


def plan_resize(ctx: Context, name: str, sizes: Sizes) -> Plan:
    """What gives a VM these sizes. Reads only; raises :class:`SpecError` for what cannot be, :class:`Failed`."""
    vm = ctx.store.vm(name)
    if vm.adopted:
        raise Failed(f"the domain of {name} is not ours to change")
    disks = _disks(vm, sizes.disks)
    if sizes.disk is not None and sizes.disk < vm.disk:
        raise SpecError(shrinking("the system disk", vm.disk, sizes.disk))
    found = ctx.hypervisor.domain(vm.domain)
    if found.state is DomainState.MISSING or found.uuid != vm.uuid or foreign(found.mark, ctx.store.installation):
        raise Failed(f"the domain of {name} is gone, or was only half made", hint=f"run: vmprov rebuild {name}")
    wanted = {"cpus": sizes.cpus, "memory": sizes.memory, "disk": sizes.disk if sizes.disk != vm.disk else None}
    changes = {field: value for field, value in wanted.items() if value is not None}
    change = alteration(spec_of(vm, **changes, disks=disks), vm, found.state)
    if change is None:
        return Plan(vm.lab, kept=(name,))
    if (more := (sizes.memory or 0) - vm.memory) > 0:
        check_room(ctx, (), {name: more})
    return Plan(vm.lab, (change,))


def resize(ctx: Context, operation: Operation, change: Change) -> Outcome:
    """Make the change; a VM with which it fails gets back what it had. Whoever calls holds the lab."""
    work = Work(ctx, operation, change.record.lab if change.record else "")
    work.change(change)
    (outcome,) = work.do()
    return outcome


def _disks(vm: VMRecord, sizes: Mapping[str, int]) -> tuple[Disk, ...]:
    """The VM's data disks with their new sizes."""
    known = {disk.name: disk for disk in vm.machine.disks}
    for name, size in sizes.items():
        if name not in known:
            told = ", ".join(known) or "none"
            raise SpecError(f"{vm.name} has no data disk called {name!r}", hint=f"it has: {told}")
        if size < known[name].size:
            raise SpecError(shrinking(f"disk {name}", known[name].size, size))
    return tuple(Disk(name=disk.name, size=sizes.get(disk.name, disk.size)) for disk in vm.machine.disks)
