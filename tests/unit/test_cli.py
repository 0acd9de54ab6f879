"""The command line on a simulated host: what goes to stdout and stderr, and with which code it exits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.uarts import add
from vmprov import Settings, Vmprov, __version__
from vmprov.cli import COMMANDS, main
from vmprov.console.capture import slowest_follower
from vmprov.console.holes import release_start
from vmprov.console.index import Mark, Moment, TimesWriter, encode
from vmprov.hosts.fake import FakeHost
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.store import Store
from vmprov.waiting import Deadline, wait_until

ROOT = Path(__file__).parents[2]
CREATE = ("create", "--driver", "fake", "--image", "", "--memory", "64MiB")
# design.md, section 8
VM_KEYS = {
    "name": str, "state": str, "verdict": str, "address": str, "mac": str, "network": str, "bridge": str,
    "serial_number": str, "console_log": str, "seconds": float,
}  # fmt: skip
LINE_KEYS = ["vm", "time", "monotonic", "boot", "offset", "text", "complete", "note"]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as the one JSON document that it must be."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1]


@dataclass(frozen=True)
class Cli:
    """The vmprov command, in this process, with a state directory of its own."""

    home: Home

    @property
    def environ(self) -> dict[str, str]:
        """What it finds in its environment."""
        # A keeper would outlive the test, as long as there are machines.
        return {"VMPROV_HOME": str(self.home.root), "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off"}

    def __call__(self, *words: str, typed: str = "", **environ: str) -> Ran:
        """Run it; ``typed`` comes from something that is no terminal."""
        with CliRunner().isolation(input=typed, env={**self.environ, **environ}) as (out, err, _):
            with pytest.raises(SystemExit) as left:
                main(list(words))
            sys.stdout.flush()
            sys.stderr.flush()
            return Ran(left.value.code, out.getvalue().decode(), err.getvalue().decode())

    def outside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "vmprov", *words],
            env={**os.environ, **self.environ}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "vmprov", *words],
            env={**os.environ, **self.environ}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture
def cli(home: Home) -> Iterator[Cli]:
    """The command; it may install signal handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Cli(home)
    signal.signal(signal.SIGINT, before[signal.SIGINT])
    signal.signal(signal.SIGTERM, before[signal.SIGTERM])


def said(follower: subprocess.Popen[str], text: str) -> None:
    """Wait for a line on its stdout; the test's own time limit ends the wait."""
    assert follower.stdout is not None
    assert next((line for line in follower.stdout if text in line), "")


def types(document: dict[str, Any], keys: dict[str, type]) -> dict[str, type]:
    return {key: type(document.get(key)) for key in keys}


# --json


def test_create_tells_the_lab_and_its_machines(cli: Cli) -> None:
    ran = cli(*CREATE, "--count", "2", "--lab", "trial", "--json")

    assert (ran.code, ran.json.keys()) == (0, {"lab", "ok", "vms"})
    assert (ran.json["lab"], ran.json["ok"]) == ("trial", True)
    assert [types(vm, VM_KEYS) for vm in ran.json["vms"]] == [VM_KEYS, VM_KEYS]
    assert [vm["name"] for vm in ran.json["vms"]] == ["vm-1", "vm-2"]


def test_progress_goes_to_stderr(cli: Cli) -> None:
    ran = cli(*CREATE, "--json")

    assert "vm-1: ready" in ran.err
    assert "vm-1: ready" not in ran.out


def test_list_and_show_tell_the_same_object_as_create(cli: Cli) -> None:
    created = cli(*CREATE, "--json").json["vms"]

    assert cli("list", "--json").json == created
    assert cli("show", "vm-1", "--json").json == created[0]


def test_an_empty_list_is_a_document_too(cli: Cli) -> None:
    assert (cli("list", "--json").json, cli("host", "list", "--json").code) == ([], 0)


def test_delete_tells_what_it_removed(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    ran = cli("delete", "--all", "--yes", "--json")

    assert (ran.code, ran.json) == (0, {"deleted": ["vm-1", "vm-2"], "failed": []})


def test_delete_tells_what_it_could_not_remove_and_why(cli: Cli) -> None:
    cli(*CREATE)
    store = Store(cli.home.database)
    store.own(lab="lab-1", vm="vm-1", host="fake:", kind="base volume", name="base", pool="default")
    store.close()
    # Its lock cannot be had, so the volume cannot be removed.
    cli.home.lock("fake-base").mkdir(parents=True)

    ran = cli("delete", "vm-1", "--yes", "--json")

    assert (ran.code, ran.json["deleted"]) == (4, [])
    assert [types(failure, {"name": str, "why": str}) for failure in ran.json["failed"]] == [{"name": str, "why": str}]


def test_a_dry_run_of_create_tells_the_same_keys_and_makes_nothing(cli: Cli) -> None:
    ran = cli(*CREATE, "--count", "2", "--dry-run", "--json")

    assert (ran.code, [types(vm, VM_KEYS) for vm in ran.json["vms"]]) == (0, [VM_KEYS, VM_KEYS])
    assert cli("list", "--json").json == []


def test_a_dry_run_of_delete_removes_nothing(cli: Cli) -> None:
    cli(*CREATE)

    ran = cli("delete", "vm-1", "--dry-run", "--json")

    assert (ran.json["deleted"], len(cli("list", "--json").json)) == (["vm-1"], 1)


def test_a_refused_request_leaves_stdout_empty(cli: Cli) -> None:
    ran = cli(*CREATE, "--count", "0", "--json")

    assert (ran.code, ran.out) == (2, "")


def test_a_dry_run_makes_no_state_outside_its_directory(cli: Cli) -> None:
    cli(*CREATE, "--dry-run")

    assert sorted(path.name for path in cli.home.root.parent.iterdir()) == ["home"]


# exit codes and errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*CREATE, "--count", "0"), "--count must be at least 1, not 0"),
        ((*CREATE, "--count", "many"), "'many' is not a valid integer"),
        ((*CREATE, "--name", "a b"), "name 'a b' is not allowed"),
        ((*CREATE, "--timeout", "soon"), "'soon' is not a duration"),
        ((*CREATE, "--memory", "64"), "'64' is not a size"),
        ((*CREATE, "--host", "nope"), "no such host: 'nope'"),
        (("create", "--driver", "nope", "--image", ""), "no such driver: 'nope'"),
        (("create", "--driver", "fake"), "no image called 'debian-12'; run: vmprov image build debian-12"),
        ((*CREATE, "--colour"), "No such option"),
        (("destroy",), "No such command 'destroy'"),
        (("show",), "Missing argument 'VM|LAB'"),
        (("show", "nope"), "no VM called 'nope'"),
        (("delete",), "nothing to delete was named"),
        (("start", "nope"), "no VM or lab called 'nope'"),
        (("stop", "--timeout", "soon", "nope"), "'soon' is not a duration"),
        (("logs",), "there is no machine whose log could be shown"),
        (("logs", "nope"), "no VM or lab called 'nope'"),
        (("logs", "--timeout", "1s"), "--timeout is the limit of --until"),
        (("logs", "--raw", "--grep", "x"), "--raw shows bytes as they came"),
        (("logs", "--boot", "1", "-f"), "--boot does not go with -f"),
        (("logs", "--boot", "1", "--until", "x"), "--boot does not go with -f or --until"),
        (("logs", "--since", "never"), "'never' is neither a duration nor a time"),
        (("logs", "--grep", "("), "RE2 refuses the expression"),
        (("watch", "nope"), "no VM or lab called 'nope'"),
        (("watch", "--flow", "login"), "--flow and --timeout go with --port"),
        (("watch", "--port", "/dev/null"), "--port needs a flow"),
        (("watch", "--port", "/dev/null", "--flow", "login", "-f"), "--port watches one serial port"),
        (("watch", "--port", "x", "--flow", "login", "--timeout", "soon"), "'soon' is not a duration"),
        ((*CREATE, "--flow", "nope"), "unknown flow 'nope'"),
        (("console", "nope"), "no VM called 'nope'"),
        (("image", "show", "nope"), "no image called 'nope'"),
        ((*CREATE, "--label", "role"), "--label: 'role' is not KEY=VALUE"),
        ((*CREATE, "--label", "a b=c"), "label 'a b' is not allowed"),
        ((*CREATE, "--label", "password=c"), "looks like a secret"),
        ((*CREATE, "--ttl", "soon"), "--ttl: 'soon' is not a duration"),
        ((*CREATE, "--on-failure", "cry"), "'cry' is not one of"),
        ((*CREATE, "--on-failure", "stop", "--keep-on-failure"), "contradict each other"),
        (("start",), "Missing argument 'VM|LAB ...', or --selector"),
        (("stop", "-l", "role=edge"), "no VM has the labels role=edge"),
        (("watch", "-l", "=x"), "selector: label '' is not allowed"),
        (("logs", "-l", "a b"), "selector: label 'a b' is not allowed"),
        (("delete", "--all", "-l", "a=b"), "--all does not go with --selector"),
        (("show", "--timeline", "x.svg"), "Missing argument 'VM|LAB'"),
        (("protect",), "Missing argument 'VM|LAB ...', or --selector"),
        (("protect", "nope"), "no VM or lab called 'nope'"),
        (("renew", "nope", "--ttl", "soon"), "--ttl: 'soon' is not a duration"),
        (("label", "nope"), "no label was named"),
        (("label", "nope", "a=b", "a-"), "label 'a' is changed twice"),
        (("label", "nope", "a b=c"), "label 'a b' is not allowed"),
        (("rebuild", "nope"), "no VM or lab called 'nope'"),
        (("resize", "nope"), "nothing to change was named"),
        (("resize", "nope", "--cpus", "2"), "no VM called 'nope'"),
        (("resize", "nope", "--disk", "1GiB", "--disk", "2GiB"), "this disk is named twice"),
        (("rename", "nope", "other"), "no VM called 'nope'"),
        (("rename", "nope", "A b"), "name 'A b' is not allowed"),
        (("import", "nope"), "no domain called 'nope' on fake:"),
        (("import", "Nope"), "give it another one with --name"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(cli: Cli, words: tuple[str, ...], said: str) -> None:
    ran = cli(*words)

    assert (ran.code, ran.out, len(ran.err.strip().splitlines())) == (2, "", 1)
    assert ran.err.startswith("vmprov: ")
    assert said in ran.err


def test_a_setting_that_cannot_be_meant_is_refused_in_one_line(cli: Cli) -> None:
    ran = cli("list", VMPROV_SUBNETS="everything")

    assert (ran.code, len(ran.err.strip().splitlines())) == (2, 1)
    assert "VMPROV_SUBNETS is not an IPv4 network: 'everything'" in ran.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("VMPROV_CONSOLE_LIMIT", "1KiB", "at least 65536 bytes"),
        ("VMPROV_CONSOLE_LIMIT", "much", "'much' is not a size"),
        ("VMPROV_KEEPER", "maybe", "use on or off"),
    ],
)
def test_settings_of_consoles_are_checked(cli: Cli, name: str, value: str, said: str) -> None:
    ran = cli("list", **{name: value})

    assert (ran.code, len(ran.err.strip().splitlines())) == (2, 1)
    assert (name in ran.err, said in ran.err) == (True, True)


def test_a_failed_machine_makes_the_exit_code_1_and_is_named(cli: Cli) -> None:
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        name = f"vmprov-{vmprov.store.installation}-vm-1"
        host = vmprov.host()
        assert isinstance(host, FakeHost)
        host.hypervisor().create_network(f"<network><name>{name}</name><bridge name='b'/></network>")

    ran = cli(*CREATE, "--count", "2", "--json")

    assert (ran.code, ran.json["ok"]) == (1, False)
    assert [vm["verdict"] for vm in ran.json["vms"]] == ["failed", "success"]


def test_a_failed_machine_is_named_with_its_reason_and_log(cli: Cli) -> None:
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        name = f"vmprov-{vmprov.store.installation}-vm-1"
        host = vmprov.host()
        assert isinstance(host, FakeHost)
        host.hypervisor().create_network(f"<network><name>{name}</name><bridge name='b'/></network>")

    ran = cli(*CREATE)

    assert ran.code == 1
    assert ran.said.startswith(f"vmprov: vm-1: failed: there is a network called {name!r}")
    # Nothing was captured.
    assert re.search(r" \[log: (\S+/failed/vm-1-1)\]$", ran.said)


def test_a_host_that_is_not_ready_makes_the_exit_code_3(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    ran = cli(*CREATE, VMPROV_HOME=str(tmp_path / "file"))

    assert (ran.code, ran.out, len(ran.err.strip().splitlines())) == (3, "", 1)
    assert "cannot be used" in ran.err
    assert "VMPROV_HOME" in ran.err


def test_ctrl_c_stops_cleanly_and_makes_the_exit_code_130(cli: Cli) -> None:
    store = Store(cli.home.database)

    def interrupt() -> None:
        wait_until(store.vms, Deadline(20), "record")
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: not store.vms(), Deadline(20), "removal of the records")

    def hold_the_lab() -> None:
        with exclusive(cli.home.lock("lab-trial"), Deadline(1), "the lab"):
            held.set()
            interrupt()

    held = threading.Event()
    other = threading.Thread(target=hold_the_lab)
    other.start()
    held.wait()

    ran = cli(*CREATE, "--count", "2", "--lab", "trial")

    other.join()
    assert (ran.code, ran.said) == (130, "vmprov: interrupted; left: nothing")
    assert "vmprov: stopping cleanly; once more to leave at once" in ran.err
    assert (store.vms(), store.labs()) == ([], [])
    store.close()


_INTERRUPTED_OFTEN = """
import faulthandler, signal
from vmprov.cli import Session
from vmprov.errors import Interrupted

faulthandler.dump_traceback_later(20, exit=True)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
for _ in range(200):
    session = Session(debug=False)
    session.cancel_on_signals(quietly=True)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    try:
        while True:
            session.cancel.sleep(0.00001)
    except Interrupted:
        pass
"""


def test_ctrl_c_in_the_middle_of_a_wait_never_hangs() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_OFTEN], cwd=ROOT, capture_output=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_traceback_is_shown_only_with_debug(cli: Cli) -> None:
    without, with_it = cli.outside("show", "nope"), cli.outside("--debug", "show", "nope")

    assert (without.returncode, without.stderr.count("Traceback")) == (2, 0)
    assert (with_it.returncode, with_it.stderr.count("Traceback") > 0) == (2, True)


def test_debug_shows_what_was_behind_an_error(cli: Cli) -> None:
    assert "FileNotFoundError" in cli.outside("--debug", "image", "show", "nope").stderr


def test_a_reader_who_has_seen_enough_causes_no_noise(cli: Cli) -> None:
    cli(*CREATE)
    words = [sys.executable, "-m", "vmprov", "list", "--json"]
    environ = {**os.environ, **cli.environ}
    reader, writer = os.pipe()
    os.close(reader)

    ended = subprocess.run(words, env=environ, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)

    os.close(writer)
    assert ended.stderr == b""


def test_machines_are_made_though_nobody_reads_of_it_any_more(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "events"
    os.mkfifo(file)
    running = cli.start(*CREATE, "--count", "4", "--events", str(file), "--json")
    with file.open() as reader:
        assert json.loads(reader.readline())["event"]
    out, err = running.communicate(timeout=60)

    assert (running.returncode, json.loads(out)["ok"]) == (0, True)
    assert f"vmprov: no more events are written to {file}: Broken pipe" in err.splitlines()
    assert [vm["state"] for vm in cli("list", "--json").json] == ["running"] * 4


def test_machines_are_removed_though_the_disk_for_events_is_full(cli: Cli) -> None:
    cli(*CREATE, "--lab", "trial")

    ran = cli("delete", "trial", "--yes", "--events", "/dev/full")

    assert ran.code == 0
    assert ran.err.count("vmprov: no more events are written to /dev/full: No space left on device") == 1
    assert cli("list", "--json").json == []


# help


def test_help_lists_every_command(cli: Cli) -> None:
    ran = cli("--help")

    assert ran.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in ran.out] == []


def test_help_comes_as_h_too(cli: Cli) -> None:
    assert cli("-h").out == cli("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(cli: Cli, command: str) -> None:
    ran = cli(command, "--help")

    assert (ran.code, ran.out.startswith(f"Usage: vmprov {command}")) == (0, True)


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").out == f"vmprov, version {__version__}\n"


# list and show for people


def test_list_prints_a_table(cli: Cli) -> None:
    cli(*CREATE, "--count", "2", "--lab", "trial")

    heading, first, second = cli("list").out.splitlines()

    assert heading.split() == ["VM", "LAB", "STATE", "VERDICT", "ADDRESS", "IMAGE", "CPUS", "MEMORY", "HOST"]
    address = first.split()[4]
    assert address.startswith("10.87.0.")
    assert first.split() == ["vm-1", "trial", "running", "success", address, "-", "1", "64MiB", "fake:"]
    assert second.index("trial") == heading.index("LAB")


def test_list_can_be_limited_to_a_lab(cli: Cli) -> None:
    cli(*CREATE, "--lab", "one")
    cli(*CREATE, "--lab", "two")

    assert [vm["name"] for vm in cli("list", "--lab", "two", "--json").json] == ["vm-2"]


def test_an_empty_list_says_what_to_do(cli: Cli) -> None:
    ran = cli("list")

    assert (ran.code, ran.out) == (0, "")
    assert "vmprov create" in ran.err


def test_list_tells_of_labels_and_terms_where_there_are_any(cli: Cli) -> None:
    cli(*CREATE, "--name", "a", "--label", "role=edge", "--ttl", "200m", "--protect")
    cli(*CREATE, "--name", "b")

    header, first, second = cli("list").out.splitlines()

    assert header.split()[-3:] == ["EXPIRES", "LABELS", "NOTES"]
    assert first.endswith(" in 3h    role=edge  protected")
    assert second.split()[-3:] == ["-", "-", "-"]
    assert [vm["name"] for vm in cli("list", "-l", "role=edge", "--json").json] == ["a"]
    assert cli("list", "-l", "role=core", "--json").json == []


def test_show_tells_of_labels_and_terms_in_words(cli: Cli) -> None:
    cli(*CREATE, "--name", "a", "--label", "role=edge", "--label", "env=test", "--ttl", "80h")

    lines = dict(line.split(maxsplit=1) for line in cli("show", "-l", "role").out.splitlines())

    assert (lines["labels"], lines["protected"], lines["adopted"]) == ("env=test,role=edge", "no", "no")
    assert lines["expires"].endswith("(in 3d)")


def test_commands_take_selectors(cli: Cli) -> None:
    cli(*CREATE, "--name", "a", "--label", "role=edge")
    cli(*CREATE, "--name", "b")

    codes = [
        cli(*words, "-l", "role=edge").code
        for words in (("stop",), ("start",), ("reboot",), ("status",), ("show",), ("logs",), ("protect",), ("watch",))
    ]
    removed = cli("delete", "-l", "!role", "--yes", "--json").json

    assert codes == [0] * len(codes)
    assert removed["deleted"] == ["b"]
    assert cli("delete", "-l", "role=core", "--yes").code == 0


def test_protected_machines_make_the_exit_code_1_and_are_told(cli: Cli) -> None:
    cli(*CREATE, "--name", "a", "--protect")
    cli(*CREATE, "--name", "b")

    ran = cli("delete", "--all", "--yes")

    assert (ran.code, ran.out) == (1, "removed: b\n")
    assert ran.said == "vmprov: a: it is protected; allow it with: vmprov protect --off a"


def test_a_question_is_asked_before_data_is_lost_or_a_machine_rebooted(cli: Cli) -> None:
    cli(*CREATE, "--name", "a")

    rebuilt, resized = cli("rebuild", "a"), cli("resize", "a", "--cpus", "2")

    assert (rebuilt.code, rebuilt.said) == (2, "vmprov: nothing was rebuilt; use --yes to rebuild without being asked")
    assert (resized.code, resized.said) == (
        2,
        "vmprov: nothing was changed; use --yes to reboot it without being asked",
    )
    assert cli("rebuild", "a", typed="y\n").code == cli("resize", "a", "--cpus", "2", typed="y\n").code == 0
    assert cli("show", "a", "--json").json["cpus"] == 2


def test_a_machine_that_is_off_is_resized_without_a_question(cli: Cli) -> None:
    cli(*CREATE, "--name", "a")
    cli("stop", "a")

    assert cli("resize", "a", "--cpus", "2", "--json").json["vms"][0]["state"] == "stopped"


def test_a_renamed_machine_answers_to_its_new_name(cli: Cli) -> None:
    cli(*CREATE, "--name", "a")

    assert cli("rename", "a", "b").code == 1
    assert cli("rename", "a", "b", "--restart", "--json").json["vms"][0]["name"] == "b"
    assert [vm["name"] for vm in cli("list", "--json").json] == ["b"]


def test_all_of_a_lab_can_be_undone_or_kept_when_one_machine_fails(cli: Cli) -> None:
    words = (
        "create",
        "--driver",
        "fake",
        "--image",
        "",
        "--count",
        "2",
        "--flow",
        "login",
        "--timeout",
        "1s",
        "--json",
    )
    environ = {"VMPROV_SUBNETS": "10.87.0.0/28"}  # room for one

    undone = cli(*words, "--on-failure", "rollback-lab", **environ).json
    kept = cli(*words, "--on-failure", "keep", **environ).json

    assert {vm["state"] for vm in undone["vms"]} == {"removed"}
    assert sorted(vm["state"] for vm in kept["vms"]) == ["failed", "running"]


def test_show_prints_a_line_per_field(cli: Cli) -> None:
    cli(*CREATE)

    shown = cli("show", "vm-1").out.splitlines()

    assert shown[0].split() == ["name", "vm-1"]
    assert "memory         64MiB" in shown


def test_power_changes_what_list_says(cli: Cli) -> None:
    cli(*CREATE)

    stopped = (cli("stop", "vm-1").code, cli("show", "vm-1", "--json").json["state"])
    started = (cli("start", "vm-1").code, cli("show", "vm-1", "--json").json["state"])

    assert (stopped, started) == ((0, "stopped"), (0, "running"))


# delete for people


def test_delete_asks_and_does_nothing_where_nobody_can_answer(cli: Cli) -> None:
    cli(*CREATE)

    ran = cli("delete", "vm-1")

    assert ran.code != 0
    assert "Remove vm-1?" in ran.err
    assert len(cli("list", "--json").json) == 1


def test_delete_does_nothing_when_the_answer_is_no(cli: Cli) -> None:
    cli(*CREATE)

    cli("delete", "vm-1", typed="n\n")

    assert len(cli("list", "--json").json) == 1


def test_delete_asks_for_all_machines_of_a_lab(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    assert "Remove vm-1, vm-2?" in cli("delete", "lab-1").err


def test_delete_with_yes_does_not_ask(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    ran = cli("delete", "lab-1", "--yes")

    assert (ran.code, ran.out, "?" in ran.err) == (0, "removed: vm-1, vm-2\n", False)


def test_deleting_twice_is_fine(cli: Cli) -> None:
    cli(*CREATE)
    cli("delete", "vm-1", "--yes")

    ran = cli("delete", "vm-1", "--yes", "--json")

    assert (ran.code, ran.json) == (0, {"deleted": [], "failed": []})
    assert "no VM or lab called 'vm-1'; nothing to remove" in ran.err


def test_a_name_that_is_gone_does_not_keep_the_others(cli: Cli) -> None:
    cli(*CREATE)

    assert cli("delete", "nope", "vm-1", "--yes", "--json").json["deleted"] == ["vm-1"]


# logs


def test_the_log_of_one_machine_comes_without_prefix(cli: Cli) -> None:
    cli(*CREATE)

    lines = cli("logs").out.splitlines()

    assert "SeaBIOS (version 1.16.2-fake)" in lines
    assert lines[-1] == "vm-1 login: "


def test_the_lines_of_several_machines_begin_with_their_names(cli: Cli) -> None:
    cli(*CREATE, "--name", "a")
    cli(*CREATE, "--name", "longer")

    lines = cli("logs").out.splitlines()

    assert "a      | SeaBIOS (version 1.16.2-fake)" in lines
    assert "longer | longer login: " in lines
    assert [line for line in lines if not line.startswith(("a      | ", "longer | "))] == []


def test_only_the_last_lines_are_shown_if_asked_for(cli: Cli) -> None:
    cli(*CREATE)

    assert cli("logs", "--tail", "1").out == "vm-1 login: \n"


def test_the_log_of_one_machine_among_many_can_be_named(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    assert cli("logs", "vm-2", "--tail", "1").out == "vm-2 login: \n"


def test_a_raw_log_is_what_came_byte_for_byte(cli: Cli) -> None:
    vm = cli(*CREATE, "--json").json["vms"][0]

    assert cli("logs", "--raw").out.encode() == Path(vm["console_log"]).read_bytes()


def test_a_raw_log_says_what_was_dropped_from_it(cli: Cli) -> None:
    log = Path(cli(*CREATE, "--json").json["vms"][0]["console_log"])
    log.write_bytes(b"x" * 8192 + b"end\n")
    release_start(log, 4096)
    writer = TimesWriter(log)
    writer.write(encode(Mark.TRIMMED, 4096, Moment.now()))
    writer.close()

    ran = cli("logs", "--raw")

    assert ran.out == "x" * 4096 + "end\n"
    assert ran.said == "vmprov: 4KiB of older output were dropped to stay within the limit"


def test_following_a_raw_log_holds_back_what_was_not_read(cli: Cli) -> None:
    log = Path(cli(*CREATE, "--json").json["vms"][0]["console_log"])
    with cli.start("logs", "--raw", "-f") as follower:
        said(follower, "GRUB loading")
        assert wait_until(lambda: slowest_follower(log) == log.stat().st_size, Deadline(20), "follower")
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=30)

    assert (follower.returncode, slowest_follower(log)) == (0, None)


def test_a_raw_log_is_of_one_machine(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    ran = cli("logs", "--raw")

    assert (ran.code, ran.out) == (2, "")


def test_lines_can_be_picked_by_what_is_in_them(cli: Cli) -> None:
    cli(*CREATE)

    assert cli("logs", "--grep", "^GRUB").out == "GRUB loading.\n"


def test_lines_come_with_their_time_if_asked_for(cli: Cli) -> None:
    cli(*CREATE)

    (line,) = cli("logs", "--timestamps", "--grep", "GRUB loading").out.splitlines()

    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} GRUB loading\.", line)


def test_each_line_is_an_object_as_json(cli: Cli) -> None:
    log = Path(cli(*CREATE, "--json").json["vms"][0]["console_log"])

    lines = [json.loads(line) for line in cli("logs", "--json").out.splitlines()]

    assert [list(line) for line in lines] == [LINE_KEYS] * len(lines)
    assert (lines[-1]["text"], lines[-1]["complete"], lines[-1]["vm"], lines[-1]["boot"]) == (
        "vm-1 login: ", False, "vm-1", 1,
    )  # fmt: skip
    assert log.read_bytes()[lines[-1]["offset"] :] == b"vm-1 login: "


def test_waiting_for_a_line_ends_when_every_machine_has_shown_it(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    ran = cli("logs", "--until", "login:", "--timeout", "20s")

    assert ran.code == 0
    assert {f"vm-{number} | vm-{number} login: " for number in (1, 2)} <= set(ran.out.splitlines())


def test_waiting_for_a_line_ends_when_time_is_up(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")

    ran = cli("logs", "--until", "vm-1 login:", "--timeout", "500ms")

    assert (ran.code, ran.said) == (1, "vmprov: no match within 0.5 s on vm-2")


@pytest.mark.parametrize("more", [(), ("--raw",)])
def test_following_a_machine_ends_when_it_is_removed(cli: Cli, more: tuple[str, ...]) -> None:
    cli(*CREATE)
    with cli.start("logs", "vm-1", "-f", "--tail", "9", *more) as follower:
        said(follower, "GRUB loading")
        cli("delete", "vm-1", "--yes")

        _, err = follower.communicate(timeout=30)

    assert (follower.returncode, err) == (0, "vmprov: vm-1 was removed\n")


def test_following_a_lab_ends_when_its_last_machine_is_removed(cli: Cli) -> None:
    cli(*CREATE, "--lab", "trial", "--count", "2")
    with cli.start("logs", "trial", "-f", "--tail", "9") as follower:
        said(follower, "vm-1 | GRUB loading")
        cli("delete", "vm-1", "--yes")
        add(cli.home.console_log("vm-2", 0), b"\nalone now\n")
        said(follower, "alone now")
        cli("delete", "vm-2", "--yes")

        _, err = follower.communicate(timeout=30)

    assert (follower.returncode, err) == (0, "vmprov: vm-1 was removed\nvmprov: vm-2 was removed\n")


def test_waiting_for_a_line_ends_when_a_machine_that_has_not_shown_it_is_removed(cli: Cli) -> None:
    cli(*CREATE, "--count", "2")
    with cli.start("logs", "--until", "vm-1 login:") as follower:
        said(follower, "GRUB loading")
        cli("delete", "vm-2", "--yes")

        _, err = follower.communicate(timeout=30)

    assert (follower.returncode, err) == (
        1, "vmprov: vm-2 was removed\nvmprov: no match on vm-2 before the removal\n",
    )  # fmt: skip


@pytest.mark.parametrize("more", [(), ("--raw",)])
def test_following_ends_when_nobody_reads_any_more(cli: Cli, more: tuple[str, ...]) -> None:
    cli(*CREATE)
    with cli.start("logs", "-f", *more) as follower:
        said(follower, "GRUB loading")
        assert follower.stdout is not None
        follower.stdout.close()

        assert follower.wait(timeout=30) is not None


def test_a_machine_that_joins_is_told_from_the_first_one(cli: Cli) -> None:
    cli(*CREATE)
    with cli.start("logs", "-f") as follower:
        said(follower, "GRUB loading")
        cli(*CREATE, "--name", "newcomer")
        said(follower, "newcomer | GRUB loading")
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=30)

    assert follower.returncode == 0


def test_what_is_looked_for_may_come_in_two_parts(cli: Cli) -> None:
    log = Path(cli(*CREATE, "--json").json["vms"][0]["console_log"])
    with cli.start("logs", "-f", "--grep", "login: ro+t|begun|done") as follower:
        add(log, b"\nbegun\nvm-1 login: ")
        said(follower, "begun")
        threading.Event().wait(0.5)  # a prompt that stands still is handed out
        add(log, b"root")
        threading.Event().wait(0.5)
        add(log, b" again\ndone\n")

        assert follower.stdout is not None
        lines = [follower.stdout.readline(), follower.stdout.readline()]
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=30)

    assert lines == ["vm-1 login: root again\n", "done\n"]


def test_a_boot_that_never_was_has_no_lines(cli: Cli) -> None:
    cli(*CREATE)

    assert "vm-1 login: " in cli("logs", "--boot", "1").out
    assert (cli("logs", "--boot", "2").code, cli("logs", "--boot", "2").out) == (2, "")


# watching


def test_watch_tells_the_verdicts_of_all_machines(cli: Cli) -> None:
    cli(*CREATE, "--count", "2", "--flow", "login")

    ran = cli("watch", "--json")

    assert ran.code == 0
    assert [(vm["name"], vm["verdict"], vm["flow"]) for vm in ran.json] == [
        ("vm-1", "success", "login"),
        ("vm-2", "success", "login"),
    ]


def test_watch_exits_with_1_where_a_machine_failed(cli: Cli) -> None:
    cli(*CREATE, "--flow", str(never(cli)), "--timeout", "500ms", "--keep-on-failure")

    ran = cli("watch")

    assert ran.code == 1
    assert "timeout(never)" in ran.out


def test_watching_nothing_says_what_to_do(cli: Cli) -> None:
    assert cli("watch").said == "no machines; make some with: vmprov create --count 3"


def test_a_flow_of_ones_own_judges_what_is_made(cli: Cli) -> None:
    ran = cli(*CREATE, "--flow", str(never(cli)), "--timeout", "500ms", "--json")

    (vm,) = ran.json["vms"]
    assert (ran.code, vm["state"], vm["flow"], vm["verdict"]) == (1, "removed", "never", "timeout")
    assert (vm["judgement"]["stage"], vm["judgement"]["last_lines"][-1]) == ("never", "vm-1 login: ")


def never(cli: Cli) -> Path:
    """A flow that no machine passes."""
    path = cli.home.root / "never.yaml"
    path.write_text("flow: never\nstages: [{stage: never, expect: what nobody says}]\n")
    return path


# starting up

_HEAVY = ("libvirt", "docker", "pydantic", "rich", "jinja2", "sqlite3", "pexpect", "pycdlib", "vagrant", "serial")


def test_starting_up_imports_nothing_heavy() -> None:
    program = f"import sys, vmprov.cli; print([name for name in {_HEAVY!r} if name in sys.modules])"

    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"


def test_the_library_is_imported_at_first_use() -> None:
    program = "import sys, vmprov; before = len(sys.modules); vmprov.Vmprov; print(before < len(sys.modules))"

    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout == "True\n"


# lab files

LAB = "lab: trial\nvms:\n  web: {count: 2, memory: 512MiB}\n  db: {after: web}\n"


def test_validate_says_what_is_in_a_file_or_what_is_wrong_with_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(LAB)
    (tmp_path / "bad.yaml").write_text("lab: trial\nvms: {web: {memroy: 1GiB, flow: nope}}\n")

    good, both = (
        cli("validate", f"{tmp_path}/good.yaml"),
        cli("validate", f"{tmp_path}/good.yaml", f"{tmp_path}/bad.yaml"),
    )

    assert (good.code, good.out, good.err) == (0, f"{tmp_path}/good.yaml: ok: lab trial, 3 VMs\n", "")
    assert (both.code, both.out) == (2, good.out)
    assert [line.split(": ", 1)[1] for line in both.err.splitlines()] == [
        "vms.web: unknown key 'memroy'; did you mean 'memory'?",
        "vms.web.flow: unknown flow 'nope'; known: cloud-init, debian-installer, edge-io, edge-nio, login "
        "(a file has a / in its name, or ends in .yaml)",
    ]


def test_validate_prints_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(LAB)

    ran = cli("validate", f"{tmp_path}/good.yaml", f"{tmp_path}/nope.yaml", "--json")

    assert ran.code == 2
    assert ran.json == [
        {"file": f"{tmp_path}/good.yaml", "ok": True, "problems": [], "lab": "trial", "vms": ["web-1", "web-2", "db"]},
        {"file": f"{tmp_path}/nope.yaml", "ok": False, "problems": [f"{tmp_path}/nope.yaml: there is no such file"],
         "lab": "", "vms": []},
    ]  # fmt: skip


def test_validate_takes_values_from_outside(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("lab: ${name}\nvars: {name: x}\nvms: {web: {count: 2}}\n")

    ran = cli("validate", str(file), "--var", "name=given", "--set", "vms.web.count=4", "--json")

    assert (ran.json[0]["lab"], len(ran.json[0]["vms"])) == ("given", 4)
    assert cli("validate", str(file), "--var", "name").said.startswith("vmprov: --var 'name' is not NAME=VALUE")


def test_validate_makes_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)

    cli("validate", f"{tmp_path}/lab.yaml")

    assert not cli.home.root.exists() or list(cli.home.root.iterdir()) == []


def test_schemas_are_printed(cli: Cli) -> None:
    assert cli("schema").json == cli("schema", "lab").json
    assert cli("schema", "flow").json == cli("flow", "schema").json
    assert cli("schema").json["$defs"]["Entry"]["additionalProperties"] is False
    assert cli("schema", "nope").code == 2


OPTIONS = [
    ("--count", "3"),
    ("--count", "2", "--name", "web", "--serial-numbers", "EDGE0001,EDGE0002"),
    ("--name", "one", "--cpus", "3", "--memory", "1536MiB", "--disk", "3GiB", "--network", "shared"),
    (
        "--name",
        "n",
        "--extra-disk",
        "1GiB",
        "--extra-disk",
        "x=2GiB",
        "--firmware",
        "uefi",
        "--tpm",
        "--timeout",
        "90s",
    ),
    ("--lab", "mine", "--boot-url", "http://x.example/y", "--boot-dns", "x.example=10.0.0.9", "--firmware", "uefi"),
    ("--flow", "login", "--memory", "1GiB", "--consoles", "2", "--graphics", "vnc"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_create_prints_the_lab_file_that_means_the_same(cli: Cli, options: tuple[str, ...], tmp_path: Path) -> None:
    from vmprov.flows.load import flow_machine
    from vmprov.spec.load import load_lab

    words = ("create", "--driver", "fake", "--image", "", *options, "--dry-run")

    planned, written = cli(*words, "--json").json, cli(*words, "--output", "yaml")

    assert (written.code, written.err) == (0, "")
    file = tmp_path / "lab.yaml"
    file.write_text(written.out)
    found = load_lab(file, environ={}, flows=flow_machine)
    assert (found.lab, found.driver) == (planned["lab"], "fake")
    for vm, row in zip(found.vms, planned["vms"], strict=True):
        # What the flow brings is laid under it, as `create` does.
        machine = vm.over(flow_machine(vm.flow)) if vm.flow else vm
        assert (vm.name, machine.image, machine.cpus, machine.memory) == (
            row["name"], row["image"], row["cpus"], row["memory"],
        )  # fmt: skip
        assert (machine.disk or row["disk"], vm.serial_number or row["serial_number"]) == (
            row["disk"], row["serial_number"],
        )  # fmt: skip


def test_the_lab_file_is_for_a_dry_run_alone(cli: Cli) -> None:
    for words in (("--output", "yaml"), ("--output", "yaml", "--dry-run", "--json")):
        assert cli(*CREATE, *words).said.startswith("vmprov: --output yaml needs --dry-run, and goes without --json")
