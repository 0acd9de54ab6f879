from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from itertools import islice

import pytest

from vmprov.addressing import (
    LONGEST_INTERFACE_NAME,
    Subnet,
    bridge_name,
    free_subnets,
    mac_address,
    parse_routes,
    serial_number,
)
from vmprov.spec.names import check_serial_number

RANGE = IPv4Network("10.87.0.0/16")


def test_a_bridge_name_fits_the_kernels_limit_up_to_eight_digits() -> None:
    assert len(bridge_name("3fa1", "v", 99_999_999)) == LONGEST_INTERFACE_NAME


def test_a_bridge_name_that_would_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 15"):
        bridge_name("3fa1", "v", 999_999_999)


def test_ten_thousand_mac_addresses_differ() -> None:
    assert len({mac_address("3fa1", number) for number in range(10_000)}) > 9_990


def test_a_mac_address_is_one_of_qemus() -> None:
    assert mac_address("3fa1", 1).startswith("52:54:00:")


def test_a_generated_serial_number_is_a_valid_one() -> None:
    assert check_serial_number(serial_number("3fa1", 7)) == "VP3FA1000007"


def test_free_subnets_overlap_nothing_that_is_taken() -> None:
    taken = [IPv4Network("10.87.0.0/24"), IPv4Network("10.87.1.16/28"), IPv4Network("192.168.0.0/16")]

    first = list(islice(free_subnets(RANGE, 28, taken), 3))

    assert first == [IPv4Network("10.87.1.0/28"), IPv4Network("10.87.1.32/28"), IPv4Network("10.87.1.48/28")]


def test_a_range_inside_a_taken_network_has_no_free_subnet() -> None:
    assert list(free_subnets(RANGE, 28, [IPv4Network("10.0.0.0/8")])) == []


def test_a_range_smaller_than_the_subnet_has_none() -> None:
    assert list(free_subnets(IPv4Network("10.87.0.0/30"), 28, [])) == []


def test_a_subnet_knows_its_gateway_and_guests() -> None:
    subnet = Subnet(IPv4Network("10.87.0.16/28"))

    assert (str(subnet.gateway), str(subnet.first), str(subnet.last)) == ("10.87.0.17", "10.87.0.18", "10.87.0.30")
    assert len(list(subnet.guests())) == 13
    assert IPv4Address("10.87.0.31") not in list(subnet.guests())


def test_routes_are_read_without_the_default_one() -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n"
        "eth0\t00000000\t010002C0\t0003\t0\t0\t0\t00000000\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n"
    )

    assert parse_routes(table) == [IPv4Network("172.17.0.0/16")]
