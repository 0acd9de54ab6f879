"""The hardware in a domain's definition: read, and changed in place (https://libvirt.org/formatdomain.html).

Functions that change a definition take it as text and return it as text; whatever they have no word for stays.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from vmprov.hypervisor.definitions import parse_definition

_UNITS = {
    "b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MB": 1000**2, "M": 1024**2, "MiB": 1024**2,
    "GB": 1000**3, "G": 1024**3, "GiB": 1024**3, "T": 1024**4, "TiB": 1024**4,
}  # fmt: skip


@dataclass(frozen=True)
class Hardware:
    """What a definition gives a machine: ``memory`` in bytes, ``disks`` the paths of their volumes in order.

    ``nics``: MAC address in lower case -> network, or ``bridge:NAME``. ``logs``: the captures of its serial ports.
    """

    cpus: int
    memory: int
    disks: tuple[str, ...]
    nics: tuple[tuple[str, str], ...]
    logs: tuple[str, ...]

    def has(self, volume: str) -> bool:
        """Whether a volume of that name is among its disks."""
        return any(path.rpartition("/")[2] == volume for path in self.disks)


def read_hardware(definition: ET.Element) -> Hardware:
    """The hardware of a domain's definition."""
    memory = definition.find("memory")
    unit = "KiB" if memory is None else memory.get("unit", "KiB")
    return Hardware(
        cpus=int(definition.findtext("vcpu", "1")),
        memory=0 if memory is None else int(memory.text or 0) * _UNITS.get(unit, 1024),
        disks=tuple(_path(disk) for disk in definition.findall("devices/disk") if _path(disk)),
        nics=tuple(_nic(interface) for interface in definition.findall("devices/interface")),
        logs=tuple(log.get("file", "") for log in definition.findall("devices/serial/log")),
    )


def _path(disk: ET.Element) -> str:
    source = disk.find("source")
    return "" if source is None else source.get("file") or source.get("volume") or source.get("dev") or ""


def _nic(interface: ET.Element) -> tuple[str, str]:
    mac, source = interface.find("mac"), interface.find("source")
    address = "" if mac is None else mac.get("address", "").lower()
    if source is None:
        return address, ""
    bridge = source.get("bridge", "")
    return address, source.get("network") or (f"bridge:{bridge}" if bridge else "")


def with_cpus(xml: str, cpus: int) -> str:
    """The definition with so many virtual CPUs, all of them there from the start."""
    domain = parse_definition(xml, "domain")
    vcpu = domain.find("vcpu")
    if vcpu is None:
        vcpu = ET.SubElement(domain, "vcpu")
    vcpu.attrib.pop("current", None)
    vcpu.text = str(cpus)
    # These would speak of CPUs that are no longer there.
    for stale in ("vcpus", "cpu/topology", "cpu/numa"):
        parent = domain.find(stale.rpartition("/")[0] or ".")
        gone = domain.find(stale)
        if parent is not None and gone is not None:
            parent.remove(gone)
    return ET.tostring(domain, encoding="unicode")


def with_memory(xml: str, memory: int) -> str:
    """The definition with so many bytes of memory, all of them there from the start."""
    domain = parse_definition(xml, "domain")
    for tag in ("memory", "currentMemory"):
        element = domain.find(tag)
        if element is None:
            continue
        element.set("unit", "b")
        element.text = str(memory)
    return ET.tostring(domain, encoding="unicode")


def with_disk(xml: str, path: str, *, serial: str, format: str = "qcow2") -> str:
    """The definition with one more virtio disk, which the guest knows by its ``serial``; one that is there stays."""
    domain = parse_definition(xml, "domain")
    if path in read_hardware(domain).disks:
        return xml
    taken = {target.get("dev", "") for target in domain.findall("devices/disk/target")}
    free = next(name for letter in "abcdefghijklmnopqrstuvwxyz" if (name := f"vd{letter}") not in taken)
    devices = domain.find("devices")
    if devices is None:
        devices = ET.SubElement(domain, "devices")
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=format)
    ET.SubElement(disk, "source", file=path)
    ET.SubElement(disk, "target", dev=free, bus="virtio")
    ET.SubElement(disk, "serial").text = serial
    return ET.tostring(domain, encoding="unicode")


def without_disk(xml: str, serial: str) -> str:
    """The definition without the disk that the guest knows by its ``serial``, whether its volume is there or not."""
    domain = parse_definition(xml, "domain")
    devices = domain.find("devices")
    for disk in domain.findall("devices/disk"):
        if devices is not None and disk.findtext("serial") == serial:
            devices.remove(disk)
    return ET.tostring(domain, encoding="unicode")


def without_passwords(xml: str) -> str:
    """The definition without the passwords of its screens."""
    domain = parse_definition(xml, "domain")
    for screen in domain.findall("devices/graphics[@passwd]"):
        del screen.attrib["passwd"]
    return ET.tostring(domain, encoding="unicode")


def with_screen_password(xml: str, password: str) -> str:
    """The definition with a password for its screens."""
    domain = parse_definition(xml, "domain")
    for screen in domain.findall("devices/graphics"):
        screen.set("passwd", password)
    return ET.tostring(domain, encoding="unicode")


def screen_port(xml: str) -> int | None:
    """The TCP port on which a running domain's VNC screen is; ``None`` where it has none now."""
    screen = ET.fromstring(xml).find("devices/graphics[@type='vnc']")
    port = -1 if screen is None else int(screen.get("port", "-1"))
    return port if port > 0 else None
