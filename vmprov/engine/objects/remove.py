"""Removing: everything that records say is ours, newest first. Undo of a failed ``create`` is the same code.

Gone is success. An object that carries somebody else's mark is left alone. What cannot be removed stays
recorded, so that the next attempt finds it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from vmprov.console.ports import remove_port
from vmprov.engine.context import Context
from vmprov.engine.objects import adoption, base_volume, orchestration
from vmprov.engine.objects.volumes import volumes_of
from vmprov.errors import NotFullyUndone, VmprovError
from vmprov.events import Note
from vmprov.hypervisor import DomainState, foreign
from vmprov.hypervisor.definitions import parse_definition
from vmprov.hypervisor.hardware import read_hardware
from vmprov.locks import exclusive, remove_unheld
from vmprov.ssh import forget_host
from vmprov.store import Owned, VMRecord
from vmprov.waiting import Deadline

_LOCK_LIMIT = 300.0


def remove_vm(ctx: Context, vm: VMRecord) -> None:
    """Remove a VM with all that belongs to it, and its record last.

    Raises :class:`NotFullyUndone` naming what is left; the record then stays, in the state ``broken``.
    """
    ctx.store.update_vm(vm.name, state="deleting")
    ctx.stage(vm.name, "removing")
    if vm.adopted:
        ctx.events.emit(Note(text=f"{vm.name} is forgotten; its domain {vm.domain} is left alone, as it is not ours"))
    problems = [] if vm.adopted else _attempt("domain", lambda: _remove_domain(ctx, vm))
    if not problems:
        # Volumes and networks of a domain that still runs must stay.
        problems = _remove_owned(ctx, ctx.store.owned(vm=vm.name))
    if problems:
        why = "; ".join(problems)
        ctx.store.update_vm(vm.name, state="broken", why=why)
        ctx.stage(vm.name, "broken", why)
        raise NotFullyUndone(f"{vm.name} could not be removed fully: {why}", hint=f"run again: vmprov delete {vm.name}")
    for port in range(vm.consoles):
        remove_port(ctx.home.console_port(vm.id, port))
    forget_host(ctx.home.known_hosts(vm.lab), vm.name)
    _remove_files(ctx, vm)
    discard_logs(ctx, vm)
    remove_unheld(ctx.home.lock(f"watch-{vm.name}"))
    ctx.store.remove_vm(vm.name)
    ctx.stage(vm.name, "removed")


def discard_logs(ctx: Context, vm: VMRecord) -> None:
    """Remove what the host's programs wrote about a domain of ours that is gone, or has another name now."""
    if vm.adopted:
        return
    with suppress(VmprovError, OSError):  # it does no harm, and is found again
        for path, domain in ctx.host.remains(vm.domain):
            if domain == vm.domain:
                ctx.host.discard(path)


def take_down(ctx: Context, vm: VMRecord) -> None:
    """Remove what a VM is made anew without: its domain, its system disk, and what it is not going to have any more.

    Raises :class:`NotFullyUndone` naming what is left.
    """
    ctx.stage(vm.name, "taking down")
    problems = _attempt("domain", lambda: _remove_domain(ctx, vm))
    if not problems:
        data = set(volumes_of(ctx, vm).data)
        networks = {nic.network for nic in vm.nics}
        base = (
            base_volume.base_image(ctx.images, ctx.images.get(vm.image), ctx.store.installation) if vm.image else None
        )
        for owned in ctx.store.owned(vm=vm.name):
            stays = data if owned.kind == "volume" else networks if owned.kind == "network" else {base and base.volume}
            if owned.name not in stays:
                problems += _remove_owned(ctx, [owned])
    if problems:
        raise NotFullyUndone(f"{vm.name} could not be taken down: {'; '.join(problems)}")
    # Its new system has a host key of its own.
    forget_host(ctx.home.known_hosts(vm.lab), vm.name)


def remove_strays(ctx: Context, vm: VMRecord) -> None:
    """Remove volumes that are for nothing any more, but for those that its domain still has.

    Raises :class:`NotFullyUndone` naming what is left.
    """
    strays = volumes_of(ctx, vm).strays
    if strays and ctx.hypervisor.domain(vm.domain).uuid == vm.uuid:
        hardware = read_hardware(parse_definition(ctx.hypervisor.domain_definition(vm.domain), "domain"))
        strays = [stray for stray in strays if not hardware.has(stray.name)]
    if problems := _remove_owned(ctx, strays):
        raise NotFullyUndone(f"{vm.name} has what it should, but not everything else is gone: {'; '.join(problems)}")


def _remove_files(ctx: Context, vm: VMRecord) -> None:
    """Remove the VM's directory, out of sight of the keeper, who might put something into it meanwhile."""
    gone = ctx.home.root / f".removed-{vm.id}"
    with suppress(OSError):  # there is none
        ctx.home.vm(vm.name).rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(ctx.home.vm(vm.name), ignore_errors=True)


def remove_lab_if_empty(ctx: Context, lab: str) -> None:
    """Remove what a lab's VMs shared, once the last of them is gone.

    Raises :class:`NotFullyUndone` naming what is left.
    """
    with exclusive(ctx.home.lock(f"lab-{lab}"), Deadline(_LOCK_LIMIT), f"lab {lab}"):
        if ctx.store.vms(lab):
            return
        problems = _remove_owned(ctx, ctx.store.owned(lab=lab, vm=""))
        if problems:
            raise NotFullyUndone(f"lab {lab} could not be removed fully: {'; '.join(problems)}")
        shutil.rmtree(ctx.home.lab(lab), ignore_errors=True)
        ctx.store.remove_lab_if_empty(lab)
    for name in (f"lab-{lab}", f"vagrantfile-{lab}"):
        remove_unheld(ctx.home.lock(name))


def _attempt(what: str, action: Callable[[], object]) -> list[str]:
    try:
        action()
    except (VmprovError, OSError) as problem:
        return [f"{what}: {problem}"]
    return []


def _remove_domain(ctx: Context, vm: VMRecord) -> None:
    found = ctx.hypervisor.domain(vm.domain)
    if found.uuid != vm.uuid:
        # It is gone, or somebody gave it another name; perhaps the name is that of somebody else's domain now.
        ours = next((domain.name for domain in ctx.hypervisor.domains() if domain.uuid == vm.uuid), "")
        if not ours and found.state is not DomainState.MISSING:
            return
        ctx.driver.destroy(lab=vm.lab, vm=vm.name, domain=ours or vm.domain)
        return
    ctx.driver.destroy(lab=vm.lab, vm=vm.name, domain=vm.domain)


def _remove_owned(ctx: Context, owned: list[Owned]) -> list[str]:
    problems = []
    for thing in owned:
        problems += _attempt(f"{thing.kind} {thing.name}", partial(_REMOVERS[thing.kind], ctx, thing))
    return problems


def _remove_volume(ctx: Context, owned: Owned) -> None:
    ctx.hypervisor.remove_volume(owned.detail["pool"], owned.name)
    ctx.store.disown(owned.id)


def _remove_network(ctx: Context, owned: Owned) -> None:
    found = ctx.hypervisor.network(owned.name)
    if found is not None and not foreign(found.mark, ctx.store.installation):
        ctx.hypervisor.remove_network(owned.name)
    ctx.store.disown(owned.id)


_REMOVERS: dict[str, Callable[[Context, Owned], None]] = {
    "volume": _remove_volume,
    "network": _remove_network,
    adoption.KIND: adoption.release,
    base_volume.KIND: base_volume.release,
    orchestration.KIND: orchestration.withdraw,
}
