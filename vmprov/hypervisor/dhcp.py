"""Which addresses the networks of a fake host hand out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from ipaddress import IPv4Address


def address_for(mac: str, network: ET.Element, leases: Mapping[str, str]) -> str | None:
    """The address of an interface: the one reserved for it, the one it has, or the first free one; or ``None``.

    ``mac`` in lower case; ``leases``: what the network handed out so far, MAC -> address.
    """
    reserved = {host.get("mac", "").lower(): host.get("ip") for host in network.findall("ip/dhcp/host")}
    if mac in reserved:
        return reserved[mac]
    for dhcp_range in network.findall("ip/dhcp/range"):
        if mac in leases:
            return leases[mac]
        taken = {*reserved.values(), *leases.values()}
        first, last = (int(IPv4Address(dhcp_range.get(end, ""))) for end in ("start", "end"))
        for number in range(first, last + 1):
            if (address := str(IPv4Address(number))) not in taken:
                return address
    return None
