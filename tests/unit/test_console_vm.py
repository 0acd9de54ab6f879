"""One machine in the hands of a program: waiting for what its consoles say, and typing on them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.uarts import Call, Capturing, Guest, a_while, soon
from vmprov.console.capture import slowest_follower
from vmprov.errors import Failed, Interrupted, InUse, NotFound, WaitTimeout
from vmprov.paths import Home
from vmprov.views import Timeline, VMView
from vmprov.vm import VM, VMConsole
from vmprov.waiting import Cancel

NAME = "vm-1"
LONG = 60.0


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.power_off()


@pytest.fixture
def cancel() -> Cancel:
    return Cancel()


@pytest.fixture
def console(guest: Guest, cancel: Cancel) -> Iterator[VMConsole]:
    with VMConsole(NAME, guest.base, guest.log, cancel) as console:
        yield console


# waiting


def test_a_line_that_was_said_already_is_found(guest: Guest, console: VMConsole) -> None:
    guest.say(b"one\r\nLinux version 6.1\r\nthree\r\n")

    line = console.wait_for(r"Linux version (\S+)", timeout=LONG)

    assert (line.text, line.offset, line.complete, line.vm) == ("Linux version 6.1", 5, True, NAME)


def test_a_line_that_is_yet_to_come_is_waited_for(guest: Guest, console: VMConsole) -> None:
    waiting = Call(lambda: console.wait_for("ready", timeout=LONG).text)
    guest.say(b"get ")
    guest.say(b"ready\r\n")

    assert waiting.result() == "get ready"


def test_a_prompt_that_stands_still_counts(guest: Guest, console: VMConsole) -> None:
    guest.say(b"\r\nvm-1 login: ")

    line = console.wait_for(r"login: $", timeout=LONG)

    assert (line.text, line.complete) == ("vm-1 login: ", False)


def test_a_line_that_came_in_two_parts_is_matched_as_a_whole(guest: Guest, console: VMConsole) -> None:
    guest.say(b"Loading ")
    waiting = Call(lambda: console.wait_for(r"^Loading \.\.\. done$", timeout=LONG))
    a_while(0.5)  # so that it is seen as a prompt first
    guest.say(b"... done\r\n")

    assert waiting.result().offset == 0


def test_only_what_comes_from_an_offset_on_counts(guest: Guest, console: VMConsole) -> None:
    guest.say(b"vm-1 login: ")
    console.wait_for("login: ", timeout=LONG)
    position = console.position
    waiting = Call(lambda: console.wait_for("login: ", timeout=LONG, since=position).offset)
    a_while()
    early = waiting.ended
    guest.say(b"reboot\r\nvm-1 login: ")

    assert (position, early) == (12, False)
    assert waiting.result() == 20


def test_what_comes_on_a_line_that_began_before_counts(guest: Guest, console: VMConsole) -> None:
    guest.say(b"vm-1# ")

    waiting = Call(lambda: console.wait_for("^uptime$", timeout=LONG, since=6))
    guest.say(b"uptime\r\n")

    assert waiting.result().offset == 6


def test_a_timeout_says_what_was_awaited_and_what_was_seen(guest: Guest, console: VMConsole) -> None:
    guest.say(b"Booting from ROM\r\n\r\nno bootable medium")

    with pytest.raises(WaitTimeout) as caught:
        console.wait_for("login:", timeout=0.2)

    assert str(caught.value) == (
        "vm-1: no line that matches 'login:' within 0.2 s; last seen: Booting from ROM | no bootable medium"
    )


def test_at_the_deadline_an_unfinished_line_counts(guest: Guest, console: VMConsole) -> None:
    guest.say(b"vm-1 login: ")

    assert console.wait_for("login:", timeout=0).text == "vm-1 login: "


def test_a_wait_is_cancelled_at_once_also_where_the_guest_is_silent(console: VMConsole, cancel: Cancel) -> None:
    waiting = Call(lambda: console.wait_for("never", timeout=600))

    cancel.set()

    with pytest.raises(Interrupted):
        waiting.result()


def test_what_is_missing_is_no_line_of_the_guests(guest: Guest, tmp_path: Path) -> None:
    from vmprov.console.index import Mark

    capture = Capturing(guest.log)
    lost = capture.say(b"two\r\n", 100.0)
    capture.note(Mark.LOST, lost, number=5)
    console = VMConsole(NAME, guest.base, guest.log, Cancel())

    with pytest.raises(WaitTimeout):
        console.wait_for("output may be missing", timeout=0.1)
    assert [line.note for line in console.lines()] == [True, False]


def test_a_machine_that_never_said_anything_can_be_waited_for(tmp_path: Path) -> None:
    console = VMConsole(NAME, tmp_path / "1-0", tmp_path / "missing.log", Cancel())

    assert console.position == 0
    assert console.lines() == []
    with pytest.raises(WaitTimeout, match="no line that matches"):
        console.wait_for("x", timeout=0.05)


def test_several_threads_wait_for_different_lines(guest: Guest, console: VMConsole) -> None:
    waiting = [
        Call(lambda number=number: console.wait_for(f"line {number}$", timeout=LONG).text)  # type: ignore[misc]
        for number in range(8)
    ]
    guest.say(b"".join(b"line %d\r\n" % number for number in range(8)))

    assert [call.result() for call in waiting] == [f"line {number}" for number in range(8)]
    assert slowest_follower(guest.log) is None


def test_a_wait_that_ended_holds_back_no_trimming(guest: Guest, console: VMConsole) -> None:
    guest.say(b"hello\r\n")
    console.wait_for("hello", timeout=LONG)
    with pytest.raises(WaitTimeout):
        console.wait_for("never", timeout=0.05)

    assert slowest_follower(guest.log) is None


# reading


def test_lines_can_be_chosen(guest: Guest, console: VMConsole) -> None:
    capture = Capturing(guest.log)
    for number in range(1, 4):
        capture.say(b"line %d\r\n" % number, 100.0 * number)

    assert [line.text for line in console.lines()] == ["line 1", "line 2", "line 3"]
    assert [line.text for line in console.lines(since=150.0)] == ["line 2", "line 3"]
    assert [line.text for line in console.lines(tail=1)] == ["line 3"]
    assert len(console.lines(boot=1)) == 3
    with pytest.raises(NotFound, match="no boot 2"):
        console.lines(boot=2)


def test_lines_are_followed_until_cancelled(guest: Guest, console: VMConsole) -> None:
    guest.say(b"old\r\nlast\r\n")
    stop = Cancel()
    seen: list[str] = []

    def follow() -> None:
        seen.extend(line.text for line in console.follow(tail=1, cancel=stop))

    def arrived() -> bool:
        return (slowest_follower(guest.log) or 0) == guest.log.stat().st_size

    following = Call(follow)
    soon(arrived, "follower")
    guest.say(b"new\r\n")
    soon(arrived, "reading of the new line")
    stop.set()
    following.result()

    assert seen == ["last", "new"]


# typing


def test_a_console_is_opened_at_first_use_and_free_after_close(guest: Guest, console: VMConsole) -> None:
    unused = guest.lock.exists()
    guest.echo = lambda typed: typed.replace(b"root\r", b"root\r\nPassword: ")
    console.sendline("root")
    in_use = guest.lock.exists()
    console.expect("Password: ", timeout=LONG)
    console.send("hunter2", secret=True)
    guest.hear(b"root\rhunter2")
    console.close()
    console.close()

    assert (unused, in_use, guest.lock.exists()) == (False, True, False)
    console.send("opened again")
    guest.hear(b"opened again")


def test_many_threads_that_begin_at_once_share_one_console(guest: Guest, console: VMConsole) -> None:
    barrier = threading.Barrier(8)

    def type_(number: int) -> None:
        barrier.wait()
        console.sendline(f"line {number}")

    for call in [Call(lambda number=number: type_(number)) for number in range(8)]:  # type: ignore[misc]
        call.result()
    soon(lambda: guest.typed.count(b"\r") == 8, "eight lines")

    assert sorted(guest.typed.decode().split("\r")) == ["", *(f"line {number}" for number in range(8))]


def test_waiting_and_typing_go_on_side_by_side(guest: Guest, console: VMConsole) -> None:
    guest.echo = lambda typed: b"pong\r\n" if b"ping" in typed else b""
    reading = Call(lambda: console.wait_for("pong", timeout=LONG).text)
    expecting = Call(lambda: console.expect("pong", timeout=LONG)[0])
    soon(guest.lock.exists, "open console")
    console.send("ping")

    assert (reading.result(), expecting.result()) == ("pong", "pong")


def test_closing_ends_the_wait_of_another_thread(guest: Guest, console: VMConsole) -> None:
    expecting = Call(lambda: console.expect("never", timeout=600))
    soon(guest.lock.exists, "open console")

    console.close()

    with pytest.raises(Failed, match="closed"):
        expecting.result()
    assert not guest.lock.exists()


def test_two_handles_on_one_console_do_not_type_at_once(guest: Guest, console: VMConsole, cancel: Cancel) -> None:
    console.send("first")
    with VMConsole(NAME, guest.base, guest.log, cancel) as other, pytest.raises(InUse, match="in use by"):
        other.send("second")
    guest.hear(b"first")
    guest.say(b"both may read\r\n")

    assert other.wait_for("both may read", timeout=LONG)
    assert guest.typed == b"first"


def test_a_machine_that_does_not_run_cannot_be_typed_on(guest: Guest, console: VMConsole) -> None:
    guest.power_off()

    with pytest.raises(Failed, match="vm-1 does not run; vmprov start vm-1"):
        console.send("hello")
    guest.power_on()
    console.send("hello again")
    guest.hear(b"hello again")


# machines


@dataclass
class Owner:
    """Knows one machine with two UARTs."""

    home: Home
    cancel: Cancel = field(default_factory=Cancel)

    def show(self, name: str) -> VMView:
        raise NotFound(f"no VM called {name!r}")

    def timeline(self, vm_name: str) -> Timeline:
        raise NotFound(f"no VM called {vm_name!r}")

    def console_port(self, name: str, port: int = 0) -> Path:
        if port > 1:
            raise NotFound(f"{name} has no serial port {port}")
        return self.home.console_port(7, port)


def test_a_machine_has_a_console_for_each_of_its_ports(home: Home) -> None:
    vm = VM(Owner(home), NAME)

    assert vm.console is vm.port(0)
    assert vm.port(1) is not vm.port(0)
    assert (vm.port(0).log, vm.port(1).log) == (home.console_log(NAME, 0), home.console_log(NAME, 1))
    with pytest.raises(NotFound, match="no serial port 2"):
        vm.port(2)


def test_threads_that_ask_for_a_port_at_once_get_the_same(home: Home) -> None:
    vm = VM(Owner(home), NAME)
    barrier = threading.Barrier(8)

    def ask() -> VMConsole:
        barrier.wait()
        return vm.port(1)

    found = [call.result() for call in [Call(ask) for _ in range(8)]]

    assert len({id(console) for console in found}) == 1


def test_a_machine_that_is_gone_is_not_found(home: Home) -> None:
    vm = VM(Owner(home), NAME)

    with pytest.raises(NotFound):
        _ = vm.verdict
    with pytest.raises(NotFound):
        _ = vm.timeline
