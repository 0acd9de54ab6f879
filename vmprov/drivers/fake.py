"""A driver that defines the smallest domain that answers an order, straight through the host's hypervisor.

Together with a fake host it makes no machine at all. Faults come from the fake hypervisor (see
:class:`vmprov.hypervisor.fake.FakeHypervisor`).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from vmprov.drivers import Order
from vmprov.drivers.definition import chipset, fragment_xml
from vmprov.errors import Failed, VmprovError, WaitTimeout
from vmprov.events import Events
from vmprov.hosts import Host
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

    def halt(self, lab: str) -> None:
        """Do nothing: what works for this driver, dies with its process."""

    def destroy(self, *, lab: str, vm: str, domain: str) -> None:  # noqa: ARG002 - nothing is kept per lab or VM
        """Remove the domain."""
        self._host.hypervisor().remove_domain(domain)


def domain_xml(order: Order, disk: str) -> str:
    """The definition of a domain that has what the order names (https://libvirt.org/formatdomain.html)."""
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = order.domain
    ET.SubElement(domain, "uuid").text = order.uuid
    ET.SubElement(domain, "memory", unit="b").text = str(order.memory)
    ET.SubElement(domain, "vcpu").text = str(order.cpus)
    domain.extend(ET.fromstring(fragment_xml(order)))
    system = ET.Element("type", machine=chipset(order))
    system.text = "hvm"
    _part(domain, "os").insert(0, system)
    devices = _part(domain, "devices")
    devices.insert(0, _disk(disk, format="qcow2", target="vda"))
    if order.screen_password is not None:
        _part(devices, "graphics").set("passwd", order.screen_password.read_text().strip())
    return ET.tostring(domain, encoding="unicode")


def _part(parent: ET.Element, name: str) -> ET.Element:
    found = parent.find(name)
    if found is None:
        raise Failed(f"the fragment of a domain has no <{name}>")
    return found


def _disk(path: str, *, format: str, target: str) -> ET.Element:
    disk = ET.Element("disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=format)
    ET.SubElement(disk, "source", file=path)
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    return disk
