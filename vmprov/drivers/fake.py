"""A driver that defines the smallest domain that answers an order, straight through the host's hypervisor.

Together with a fake host it makes no machine at all. Faults come from the fake hypervisor (see
:class:`vmprov.hypervisor.fake.FakeHypervisor`).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from vmprov.drivers import Order
from vmprov.errors import Failed, VmprovError, WaitTimeout
from vmprov.events import Events
from vmprov.hosts import Host
from vmprov.hypervisor.definitions import mark_element
from vmprov.waiting import Cancel, Deadline


class FakeDriver:
    """See the module."""

    name = "fake"

    def __init__(self, host: Host) -> None:
        self._host = host

    def check(self, *, events: Events, cancel: Cancel) -> None:
        """Nothing can be missing."""

    def create(
        self,
        orders: Sequence[Order],
        *,
        events: Events,  # noqa: ARG002 - it is done before anybody could watch
        cancel: Cancel,
        deadline: Deadline,
    ) -> Mapping[str, VmprovError]:
        """Define and power on; what a VM that failed had got is removed."""
        refused: dict[str, VmprovError] = {}
        for order in orders:
            try:
                cancel.check()
                if deadline.expired:
                    raise WaitTimeout(f"{order.vm} was not powered on within {deadline.seconds:.0f} s")
                self._make(order)
            except VmprovError as problem:
                refused[order.vm] = problem
        return refused

    def _make(self, order: Order) -> None:
        hypervisor = self._host.hypervisor()
        with ExitStack() as undo:
            backing = ""
            if order.image is not None:
                base = hypervisor.volume(order.pool, order.image.volume)
                if base is None:
                    raise Failed(f"{order.vm}: pool {order.pool} does not hold image {order.image.name}")
                backing = base.path
            disk = hypervisor.create_volume(order.pool, order.disk_volume, size=order.disk_size, backing=backing)
            undo.callback(hypervisor.remove_volume, order.pool, order.disk_volume)
            hypervisor.define_domain(domain_xml(order, disk.path))
            undo.callback(hypervisor.remove_domain, order.domain)
            hypervisor.start_domain(order.domain)
            undo.pop_all()

    def destroy(self, *, lab: str, vm: str, domain: str) -> None:  # noqa: ARG002 - nothing is kept per lab or VM
        """Remove the domain."""
        self._host.hypervisor().remove_domain(domain)


def domain_xml(order: Order, disk: str) -> str:
    """The definition of a domain that has what the order names (https://libvirt.org/formatdomain.html)."""
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = order.domain
    ET.SubElement(domain, "uuid").text = order.uuid
    ET.SubElement(domain, "metadata").append(mark_element(order.mark))
    ET.SubElement(domain, "memory", unit="b").text = str(order.memory)
    ET.SubElement(domain, "vcpu").text = str(order.cpus)
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type").text = "hvm"
    ET.SubElement(system, "smbios", mode="sysinfo")
    information = ET.SubElement(ET.SubElement(domain, "sysinfo", type="smbios"), "system")
    ET.SubElement(information, "entry", name="serial").text = order.serial_number
    devices = ET.SubElement(domain, "devices")
    _add_disk(devices, disk, format="qcow2", target="vda")
    if order.seed:
        _add_disk(devices, order.seed, format="raw", target="vdb")
    interface = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(interface, "mac", address=order.mac)
    ET.SubElement(interface, "source", network=order.network)
    ET.SubElement(interface, "model", type="virtio")
    for port, uart in enumerate(order.consoles):
        serial = ET.SubElement(devices, "serial", type=uart.kind)
        ET.SubElement(serial, "source", path=str(uart.path))
        ET.SubElement(serial, "log", file=str(uart.log), append="on")
        ET.SubElement(serial, "target", port=str(port))
    return ET.tostring(domain, encoding="unicode")


def _add_disk(devices: ET.Element, path: str, *, format: str, target: str) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=format)
    ET.SubElement(disk, "source", file=path)
    ET.SubElement(disk, "target", dev=target, bus="virtio")
