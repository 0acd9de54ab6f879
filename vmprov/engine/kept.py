"""What is kept of VMs that failed and were removed: a directory each, with the VM's record in it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vmprov.paths import Home
from vmprov.store import LabRecord, VMRecord

RECORD = "record.json"
_NAME = re.compile(r"(?P<vm>.+)-(?P<id>[0-9]{1,12})")


@dataclass(frozen=True)
class Kept:
    """The files of a VM that is gone; ``lab_created`` tells its lab from others of the same name (0: not known)."""

    directory: Path
    vm: VMRecord
    lab_created: float


def record_json(vm: VMRecord, lab: LabRecord | None) -> dict[str, Any]:
    """A VM's record as an object, in the shape that :func:`kept` and :func:`kept_of_lab` read."""
    judgement = json.loads(vm.judgement) if vm.judgement else None
    return {**asdict(vm), "judgement": judgement, "lab_created": lab.created if lab else 0.0}


def kept(home: Home, name: str) -> Kept | None:
    """What is kept of the VM of that name that failed last; ``None`` if there was none."""
    return max((one for one in _all(home) if one.vm.name == name), key=lambda one: one.vm.id, default=None)


def kept_of_lab(home: Home, lab: str, created: float | None) -> list[Kept]:
    """What is kept of a lab's VMs, each name's last failure, oldest first.

    ``created``: which of the labs of that name, by its record; ``None`` for the last one of which anything is kept.
    """
    found = [one for one in _all(home) if one.vm.lab == lab]
    if created is None:
        created = max((one.lab_created for one in found), default=0.0)
    newest = {one.vm.name: one for one in sorted(found, key=lambda one: one.vm.id) if one.lab_created == created}
    return sorted(newest.values(), key=lambda one: one.vm.id)


def _all(home: Home) -> list[Kept]:
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
    values = {
        field.name: document.get(field.name, blank[str(field.type)]) for field in fields(VMRecord)
    } | {"name": named["vm"], "id": int(named["id"])}
    return Kept(directory, VMRecord(**values), float(document.get("lab_created", 0.0)))
