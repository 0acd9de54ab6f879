"""Labs as values: what reading a file promises beyond the corpus, the round trip, the limits, and the pace."""

from __future__ import annotations

import os
import string
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vmprov.documents import parse, write
from vmprov.errors import SpecError
from vmprov.flows.load import flow_machine
from vmprov.spec.file import Defaults, Entry, LabFile
from vmprov.spec.lab import LabSpec, NetworkSpec, VMSpec, lab_of
from vmprov.spec.load import load_lab, parse_lab
from vmprov.spec.machine import Disk, HttpBoot, Machine, Smbios
from vmprov.spec.quantities import exact_duration, exact_size, parse_duration, parse_size
from vmprov.spec.request import CreateRequest
from vmprov.spec.secrecy import names_a_secret
from vmprov.spec.wishes import Seed
from vmprov.spec.write import to_yaml

MIB = 1024**2


def lab(text: str, **more: Any) -> LabSpec:
    return parse_lab(text, "lab.yaml", environ={}, **more)


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as refused:
        lab(text)
    return list(refused.value.problems)


# what a file means


def test_a_count_makes_numbered_vms_and_no_count_makes_one() -> None:
    found = lab("lab: t\nvms: {web: {count: 2}, db: {after: [web]}, one: {count: 1, after: web-2}}\n")

    assert [(vm.name, vm.group) for vm in found.vms] == [
        ("web-1", "web"), ("web-2", "web"), ("db", "db"), ("one-1", "one"),
    ]  # fmt: skip
    assert found.waits_for(found.vms[2]) == ["web-1", "web-2"]
    assert found.waits_for(found.vms[3]) == ["web-2"]
    assert found.waits_for(found.vms[0]) == []


def test_serial_numbers_go_to_the_vms_in_order() -> None:
    found = lab(
        "lab: t\nvms: {web: {count: 2, serial_numbers: [AAAAA1, AAAAA2]}, db: {serial_numbers: BBBBB1}, x: {}}\n"
    )

    assert [vm.serial_number for vm in found.vms] == ["AAAAA1", "AAAAA2", "BBBBB1", ""]


def test_what_is_not_said_is_not_set_so_that_a_flow_can_bring_it() -> None:
    (vm,) = lab("lab: t\ndefaults: {cpus: 2}\nvms: {a: {flow: login, memory: 1GiB}}\n").vms

    assert {"cpus", "memory", "flow"} == set(vm.given()) & set(Machine.model_fields)
    assert vm.over(Machine(cpus=8, memory=2048 * MIB, tpm=True)) == vm.model_copy(update={"tpm": True})


def test_a_lab_cannot_be_changed_and_can_be_a_key() -> None:
    found = lab("lab: t\nvms: {a: {}}\n")

    with pytest.raises(ValidationError, match="frozen"):
        found.lab = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        found.vms[0].cpus = 2


def test_a_lab_made_in_python_has_to_be_one_that_a_file_can_describe() -> None:
    web = VMSpec(name="web-1", group="web")

    with pytest.raises(ValidationError, match="the VMs of group 'web' differ"):
        LabSpec(lab="t", vms=(web, VMSpec(name="web-2", group="web", cpus=2)))
    with pytest.raises(ValidationError, match="are not called web-1, web-2"):
        LabSpec(lab="t", vms=(web, VMSpec(name="web-3", group="web")))
    with pytest.raises(ValidationError, match="two VMs have the same name"):
        LabSpec(lab="t", vms=(web, VMSpec(name="web-1", group="web-1")))


# files

FLOWS: Any = flow_machine


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labs").mkdir()
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "ca.pem").touch()
    (tmp_path / "common" / "base.yaml").write_text("defaults: {boot_certificates: ca.pem, firmware: secure-boot}\n")
    (tmp_path / "labs" / "lab.yaml").write_text("base: ../common/base.yaml\nlab: t\nvms: {a: {}}\n")
    monkeypatch.chdir(tmp_path / "common")

    (vm,) = load_lab("../labs/lab.yaml").vms

    assert vm.boot_certificates == (tmp_path / "common" / "ca.pem",)


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys.yaml").write_text("#cloud-config\n{}\n")
    monkeypatch.setenv("HOME", str(tmp_path))

    (vm,) = lab("lab: t\nvms: {a: {seed: {user_data: ~/keys.yaml}}}\n").vms

    assert vm.seed.user_data == tmp_path / "keys.yaml"


def test_a_pipe_as_a_base_does_not_hold_anything_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    text = f"base: {tmp_path}/pipe\nlab: t\nvms: {{a: {{memory: '${{file:{tmp_path}/pipe}}'}}}}\n"

    said = problems(text)

    assert [line.split(": ", 1)[1] for line in said] == [
        f"base: the file '{tmp_path}/pipe' is no regular file",
        f"vms.a.memory: the file '{tmp_path}/pipe' is no regular file",
    ]


def test_a_base_by_two_names_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\nlab: t\nvms: {a: {}}\n")
    (tmp_path / "b.yaml").symlink_to("a.yaml")

    with pytest.raises(SpecError, match="the files are based on each other"):
        load_lab(tmp_path / "a.yaml")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file"):
        load_lab(tmp_path / "nope.yaml")
    with pytest.raises(SpecError, match="Is a directory"):
        load_lab(tmp_path)


def test_more_files_than_anybody_needs_are_refused(tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / f"{number}.yaml").write_text("{}\n")
    bases = ", ".join(f"{number}.yaml" for number in range(120))
    (tmp_path / "lab.yaml").write_text(f"base: [{bases}]\nlab: t\nvms: {{a: {{}}}}\n")

    with pytest.raises(SpecError, match="more than 100 files take part"):
        load_lab(tmp_path / "lab.yaml")


def test_a_secret_is_in_no_message() -> None:
    text = "lab: t\nvars: {password: hunter2}\nvms: {a: {token: hunter2, seed: {run: 'x://u:hunter2@h/'}}}\n"

    said = problems(text)

    assert len(said) == 3
    assert "hunter2" not in "".join(said)


# the pace and the limits


def test_ten_megabytes_are_refused_at_once(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"lab: t\nvms:\n" + b"".join(b"  a%d: {cpus: 1}\n" % number for number in range(600_000)))
    assert huge.stat().st_size > 10_000_000

    began = time.perf_counter()
    with pytest.raises(SpecError, match=r"huge\.yaml:1:1: the file is larger than 1MiB"):
        load_lab(huge)

    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("name", ["alias-bomb", "alias-bomb-of-mappings", "nested-too-deep"])
def test_a_bomb_is_refused_soon(name: str) -> None:
    began = time.perf_counter()
    with pytest.raises(SpecError):
        load_lab(Path(__file__).parents[1] / "cases" / "labs" / "bad" / f"{name}.yaml")

    assert time.perf_counter() - began < 3


def test_bases_that_are_bombs_together_are_refused(tmp_path: Path) -> None:
    """Ninety files of a quarter of a megabyte would be hundreds of thousands of machines."""
    for number in range(90):
        rows = "".join(f"  n{number}x{row}: {{cpus: 2, labels: {{a: b}}}}\n" for row in range(5000))
        (tmp_path / f"{number}.yaml").write_text(f"vms:\n{rows}")
    bases = ", ".join(f"{number}.yaml" for number in range(90))
    (tmp_path / "lab.yaml").write_text(f"base: [{bases}]\nlab: t\n")

    began = time.perf_counter()
    with pytest.raises(SpecError, match="the files together hold more than"):
        load_lab(tmp_path / "lab.yaml")

    assert time.perf_counter() - began < 30


def test_a_thousand_vms_are_read_in_no_time() -> None:
    text = "lab: t\ndefaults: {cpus: 2, labels: {a: b}}\nvms: {web: {count: 1000, memory: 2GiB}, db: {after: web}}\n"
    lab(text)

    best = min(_seconds(text) for _ in range(3))

    assert best < 0.3
    assert len(lab(text).vms) == 1001


def test_a_thousand_different_vms_do_not_take_much_longer() -> None:
    rows = "".join(
        f"  n{number}: {{memory: {number % 8 + 1}GiB, after: n{number // 2}}}\n" for number in range(1, 1000)
    )
    text = f"lab: t\ndefaults: {{cpus: 2, labels: {{a: b}}}}\nvms:\n  n0: {{}}\n{rows}".replace(
        "n1: {memory: 2GiB, after: n0}", "n1: {}"
    )

    best = min(_seconds(text) for _ in range(3))

    assert best < 2


def _seconds(text: str) -> float:
    began = time.perf_counter()
    lab(text)
    return time.perf_counter() - began


# the round trip

NAME = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
SIZE = st.integers(32 * MIB, 2**45) | st.integers(1, 2**20).map(lambda n: (n + 31) * MIB)
DURATION = st.integers(1, 10**9).map(lambda thousandths: thousandths / 1000) | st.integers(1, 10**6).map(float)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
SMBIOS = st.text(string.printable[:95], max_size=20)
LABEL = st.text(string.ascii_letters + string.digits, min_size=1, max_size=10).filter(
    lambda key: not names_a_secret(key)
)
NIC = st.sampled_from(["per-vm", "shared", "isolated", "n1", "n2", "bridge:br0"])
PATHS = st.sampled_from(["/etc/passwd", "/etc/hostname"]).map(Path)
FLOW = st.sampled_from(["", "login", "edge-io"])


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    """The fields of a machine, some of them said, and none that exclude each other."""
    names = draw(st.lists(NAME, unique=True, max_size=3))
    fields: dict[str, Any] = {
        "image": draw(st.sampled_from(["debian-12", "tiny", ""])),
        "cpus": draw(st.integers(1, 256)),
        "memory": draw(SIZE),
        "disk": draw(st.none() | SIZE),
        "disks": (*(Disk(name=f"d{name}", size=draw(SIZE)) for name in names), Disk(size=draw(SIZE))),
        "networks": tuple(draw(st.lists(NIC, min_size=1, max_size=4))),
        "dhcp": True,
        "firmware": draw(st.sampled_from(["bios", "uefi", "secure-boot"])),
        "tpm": draw(st.booleans()),
        "boot": draw(st.sampled_from([(), ("disk",), ("network", "disk"), ("disk", "network")])),
        "pxe": draw(st.booleans()),
        "smbios": Smbios(manufacturer=draw(SMBIOS), product=draw(SMBIOS)),
        "consoles": draw(st.integers(1, 2)),
        "graphics": draw(st.sampled_from(["none", "vnc"])),
        "flow": draw(FLOW),
        "timeout": draw(st.none() | DURATION),
        "labels": draw(st.dictionaries(LABEL, LABEL | st.just(""), max_size=3)),
        "protect": draw(st.booleans()),
        "ttl": draw(st.none() | DURATION),
        "seed": Seed(run=tuple(draw(st.lists(TEXT, max_size=3))), user_data=draw(st.none() | PATHS)),
    }  # fmt: skip
    if fields["firmware"] == "secure-boot":
        fields["boot_certificates"] = tuple(draw(st.lists(PATHS, max_size=2)))
    if fields["firmware"] != "bios" and draw(st.booleans()):
        fields |= {"image": "", "boot": (), "networks": ("n1", *fields["networks"])}
        dns = draw(
            st.dictionaries(NAME.map(lambda name: f"{name}.example"), st.just(IPv4Address("10.0.0.1")), max_size=2)
        )
        fields["http_boot"] = HttpBoot(
            url=f"https://{draw(NAME)}.example/x", ca=tuple(draw(st.lists(PATHS, max_size=2))), dns=dns
        )
    said = draw(st.sets(st.sampled_from(sorted(fields))))
    if "http_boot" in fields or "boot_certificates" in fields:
        return fields
    return {name: value for name, value in fields.items() if name in said}


@st.composite
def labs(draw: st.DrawFn) -> LabSpec:
    """Any lab that a file can describe."""
    vms: list[VMSpec] = []
    groups = draw(st.lists(NAME, unique=True, min_size=1, max_size=4))
    for index, group in enumerate(groups):
        count = draw(st.none() | st.integers(1, 3))
        after = tuple(sorted(draw(st.sets(st.sampled_from([vm.group for vm in vms]))))) if index else ()
        after += tuple(sorted(draw(st.sets(st.sampled_from([vm.name for vm in vms]))) - set(after))) if index else ()
        shape = draw(machines())
        numbers = [f"SN{index:03}{number:03}" for number in range(count or 1)] if draw(st.booleans()) else []
        for place, name in enumerate(
            [group] if count is None else [f"{group}-{number + 1}" for number in range(count)]
        ):
            number = {"serial_number": numbers[place]} if numbers else {}
            vms.append(VMSpec(name=name, group=group, after=after, **number, **shape))
    return LabSpec(
        lab=f"lab-{draw(NAME)}", host=draw(st.sampled_from(["", "fake:", "qemu:///system"])),
        driver=draw(st.sampled_from(["", "fake"])), vms=tuple(vms),
        networks=(
            NetworkSpec(name="n1", subnet=draw(st.none() | st.just(IPv4Network("10.0.0.0/16")))),
            NetworkSpec(name="n2", mode=draw(st.sampled_from(["nat", "isolated", "existing"]))),
        ),
    )  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(labs())
def test_any_lab_is_what_its_file_says(wanted: LabSpec) -> None:
    text = to_yaml(wanted)

    found = parse_lab(text, "lab.yaml", environ={})

    assert found == wanted
    assert to_yaml(found) == text
    for one, other in zip(found.vms, wanted.vms, strict=True):
        said = {
            name: value for name, value in other.given().items() if name in Machine.model_fields and value is not None
        }
        assert not one.flow or said.items() <= one.given().items()


@given(st.integers(1, 10**14))
def test_a_size_is_written_exactly(size: int) -> None:
    assert parse_size(exact_size(size)) == size


@given(st.integers(1, 10**12))
def test_a_duration_is_written_to_the_millisecond(thousandths: int) -> None:
    assert round(parse_duration(exact_duration(thousandths / 1000)), 3) == thousandths / 1000


VALUES = st.recursive(
    st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(codec="utf-8"), max_size=30),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=12), inner, min_size=1, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=12), VALUES, min_size=1, max_size=4))
def test_what_is_written_as_yaml_is_read_as_the_same(value: dict[str, Any]) -> None:
    assert parse(write(value), "f").value == value


# the options of create


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"count": 3},
        {"count": 3, "name": "web"},
        {"name": "db"},
        {"count": 1, "name": "web", "serial_numbers": ("EDGE0001",)},
        {
            "count": 2,
            "name": "n",
            "serial_numbers": ("EDGE0001", "EDGE0002"),
            "cpus": 4,
            "memory": "3GiB",
            "disk": "20GiB",
        },
        {"networks": ("default", "shared", "bridge:br0"), "image": ""},
        {"flow": "login", "memory": "1GiB", "cpus": 1, "timeout": "90s", "consoles": 2},
        {"image": "", "firmware": "uefi", "tpm": True, "http_boot": {"url": "https://x/y", "ca": "/etc/passwd"}},
        {"driver": "fake", "disks": ["1GiB", {"name": "x", "size": "2GiB"}], "smbios": {"product": "X"}},
    ],
)
def test_options_and_the_file_that_means_the_same_are_one_lab(options: dict[str, Any]) -> None:
    request = CreateRequest.parse(**options)
    wanted = lab_of(request, lab="lab-1", names=request.vm_names({"vm-1"}), host="fake:")

    found = parse_lab(to_yaml(wanted), "lab.yaml", flows=FLOWS)

    assert found == wanted
    assert [vm.name for vm in found.vms] == request.vm_names({"vm-1"})
    for vm in found.vms:
        assert {name: getattr(vm, name) for name in Machine.model_fields} == {
            name: getattr(request, name) for name in Machine.model_fields
        }
    assert tuple(vm.serial_number for vm in found.vms if vm.serial_number) == request.serial_numbers


def test_a_flow_of_ones_own_is_found_wherever_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    wanted = lab_of(CreateRequest.parse(flow="./mine.yaml"), lab="t", names=["vm-1"])

    assert wanted.vms[0].flow == str(tmp_path / "mine.yaml")


# one model


def test_files_and_labs_know_the_same_words() -> None:
    own = {"count", "serial_numbers"}

    assert set(Entry.model_fields) - own == set(VMSpec.model_fields) - {"name", "group", "serial_number"}
    assert set(Defaults.model_fields) - {"host", "driver"} == set(Entry.model_fields) - own - {"after", "domain"}
    assert set(Machine.model_fields) < set(Entry.model_fields)
    assert set(LabSpec.model_fields) == set(LabFile.model_fields) - {"base", "vars", "defaults"}
