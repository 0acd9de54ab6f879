"""What machines need, against what there is: images, certificates, networks, firmware, room, free names. Reads only."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime

from vmprov import addressing
from vmprov.capacity import MEMORY_OVERHEAD_PER_VM, memory_left, shortage
from vmprov.engine.context import Context
from vmprov.engine.observe import Seen
from vmprov.engine.plan import Action, Change, Plan
from vmprov.engine.renames import NEW_NAME
from vmprov.errors import Failed, NameTaken, SpecError
from vmprov.firmware import choose_loader, read_certificates
from vmprov.hypervisor import DomainState
from vmprov.images import Image
from vmprov.networks import BRIDGE, MODES
from vmprov.spec.lab import VMSpec
from vmprov.spec.machine import Machine
from vmprov.spec.quantities import format_size
from vmprov.store import VMRecord

BLANK_DISK = 10 * 1024**3


def check_plan(ctx: Context, plan: Plan, seen: Mapping[str, Seen], *, networks: Container[str]) -> None:
    """Raise :class:`SpecError` (or its kinds) or :class:`Failed` if a plan cannot be done, as far as that shows now.

    ``seen``: the VMs as they are. ``networks``: names of those that are the lab's. A host that is not up is not asked.
    """
    for change in plan.changes:
        if change.record is not None and change.wanted is not None:
            _check_domain(change.record, seen[change.name])
    made = _wanted(plan, (Action.CREATE, Action.REPLACE))
    created = _wanted(plan, (Action.CREATE,))
    check_names(ctx, plan.lab, [one.name for one in plan.changes if one.action in (Action.CREATE, Action.ADOPT)])
    _check_images(ctx, made)
    with_firmware = [*made, *_mended(plan, "nvram")]
    _check_certificates(with_firmware)
    with_networks = [*made, *_mended(plan, "network")]
    more = {change.name: more for change in plan.changes if (more := _more_memory(change))}
    started = [seen[one.name].hardware for one in plan.changes if one.action is Action.ADOPT and one.starts]
    if (with_firmware or with_networks or started or more) and ctx.host.is_up():
        _check_networks(ctx, with_networks, networks)
        _check_loaders(ctx, with_firmware)
        memory = [spec.memory for spec in created] + [hardware.memory for hardware in started if hardware]
        check_room(ctx, memory, more, doomed=[one.name for one in plan.changes if one.action is Action.DELETE])
        check_unrecorded(ctx, [spec.name for spec in created])


def _wanted(plan: Plan, actions: Container[Action]) -> list[VMSpec]:
    return [change.wanted for change in plan.changes if change.wanted is not None and change.action in actions]


def _mended(plan: Plan, lost: str) -> list[VMSpec]:
    """VMs of ours for which something that they lost is made again."""
    return [
        change.wanted
        for change in plan.changes
        if change.wanted is not None and any(reason.drift and reason.field == lost for reason in change.reasons)
    ]


def _check_domain(record: VMRecord, seen: Seen) -> None:
    """Raise :class:`Failed` if a VM's domain is none that we may touch."""
    if record.adopted and seen.state is DomainState.MISSING:
        raise Failed(
            f"the domain of {record.name} is gone; it was imported, and cannot be made again",
            hint=f"vmprov delete {record.name}",
        )
    if seen.robbed:
        raise Failed(
            f"the domain of {record.name} is gone, and somebody else's is called {record.domain!r}",
            hint="remove or rename that",
        )
    if seen.domain not in ("", record.domain):
        raise Failed(
            f"the domain of {record.name} is called {seen.domain!r} now, and not {record.domain!r}",
            hint=f"shut it down, and give it its name back: virsh domrename {seen.domain} {record.domain}",
        )


def _more_memory(change: Change) -> int:
    """Bytes that a VM has after the change, and had not before."""
    if change.wanted is None or change.record is None or change.record.adopted:
        return 0
    return max(0, change.wanted.memory - change.record.memory)


def check_machines(ctx: Context, wanted: Sequence[VMSpec], *, ask_host: bool) -> None:
    """Raise :class:`SpecError` (or its kinds) for the first thing that is missing for any VM that is to be made.

    Without ``ask_host``, what only the host knows is left unchecked.
    """
    _check_images(ctx, wanted)
    _check_certificates(wanted)
    if ask_host:
        _check_networks(ctx, wanted, ())
        _check_loaders(ctx, wanted)


def _check_images(ctx: Context, wanted: Sequence[VMSpec]) -> None:
    images = {name: ctx.images.get(name) for name in dict.fromkeys(spec.image for spec in wanted) if name}
    for spec in wanted:
        system_disk_size(spec, images.get(spec.image))


def _check_loaders(ctx: Context, wanted: Sequence[Machine]) -> None:
    for secure in {spec.firmware == "secure-boot" for spec in wanted if spec.firmware != "bios"}:
        choose_loader(ctx.hypervisor.loaders(), secure=secure, host=ctx.host.name)


def check_names(ctx: Context, lab: str, names: Sequence[str]) -> None:
    """Raise :class:`NameTaken` if new VMs of a lab cannot be called so."""
    taken = {vm.name for vm in ctx.store.vms()} | ctx.store.leased(host="", kind=NEW_NAME)
    if clashes := sorted(set(names) & taken):
        raise NameTaken(
            f"there is a VM called {clashes[0]!r} already", hint="choose another --name, or delete it first"
        )
    if lab in taken | set(names) or set(names) & {other.name for other in ctx.store.labs()}:
        raise NameTaken("a VM and a lab cannot have the same name", hint="choose another --name or --lab")


def system_disk_size(spec: Machine, image: Image | None) -> int:
    """Bytes that a VM's system disk is going to have; raises :class:`SpecError` if its image has no room there."""
    if image is None:
        return spec.disk or BLANK_DISK
    if spec.disk is not None and spec.disk < image.virtual_size:
        raise SpecError(
            f"a system disk of {format_size(spec.disk)} is smaller than image {image.name}",
            hint=f"at least {format_size(image.virtual_size)}",
        )
    return spec.disk or image.virtual_size


def _check_certificates(wanted: Sequence[Machine]) -> None:
    """Raise :class:`SpecError` for the first file without a certificate that firmware will take."""
    for path in dict.fromkeys(path for spec in wanted if spec.http_boot for path in spec.http_boot.ca):
        read_certificates(path, now=datetime.now(UTC))
    for path in dict.fromkeys(path for spec in wanted for path in spec.boot_certificates):
        # Firmware does not look at the dates of what is signed.
        read_certificates(path)


def _check_networks(ctx: Context, wanted: Sequence[VMSpec], ours: Container[str]) -> None:
    named = {name for spec in wanted for name in spec.networks if name not in ours}
    existing = sorted(name for name in named if name not in MODES and not name.startswith(BRIDGE))
    networks = {network.name: network for network in ctx.hypervisor.networks()} if existing else {}
    for name in existing:
        if name not in networks:
            known = ", ".join(sorted(networks)) or "none"
            raise SpecError(
                f"no network called {name!r} on {ctx.host.name}",
                hint=f"use per-vm, shared, isolated, bridge:NAME, or one that exists ({known})",
            )
        if not networks[name].active:
            raise SpecError(f"network {name!r} is not active", hint=f"run: virsh net-start {name}")


def check_room(
    ctx: Context, memory: Sequence[int], more: Mapping[str, int] | None = None, *, doomed: Sequence[str] = ()
) -> None:
    """Raise :class:`SpecError` if VMs with so many bytes of memory do not all fit beside those that are there.

    ``more``: what some of these get in addition, in bytes. ``doomed``: those that are going to be removed.
    """
    hint = "ask for fewer or smaller ones"
    if doomed:
        hint += f"; or remove first what is to go: vmprov delete {' '.join(doomed)}"
    ours = sum(vm.memory for vm in ctx.store.vms() if vm.host == ctx.host.name)
    node, pool = ctx.hypervisor.node(), ctx.hypervisor.pool(ctx.host.pool)
    if lacking := shortage(node, pool, wanted=memory, committed=ours):
        raise SpecError(f"{len(memory)} VMs do not fit on {ctx.host.name}: {lacking}", hint=hint)
    taken = sum(memory) + len(memory) * MEMORY_OVERHEAD_PER_VM
    if more and taken + sum(more.values()) > memory_left(node, committed=ours):
        raise SpecError(
            f"{ctx.host.name} has not {format_size(sum(more.values()))} more memory for {', '.join(more)}",
            hint="ask for less",
        )


def check_unrecorded(ctx: Context, names: Sequence[str]) -> None:
    """Raise :class:`NameTaken` for a domain of ours that is not recorded: it and its files would be lost."""
    recorded = {vm.domain for vm in ctx.store.vms() if vm.host == ctx.host.name}
    wanted = {addressing.domain_name(ctx.store.installation, name) for name in names} - recorded
    for domain in sorted(ctx.hypervisor.domains(), key=lambda domain: domain.name):
        if domain.name in wanted and domain.mark is not None and domain.mark.installation == ctx.store.installation:
            raise NameTaken(
                f"{ctx.host.name} has a domain called {domain.name!r} already, and nothing is recorded of it",
                hint="record it again: vmprov gc --rebuild",
            )
