"""What things are called and where they are: names, MAC addresses, bridges, subnets. Pure functions.

Everything is derived from the installation's id (one per state directory) and the VM's number, so that names
are the same in every run and two installations on one host do not meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

# The kernel's IFNAMSIZ less the closing NUL.
LONGEST_INTERFACE_NAME = 15
# Room for the gateway, a VM, and a few guests within the guest.
PER_VM_PREFIX = 28
# Room for the largest lab.
SHARED_PREFIX = 22


def domain_name(installation: str, vm: str, number: int = 0) -> str:
    """The libvirt domain's name; it ends with the VM's name.

    ``number``: the VM's, where another VM that once had the name still has things that are called so.

    >>> domain_name("3fa1", "web"), domain_name("3fa1", "web", 7)
    ('vmprov-3fa1-web', 'vmprov-3fa1-7_web')
    """
    # A VM's name has no underscore.
    return f"vmprov-{installation}-{number}_{vm}" if number else f"vmprov-{installation}-{vm}"


def owner_of(installation: str, domain: str) -> str:
    """Whom a VM's networks are called after, given its domain's name: the VM, or its number and the VM.

    >>> owner_of("3fa1", "vmprov-3fa1-web"), owner_of("3fa1", "vmprov-3fa1-7_web")
    ('web', '7_web')
    """
    return domain.removeprefix(f"vmprov-{installation}-")


def network_name(installation: str, owner: str) -> str:
    """The libvirt network's name, for a VM or a lab."""
    return f"vmprov-{installation}-{owner}"


def bridge_name(installation: str, kind: str, number: int) -> str:
    """The bridge's name; ``kind`` is one letter that keeps VMs' and labs' numbers apart.

    >>> bridge_name("3fa1", "v", 12)
    'vp3fa1v12'
    """
    name = f"vp{installation}{kind}{number}"
    if len(name) > LONGEST_INTERFACE_NAME:
        raise ValueError(f"{name} is longer than {LONGEST_INTERFACE_NAME} characters")
    return name


def mac_address(installation: str, number: int, nic: int = 0) -> str:
    """A MAC address under QEMU's prefix (52:54:00), different for each NIC of each VM of each installation.

    >>> mac_address("3fa1", 12) == mac_address("3fa1", 12) != mac_address("3fa1", 13)
    True
    """
    import hashlib

    owner = f"{installation}/{number}/{nic}" if nic else f"{installation}/{number}"
    digest = hashlib.sha256(owner.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def serial_number(installation: str, number: int) -> str:
    """A generated SMBIOS serial number, 12 letters and digits.

    >>> serial_number("3fa1", 12)
    'VP3FA1000012'
    """
    return f"VP{installation.upper()}{number:06d}"


@dataclass(frozen=True)
class Subnet:
    """A network's addresses: the gateway first, then the range for guests."""

    network: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        """The address of the bridge."""
        return self.network.network_address + 1

    @property
    def first(self) -> IPv4Address:
        """The first guest's address."""
        return self.network.network_address + 2

    @property
    def last(self) -> IPv4Address:
        """The last guest's address."""
        return self.network.broadcast_address - 1

    def guests(self) -> Iterator[IPv4Address]:
        """All addresses for guests."""
        for offset in range(2, self.network.num_addresses - 1):
            yield self.network.network_address + offset


def free_subnets(within: IPv4Network, prefix: int, taken: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Subnets of that prefix length which overlap none of those taken, lowest first.

    >>> next(free_subnets(IPv4Network("10.0.0.0/24"), 28, [IPv4Network("10.0.0.0/28")]))
    IPv4Network('10.0.0.16/28')
    """
    if prefix < within.prefixlen:
        return
    # Numbers, since there may be thousands of networks, and IPv4Network takes its time to compare.
    size = 1 << (32 - prefix)
    occupied = sorted(map(_span, taken))
    candidate, end = _span(within)
    place = 0
    while candidate + size - 1 <= end:
        while place < len(occupied) and occupied[place][1] < candidate:
            place += 1
        if place < len(occupied) and occupied[place][0] < candidate + size:
            # Behind what is there, at the next place where a subnet of this size can begin.
            candidate = max(candidate + size, -(-(occupied[place][1] + 1) // size) * size)
            continue
        yield IPv4Network((candidate, prefix))
        candidate += size


def _span(network: IPv4Network) -> tuple[int, int]:
    """The numbers of a network's first and last address."""
    first = int(network.network_address)
    return first, first + network.num_addresses - 1


def parse_routes(table: str) -> list[IPv4Network]:
    """The destinations in a kernel routing table as ``/proc/net/route`` prints it (proc(5)), without the default.

    >>> parse_routes("Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\\neth0 000011AC 0 1 0 0 0 0000FFFF 0")
    [IPv4Network('172.17.0.0/16')]
    """
    found = []
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or words[7] == "00000000":
            continue
        address, mask = (IPv4Address(bytes.fromhex(words[column])[::-1]) for column in (1, 7))
        found.append(IPv4Network(f"{address}/{mask}", strict=False))
    return found
