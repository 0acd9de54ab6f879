"""What vmprov writes into libvirt's XML, and what it reads there: marks, names, bridges, subnets.

A mark says who made a domain or network. It is one element of our own namespace inside ``<metadata>``, which
libvirt keeps and shows as it is::

    <metadata><vmprov:vm xmlns:vmprov="urn:vmprov:1" installation="3f0a" lab="trial" vm="web-1"/></metadata>

Beside it, a domain may have a note: a text of ours.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from copy import deepcopy
from ipaddress import IPv4Network
from pathlib import Path

from vmprov.errors import LibvirtFailed
from vmprov.hypervisor import METADATA_URI, NOTE_URI, Mark, Network

_TAG = f"{{{METADATA_URI}}}vm"
_NOTE = f"{{{NOTE_URI}}}note"
ET.register_namespace("vmprov", METADATA_URI)


def mark_element(mark: Mark) -> ET.Element:
    """The element to put into ``<metadata>``.

    >>> ET.tostring(mark_element(Mark("3f0a", "trial", "web-1")), encoding="unicode")
    '<vmprov:vm xmlns:vmprov="urn:vmprov:1" installation="3f0a" lab="trial" vm="web-1" />'
    """
    return ET.Element(_TAG, installation=mark.installation, lab=mark.lab, vm=mark.vm)


def find_mark(definition: ET.Element) -> Mark | None:
    """The mark in a domain's or network's definition; ``None`` where there is none of ours."""
    found = definition.find(f"metadata/{_TAG}")
    if found is None or not found.get("installation"):
        return None
    return Mark(found.get("installation", ""), found.get("lab", ""), found.get("vm", ""))


def find_note(definition: ET.Element) -> str:
    """The text that was noted in a domain's definition; empty where there is none."""
    return definition.findtext(f"metadata/{_NOTE}", "")


def with_note(definition: ET.Element, text: str) -> ET.Element:
    """A copy of the definition with that note, in place of an earlier one."""
    changed = deepcopy(definition)
    metadata = changed.find("metadata")
    if metadata is None:
        metadata = ET.SubElement(changed, "metadata")
    for old in metadata.findall(_NOTE):
        metadata.remove(old)
    metadata.append(note_element(text))
    return changed


def note_element(text: str) -> ET.Element:
    """The element that holds a note."""
    note = ET.Element(_NOTE)
    note.text = text
    return note


def with_owner(xml: str, *, vm: str) -> str:
    """The definition of a domain or network with a mark that names that VM; a network's DHCP calls it so, too."""
    definition = ET.fromstring(xml)
    mark = definition.find(f"metadata/{_TAG}")
    if mark is None:
        return xml
    before = mark.get("vm", "")
    mark.set("vm", vm)
    for reserved in definition.findall("ip/dhcp/host"):
        if reserved.get("name") == before:
            reserved.set("name", vm)
    return ET.tostring(definition, encoding="unicode")


def with_name(xml: str, name: str) -> str:
    """The definition under another name."""
    definition = ET.fromstring(xml)
    for element in definition.findall("name"):
        element.text = name
    return ET.tostring(definition, encoding="unicode")


def with_captures_in(xml: str, before: Path, now: Path) -> str:
    """A domain's definition whose serial ports are captured in another directory."""
    definition = ET.fromstring(xml)
    for log in definition.findall("devices/*/log"):
        file = Path(log.get("file", ""))
        if file.is_relative_to(before):
            log.set("file", str(now / file.relative_to(before)))
    return ET.tostring(definition, encoding="unicode")


def parse_definition(xml: str, root: str) -> ET.Element:
    """The definition of a ``root`` (domain, network); raises :class:`LibvirtFailed` if it is none or has no name."""
    try:
        definition = ET.fromstring(xml)
    except ET.ParseError as problem:
        raise LibvirtFailed(f"could not read the definition of a {root}: {problem}") from problem
    if definition.tag != root or not definition.findtext("name"):
        raise LibvirtFailed(f"could not read the definition of a {root}: <{definition.tag}> without a name")
    return definition


def read_network(definition: ET.Element, *, active: bool) -> Network:
    """A network from its definition."""
    bridge = definition.find("bridge")
    return Network(
        name=definition.findtext("name", ""),
        bridge="" if bridge is None else bridge.get("name", ""),
        active=active,
        subnets=tuple(
            IPv4Network(f"{ip.get('address')}/{ip.get('netmask') or ip.get('prefix')}", strict=False)
            for ip in definition.findall("ip")
            if ip.get("address") and ip.get("family", "ipv4") == "ipv4"
        ),
        mark=find_mark(definition),
    )


def interface_networks(definition: ET.Element) -> dict[str, str]:
    """For each interface of a domain that is on a libvirt network: MAC (lower case) -> network."""
    found = {}
    for interface in definition.findall("devices/interface"):
        mac, source = interface.find("mac"), interface.find("source")
        if mac is not None and source is not None and source.get("network"):
            found[mac.get("address", "").lower()] = source.get("network", "")
    return found
