"""Networks: ours, from a lease to libvirt's XML, and others' that get boot options for a while.

``network-xml/`` holds a template per mode.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmprov.addressing import Subnet
from vmprov.hypervisor import METADATA_URI, Mark
from vmprov.render import render

# How a NIC that is on a bridge of the host is written.
BRIDGE = "bridge:"
# What our networks are made from: a template for each mode.
MODES = {"per-vm": "nat", "shared": "nat", "isolated": "isolated"}
_DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
ET.register_namespace("dnsmasq", _DNSMASQ)


@dataclass(frozen=True)
class Reservation:
    """An address that DHCP always gives to the same interface."""

    mac: str
    name: str
    address: str


@dataclass(frozen=True)
class Boot:
    """What a network tells machines that boot from it: the URL for UEFI HTTP boot, and host names of its DNS."""

    url: str = ""
    dns: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """All of it as a text, by which two can be compared.

        >>> Boot.from_json(Boot("http://a/b", {"c.test": "10.0.0.1"}).to_json())
        Boot(url='http://a/b', dns={'c.test': '10.0.0.1'})
        """
        return json.dumps([self.url, self.hosts()])

    @classmethod
    def from_json(cls, text: str) -> Boot:
        """What :meth:`to_json` wrote; nothing is told by an empty text."""
        url, hosts = json.loads(text or '["", {}]')
        return cls(url, {name: address for address, names in hosts.items() for name in names})

    def options(self) -> list[str]:
        """What dnsmasq is told (dnsmasq(8)): firmware says which kind it is, and takes a URL only from its own kind.

        >>> Boot("http://a/b").options()[-1]
        'dhcp-boot=tag:efi-http,"http://a/b"'
        """
        if not self.url:
            return []
        return [
            "dhcp-vendorclass=set:efi-http,HTTPClient:Arch:00016",
            "dhcp-option-force=tag:efi-http,60,HTTPClient",
            "dhcp-match=set:ipxe,175",
            f'dhcp-boot=tag:efi-http,"{self.url}"',
        ]

    def hosts(self) -> dict[str, list[str]]:
        """The host names, by address: libvirt takes each address once.

        >>> Boot(dns={"a.test": "10.0.0.1", "b.test": "10.0.0.1"}).hosts()
        {'10.0.0.1': ['a.test', 'b.test']}
        """
        found: dict[str, list[str]] = {}
        for name, address in sorted(self.dns.items()):
            found.setdefault(address, []).append(name)
        return found


@dataclass(frozen=True)
class NetworkPlan:
    """A network to be made; ``mode`` as on the command line. ``dhcp``: whether it hands out addresses."""

    name: str
    bridge: str
    mode: str
    subnet: Subnet
    reservations: Sequence[Reservation]
    mark: Mark
    dhcp: bool = True
    boot: Boot = Boot()

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
            dhcp=self.dhcp,
            # Nobody else is on the network: an address need not be pinged for three seconds before it is offered.
            options=["no-ping", *self.boot.options()],
            dns=self.boot.hosts(),
            installation=self.mark.installation,
            lab=self.mark.lab,
            vm=self.mark.vm,
        )


def adopted_xml(original: str, boot: Boot, installation: str) -> str:
    """The definition of somebody else's network with boot options added, and a note of who did so.

    The note is not the mark of what is ours: nobody may remove the network for it.
    """
    network = ET.fromstring(original)
    metadata = _child(network, "metadata")
    note = ET.Element(f"{{{METADATA_URI}}}adopted", installation=installation, told=boot.to_json())
    metadata.append(note)
    options = _child(network, f"{{{_DNSMASQ}}}options")
    options.extend(ET.Element(f"{{{_DNSMASQ}}}option", value=value) for value in boot.options())
    for address, names in boot.hosts().items():
        host = ET.SubElement(_child(network, "dns"), "host", ip=address)
        for name in names:
            ET.SubElement(host, "hostname").text = name
    return ET.tostring(network, encoding="unicode")


def told_by_adopter(definition: str) -> Boot:
    """What was added to a network, as its note says."""
    note = ET.fromstring(definition).find(f"metadata/{{{METADATA_URI}}}adopted")
    return Boot.from_json("" if note is None else note.get("told", ""))


def adopter(definition: str) -> str:
    """The id of the installation that added boot options to a network; empty where nobody did."""
    note = ET.fromstring(definition).find(f"metadata/{{{METADATA_URI}}}adopted")
    return "" if note is None else note.get("installation", "")


def _child(parent: ET.Element, name: str) -> ET.Element:
    found = parent.find(name)
    return ET.SubElement(parent, name) if found is None else found


def given_back_xml(definition: str, boot: Boot) -> str:
    """The definition of an adopted network without what :func:`adopted_xml` added."""
    network = ET.fromstring(definition)
    for note in network.findall(f"metadata/{{{METADATA_URI}}}adopted"):
        _child(network, "metadata").remove(note)
    options = _child(network, f"{{{_DNSMASQ}}}options")
    for option in list(options):
        if option.get("value") in boot.options():
            options.remove(option)
    dns = _child(network, "dns")
    hosts = boot.hosts()
    for host in dns.findall("host"):
        if [name.text for name in host.findall("hostname")] == hosts.get(host.get("ip", "")):
            dns.remove(host)
    for part in (_child(network, "metadata"), options, dns):
        if len(part) == 0 and not part.attrib:
            network.remove(part)
    return ET.tostring(network, encoding="unicode")


def same_definition(one: str, other: str) -> bool:
    """Whether two definitions differ in nothing but blanks."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)
