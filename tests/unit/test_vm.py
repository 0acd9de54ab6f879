"""One machine in the hands of a program: reading, waiting, typing, each as often as one likes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.uarts import SOON, Guest, add
from vmprov import CreateRequest, Settings, Vmprov
from vmprov.errors import Failed, Interrupted, InUse, NotFound, WaitTimeout
from vmprov.paths import Home
from vmprov.vm import VMConsole
from vmprov.waiting import Cancel


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """A guest that repeats what it is told."""
    guest = Guest(tmp_path)
    guest.echo = lambda typed: typed.replace(b"\r", b"\r\n")
    yield guest
    guest.power_off()


@pytest.fixture
def console(guest: Guest) -> Iterator[VMConsole]:
    with VMConsole("vm-1", guest.base, guest.log, Cancel()) as console:
        yield console


def test_a_line_is_waited_for_until_it_comes(guest: Guest, console: VMConsole) -> None:
    threading.Timer(0.2, add, (guest.log, b"ready to serve\n")).start()

    line = console.wait_for(r"ready to \w+", timeout=SOON)

    assert (line.text, line.vm, line.offset, line.complete) == ("ready to serve", "vm-1", 0, True)


def test_a_prompt_that_stands_still_is_a_line_to_wait_for(guest: Guest, console: VMConsole) -> None:
    add(guest.log, b"vm-1 login: ")

    assert not console.wait_for("login: $", timeout=SOON).complete


def test_only_what_comes_after_a_position_counts(guest: Guest, console: VMConsole) -> None:
    add(guest.log, b"once\n")
    begin = console.position
    add(guest.log, b"twice\n")

    assert console.wait_for("ce$", timeout=SOON, since=begin).text == "twice"


def test_a_line_that_never_comes_is_waited_for_no_longer_than_asked(guest: Guest, console: VMConsole) -> None:
    add(guest.log, b"something else\n")
    started = time.monotonic()

    with pytest.raises(WaitTimeout, match=r"no line that matches 'nothing' within 0.2 s; last seen: something else"):
        console.wait_for("nothing", timeout=0.2)
    assert time.monotonic() - started < SOON / 2


def test_waiting_can_be_cancelled(guest: Guest) -> None:
    cancel = Cancel()
    threading.Timer(0.2, cancel.set).start()

    with pytest.raises(Interrupted):
        VMConsole("vm-1", guest.base, guest.log, cancel).wait_for("nothing", timeout=SOON)


def test_lines_can_be_selected_and_followed(guest: Guest, console: VMConsole) -> None:
    add(guest.log, b"one\ntwo\nthree\n")

    assert [line.text for line in console.lines(tail=2)] == ["two", "three"]
    cancel = Cancel()
    followed = []
    for line in console.follow(tail=1, cancel=cancel):
        followed.append(line.text)
        if len(followed) == 1:
            add(guest.log, b"four\n")
        else:
            cancel.set()
    assert followed == ["three", "four"]


def test_typing_opens_the_console_and_closing_gives_it_back(guest: Guest, console: VMConsole) -> None:
    console.sendline("hello")
    console.expect("hello", SOON)
    other = VMConsole("vm-1", guest.base, guest.log, Cancel())

    with pytest.raises(InUse, match="in use by"):
        other.send("me too")
    assert [line.text for line in other.lines()] == ["hello"]
    console.close()
    other.sendline("me too")
    other.expect("me too", SOON)
    other.close()


def test_a_machine_that_does_not_run_can_be_read_but_not_typed_on(guest: Guest, console: VMConsole) -> None:
    add(guest.log, b"last words\n")
    guest.power_off()

    assert [line.text for line in console.lines()] == ["last words"]
    with pytest.raises(Failed, match="vm-1 does not run"):
        console.send("hello")


def test_the_facade_hands_out_machines_with_their_consoles(home: Home) -> None:
    settings = Settings.from_environ({"VMPROV_HOME": str(home.root), "VMPROV_KEEPER": "off"})
    with Vmprov(settings) as vmprov:
        vmprov.create(CreateRequest.parse(name="one", driver="fake", image="", flow="login"), host="fake:")
        vm = vmprov.vm("one")

        assert (vm.verdict, vm.view.flow, vm.console) == ("success", "login", vm.port(0))
        assert vm.console.wait_for("login:", timeout=SOON).text == "one login: "
        assert [stay.stage for stay in vm.timeline.stages][-1] == "login"
        assert (vm.console.verdict, vm.port(0).timeline) == (vm.verdict, vm.timeline)
        with pytest.raises(NotFound, match="no serial port 1"):
            vm.port(1)
        with pytest.raises(NotFound):
            vmprov.vm("two")
        vmprov.delete(["one"])
        with pytest.raises(NotFound):
            _ = vm.view
