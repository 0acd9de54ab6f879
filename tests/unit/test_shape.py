from __future__ import annotations

import re
from typing import Any

import pytest

from vmprov.errors import SpecError
from vmprov.flows.load import parse_flow, schema
from vmprov.spec.machine import Disk, HttpBoot, Machine, Smbios
from vmprov.spec.request import CreateRequest
from vmprov.spec.wishes import Wishes

GIB = 1024**3


def refusal(**wanted: Any) -> str:
    with pytest.raises(SpecError) as caught:
        CreateRequest.parse(**wanted).refuse_conflicts()
    return str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"disks": ["1B"]}, "--extra-disk must be at least 1MiB, not 1B"),
        ({"disks": ["lots"]}, "--extra-disk: 'lots' is not a size"),
        ({"disks": [{"name": "a", "size": "1GiB"}] * 2}, "--extra-disk: two disks are called 'a'"),
        ({"disks": [{"name": "data-2", "size": "1GiB"}, "1GiB"]}, "--extra-disk: two disks are called 'data-2'"),
        ({"disks": [{"name": "a" * 21, "size": "1GiB"}]}, "--extra-disk: disk name"),
        ({"networks": ["bridge:a b"]}, "--network: network 'bridge:a b' is not allowed"),
        ({"networks": ["bridge:sixteen-letters-"]}, "at most 15"),
        ({"networks": ["bridge:.."]}, "is not allowed"),
        ({"networks": ["host:eth0"]}, "is not allowed"),
        ({"boot": ["disk", "disk"]}, "--boot: the same device is named twice"),
        ({"boot": ["cdrom"]}, "--boot: Input should be 'disk' or 'network'"),
        ({"firmware": "efi"}, "--firmware: Input should be 'bios', 'uefi' or 'secure-boot'"),
        ({"http_boot": {"url": "tftp://a/b"}}, "--boot-url: 'tftp://a/b' is not a URL to boot from"),
        ({"http_boot": {"url": 'https://a/b"'}}, "is not a URL to boot from"),
        ({"http_boot": {"url": "https://a/b\nc"}}, "is not a URL to boot from"),
        ({"http_boot": {"url": "https:///b"}}, "is not a URL to boot from"),
        ({"http_boot": {"url": "http://a", "dns": {"a b": "10.0.0.1"}}}, "--boot-dns: host name 'a b' is not allowed"),
        ({"http_boot": {"url": "http://a", "dns": {"a": "fe80::1"}}}, "--boot-dns: Input is not a valid IPv4 address"),
        ({"smbios": {"product": "a\nb"}}, "--product: 'a\\nb' is not allowed"),
        ({"graphics": "spice"}, "--graphics: Input should be 'none' or 'vnc'"),
        ({"networks": []}, "--network: "),
    ],
)
def test_what_cannot_be_is_refused_in_the_words_of_the_command_line(wanted: dict[str, Any], why: str) -> None:
    assert why in refusal(**wanted)


BOOT = {"url": "https://boot.test/x.efi"}


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"http_boot": BOOT, "image": ""}, "--boot-url: HTTP boot needs firmware uefi"),
        ({"http_boot": BOOT, "firmware": "uefi"}, "--boot-url: the network is not in the boot order"),
        ({"http_boot": BOOT, "firmware": "uefi", "image": "", "dhcp": False}, "DHCP, which is switched off"),
        ({"http_boot": BOOT, "firmware": "uefi", "image": "", "networks": "theirs"}, "let it be adopted"),
        ({"http_boot": BOOT, "firmware": "uefi", "image": "", "networks": "bridge:br0"}, "nobody here rules the DHCP"),
        ({"adopt": True}, "--adopt: a network is adopted for HTTP boot"),
        ({"boot_certificates": "a.pem", "firmware": "uefi"}, "--boot-certificate: they are for firmware secure-boot"),
    ],
)
def test_what_does_not_go_together_is_refused(wanted: dict[str, Any], why: str) -> None:
    assert why in refusal(**wanted)


def test_single_items_and_plain_sizes_stand_for_lists_and_disks() -> None:
    machine = Machine(
        disks="20GiB", networks="shared", boot="network", http_boot={"url": "http://a/b", "ca": "/ca.pem"}
    )

    assert machine.disks == (Disk(name="data-1", size=20 * GIB),)
    assert machine.networks == ("shared",)
    assert machine.boot_order == ("network",)
    assert machine.http_boot is not None
    assert [str(path) for path in machine.http_boot.ca] == ["/ca.pem"]


def test_a_record_holds_everything() -> None:
    machine = Machine(
        image="", disks=["1GiB"], firmware="secure-boot", tpm=True, timeout="5m",
        http_boot=HttpBoot(url="http://a/b", dns={"a": "10.0.0.1"}), smbios=Smbios(product="Edge"),
    )  # fmt: skip

    assert Machine.model_validate_json(machine.model_dump_json()) == machine


def test_the_machine_of_a_request_is_what_was_given_of_it() -> None:
    request = CreateRequest.parse(count=2, name="a", cpus=2, network="shared")

    assert request.wishes == Wishes(cpus=2, networks=("shared",))
    assert request.wishes.model_fields_set == {"cpus", "networks"}


def test_wishes_are_laid_over_each_other_down_into_parts() -> None:
    flow = Machine(smbios=Smbios(manufacturer="Ours", product="Edge"), cpus=4, firmware="uefi")
    request = CreateRequest.parse(smbios={"product": "Mine"}, cpus=1, count=3).over(flow)

    assert request.smbios == Smbios(manufacturer="Ours", product="Mine")
    assert (request.cpus, request.firmware, request.count) == (1, "uefi", 3)


def test_a_flow_brings_a_machine() -> None:
    flow = parse_flow(
        "flow: x\nmachine: {image: '', memory: 4GiB, disks: [1GiB]}\nstages: {stage: a, expect: b}\n", "x"
    )

    assert flow.machine is not None
    assert flow.machine.given() == {"image": "", "memory": 4 * GIB, "disks": (Disk(name="data-1", size=GIB),)}


def test_a_flow_within_a_flow_is_refused() -> None:
    with pytest.raises(SpecError, match=r"x:2:11: machine\.flow: a flow's machine has no flow of its own"):
        parse_flow("flow: x\nmachine: {flow: y}\nstages: {stage: a, expect: b}\n", "x")


def test_the_schema_takes_text_for_sizes() -> None:
    memory = schema()["$defs"]["Machine"]["properties"]["memory"]

    assert memory["type"] == "string"
    assert re.search(memory["pattern"], "1.5GiB")
    assert not re.search(memory["pattern"], "1.5")


def test_a_size_in_a_file_has_a_unit() -> None:
    with pytest.raises(SpecError, match=r"x:2:19: machine\.memory: 4096 has no unit; write for example 512MiB or 2GiB"):
        parse_flow("flow: x\nmachine: {memory: 4096}\nstages: {stage: a, expect: b}\n", "x")
