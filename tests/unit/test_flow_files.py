"""Flow files: what is taken, what is refused and how, and that the schema for editors says the same.

``tests/cases/flows/good`` are taken. Beside each file of ``bad`` lies what is said about it; ``VMPROV_REGENERATE=1``
writes that anew.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from vmprov.cli import app
from vmprov.documents import parse
from vmprov.errors import NotFound, SpecError
from vmprov.flows.grammar import KEYS, Expectation, Failure, Flow, Input, Pattern, compile_regex
from vmprov.flows.load import flow_names, flow_path, load_flow, parse_flow, schema

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "flows"
GOOD = sorted((CASES / "good").glob("*.yaml"))
BAD = sorted((CASES / "bad").glob("*.yaml"))
SHIPPED = [flow_path(name) for name in flow_names()]
SCHEMA = jsonschema.Draft202012Validator(schema())
PLACED = re.compile(r"([\w-]+\.yaml):(\d+):(\d+): \S.*")


def problems_of(path: Path) -> list[str]:
    with pytest.raises(SpecError) as refused:
        parse_flow(path.read_bytes(), path.name)
    return list(refused.value.problems)


def value_of(path: Path) -> Any:
    return parse(path.read_bytes(), path.name).value


def good(name: str) -> Flow:
    return parse_flow((CASES / "good" / f"{name}.yaml").read_bytes(), name)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(inner)


# the corpus


def test_there_is_a_corpus() -> None:
    assert len(GOOD) >= 15
    assert len(BAD) >= 30
    assert {path.stem for path in (CASES / "bad").glob("*.expected")} == {path.stem for path in BAD}


@pytest.mark.parametrize("path", [*GOOD, *SHIPPED], ids=lambda path: path.stem)
def test_a_good_file_is_taken(path: Path) -> None:
    flow = parse_flow(path.read_bytes(), path.name)

    assert flow.stages


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_every_problem_and_its_place(path: Path) -> None:
    said = problems_of(path)
    expected = path.with_suffix(".expected")
    if os.environ.get("VMPROV_REGENERATE"):
        expected.write_text("\n".join(said) + "\n", encoding="utf-8")

    assert said == expected.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_problems_are_single_lines_in_the_order_of_the_file(path: Path) -> None:
    said = problems_of(path)
    found = [PLACED.fullmatch(line) for line in said]
    places = [(int(match[2]), int(match[3])) for match in found if match]

    assert places == sorted(places)
    assert len(places) == len(said) - (len(said) > 100)
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("path", [*GOOD, *SHIPPED], ids=lambda path: path.stem)
def test_a_flow_is_the_same_after_a_round_trip_as_json(path: Path) -> None:
    flow = parse_flow(path.read_bytes(), path.name)
    written = flow.model_dump_json(by_alias=True, exclude_defaults=True)

    assert parse_flow(written, "again") == flow


# the schema


@pytest.mark.parametrize("path", [*GOOD, *SHIPPED], ids=lambda path: path.stem)
def test_the_schema_takes_what_is_good(path: Path) -> None:
    assert [error.message for error in SCHEMA.iter_errors(value_of(path))] == []


@pytest.mark.parametrize("path", [*GOOD, *SHIPPED], ids=lambda path: path.stem)
def test_the_schema_refuses_an_unknown_key_wherever_it_stands(path: Path) -> None:
    whole = value_of(path)
    for index in range(len(list(mappings(whole)))):
        changed = deepcopy(whole)
        list(mappings(changed))[index]["Un Known"] = 1
        assert not SCHEMA.is_valid(changed), list(mappings(whole))[index]


@pytest.mark.parametrize(
    "name",
    ["two-kinds-at-once", "missing-keys", "wrong-types", "out-of-range", "no-values", "nothing-in-it", "empty-patterns",
     "names-of-python", "unknown-key-to-press", "durations", "a-list", "nothing-given", "secrets"],
)  # fmt: skip
def test_the_schema_refuses_what_has_the_wrong_shape(name: str) -> None:
    assert not SCHEMA.is_valid(value_of(CASES / "bad" / f"{name}.yaml"))


def test_the_schema_is_one_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())

    assert "null" not in json.dumps(schema())


# what a file means


def test_single_items_and_plain_texts_mean_what_they_stand_for() -> None:
    flow = good("shorthands")
    (stage,) = flow.stages

    assert flow.consoles == (1,)
    assert flow.ignore == ("kernel-panic",)
    assert stage.expect == (Expectation(prompt="login:", send=(Input(line="root"),), next="success"),)
    assert flow.recover[0].send == (Input(line="reset"),)
    assert flow.fail == (Failure(text="Kernel panic", failure_class="kernel-panic"),)
    assert good("minimal").stages[0].expect == (Expectation(text="login:"),)


def test_every_field_is_read() -> None:
    flow = good("everything")
    firmware, login, password = flow.stages

    assert (flow.limit, flow.settle, flow.pacing, flow.boots, flow.consoles) == (3600, 0.5, 0.02, 3, (0, 1))
    assert (firmware.optional, firmware.limit, firmware.ignore) == (True, 60, ("halted", "kernel-panic"))
    assert (login.nudge, login.fail[0].failure_class, login.fail[0].console) == (2.5, "kernel-panic", 1)
    assert login.expect[0].send == (Input(secret="user"), Input(pause=0.1))
    assert password.expect[0].send[2:] == (Input(text="exit"), Input(line=""), Input(line="plain line"))
    assert flow.secrets["user"].env == "{vm}_USER"
    assert (flow.recover[0].budget, flow.recover[0].during) == (2, ("firmware", "login"))


def test_text_that_yaml_1_1_takes_for_something_else_stays_text() -> None:
    (stage,) = good("yes-and-no-are-text").stages

    assert stage.stage == "on"
    assert [pattern.text for pattern in stage.expect] == [
        "yes", "off", "12:30:00", "2024-01-01", "007", "0b1", "1_000", ".inf", "=", "<<",
    ]  # fmt: skip


def test_only_what_ignoring_has_an_effect_on_can_be_ignored() -> None:
    text = """
flow: x
stages: {stage: a, expect: x, ignore: [of-flow, of-stage, of-recovery], fail: {text: y, class: of-stage}}
fail: {text: z, class: of-flow}
recover: {name: of-recovery, text: t, next: a}
"""
    with pytest.raises(SpecError) as refused:
        parse_flow(text, "f")

    assert [problem.split(";")[0] for problem in refused.value.problems] == [
        "f:3:49: stages.ignore[1]: unknown failure class 'of-stage'",
        "f:3:59: stages.ignore[2]: unknown failure class 'of-recovery'",
    ]


def test_a_flow_can_be_a_key() -> None:
    assert {load_flow("edge-io"): 1, load_flow("login"): 2}[load_flow("edge-io")] == 1


def test_every_key_sends_something_else() -> None:
    twice = {"ctrl-i": "tab", "ctrl-m": "enter"}

    assert len({sent for key, sent in KEYS.items() if key not in twice}) == len(KEYS) - len(twice)
    assert all(KEYS[key] == KEYS[other] for key, other in twice.items())
    assert KEYS["ctrl-c"] == b"\x03"


def test_expressions_that_others_take_ages_for_take_none() -> None:
    (stage,) = good("backtracking-looking-regexes").stages
    line = "a" * 50_000 + "!"

    began = time.monotonic()
    found = [compile_regex(pattern.regex or "").search(line) for pattern in stage.expect]

    assert found == [None] * 4
    assert time.monotonic() - began < 5


def test_an_expression_with_thousands_of_groups_is_searched_at_once() -> None:
    began = time.monotonic()

    assert compile_regex("(a|b)" * 3000).search("a" * 5000)
    assert time.monotonic() - began < 5


# which flow


def test_a_flow_that_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"unknown flow 'logn'; did you mean 'login'\?"):
        load_flow("logn")
    with pytest.raises(NotFound, match=r"nope/none\.yaml: there is no such file"):
        load_flow("nope/none.yaml")


def test_a_path_is_a_path_and_a_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "login").write_text("flow: mine\nstages: {stage: a, expect: x}\n")
    (tmp_path / "login.yml").write_text("flow: mine-too\nstages: {stage: a, expect: x}\n")
    monkeypatch.chdir(tmp_path)

    assert [load_flow(name).flow for name in ("login", "./login", "login.yml")] == ["login", "mine", "mine-too"]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (1024**2 + 1))

    with pytest.raises(SpecError, match=r"big\.yaml:1:1: the file is larger than 1MiB"):
        load_flow(str(big))
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_flow(f"{tmp_path}/")
    with pytest.raises(SpecError, match="larger than 1MiB"):
        load_flow("/dev/zero")


# the flows that come with vmprov


def test_a_shipped_flow_is_called_as_its_file() -> None:
    assert flow_names() == ["cloud-init", "debian-installer", "edge-io", "edge-nio", "login"]
    assert [load_flow(name).flow for name in flow_names()] == flow_names()
    assert all(load_flow(name).description for name in flow_names())


def found_in(pattern: Pattern, line: str, *, unfinished: bool) -> bool:
    """Whether a pattern is in a line, without regard to noise, time and consoles."""
    if pattern.prompt is not None:
        return unfinished and line.rstrip().endswith(pattern.prompt)
    if pattern.regex is not None:
        return compile_regex(pattern.regex).search(line) is not None
    return (pattern.text or "") in line


# What firmware, boot loaders, iPXE, kernels and services put on the wire; "|" at the end: the line has no end yet.
PASSING = [
    ("login", "power-on", "SeaBIOS (version 1.16.2-debian-1.16.2-1)"),
    ("login", "power-on", 'BdsDxe: loading Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x2,0x0)'),
    ("login", "firmware", "Booting from Hard Disk..."),
    ("login", "firmware", 'BdsDxe: starting Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x2,0x0)'),
    ("login", "firmware", "GRUB loading."),
    ("login", "firmware", "Welcome to GRUB!"),
    ("login", "bootloader", "[    0.000000] Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org)"),
    ("login", "bootloader", "EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path"),
    ("login", "kernel", "[    1.234567] Run /init as init process"),
    ("login", "kernel", "[    2.345678] systemd[1]: systemd 252.22 running in system mode"),
    ("login", "kernel", "[  OK  ] Reached target basic.target - Basic System."),
    ("login", "login", "vm-1 login: |"),
    ("cloud-init", "system", "vm-1 login: |"),
    ("cloud-init", "cloud-init",
     "[   21.5] cloud-init[702]: Cloud-init v. 22.4.2 finished at Mon, 01 Jan 2024 00:00:00 +0000. Datasource"
     " DataSourceNoCloud [seed=/dev/sr0].  Up 21.47 seconds"),
    ("cloud-init", "system",
     "Cloud-init v. 24.1.3-0ubuntu1~22.04.5 finished at Mon, 01 Jan 2024 00:00:00 +0000. Datasource DataSourceNoCloud"),
    ("debian-installer", "kernel", "Loading additional components  ... 5%"),
    ("debian-installer", "disk", "Installing the base system  ... 2%"),
    ("debian-installer", "boot-loader", "Finishing the installation  ... 33%"),
    ("debian-installer", "finish", "[  300.123456] reboot: Restarting system"),
    *[
        (flow, stage, line)
        for flow in ("edge-io", "edge-nio")
        for stage, line in [
            ("firmware", ">>Start HTTP Boot over IPv4...."),
            ("firmware", 'BdsDxe: loading Boot0004 "UEFI HTTPv4 (MAC:525400123456)" from PciRoot(0x0)'),
            ("http-address", "  Station IP address is 192.168.1.11"),
            ("http-download", "  URI: https://tinkerbell-haproxy.example.com/tink-stack/signed_ipxe.efi"),
            ("http-download", 'BdsDxe: starting Boot0004 "UEFI HTTPv4 (MAC:525400123456)" from PciRoot(0x0)'),
            ("ipxe", "==== iPXE boot success, chainloading Micro-OS ===="),
            ("network", "Network Configuration Done"),
            ("boot-script", "https://tinkerbell-haproxy.example.com/tink-stack/boot.ipxe... ok"),
            ("boot-script", "Loading the Micro-OS download iPXE script..."),
            ("boot-script", "Loading the Tinkerbell Hook iPXE script..."),
            ("kernel-download", "https://tinkerbell-haproxy.example.com/tink-stack/vmlinuz-x86_64... ok"),
            ("initramfs-download", "https://tinkerbell-haproxy.example.com/tink-stack/initramfs-x86_64... ok"),
            ("initramfs-download", "The Micro-OS image downloaded successfully, booting into the Micro-OS..."),
            ("kernel", "EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path"),
            ("onboarding", "Secure Boot Status MATCH"),
            ("imaging", "[ 1278.123456] reboot: Restarting system"),
            ("imaging", "Reset System"),
            ("imaging", 'BdsDxe: starting Boot0007 "ubuntu" from HD(1,GPT)/EFI/ubuntu/shimx64.efi'),
            ("imaging", 'BdsDxe: loading Boot0001 "UEFI QEMU HARDDISK QM00001 " from PciRoot(0x0)'),
            ("disk-boot", "Ubuntu 22.04.5 LTS edge-node ttyS1"),
            ("disk-boot", "Ubuntu 24.04 LTS edge-node ttyS1"),
            ("disk-boot", "Welcome to Edge Microvisor Toolkit 3.0.20250717 (x86_64) - (ttyS1)"),
            ("login", "edge-node login: |"),
        ]
    ],
    ("edge-io", "username", "Username: |"),
    ("edge-io", "password-0", "Password: |"),
    ("edge-io", "password-1", "Password: |"),
    ("edge-io", "credentials", "Username, Password received: Processing"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "stage", "line"), PASSING)
def test_what_machines_really_say_passes_the_stage(name: str, stage: str, line: str) -> None:
    (the_one,) = (one for one in load_flow(name).stages if one.stage == stage)
    text = line.removesuffix("|")

    assert any(found_in(pattern, text, unfinished=text != line) for pattern in the_one.expect)


@pytest.mark.parametrize(
    ("name", "line", "failure_class"),
    [
        ("edge-io", "Secure Boot Status MISMATCH", "secure-boot-mismatch"),
        ("edge-nio", "Secure Boot Status MISMATCH", "secure-boot-mismatch"),
        ("edge-io", "Unable to read secure boot status", "secure-boot-unknown"),
        ("edge-nio", "Provide Username and password for the IDP", "not-registered"),
        ("edge-nio", "Username: |", "not-registered"),
        ("cloud-init", "[FAILED] Failed to start cloud-init.service - Initial cloud-init job.", "cloud-init"),
        ("cloud-init", "Cloud-init v. 23.1 finished at x. Datasource DataSourceNone.  Up 9 seconds", "cloud-init"),
    ],
)
def test_what_means_failure_fails_and_passes_nothing_else(name: str, line: str, failure_class: str) -> None:
    flow = load_flow(name)
    text = line.removesuffix("|")
    unfinished = text != line

    assert [fail.failure_class for fail in flow.fail if found_in(fail, text, unfinished=unfinished)] == [failure_class]
    if name.startswith("edge"):
        assert not any(
            found_in(pattern, text, unfinished=unfinished) for stage in flow.stages for pattern in stage.expect
        )


@pytest.mark.parametrize("name", ["edge-io", "edge-nio"])
def test_traps_before_the_operating_system_have_a_way_out(name: str) -> None:
    flow = load_flow(name)
    before = [stage.stage for stage in flow.stages][: [stage.stage for stage in flow.stages].index("kernel") + 1]

    for prompt, typed in (("iPXE> ", "reboot"), ("Shell> ", "reset")):
        (way,) = (recovery for recovery in flow.recover if found_in(recovery, prompt, unfinished=True))
        assert way.send == (Input(line=typed),)
        assert (way.next, way.budget > 1) == ("firmware", True)
        assert set(before) <= set(way.during)
        assert "login" not in way.during


def test_credentials_are_typed_on_one_console_only() -> None:
    flow = load_flow("edge-io")
    stages = {stage.stage: stage for stage in flow.stages}

    assert set(flow.consoles) == {0, 1}
    for asked in stages["username"].expect:
        (answer,) = stages[asked.next or ""].expect
        assert asked.console == answer.console is not None
        assert (asked.send, answer.send) == ((Input(secret="username"),), (Input(secret="password"),))
        assert answer.next == "credentials"
    assert {asked.console for asked in stages["username"].expect} == {0, 1}


def test_nothing_is_typed_for_a_machine_that_is_registered() -> None:
    flow = load_flow("edge-nio")

    assert flow.secrets == {}
    assert [expectation.send for stage in flow.stages for expectation in stage.expect if expectation.send] == []


@pytest.mark.parametrize("name", flow_names())
def test_success_is_only_ever_a_sign_of_the_system_itself(name: str) -> None:
    flow = load_flow(name)
    last = [(pattern.prompt, pattern.regex) for pattern in flow.stages[-1].expect]
    jumps = [pattern.regex for stage in flow.stages for pattern in stage.expect if pattern.next == "success"]

    assert last == [("login:", None)]
    assert jumps == ([r"Cloud-init v\. \S+ finished at "] if name == "cloud-init" else [])


# the command


def vmprov(*words: str) -> tuple[int, str, str]:
    ran = CliRunner().invoke(app, ["flow", *words], standalone_mode=False)
    if isinstance(ran.exception, SpecError):
        return ran.exception.exit_code, ran.stdout, str(ran.exception)
    assert ran.exception is None, ran.exception
    return ran.return_value or 0, ran.stdout, ran.stderr


def test_check_says_every_problem_of_every_file_and_exits_with_2() -> None:
    bad = CASES / "bad" / "unknown-keys.yaml"
    code, out, err = vmprov("check", str(bad), "login", str(GOOD[0]))

    assert code == SpecError.exit_code == 2
    assert out.splitlines() == ["login: ok", f"{GOOD[0]}: ok"]
    assert [line.removeprefix(f"{bad.parent}/") for line in err.splitlines()] == problems_of(bad)


def test_check_as_json() -> None:
    bad = CASES / "bad" / "duplicate-stages.yaml"
    code, out, _ = vmprov("check", "--json", str(bad), "login")
    first, second = json.loads(out)

    assert code == 2
    assert (first["file"], first["ok"], len(first["problems"])) == (str(bad), False, 2)
    assert second == {"file": "login", "ok": True, "problems": []}


def test_check_of_good_files_exits_with_0() -> None:
    assert vmprov("check", *map(str, GOOD))[0] == 0


def test_list_show_and_schema() -> None:
    code, out, _ = vmprov("list", "--json")
    assert code == 0
    assert [flow["name"] for flow in json.loads(out)] == flow_names()
    assert [line.split()[0] for line in vmprov("list")[1].splitlines()] == ["FLOW", *flow_names()]

    assert vmprov("show", "edge-io")[1] == flow_path("edge-io").read_text()
    assert vmprov("show", "nope")[0] == 2
    assert json.loads(vmprov("schema")[1]) == schema()


# the documentation

PAGE = ROOT / "docs" / "reference" / "flows.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_examples_of_the_page_are_flows() -> None:
    whole = [text for text in EXAMPLES if text.startswith("flow:")]

    assert len(whole) == 2
    assert all(parse_flow(text, "flows.md").stages for text in whole)


def test_every_field_and_every_key_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    grammar = text.partition("## How patterns are matched")[0]
    shown = set(re.findall(r"^\| `([a-z_]+)`", grammar, re.M))
    fields = {name for kind in schema()["$defs"].values() for name in kind["properties"]} | set(schema()["properties"])

    assert shown == fields
    assert [key for key in KEYS if not key.startswith(("ctrl-", "f")) and f"`{key}`" not in text] == []
