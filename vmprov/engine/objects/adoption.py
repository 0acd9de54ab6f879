"""Adoption: somebody else's network gets boot options while VMs of ours need them, and is restored afterwards.

The original definition is written down before anything is changed. Each VM that needs the options owns a record of the
adoption; whoever removes the last one restores the network. One lock per host and network keeps the two from meeting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmprov.engine.context import Context
from vmprov.errors import Failed, InUse
from vmprov.events import Note
from vmprov.hypervisor import Hypervisor
from vmprov.locks import exclusive, remove_unheld
from vmprov.networks import Boot, adopted_xml, adopter, given_back_xml, same_definition, told_by_adopter
from vmprov.store import Owned, VMRecord
from vmprov.waiting import Deadline

KIND = "adopted network"
_LIMIT = 300.0


@contextmanager
def _locked(ctx: Context, network: str) -> Iterator[None]:
    with exclusive(_lock(ctx, network), Deadline(_LIMIT), f"network {network}", cancel=ctx.cancel):
        yield


def _lock(ctx: Context, network: str) -> Path:
    return ctx.home.lock(f"{ctx.host.slug}-network-{network}")


def adopt(ctx: Context, vm: VMRecord, network: str, boot: Boot) -> None:
    """Add boot options to a network, or join those who did; raises :class:`InUse` while machines run on it."""
    told = boot.to_json()
    file = ctx.home.adopted(ctx.host.slug, network)
    with _locked(ctx, network):
        current = ctx.hypervisor.network_definition(network)
        others = _records(ctx, network)
        if any(other.detail["told"] != told for other in others):
            raise Failed(
                f"network {network} tells the machines of {others[0].vm} to boot from another URL",
                hint="delete these first, or use a network per VM",
            )
        if adopter(current) not in ("", ctx.store.installation):
            raise InUse(f"network {network} is adopted by another vmprov (installation {adopter(current)})")
        ctx.store.own(lab=vm.lab, vm=vm.name, host=ctx.host.name, kind=KIND, name=network, told=told)
        if not others:
            _write(file, current)
        if not adopter(current):
            original = file.read_text()
            wanted = adopted_xml(original, boot, ctx.store.installation)
            if not ctx.hypervisor.redefine_network(wanted):
                ctx.hypervisor.redefine_network(original)
                raise InUse(
                    f"network {network} cannot be adopted while machines run on it: it has to be restarted",
                    hint="stop them, or use another network",
                )


def release(ctx: Context, owned: Owned) -> None:
    """Forget that a VM needs the options, and restore the network if no other does."""
    with _locked(ctx, owned.name):
        others = [other for other in _records(ctx, owned.name) if other.id != owned.id]
        if not others:
            _restore(ctx, owned)
            ctx.home.adopted(ctx.host.slug, owned.name).unlink(missing_ok=True)
        ctx.store.disown(owned.id)
    if not others:
        remove_unheld(_lock(ctx, owned.name))


def restore_abandoned(hypervisor: Hypervisor, file: Path, network: str) -> bool:
    """Restore a network that is adopted for nobody (any more); ``False`` if that shows at its next start only."""
    current = hypervisor.network_definition(network)
    original = file.read_text() if file.exists() else ""
    done = hypervisor.redefine_network(_without(current, original, told_by_adopter(current)))
    file.unlink(missing_ok=True)
    return done


def _without(current: str, original: str, boot: Boot) -> str:
    """The definition as it was. What somebody else changed meanwhile stays; only what we added goes."""
    without = given_back_xml(current, boot)
    return original if original and same_definition(without, original) else without


def _restore(ctx: Context, owned: Owned) -> None:
    network = ctx.hypervisor.network(owned.name)
    if network is None:
        return
    current = ctx.hypervisor.network_definition(owned.name)
    file = ctx.home.adopted(ctx.host.slug, owned.name)
    original = file.read_text() if file.exists() else ""
    if adopter(current) != ctx.store.installation:
        # It was never changed, or is restored; but it may have been stopped for that.
        if original and not network.active:
            ctx.hypervisor.redefine_network(current)
        return
    boot = Boot.from_json(owned.detail["told"])
    if not ctx.hypervisor.redefine_network(_without(current, original, boot)):
        why = "machines of others run on it; it forgets its boot options when it starts the next time"
        ctx.events.emit(Note(text=f"network {owned.name} is restored, but {why}"))


def _records(ctx: Context, network: str) -> list[Owned]:
    return ctx.store.owned(host=ctx.host.name, kind=KIND, name=network)


def _write(path: Path, text: str) -> None:
    """Write it so that it is on the disk before anything is changed."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f".{path.name}.part")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
