"""VMs with their files, also those that failed and were removed: of these, a directory each is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vmprov.errors import NotFound
from vmprov.paths import Home
from vmprov.store import LabRecord, Nic, Store, VMRecord

RECORD = "record.json"
_NAME = re.compile(r"(?P<vm>.+)-(?P<id>[0-9]{1,12})")


@dataclass(frozen=True)
class Kept:
    """A VM and the directory with its files.

    ``gone``: it failed and was removed. Then ``lab_created`` tells its lab from others of that name (0: not known).
    """

    vm: VMRecord
    directory: Path
    gone: bool = False
    lab_created: float = 0.0


def record_json(vm: VMRecord, lab: LabRecord | None) -> dict[str, Any]:
    """A VM's record as an object, as it is kept among the files of one that failed."""
    judgement = json.loads(vm.judgement) if vm.judgement else None
    return {**asdict(vm), "judgement": judgement, "lab_created": lab.created if lab else 0.0}


def find_vm(home: Home, store: Store, name: str) -> Kept:
    """A VM, or the one of that name that failed last; raises :class:`NotFound` if nothing is known of any."""
    try:
        return Kept(store.vm(name), home.vm(name))
    except NotFound:
        failed = [one for one in _failed(home) if one.vm.name == name]
        if not failed:
            raise
        return max(failed, key=lambda one: one.vm.id)


def find_vms(home: Home, store: Store, targets: Sequence[str]) -> list[Kept]:
    """The VMs that names of VMs and labs stand for, a lab's failed ones included; all that exist where none is named.

    Of a lab that is gone, too, as long as anything is kept. Raises :class:`NotFound`.
    """
    if not targets:
        return [Kept(vm, home.vm(vm.name)) for vm in store.vms()]
    found: dict[str, Kept] = {}
    for target in targets:
        some = _of_lab(home, store, target)
        if not some:
            try:
                some = [find_vm(home, store, target)]
            except NotFound:
                if store.lab(target) is None:
                    raise NotFound(f"no VM or lab called {target!r}", hint="see: vmprov list") from None
        for one in some:
            found.setdefault(one.vm.name, one)
    return list(found.values())


def _of_lab(home: Home, store: Store, name: str) -> list[Kept]:
    """A lab's VMs, and those of them that failed; each name once, oldest first."""
    lab = store.lab(name)
    failed = [one for one in _failed(home) if one.vm.lab == name]
    # Labs of one name may come after each other; what is kept is told of the present one, or else of the last.
    created = lab.created if lab else max((one.lab_created for one in failed), default=0.0)
    ordered = sorted((one for one in failed if one.lab_created == created), key=lambda one: one.vm.id)
    living = [Kept(vm, home.vm(vm.name)) for vm in store.vms(name)] if lab else []
    newest = {one.vm.name: one for one in (*ordered, *living)}
    return sorted(newest.values(), key=lambda one: one.vm.id)


def _failed(home: Home) -> list[Kept]:
    try:
        return [one for directory in home.failed.iterdir() if (one := _read(directory))]
    except FileNotFoundError:
        return []


def _read(directory: Path) -> Kept | None:
    """A directory's VM; one whose record was not written down has nothing but a name and a number."""
    named = _NAME.fullmatch(directory.name)
    if not named:
        return None
    try:
        document = json.loads((directory / RECORD).read_text())
    except (OSError, ValueError):
        document = {}
    if not isinstance(document, dict):
        document = {}
    judgement = document.get("judgement")
    document["judgement"] = json.dumps(judgement) if judgement else ""
    blank: dict[str, Any] = {"str": "", "int": 0, "float": 0.0}
    plain = [field for field in fields(VMRecord) if str(field.type) in blank]
    values = {field.name: document.get(field.name, blank[str(field.type)]) for field in plain} | {
        "name": named["vm"],
        "id": int(named["id"]),
        "nics": tuple(Nic(**nic) for nic in document.get("nics", [])),
    }
    return Kept(VMRecord(**values), directory, gone=True, lab_created=float(document.get("lab_created", 0.0)))
