"""What networks occupy."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from vmprov.errors import NameTaken
from vmprov.hypervisor import Network
from vmprov.hypervisor.occupied import Occupied


def network(name: str, *subnets: str, bridge: str = "") -> Network:
    return Network(name, bridge or f"br-{name}", True, tuple(map(IPv4Network, subnets)), None)


@pytest.fixture
def occupied() -> Occupied:
    return Occupied([network("a", "10.0.0.16/28"), network("b", "10.0.1.0/24", "10.2.0.0/16"), network("c")])


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (network("a"), "network called 'a'"),
        (network("d", bridge="br-c"), "bridge br-c belongs to network 'c'"),
        (network("d", "10.0.0.16/28"), "10.0.0.16/28 belongs to network 'a'"),
        (network("d", "10.0.0.24/29"), "10.0.0.24/29 belongs to network 'a'"),
        (network("d", "10.0.0.0/27"), "10.0.0.0/27 belongs to network 'a'"),
        (network("d", "10.9.0.0/16", "10.2.255.240/28"), "10.2.255.240/28 belongs to network 'b'"),
        (network("d", "0.0.0.0/0"), "0.0.0.0/0 belongs"),
    ],
)
def test_what_is_taken_is_refused(occupied: Occupied, wanted: Network, told: str) -> None:
    with pytest.raises(NameTaken, match=told):
        occupied.refuse(wanted)


@pytest.mark.parametrize("subnet", ["10.0.0.0/28", "10.0.0.32/28", "10.0.0.0/29", "10.0.2.0/23", "10.3.0.0/16"])
def test_what_is_beside_it_is_free(occupied: Occupied, subnet: str) -> None:
    occupied.refuse(network("d", subnet))


def test_what_a_network_had_is_free_once_it_is_gone_or_changed(occupied: Occupied) -> None:
    occupied.remove("a")
    occupied.remove("a")
    occupied.put(network("b", "10.4.0.0/16", bridge="br-e"))

    occupied.refuse(network("a", "10.0.0.0/27", "10.2.0.0/16"))
    occupied.refuse(network("d", bridge="br-b"))
    with pytest.raises(NameTaken, match="br-e"):
        occupied.refuse(network("d", bridge="br-e"))
