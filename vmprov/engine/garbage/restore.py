"""Making records again after the database is lost: from the notes in domains, and from what hosts hold of ours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmprov.engine.objects import base_volume
from vmprov.errors import DatabaseBroken, NameTaken, VmprovError
from vmprov.hosts import Host
from vmprov.hypervisor import Domain, foreign
from vmprov.hypervisor.definitions import find_mark, find_note
from vmprov.paths import Home
from vmprov.store import Store, VMRecord, known_identity, read_note, set_aside
from vmprov.views import Failure

# Numbers that may have been given to VMs of which nothing is left: the next ones are higher.
_UNKNOWN_NUMBERS = 100


@dataclass(frozen=True)
class Database:
    """What became of the database: sound, missing or damaged, and where it is ``aside`` if it was moved."""

    state: str
    aside: Path | None = None


def examine_database(home: Home) -> Database:
    """See whether the database can be used; one that is damaged anywhere is moved aside.

    The installation's id must be known, or else nothing would be recognised as ours: where its file is lost too, it is
    taken from what lies in the directories of VMs. Raises :class:`vmprov.errors.HostNotReady` for a database that is
    not damaged and cannot be used all the same: locked, of a newer vmprov, or on a full disk.
    """
    if not home.database.exists():
        _find_identity(home)
        return Database("missing")
    try:
        store = Store(home.database)
        try:
            store.check()
            return Database("missing" if store.anew else "sound")
        finally:
            store.close()
    except DatabaseBroken:
        _find_identity(home)
        return Database("damaged", set_aside(home.database))


def _find_identity(home: Home) -> None:
    if known_identity(home.database):
        return
    for path in sorted(home.root.glob("vms/*/*.xml")):
        try:
            mark = find_mark(ET.parse(path).getroot())
        except (OSError, ET.ParseError):
            continue
        if mark is not None and re.fullmatch(r"[0-9a-f]{4}", mark.installation):
            file = home.installation
            file.write_text(f"{mark.installation}\n")
            file.chmod(0o600)
            return


class Rebuilding:
    """Records VMs again, host by host."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home = home
        self._store = store
        self._before = {vm.uuid for vm in store.vms()}
        self._labs_before = {lab.name for lab in store.labs()}
        self.untold: list[Failure] = []

    @property
    def vms(self) -> list[str]:
        """The VMs that were recorded again."""
        return [vm.name for vm in self._store.vms() if vm.uuid not in self._before]

    @property
    def labs(self) -> list[str]:
        """The labs that were recorded again."""
        return [lab.name for lab in self._store.labs() if lab.name not in self._labs_before]

    def take(self, host: Host) -> None:
        """Record what a host holds of ours; what it cannot tell is told. Never raises for one VM."""
        if not host.is_up():
            self.untold.append(Failure(host.name, "it is not up; start it (vmprov host up) and run this again"))
            return
        try:
            for domain in host.hypervisor().domains():
                if domain.uuid not in self._before and not foreign(domain.mark, self._store.installation):
                    self._take_domain(host, domain)
            self._claim_volumes(host)
        except VmprovError as problem:
            self.untold.append(Failure(host.name, str(problem)))

    def finish(self) -> None:
        """Let numbers go on after all that were given; tell what belongs to nobody."""
        numbers = [vm.id for vm in self._store.vms()]
        for path in (
            *self._home.failed.glob("*-*"),
            *self._home.consoles.glob("*-*"),
            *self._home.root.glob(".removed-*"),
        ):
            numbers += [int(digits) for digits in re.findall(r"^\d+(?=-)|(?<=-)\d+$", path.name)]
        self._store.go_on_after(max(numbers, default=0) + _UNKNOWN_NUMBERS)
        known = {vm.name for vm in self._store.vms()}
        for path in sorted(self._home.vms.glob("*")):
            if path.name not in known:
                self.untold.append(Failure(path.name, f"no domain tells of it; its files are in {path}"))

    def _take_domain(self, host: Host, domain: Domain) -> None:
        assert domain.mark is not None
        definition = ET.fromstring(host.hypervisor().domain_xml(domain.name))
        noted = read_note(find_note(definition))
        name = domain.mark.vm or domain.name
        if noted is None:
            self.untold.append(
                Failure(name, f"domain {domain.name} has our mark and no record; see: vmprov gc --dry-run")
            )
            return
        if noted["vm"]["uuid"] != domain.uuid:
            self.untold.append(Failure(name, f"the note in domain {domain.name} is that of another one"))
            return
        try:
            self._store.restore_vm(_as_now(noted, host, domain))
        except NameTaken as problem:
            self.untold.append(Failure(name, str(problem)))
        except (KeyError, TypeError, ValueError, VmprovError) as problem:
            self.untold.append(Failure(name, f"the note in domain {domain.name} cannot be used: {problem}"))

    def _claim_volumes(self, host: Host) -> None:
        """Own volumes that were made for VMs after their notes were written."""
        owned = {thing.name for thing in self._store.owned(host=host.name)}
        vms = [vm for vm in self._store.vms() if vm.host == host.name]
        for volume in host.hypervisor().volumes(host.pool):
            if volume.name in owned or base_volume.is_one(volume.name, self._store.installation):
                continue
            for vm in vms:
                if _is_of(volume.name, vm):
                    self._store.own(
                        lab=vm.lab, vm=vm.name, host=host.name, kind="volume", name=volume.name, pool=host.pool
                    )


def _is_of(volume: str, vm: VMRecord) -> bool:
    """Whether a volume has the name of a VM's. Names of VMs have no dots, so that it is of no other one."""
    rest = volume.removeprefix(vm.domain)
    return rest != volume and (rest.startswith(".") or rest == "-seed.iso")


def _as_now(noted: Mapping[str, Any], host: Host, domain: Domain) -> dict[str, Any]:
    """What a note says, with what the domain knows better: what it is called."""
    vm = {**noted["vm"], "host": host.name, "domain": domain.name}
    return {**noted, "vm": vm}


def read_back(home: Home, store: Store, hosts: Sequence[Host]) -> Rebuilding:
    """Record again what hosts tell."""
    rebuilding = Rebuilding(home, store)
    for host in hosts:
        rebuilding.take(host)
    rebuilding.finish()
    return rebuilding
