"""Networks of ours: from a lease to libvirt's XML. ``network-xml/`` holds a template per mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmprov.addressing import Subnet
from vmprov.hypervisor import Mark
from vmprov.render import render

# How a NIC that is on a bridge of the host is written.
BRIDGE = "bridge:"
# What our networks are made from: a template for each mode.
MODES = {"per-vm": "nat", "shared": "nat", "isolated": "isolated"}


@dataclass(frozen=True)
class Reservation:
    """An address that DHCP always gives to the same interface."""

    mac: str
    name: str
    address: str


@dataclass(frozen=True)
class NetworkPlan:
    """A network to be made; ``mode`` as on the command line."""

    name: str
    bridge: str
    mode: str
    subnet: Subnet
    reservations: Sequence[Reservation]
    mark: Mark

    def to_xml(self) -> str:
        """The network's definition (https://libvirt.org/formatnetwork.html)."""
        return render(
            f"network-xml/{MODES[self.mode]}.xml.j2",
            name=self.name,
            bridge=self.bridge,
            gateway=self.subnet.gateway,
            netmask=self.subnet.network.netmask,
            first=self.subnet.first,
            last=self.subnet.last,
            hosts=self.reservations,
            installation=self.mark.installation,
            lab=self.mark.lab,
            vm=self.mark.vm,
        )
