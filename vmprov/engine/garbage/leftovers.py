"""What is ours on a host and in the state directory, and belongs to nothing that is recorded.

Finding only reads. A leftover is removed under the database's lock, after it was looked at once more: records come
before objects, so that nobody can begin to own it at that moment.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vmprov.engine.objects import adoption, base_volume
from vmprov.errors import InUse
from vmprov.hosts import Host
from vmprov.hypervisor import Domain, Hypervisor, foreign
from vmprov.hypervisor.definitions import find_note
from vmprov.hypervisor.hardware import read_hardware
from vmprov.networks import adopter
from vmprov.paths import Home
from vmprov.store import Store, read_note
from vmprov.views import Leftover

_VOLUMES = ("volume", base_volume.KIND)


@dataclass(frozen=True)
class Find:
    """A leftover. ``still``: whether it is one, as things are now. ``remove``: gone is success."""

    told: Leftover
    still: Callable[[], bool]
    remove: Callable[[], object]


def on_host(host: Host, home: Home, store: Store) -> Iterator[Find]:
    """What a host that is up holds of ours, in the order in which it can be removed. Lazily: look, then remove."""
    yield from _domains(host, home, store)
    yield from _adopted_networks(host, home, store)
    yield from _networks(host, store)
    yield from _volumes(host, store)
    yield from _files(host, store)


def _prefix(store: Store) -> str:
    return f"vmprov-{store.installation}-"


def _owned(store: Store, host: Host, *kinds: str) -> set[str]:
    return {thing.name for thing in store.owned(host=host.name) if thing.kind in kinds}


# domains


def _domains(host: Host, home: Home, store: Store) -> Iterator[Find]:
    hypervisor = host.hypervisor()

    def unowned(uuid: str) -> bool:
        return uuid not in {vm.uuid for vm in store.vms()}

    found = hypervisor.domains()
    # Records come before objects: what has none by now, has none.
    known = {vm.uuid for vm in store.vms()}
    for domain in found:
        if domain.uuid in known or not (why := _why_ours(hypervisor, home, store, domain)):
            continue
        yield Find(
            Leftover(kind="domain", name=domain.name, host=host.name, why=why),
            still=partial(unowned, domain.uuid),
            remove=partial(_remove_domain, hypervisor, domain),
        )


def _why_ours(hypervisor: Hypervisor, home: Home, store: Store, domain: Domain) -> str:
    """The evidence that a domain is ours; empty where there is none."""
    if not foreign(domain.mark, store.installation):
        noted = read_note(find_note(_definition(hypervisor, domain)))
        again = "; it can be had again with: vmprov gc --rebuild" if noted else ""
        return f"it has our mark, and no record has its uuid{again}"
    # The mark is among the last things that a domain gets.
    half_made = domain.mark is None and domain.name.startswith(_prefix(store))
    if half_made and f"{home.root}/" in ET.tostring(_definition(hypervisor, domain), encoding="unicode"):
        return "it was half made, from our state directory, and no record has its uuid"
    return ""


def _definition(hypervisor: Hypervisor, domain: Domain) -> ET.Element:
    return ET.fromstring(hypervisor.domain_xml(domain.name))


def _remove_domain(hypervisor: Hypervisor, domain: Domain) -> None:
    if hypervisor.domain(domain.name).uuid == domain.uuid:
        hypervisor.remove_domain(domain.name)


# networks


def _networks(host: Host, store: Store) -> Iterator[Find]:
    hypervisor = host.hypervisor()

    def unowned(name: str) -> bool:
        return name not in _owned(store, host, "network")

    found = hypervisor.networks()
    known = _owned(store, host, "network")
    for network in found:
        if network.name not in known and not foreign(network.mark, store.installation):
            yield Find(
                Leftover(
                    kind="network", name=network.name, host=host.name, why="it has our mark, and no record speaks of it"
                ),
                still=partial(unowned, network.name),
                remove=partial(hypervisor.remove_network, network.name),
            )


def _adopted_networks(host: Host, home: Home, store: Store) -> Iterator[Find]:
    """Networks of others to which we added boot options that no VM needs any more."""
    hypervisor = host.hypervisor()

    def unowned(name: str) -> bool:
        return name not in _owned(store, host, adoption.KIND)

    def restore(name: str) -> None:
        adoption.restore_abandoned(hypervisor, home.adopted(host.slug, name), name)

    found = hypervisor.networks()
    known = _owned(store, host, adoption.KIND)
    for network in found:
        if network.mark is not None or network.name in known:
            continue
        if adopter(hypervisor.network_definition(network.name)) == store.installation:
            yield Find(
                Leftover(
                    kind="adopted network", name=network.name, host=host.name,
                    why="it has boot options of ours, which no machine needs any more; it is given back",
                ),
                still=partial(unowned, network.name),
                remove=partial(restore, network.name),
            )  # fmt: skip


# volumes


def _volumes(host: Host, store: Store) -> Iterator[Find]:
    hypervisor = host.hypervisor()
    pools = {
        host.pool,
        *(thing.detail["pool"] for thing in store.owned(host=host.name) if thing.kind in _VOLUMES),
    }

    def unowned(name: str) -> bool:
        return name not in _owned(store, host, *_VOLUMES)

    def remove(pool: str, name: str, path: str) -> None:
        users = [
            domain.name
            for domain in hypervisor.domains()
            if path in read_hardware(_definition(hypervisor, domain)).disks
        ]
        if users:
            raise InUse(f"domain {users[0]} has it as a disk")
        hypervisor.remove_volume(pool, name)

    for pool in sorted(pools):
        found = [volume for volume in hypervisor.volumes(pool) if volume.name.startswith(_prefix(store))]
        known = _owned(store, host, *_VOLUMES)
        # What others are based on comes last.
        for volume in sorted(found, key=lambda one: base_volume.is_one(one.name, store.installation)):
            if volume.name not in known:
                yield Find(
                    Leftover(
                        kind="volume", name=volume.name, host=host.name, why="its name is of ours, and no record has it"
                    ),
                    still=partial(unowned, volume.name),
                    remove=partial(remove, pool, volume.name, volume.path),
                )


# what the host keeps in files


def _files(host: Host, store: Store) -> Iterator[Find]:
    """Logs and TPM state of domains that are gone; a domain's own are removed with it, but for the logs."""

    def present() -> set[str]:
        named = {name for domain in host.hypervisor().domains() for name in (domain.name, domain.uuid)}
        return named | {name for vm in store.vms() for name in (vm.domain, vm.uuid)}

    def gone(name: str) -> bool:
        return name not in present()

    remains = host.remains(_prefix(store))
    known = present() if remains else set()
    for path, name in remains:
        if name not in known:
            yield Find(
                Leftover(kind="file", name=str(path), host=host.name, why=f"its domain, {name}, is gone"),
                still=partial(gone, name),
                remove=partial(host.discard, path),
            )


def remove_path(path: Path) -> None:
    """Remove a file or a whole directory; gone is success."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
