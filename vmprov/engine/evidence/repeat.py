"""The command that makes a VM like one that is recorded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from vmprov import addressing
from vmprov.errors import SpecError
from vmprov.flows.grammar import Flow
from vmprov.flows.load import flow_names, load_flow
from vmprov.spec.machine import Machine
from vmprov.spec.quantities import exact_duration
from vmprov.store import VMRecord

_UNITS = (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1))


def create_command(vm: VMRecord, directory: Path, installation: str) -> str:
    """A line of shell: ``vmprov create`` with what the record and the files in ``directory`` say of the VM.

    A flow of somebody's own is named as ``./flow.json``, the file of that name in ``directory``.
    """
    # What is kept of a VM may be no more than its name.
    machine = vm.machine if vm.spec else Machine.model_construct(networks=(vm.network,))
    options: list[tuple[str, str | None]] = [
        ("--name", vm.name),
        ("--lab", vm.lab),
        ("--driver", vm.driver),
        ("--host", vm.host),
        ("--image", vm.image),
        ("--cpus", str(vm.cpus)),
        ("--memory", exact_size(vm.memory)),
        ("--disk", exact_size(vm.disk)),
        *(("--extra-disk", f"{disk.name}={exact_size(disk.size)}") for disk in machine.disks),
        *(("--network", _network(vm, name, installation)) for name in machine.networks),
        ("--consoles", str(vm.consoles)),
        *_more(machine),
        *(("--label", f"{key}={value}") for key, value in vm.labels.items()),
        *((("--protect", None),) if vm.protected else ()),
    ]
    generated = addressing.serial_number(installation, 0).removesuffix("000000")
    if vm.serial_number and not vm.serial_number.startswith(generated):
        options.append(("--serial-numbers", vm.serial_number))
    if vm.spec and (ttl := vm.machine.ttl):
        options.append(("--ttl", exact_duration(ttl)))
    watched = _read(directory / "watch.json")
    if isinstance(limit := watched.get("limit"), int | float):
        options.append(("--timeout", f"{limit:.3f}".rstrip("0").rstrip(".") + "s"))
    if flow := _flow(vm, directory, watched):
        options.append(("--flow", flow))
    return shlex.join(["vmprov", "create", *(word for option in options for word in option if word is not None)])


def _more(machine: Machine) -> Iterator[tuple[str, str | None]]:
    """Options for what few machines have; one without a value has ``None``."""
    yield from ((f"--{name}", None) for name in ("adopt", "tpm", "pxe") if getattr(machine, name))
    if not machine.dhcp:
        yield "--no-dhcp", None
    if machine.boot:
        yield "--boot", ",".join(machine.boot)
    chosen = {"firmware": machine.firmware, "graphics": machine.graphics, **machine.smbios.model_dump()}
    yield from ((f"--{name}", value) for name, value in chosen.items() if value not in ("bios", "none", ""))
    yield from (("--boot-certificate", str(path)) for path in machine.boot_certificates)
    if machine.http_boot is not None:
        yield "--boot-url", machine.http_boot.url
        yield from (("--ca", str(path)) for path in machine.http_boot.ca)
        yield from (("--boot-dns", f"{host}={address}") for host, address in machine.http_boot.dns.items())


def exact_size(size: int) -> str:
    """A number of bytes in the largest unit that leaves no rest.

    >>> exact_size(2 * 1024**3), exact_size(1536 * 1024**2), exact_size(1025)
    ('2GiB', '1536MiB', '1025B')
    """
    for unit, power in _UNITS:
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return f"{size}B"


def _network(vm: VMRecord, wanted: str, installation: str) -> str:
    """What to give as ``--network``: of a VM without a spec only the network's name is known, not how it came by it."""
    owners = {vm.name: "per-vm", f"shared.{vm.lab}": "shared", f"isolated.{vm.lab}": "isolated"}
    names = {addressing.network_name(installation, owner): mode for owner, mode in owners.items()}
    return names.get(wanted, wanted)


def _flow(vm: VMRecord, directory: Path, watched: dict[str, object]) -> str:
    """What to give as ``--flow``; nothing where the image's own way to be ready was enough."""
    if watched.get("proof") != "flow" or (vm.flow == "login" and vm.login == "console"):
        return ""
    try:
        used = Flow.model_validate_json((directory / "flow.json").read_text())
        if vm.flow in flow_names() and load_flow(vm.flow) == used:
            return vm.flow
    except (OSError, ValueError, SpecError):
        return vm.flow
    return "./flow.json"


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
