"""A lab as a file: canonical, and with nothing in it that goes without saying."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vmprov.documents import write
from vmprov.spec.lab import LabSpec, NetworkSpec, VMSpec
from vmprov.spec.machine import Disk, Machine
from vmprov.spec.quantities import exact_duration, exact_size

_SIZES = ("memory", "disk", "size")
_DURATIONS = ("timeout", "ttl")
_OWN = ("name", "group", "serial_number", "domain")
_LAST = ("after", "labels", "ready", "protect", "ttl", "seed")


def to_yaml(lab: LabSpec) -> str:
    """The file that describes this lab, and no other: reading it gives an equal one.

    Names of files are absolute. What is said and is the default is left out, but where a flow could bring another one.
    """
    document: dict[str, Any] = {"lab": lab.lab}
    document |= {word: getattr(lab, word) for word in ("host", "driver") if getattr(lab, word)}
    if lab.networks:
        document["networks"] = {network.name: _network(network) for network in lab.networks}
    document["vms"] = {group: _entry(group, vms) for group, vms in lab.groups.items()}
    return write(document)


def machine_entry(machine: Machine) -> dict[str, Any]:
    """What was given of a machine, as it stands in a file."""
    return {name: _plain(value, name) for name, value in machine.given().items()}


def _network(network: NetworkSpec) -> dict[str, Any]:
    return {name: _plain(value) for name, value in _said(network).items() if name != "name"}


def _entry(group: str, vms: list[VMSpec]) -> dict[str, Any]:
    first = vms[0]
    entry: dict[str, Any] = {} if first.name == group else {"count": len(vms)}
    entry |= {"domain": _plain(first.domain)} if first.domain else {}
    said = {name: value for name, value in _said(first).items() if name not in _OWN}
    entry |= {name: _plain(value, name) for name, value in said.items() if name not in _LAST}
    if first.serial_number:
        numbers = [vm.serial_number for vm in vms]
        entry["serial_numbers"] = numbers[0] if len(numbers) == 1 else numbers
    return entry | {name: _plain(said[name], name) for name in _LAST if name in said}


def _said(model: BaseModel) -> dict[str, Any]:
    """What differs from the defaults - and what is as they are, where a flow's wishes are laid under it."""
    kept = set(Machine.model_fields) if getattr(model, "flow", "") else set()
    found = {}
    for name, described in type(model).model_fields.items():
        value = getattr(model, name)
        default = described.get_default(call_default_factory=True)
        if value != default or (name in kept & model.model_fields_set and value is not None):
            found[name] = value
    return found


def _plain(value: Any, name: str = "") -> Any:
    """A value as it stands in a file."""
    if name == "disks":
        return _disks(value)
    if isinstance(value, BaseModel):
        return {inner: _plain(part, inner) for inner, part in _said(value).items()}
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        items = [_plain(item, name) for item in value]
        return items[0] if len(items) == 1 and not isinstance(items[0], dict) else items
    if isinstance(value, str | Path | IPv4Address | IPv4Network):
        return str(value).replace("${", "$${")
    if name in _SIZES:
        return exact_size(value)
    if name in _DURATIONS:
        return exact_duration(value)
    return value


def _disks(disks: tuple[Disk, ...]) -> Any:
    """Data disks; a name that a disk has by its position is left out, and a disk of a size alone is that size."""
    shown: list[Any] = []
    for place, disk in enumerate(disks, 1):
        size = exact_size(disk.size)
        shown.append(size if disk.name == f"data-{place}" else {"name": disk.name, "size": size})
    return shown[0] if len(shown) == 1 and isinstance(shown[0], str) else shown
