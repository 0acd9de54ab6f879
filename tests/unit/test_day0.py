"""``vmprov day0`` against a real HTTPS server, and reports of onboardings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit import orchestrator_server as fake
from tests.unit.orchestrator_server import CLUSTER, NAMES, PASSWORD, PROJECT, UBUNTU, USER, Authority, State
from vmprov import CreateRequest, Settings, Vmprov
from vmprov.cli import main
from vmprov.day0.report import as_junit, as_markdown, as_text
from vmprov.flows.verdict import Verdict
from vmprov.hosts.fake import FakeHost
from vmprov.views import Onboarding

ROOT = Path(__file__).parents[2]


@dataclass
class Day0:
    """The command with what it needs in its environment."""

    environ: dict[str, str]
    state: State

    def __call__(self, *words: str, **environ: str) -> tuple[object, str, str]:
        with CliRunner().isolation(input="", env={**self.environ, **environ}) as (out, err, _):
            with pytest.raises(SystemExit) as left:
                main(["day0", *words])
            sys.stdout.flush()
            sys.stderr.flush()
            return left.value.code, out.getvalue().decode(), err.getvalue().decode()

    def json(self, *words: str) -> Any:
        code, out, _ = self(*words, "--json")
        assert code in (0, 1)
        return json.loads(out)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def day0(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Day0]:
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with fake.served(authority.issue(*NAMES), tmp_path) as (state, port):
        (tmp_path / "vmprov.toml").write_text(
            f'[orchestrator]\ncluster = "{CLUSTER}"\nproject = "{PROJECT}"\nusername = "{USER}"\nca_file = "ca.pem"\n'
            f'connect_to = "127.0.0.1:{port}"\n'
        )
        home = str(tmp_path / "home")
        environ = {"VMPROV_HOME": home, "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off", "EDGE_API_PASSWORD": PASSWORD}
        yield Day0(environ, state)
    for number, handler in before.items():
        signal.signal(number, handler)


# the orchestrator


def test_serial_numbers_are_registered_listed_and_removed(day0: Day0) -> None:
    made = day0.json("register", "SERIAL0001", "SERIAL0002")
    first = day0.state.hosts[0]["resourceId"]

    assert (made["ok"], made["hosts"][0]) == (
        True, {"serial_number": "SERIAL0001", "outcome": "registered", "host_id": first, "why": ""},
    )  # fmt: skip
    assert [host["serial_number"] for host in day0.json("hosts")] == ["SERIAL0001", "SERIAL0002"]
    assert day0.json("unregister", "SERIAL0001", "GONE00001") == {"deleted": ["SERIAL0001", "GONE00001"], "failed": []}
    assert [host["serialNumber"] for host in day0.state.hosts] == ["SERIAL0002"]


def test_a_file_of_serial_numbers_is_registered(day0: Day0, tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("serial,site\nSERIAL0001,a\nSERIAL0002,b\n")

    assert day0("register", "@nodes.csv")[0] == 0
    assert [host["serialNumber"] for host in day0.state.hosts] == ["SERIAL0001", "SERIAL0002"]
    assert day0("register", "@nodes.csv", "SERIAL0003")[0] == 2


def test_one_that_is_registered_already_fails_unless_that_is_fine(day0: Day0) -> None:
    day0.state.add_host("SERIAL0001")

    code, out, err = day0("register", "SERIAL0001", "SERIAL0002")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["SERIAL0001", "existing"],
        ["SERIAL0002", "registered"],
    ]
    assert err.startswith(f"vmprov: SERIAL0001: SERIAL0001 is registered with api.{CLUSTER} already")
    assert day0("register", "SERIAL0001", "--if-missing")[0] == 0


def test_status_tells_how_far_a_host_is(day0: Day0) -> None:
    words = "Provisioning In Progress: 3/9: Streaming OS image"
    day0.state.add_host("SERIAL0001", instance={"instanceID": "i-1", "provisioningStatus": words})

    (host,) = day0.json("status", "SERIAL0001")
    assert host["provisioning"] == {
        "state": "Provisioning In Progress", "step": 3, "steps": 9, "text": "Streaming OS image",
    }  # fmt: skip
    assert "Provisioning In Progress 3/9: Streaming OS image" in day0("status", "SERIAL0001")[1]
    code, _, err = day0("status", "SERIAL0009")
    assert (code, "no host with the serial number SERIAL0009" in err) == (2, True)


def test_waiting_shows_each_change_and_ends_with_the_last_one(day0: Day0) -> None:
    host = day0.state.add_host("SERIAL0001")
    ends = threading.Timer(0.5, host.update, [{"instance": {"provisioningStatus": "Provisioned"}}])
    ends.start()

    code, out, err = day0("status", "SERIAL0001", "--wait", "--timeout", "30s")

    assert (code, out.splitlines()[1].split()[-1]) == (0, "success")
    assert [line.split("] ")[1] for line in err.splitlines()] == [
        "SERIAL0001: Host is Registered",
        "SERIAL0001: Provisioned",
    ]


def test_a_failed_host_ends_the_wait_with_a_code(day0: Day0) -> None:
    day0.state.add_host("SERIAL0001", instance={"provisioningStatus": "Provisioning Failed: 4/9: no space"})

    assert day0("status", "SERIAL0001", "--wait")[0] == 1


def test_waiting_ends_with_its_limit(day0: Day0) -> None:
    code, _, err = day0("status", "SERIAL0001", "--wait", "--timeout", "100ms")

    assert (code, "not onboarded within 0 s: SERIAL0001 (not known)" in err) == (1, True)
    assert day0("status", "SERIAL0001", "--timeout", "1s")[0] == 2


def test_the_default_os_is_shown_and_set(day0: Day0) -> None:
    day0.state.add_provider(UBUNTU)

    assert [(one["name"], one["default"]) for one in day0.json("os-profile", "list")] == [
        ("ubuntu-22.04-lts-generic-ext", True), ("microvisor-nonrt", False),
    ]  # fmt: skip
    assert day0("os-profile", "set", "microvisor")[1] == "new hosts get microvisor-nonrt\n"
    assert day0("os-profile", "set", "microvisor")[1] == "new hosts get microvisor-nonrt, as before\n"


def test_an_interruption_ends_a_wait_at_once(day0: Day0) -> None:
    day0.state.add_host("SERIAL0001")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "vmprov", "day0", "status", "SERIAL0001", "--wait"],
        env={**os.environ, **day0.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stderr is not None
    assert "Host is Registered" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)

    assert waiting.wait(10) == 130
    waiting.stderr.close()


def test_what_is_wrong_is_one_line_without_the_password(day0: Day0) -> None:
    day0.state.fault("GET", fake.status(403, {"message": "no role"}))

    code, out, err = day0("hosts")

    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert f"vmprov: api.{CLUSTER}: '{USER}' may not ask for the hosts" in err
    assert PASSWORD not in err


def test_nobody_is_asked_for_a_password_before_all_else_is_right(day0: Day0) -> None:
    nothing = {"EDGE_API_PASSWORD": ""}

    assert "is not allowed" in day0("register", "a", **nothing)[2]
    assert "EDGE_CLUSTER" in day0("hosts", EDGE_CLUSTER="a b", **nothing)[2]
    code, _, err = day0("hosts", **nothing)
    assert (code, "there is no password for the orchestrator's API user" in err) == (2, True)
    assert day0.state.asked == []


def test_old_settings_are_printed_as_new_ones(day0: Day0, tmp_path: Path) -> None:
    (tmp_path / "config").write_text('CLUSTER="kind.internal"\nNO_OF_CPUS=4\nPASSWORD="hunter2"\nBRIDGE_NAME=br1\n')

    code, out, err = day0("import-config", "config")

    assert (code, out.splitlines()[:3]) == (
        0,
        [
            "# VMPROV_HOST=qemu:///system vmprov create --count 1 --flow edge-io --cpus 4 --network br1 --image ''",
            "[orchestrator]",
            'cluster = "kind.internal"',
        ],
    )
    assert "config:3: PASSWORD: the scripts did not read it" in err
    assert "hunter2" not in out + err
    assert day0.json("import-config", "config")["environment"] == {"VMPROV_HOST": "qemu:///system"}


def test_old_settings_are_written_but_not_over_others(day0: Day0, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("CLUSTER=kind.internal\n")

    assert "vmprov.toml is there already" in day0("import-config", "config", "-o", "vmprov.toml")[2]
    assert day0("import-config", "config", "-o", "new.toml")[0] == 0
    assert (tmp_path / "new.toml").read_text().startswith('[orchestrator]\ncluster = "kind.internal"\n')


# reports

BOOT = "SeaBIOS (version 1)\r\nLinux version 6.1\r\n\r\n\x1b[0mUbuntu 22.04.5 LTS {name} ttyS0\r\n\r\n{name} login: "
FAILED = Onboarding(
    "vm-2", "trial", "VP0000000002", "", "edge-nio", "imaging", "failed", "failed(secure-boot-mismatch)",
    "failed(secure-boot-mismatch) in stage onboarding: 'a | <b> \x1b \ud800'", 12.5, {"firmware": 10.0, "imaging": 2.5},
)  # fmt: skip
WENT_WELL = replace(
    FAILED, vm="vm-1", serial_number="VP0000000001", os="Ubuntu 22.04.5 LTS", stage="login", kind="success",
    verdict="success", why="", seconds=33.0, stages={"firmware": 9.0, "kernel": 1.0, "imaging": 20.0, "login": 3.0},
)  # fmt: skip
PENDING = replace(FAILED, vm="vm-3", lab="other", stage="", kind="", verdict="", why="", seconds=0.0, stages={})


@pytest.mark.parametrize(
    ("boot", "system"),
    [
        (BOOT, "Ubuntu 22.04.5 LTS"),
        (BOOT.replace("Ubuntu 22.04.5 LTS {name} ttyS0", "Welcome to Edge Microvisor Toolkit 3.0.2 (x86_64) - (ttyS0)"),
         "Edge Microvisor Toolkit 3.0.2"),
        (BOOT.replace("Ubuntu 22.04.5 LTS", "Debian GNU/Linux 12"), "Debian GNU/Linux 12"),
        (BOOT.replace("Ubuntu 22.04.5 LTS {name} ttyS0\r\n", ""), ""),
    ],
)  # fmt: skip
def test_the_os_is_what_the_login_prompt_names(settings: Settings, boot: str, system: str) -> None:
    with Vmprov(settings) as vmprov:
        host = vmprov.host()
        assert isinstance(host, FakeHost)
        host.hypervisor().boot_transcript = boot
        wanted = {"driver": "fake", "image": "", "flow": "login", "timeout": 20.0, "serial_numbers": ["SERIAL0001"]}
        vmprov.create(CreateRequest.parse(name="node", lab="trial", **wanted))
        (found,) = vmprov.onboardings(["trial"])

        assert (found.vm, found.serial_number, found.os, found.kind) == ("node", "SERIAL0001", system, "success")
        assert (found.stage, list(found.stages)[-1], found.why) == ("login", "login", "")
        assert sum(found.stages.values()) == pytest.approx(found.seconds, abs=0.5)


def test_what_failed_says_what_decided(settings: Settings) -> None:
    with Vmprov(settings) as vmprov:
        vmprov.create(CreateRequest.parse(name="node", driver="fake", image="", flow="login", timeout=20.0))
        verdict = Verdict("failed", "login", "kernel-panic", "Kernel panic", 0, 12, at=3.0)
        vmprov.store.update_vm("node", verdict="failed", judgement=json.dumps(verdict.to_json()))
        (found,) = vmprov.onboardings()

    assert (found.kind, found.verdict, found.os) == ("failed", "failed(kernel-panic)", "")
    assert found.why == "failed(kernel-panic) in stage login: 'Kernel panic' (console 0, byte 12)"


def test_a_report_as_text_has_a_row_per_machine_and_per_stage() -> None:
    assert as_text([WENT_WELL, replace(FAILED, why="mismatch"), PENDING]).splitlines() == [
        "VM    SERIAL NUMBER  OS                  STAGE    SECONDS  VERDICT",
        "vm-1  VP0000000001   Ubuntu 22.04.5 LTS  login    33.0     success",
        "vm-2  VP0000000002   -                   imaging  12.5     failed(secure-boot-mismatch)",
        "vm-3  VP0000000002   -                   -        0.0      none yet",
        "",
        "STAGE     vm-1  vm-2  vm-3",
        "firmware  9.0   10.0  -",
        "kernel    1.0   -     -",
        "imaging   20.0  2.5   -",
        "login     3.0   -     -",
        "",
        "VM    WHY",
        "vm-2  mismatch",
    ]


def test_a_report_in_markdown_keeps_its_columns_whatever_consoles_said() -> None:
    lines = as_markdown([FAILED]).splitlines()

    assert lines[1] == "|---|---|---|---|---|---|"
    assert "a \\| \\<b\\>" in lines[-1]


def test_a_report_for_ci_can_be_read_and_counts() -> None:
    root = ET.fromstring(as_junit([WENT_WELL, FAILED, replace(FAILED, kind="cancelled"), PENDING]))
    suites = {suite.get("name"): suite for suite in root}
    cases = {kind: list(root.iter(kind)) for kind in ("failure", "error", "skipped")}

    counted = ("tests", "failures", "errors", "skipped")
    assert [root.get(key) for key in counted] == ["4", "1", "1", "1"]
    assert [suites["trial"].get(key) for key in counted] == ["3", "1", "1", "0"]
    assert {kind: len(found) for kind, found in cases.items()} == {"failure": 1, "error": 1, "skipped": 1}
    assert cases["failure"][0].get("type") == "failed(secure-boot-mismatch)"
    assert "'a | <b> \ufffd \ufffd'" in (cases["failure"][0].text or "")
    first = suites["trial"][0]
    assert (first.get("name"), first.get("classname"), first.get("time")) == ("vm-1", "edge-nio.trial", "33.000")
    properties = {one.get("name"): one.get("value") for one in first.iter("property")}
    assert properties == {"serial_number": "VP0000000001", "os": "Ubuntu 22.04.5 LTS", "stage": "login"}


def test_a_report_of_nothing_is_one_in_every_format(day0: Day0, tmp_path: Path) -> None:
    assert day0("report")[1].split() == ["VM", "SERIAL", "NUMBER", "OS", "STAGE", "SECONDS", "VERDICT"]
    assert day0.json("report") == json.loads(day0("report", "--format", "json")[1]) == []
    assert ET.fromstring(day0("report", "--format", "junit")[1]).get("tests") == "0"
    assert day0("report", "--format", "markdown", "-o", "report.md")[1] == ""
    assert (tmp_path / "report.md").read_text().startswith("| VM |")
    assert day0("report", "nobody")[0] == 2
