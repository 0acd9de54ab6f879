from __future__ import annotations

import pytest

from vmprov.errors import SpecError
from vmprov.spec.request import CreateRequest

HOSTILE = ["a b", "a'b", 'a"b', "#{x}", "a;b", "<b>", "ä", "a" * 64, "-a", "a-", "A", "a/b", "..", "a\nb", "$(x)"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"--name: name .* (is not allowed|characters long)"):
        CreateRequest.parse(name=name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_lab_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="--lab: "):
        CreateRequest.parse(lab=name)


@pytest.mark.parametrize("name", ["a b", "#{x}", "<b>", "../x", "$(x)", "a\nb"])
def test_a_hostile_network_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="--network: "):
        CreateRequest.parse(network=name)


@pytest.mark.parametrize("count", [0, -1, -10000])
def test_a_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(SpecError, match=f"--count must be at least 1, not {count}"):
        CreateRequest.parse(count=count)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        CreateRequest.parse(count=0, memory="lots", cpus=0, name="a b")

    assert len(caught.value.problems) == 4


def test_a_memory_too_small_to_boot_is_refused_in_readable_units() -> None:
    with pytest.raises(SpecError, match="--memory must be at least 32MiB, not 1MiB"):
        CreateRequest.parse(memory="1MiB")


@pytest.mark.parametrize(
    ("numbers", "count", "why"),
    [
        (("SN00001",), 2, "1 serial numbers were given for 2 VMs"),
        (("SN00001", "SN00001"), 2, "given twice"),
        (("SN 001",), 1, "is not allowed"),
        (("abc",), 1, "is not allowed"),
    ],
)
def test_serial_numbers_are_checked(numbers: tuple[str, ...], count: int, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        CreateRequest.parse(serial_numbers=numbers, count=count)


def test_an_unknown_wish_is_refused() -> None:
    with pytest.raises(SpecError, match="--colour"):
        CreateRequest.parse(colour="red")


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, ["vm-2"]),
        ({"count": 3}, ["vm-2", "vm-4", "vm-5"]),
        ({"name": "web"}, ["web"]),
        ({"name": "web", "count": 2}, ["web-1", "web-2"]),
    ],
)
def test_names_are_numbered_and_pass_over_taken_ones(wanted: dict[str, object], names: list[str]) -> None:
    assert CreateRequest.parse(**wanted).vm_names({"vm-1", "vm-3"}) == names
