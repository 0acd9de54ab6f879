"""Consoles of real guests: every byte is kept, every reader served, every verdict proven."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cli
from vmprov import Settings, Vmprov
from vmprov.console.inputs import read_inputs
from vmprov.vm import VM
from vmprov.waiting import Deadline, wait_until

pytestmark = pytest.mark.usefixtures("left_behind")
TINY = ("--image", "tiny", "--memory", "128MiB")
PASSWORD = "correct-horse-7"
# The same as a guest keeps it.
HASHED = "$6$vmprov$ZTcrxNwXrdSIQ2ovUmUdoTkGWnYdWqIl7Cf/u9NuigLzt/OD2R6AMPu/oS61oMXSm3OyeYa05kQNZbZIwmy1S/"


@pytest.fixture(scope="module")
def three(cli: Cli) -> Iterator[Any]:
    """Three machines that have passed the flow ``login``."""
    made = cli("create", "--count", "3", "--name", "con", "--lab", "con", *TINY, "--flow", "login", "--json").json
    yield made
    cli("delete", "con", "--yes")


@pytest.fixture
def opened(cli: Cli) -> Iterator[Vmprov]:
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        yield vmprov


@pytest.fixture
def machine(opened: Vmprov, three: Any) -> VM:
    """The first of the three, in the hands of a program."""
    return opened.vm("con-1")


def on_console(cli: Cli, vm: str, command: str) -> None:
    """Run a command in a guest with its output on the first serial port."""
    cli("ssh", vm, "--", f"({command}) > /dev/ttyS0 2>&1")


# verdicts and timelines


def test_the_verdict_has_its_proof(three: Any) -> None:
    for vm in three["vms"]:
        judgement = vm["judgement"]
        log = Path(vm["console_log"]).read_bytes()
        assert (vm["verdict"], vm["flow"], judgement["stage"]) == ("success", "login", "login")
        assert judgement["evidence"].strip() == f"{vm['name']} login:"
        assert log[judgement["offset"] :].lstrip(b"\r\n").startswith(f"{vm['name']} login:".encode())


def test_the_timeline_has_every_stage_without_a_gap(cli: Cli, three: Any) -> None:
    stages = cli("show", "con-2", "--timeline", "--json").json["stages"]

    assert [stage["stage"] for stage in stages] == ["power-on", "firmware", "bootloader", "kernel", "login"]
    assert {stage["outcome"] for stage in stages} == {"passed"}
    assert all(this["end"] == after["start"] for this, after in pairwise(stages))
    assert "login" in cli("show", "con-2", "--timeline").out


def test_statistics_outlive_the_machines(cli: Cli, three: Any) -> None:
    rows = cli("stats", "--image", "tiny", "--flow", "login", "--json").json

    assert {"power-on", "firmware", "bootloader", "kernel", "login"} <= {row["stage"] for row in rows}
    assert all(row["n"] >= 3 and 0 <= row["median"] <= row["p95"] for row in rows if row["stage"] == "login")


# logs


def test_logs_wait_until_every_machine_has_said_it(cli: Cli, three: Any) -> None:
    ran = cli("logs", "con", "-f", "--until", "login:", "--timeout", "60s")

    assert {line.split(" | ")[0].strip() for line in ran.out.splitlines() if "login:" in line} == {
        "con-1", "con-2", "con-3",
    }  # fmt: skip


def test_logs_give_up_in_time(cli: Cli, three: Any) -> None:
    started = time.monotonic()
    ran = cli.try_("logs", "con-1", "--until", "never said", "--timeout", "1s")

    assert (ran.code, ran.err.splitlines()[-1]) == (1, "vmprov: no match within 1 s on con-1")
    assert time.monotonic() - started < 5


def test_lines_of_several_machines_come_in_the_order_of_time(cli: Cli, three: Any) -> None:
    for number in range(6):
        on_console(cli, f"con-{number % 3 + 1}", f"echo; echo in-order-{number}")

    lines = [json.loads(line) for line in cli("logs", "con", "--json", "--grep", "^in-order-").out.splitlines()]

    assert [line["text"] for line in lines] == [f"in-order-{number}" for number in range(6)]
    assert [line["monotonic"] for line in lines] == sorted(line["monotonic"] for line in lines)
    assert {line["boot"] for line in lines} == {1}


def test_a_line_is_shown_soon_after_it_was_sent(cli: Cli, three: Any) -> None:
    follower = cli.start("logs", "con-1", "-f", "--tail", "0")
    try:
        assert follower.stdout is not None
        time.sleep(1)  # it has to be following before something happens
        on_console(cli, "con-1", "echo here-it-is")
        assert "here-it-is" in follower.stdout.readline()
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=20)
    assert follower.returncode == 0


def test_every_byte_is_kept_while_readers_come_and_go(cli: Cli, three: Any, machine: VM) -> None:
    make = 'i=0; while [ $i -lt 4000 ]; do echo "$i 0123456789012345678901234567890123456789"; i=$((i+1)); done'
    cli("ssh", "con-1", "--", f"{make} > /tmp/lines; stty -F /dev/ttyS0 raw -echo")
    wanted = cli("ssh", "con-1", "--", "cat /tmp/lines").out.encode()
    begin = machine.console.position
    readers = [cli.start("logs", "con-1", "-f") for _ in range(2)]
    stopped = subprocess.Popen(
        cli.argv("console", "con-1"), env=cli.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(1)
    stopped.send_signal(signal.SIGSTOP)  # attached, and never reading again
    sending = cli.start("ssh", "con-1", "--", "cat /tmp/lines > /dev/ttyS0; stty -F /dev/ttyS0 sane")
    time.sleep(0.3)
    for reader in readers:
        reader.kill()
        reader.communicate()
    out, err = sending.communicate(timeout=120)
    assert (sending.returncode, out, err) == (0, "", "")
    stopped.kill()
    stopped.communicate()

    def sent() -> bytes:
        return machine.console.log.read_bytes()[begin:]

    wait_until(lambda: len(sent()) >= len(wanted), Deadline(20), "all bytes")
    assert wanted in sent()


def test_a_guest_that_prints_binary_at_full_speed_is_captured_followed_and_still_judged(
    cli: Cli, three: Any, machine: VM
) -> None:
    count = 150_000
    cli("ssh", "con-1", "--", f"head -c {count} /dev/urandom > /tmp/noise; stty -F /dev/ttyS0 raw -echo")
    wanted = cli("ssh", "con-1", "--", "sha256sum < /tmp/noise").out.split()[0]
    begin = machine.console.position
    follower = cli.start("logs", "con-1", "-f", "--json", "--grep", "the noise is over")
    # Noise may end within a control string, which would swallow the rest of its line.
    cli(
        "ssh",
        "con-1",
        "--",
        r"cat /tmp/noise > /dev/ttyS0; stty -F /dev/ttyS0 sane; printf '\nthe noise is over\n' > /dev/ttyS0",
    )

    assert follower.stdout is not None
    assert "the noise is over" in json.loads(follower.stdout.readline())["text"]
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=20)
    sent = machine.console.log.read_bytes()[begin : begin + count]
    assert hashlib.sha256(sent).hexdigest() == wanted
    assert machine.verdict == "success"


def test_the_capture_goes_on_over_resets_and_power_cycles(cli: Cli, three: Any) -> None:
    log = Path(three["vms"][2]["console_log"])
    first = log.read_bytes()

    cli("ssh", "con-3", "--", "reboot -f >/dev/null 2>&1 &")
    wait_until(lambda: log.read_bytes()[len(first) :].count(b"login: ") >= 1, Deadline(60), "second login prompt")
    second = log.read_bytes()
    cli("stop", "con-3", "--force")
    cli("start", "con-3")

    third = log.read_bytes()
    assert second.startswith(first)
    assert third.startswith(second)
    boots = [cli("logs", "con-3", "--boot", str(number), "--json").out.splitlines() for number in (1, 2, 3)]
    for number, lines in enumerate(boots, 1):
        texts = [json.loads(line) for line in lines]
        assert {line["boot"] for line in texts} == {number}
        assert sum("Linux version" in line["text"] for line in texts) == 1
    assert cli.try_("logs", "con-3", "--boot", "4").code == 2


# typing


def test_one_types_and_others_are_told_who(cli: Cli, three: Any, machine: VM, opened: Vmprov) -> None:
    with machine.console as console:
        console.sendline("")
        console.expect("login: ", 10)
        second = cli.try_("console", "con-1")
        assert second.code == 1
        assert f"(process {os.getpid()})" in second.err
        taken = subprocess.run(
            cli.argv("console", "con-1", "--steal"), env=cli.environ, input=b"\r", capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (taken.returncode, b"login:" in taken.stdout) == (0, True)
        with pytest.raises(Exception, match="taken over by"):
            console.sendline("me again")


def test_a_command_runs_on_the_serial_shell(cli: Cli, three: Any, opened: Vmprov) -> None:
    cli("ssh", "con-2", "--", f"echo 'root:{HASHED}:0:0:root:/root:/bin/sh' > /etc/passwd")
    machine = opened.vm("con-2")
    with machine.console as console:
        console.sendline("")
        console.expect("login: ", 20)
        time.sleep(1.5)  # getty sets the terminal up after it has printed its prompt
        console.sendline("root")
        console.expect("Password: ", 20)
        time.sleep(1)
        console.sendline(PASSWORD, secret=True)
        console.expect("# ", 20)
        good = console.run("echo $((6 * 7)); true")
        bad = console.run("ls /nonexistent; (exit 7)")
        console.sendline("exit")
    assert (good.code, good.output.strip()) == (0, "42")
    assert (bad.code, "No such file" in bad.output) == (7, True)
    assert PASSWORD not in "".join(str(entry) for entry in read_inputs(machine.console.log))


FLOW = """
flow: password
description: Types a name and a password, once getty and login have set the terminal up.
settle: 1.5s
secrets:
  word: {env: TEST_WORD}
stages:
  - stage: name
    expect:
      - prompt: "login:"
        send: nobody-here
  - stage: word
    limit: 30s
    expect:
      - prompt: "Password:"
        send: {secret: word}
  - stage: refused
    limit: 30s
    expect: "Login incorrect"
"""


def test_a_killed_create_is_carried_on_by_watch(cli: Cli, tmp_path: Path) -> None:
    flow = tmp_path / "password.yaml"
    flow.write_text(FLOW)
    cli = cli.with_environ(TEST_WORD=PASSWORD)
    create = cli.start("create", "--name", "cut", "--lab", "cut", "--count", "2", *TINY, "--flow", str(flow))
    logs = [cli.home.console_log(f"cut-{number}", 0) for number in (1, 2)]
    try:
        wait_until(
            lambda: all(log.exists() and b"Linux version" in log.read_bytes() for log in logs),
            Deadline(60), "kernels that start",
        )  # fmt: skip
        create.kill()
        create.communicate()
        states = {vm["name"]: (vm["state"], vm["verdict"]) for vm in cli("list", "--lab", "cut", "--json").json}
        assert states == {"cut-1": ("creating", ""), "cut-2": ("creating", "")}

        watched = cli("watch", "cut", "--json").json

        assert [(vm["state"], vm["verdict"]) for vm in watched] == [("running", "success")] * 2
        for log in logs:
            typed = [(entry.text, entry.secret) for entry in read_inputs(log)]
            assert typed == [("nobody-here", ""), ("", "word")]
        everything = b"".join(path.read_bytes() for path in cli.home.vms.rglob("*") if path.is_file())
        assert PASSWORD.encode() not in everything
    finally:
        cli("delete", "cut", "--yes")


def test_a_secret_that_is_missing_is_asked_for_before_anything_is_made(cli: Cli, tmp_path: Path) -> None:
    flow = tmp_path / "password.yaml"
    flow.write_text(FLOW)

    ran = cli.try_("create", "--name", "no", *TINY, "--flow", str(flow))

    assert (ran.code, ran.out) == (2, "")
    assert "the secret 'word': TEST_WORD is not set" in ran.err


# failures


@contextmanager
def panicking(cli: Cli, vm: str) -> Iterator[None]:
    """Make a guest's kernel panic; nobody is left to answer."""
    process = cli.start("ssh", vm, "--", "sleep 1; echo c > /proc/sysrq-trigger")
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def seconds_from_line_to_verdict(cli: Cli, vm: str, log: Path) -> float:
    """From the panic's line in the capture to the verdict in the records."""
    database = sqlite3.connect(f"file:{cli.home.database}?mode=ro", uri=True)

    def verdict() -> bool:
        row = database.execute("SELECT verdict FROM vms WHERE name = ?", (vm,)).fetchone()
        return bool(row) and row[0] == "failed"

    try:
        wait_until(lambda: b"Kernel panic" in log.read_bytes(), Deadline(30), "panic", interval=0.01)
        seen = time.monotonic()
        wait_until(verdict, Deadline(20), "verdict", interval=0.01)
        return time.monotonic() - seen
    finally:
        database.close()


def test_a_panic_of_a_ready_machine_is_its_verdict_within_a_second(cli: Cli) -> None:
    made = cli("create", "--name", "sick", "--count", "2", "--lab", "sick", *TINY, "--flow", "login", "--json").json
    try:
        with panicking(cli, "sick-2"):
            took = seconds_from_line_to_verdict(cli, "sick-2", Path(made["vms"][1]["console_log"]))

        views = {vm["name"]: vm for vm in cli("list", "--json").json}
        judgement = views["sick-2"]["judgement"]
        assert took <= 1.0
        assert (views["sick-2"]["verdict"], judgement["class"]) == ("failed", "kernel-panic")
        assert re.search(r"Kernel panic - not syncing: sysrq triggered crash", judgement["evidence"])
        evidence = Path(made["vms"][1]["console_log"]).read_bytes()[judgement["offset"] :].split(b"\r\n")[0]
        assert evidence.decode().strip() == judgement["evidence"].strip()
        assert views["sick-1"]["verdict"] == "success"
        watched = cli.try_("watch", "sick")
        assert (watched.code, "failed(kernel-panic)" in watched.out) == (1, True)
    finally:
        cli("delete", "sick", "--yes")


def test_a_panic_during_the_flow_ends_the_wait_at_once_and_spares_the_siblings(cli: Cli, tmp_path: Path) -> None:
    flow = tmp_path / "late.yaml"
    flow.write_text("flow: late\nstages:\n  - {stage: prompt, expect: 'login:'}\n  - {stage: done, expect: all-done}\n")
    create = cli.start("create", "--name", "mid", "--count", "2", "--lab", "mid", *TINY, "--flow", str(flow), "--json")
    logs = [cli.home.console_log(f"mid-{number}", 0) for number in (1, 2)]
    for log in logs:
        wait_until(lambda log=log: log.exists() and b"login: " in log.read_bytes(), Deadline(60), "prompt")  # type: ignore[misc]
    with panicking(cli, "mid-1"):
        wait_until(lambda: not logs[0].exists() or b"Kernel panic" in logs[0].read_bytes(), Deadline(30), "panic")
    on_console(cli, "mid-2", "echo all-done")
    out, _ = create.communicate(timeout=120)
    views = {vm["name"]: vm for vm in json.loads(out)["vms"]}
    try:
        assert create.returncode == 1
        assert (views["mid-1"]["state"], views["mid-1"]["judgement"]["class"]) == ("removed", "kernel-panic")
        assert (views["mid-2"]["state"], views["mid-2"]["verdict"]) == ("running", "success")
        kept = Path(views["mid-1"]["console_log"])
        assert b"Kernel panic" in kept.read_bytes()
        assert (kept.parent / "domain.xml").exists()
    finally:
        cli("delete", "mid", "--yes")


@pytest.fixture
def small(cli: Cli, tmp_path: Path) -> Iterator[tuple[Cli, Path]]:
    """vmprov with a state directory, and so a host, on a small disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640m", "tmpfs", str(disk)], check=True)
    own = Cli(disk / "h")
    try:
        own.home.create()
        shutil.copytree(cli.home.image("tiny"), own.home.image("tiny"))
        yield own, disk
        own("delete", "--all", "--yes")
    finally:
        own.try_("host", "down", "--force")
        wait_until(lambda: not keepers(own), Deadline(10), "end of the keeper")
        # Lazily: Docker lets go of it a moment later.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def keepers(cli: Cli) -> list[str]:
    """The keepers of a state directory."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if f"vmprov.engine.judging.guard {cli.root} " in line]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_neither_freezes_the_guest_nor_goes_unsaid(small: tuple[Cli, Path]) -> None:
    cli, disk = small
    made = cli("create", "--name", "full", *TINY, "--flow", "login", "--json").json
    log = Path(made["vms"][0]["console_log"])
    # The guest's own disk is full as well: QEMU would stop a guest that writes to it.
    cli("ssh", "full", "--", "sync; mount -o remount,ro /")
    filler = disk / "filler"
    # Without a buffer, whose rest could not be written either.
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
    try:
        on_console(cli, "full", "i=0; while [ $i -lt 2000 ]; do echo lost-line-$i; i=$((i+1)); done")
        assert cli("ssh", "full", "--", "echo alive").out == "alive\n"
        time.sleep(1)  # the keeper looks twice a second
    finally:
        filler.unlink()
    on_console(cli, "full", "echo; echo there-is-room-again")
    wait_until(lambda: b"there-is-room-again" in log.read_bytes(), Deadline(20), "output after the disk was full")

    said = cli("logs", "full").out
    assert b"lost-line-1999" not in log.read_bytes()
    assert re.search(r"\[vmprov: the disk was full for \d+ s: output may be missing here\]", said)


def test_a_report_has_what_is_needed(cli: Cli, three: Any, tmp_path: Path) -> None:
    cli("report", "con-2", "-o", str(tmp_path / "con-2"))

    names = {str(path.relative_to(tmp_path / "con-2")) for path in (tmp_path / "con-2").rglob("*") if path.is_file()}
    assert {"README.txt", "domain.xml", "network.xml", "qemu.log", "console-0.log", "timeline.json"} <= names
    assert not any("id_ed25519" in name for name in names)
