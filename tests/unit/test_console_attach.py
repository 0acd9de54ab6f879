"""A console by hand: real FIFOs, pseudo-terminals, and a thread in QEMU's place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.uarts import Call, Guest, Terminal, soon
from vmprov.console.attach import Ending, attach, parse_escape
from vmprov.console.inputs import inputs_path, read_inputs
from vmprov.console.ports import drafts
from vmprov.console.session import open_console
from vmprov.errors import Failed, Interrupted, InUse, SpecError
from vmprov.waiting import Cancel

NAME = "vm-1"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.power_off()


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path, deaf=True)
    yield guest
    guest.power_off()


@pytest.fixture
def terminals() -> Iterator[Callable[[], Terminal]]:
    made: list[Terminal] = []

    def make() -> Terminal:
        made.append(Terminal())
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


@pytest.fixture
def terminal(terminals: Callable[[], Terminal]) -> Terminal:
    return terminals()


def session(
    guest: Guest,
    terminal: Terminal,
    *,
    escape: str = "^]",
    steal: bool = False,
    read_only: bool = False,
    notice: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> Call[Ending]:
    return Call(
        lambda: attach(
            guest.base, guest.log, name=NAME, stdin_fd=terminal.fd, stdout_fd=terminal.fd, escape=parse_escape(escape),
            steal=steal, read_only=read_only, notice=notice, cancel=cancel,
        )
    )  # fmt: skip


def start(
    guest: Guest,
    terminal: Terminal,
    *,
    escape: str = "^]",
    steal: bool = False,
    read_only: bool = False,
    notice: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> Call[Ending]:
    """A session that is connected."""
    started = session(
        guest, terminal, escape=escape, steal=steal, read_only=read_only, notice=notice, cancel=cancel
    )  # fmt: skip
    terminal.wait_until_raw()
    return started


# both ways


def test_a_terminal_is_connected_both_ways_until_the_escape_key(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal)

    guest.say(b"vm-1 login: ")
    terminal.see(b"vm-1 login: ")
    terminal.type(b"root\r\x03")
    guest.hear(b"root\r\x03")
    terminal.type(b"bye\x1dnot sent")

    assert attached.result() is Ending.DETACHED
    guest.hear(b"bye")
    assert guest.typed == b"root\r\x03bye"
    assert not terminal.is_raw
    assert not guest.lock.exists()


def test_a_guest_is_shown_from_now_on_and_not_what_it_said_long_ago(guest: Guest, terminal: Terminal) -> None:
    guest.say(b"long ago\r\n")
    attached = start(guest, terminal)

    guest.say(b"now\r\n")
    terminal.see(b"now\r\n")
    terminal.type(b"\x1d")

    assert attached.result() is Ending.DETACHED
    assert terminal.shown == b"now\r\n"


def test_the_escape_key_can_be_another(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal, escape="^A")

    terminal.type(b"\x1d")
    guest.hear(b"\x1d")
    terminal.type(b"\x01")

    assert attached.result() is Ending.DETACHED


def test_without_an_escape_key_every_byte_is_the_guests(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal, escape="none")

    everything = bytes(range(256))
    terminal.type(everything)
    guest.hear(everything)
    terminal.hang_up()

    assert attached.result() is Ending.DETACHED


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("^]", b"\x1d"),
        ("ctrl-]", b"\x1d"),
        ("Ctrl-a", b"\x01"),
        ("^^", b"\x1e"),
        ("ctrl-^", b"\x1e"),
        ("~", b"~"),
        ("none", b""),
    ],
)
def test_an_escape_key_is_named_as_people_write_it(text: str, key: bytes) -> None:
    assert parse_escape(text) == key


@pytest.mark.parametrize("text", ["", "ab", "ctrl-", "^1", "é", "\n"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="no such key"):
        parse_escape(text)


# how it ends


def test_power_off_ends_the_session_after_the_last_word(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal)

    guest.say(b"x" * 50_000 + b"reboot: Power down")
    guest.power_off()
    terminal.see(b"Power down")

    assert attached.result() is Ending.CLOSED
    assert not terminal.is_raw
    assert not guest.lock.exists()


def test_typing_to_a_machine_that_was_just_powered_off_ends_the_session(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal)

    guest.power_off()
    terminal.type(b"anybody there?")

    assert attached.result() is Ending.CLOSED


def test_a_terminal_that_hangs_up_frees_the_console(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal)
    guest.say(b"vm-1 login: ")
    terminal.see(b"login: ")

    terminal.hang_up()

    assert attached.result() is Ending.DETACHED
    assert not guest.lock.exists()


def test_the_terminal_is_as_before_after_a_cancel(guest: Guest, terminal: Terminal) -> None:
    cancel = Cancel()
    before = termios.tcgetattr(terminal.fd)
    attached = start(guest, terminal, cancel=cancel)

    cancel.set()

    with pytest.raises(Interrupted):
        attached.result()
    assert termios.tcgetattr(terminal.fd) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_session_and_leaves_the_terminal_as_before(
    guest: Guest, terminal: Terminal, number: signal.Signals
) -> None:
    before = termios.tcgetattr(terminal.fd)
    handler = signal.getsignal(number)

    def interrupt() -> None:
        terminal.wait_until_raw()
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match=number.name):
        attach(guest.base, guest.log, name=NAME, stdin_fd=terminal.fd, stdout_fd=terminal.fd)
    thread.join()

    assert termios.tcgetattr(terminal.fd) == before
    assert signal.getsignal(number) == handler
    assert not guest.lock.exists()


# what cannot keep up


def test_a_stopped_terminal_stops_nobody_and_is_told_what_it_missed(guest: Guest, terminal: Terminal) -> None:
    notices: list[str] = []
    attached = start(guest, terminal, notice=notices.append)

    for _ in range(40):  # nobody reads the terminal meanwhile
        guest.say(b"x" * 65536)
    guest.say(b"THE END")
    for count in range(1, 201):  # with each key, 16 KiB at most are taken from the guest
        terminal.type(b"k")
        guest.hear(b"k" * count)
    terminal.see(b"THE END")
    terminal.type(b"\x1d")

    assert attached.result() is Ending.DETACHED
    missed = [int(number) for notice in notices for number in re.findall(r"^(\d+) bytes were not shown", notice)]
    assert sum(missed) >= 1024 * 1024
    assert sum(missed) + len(terminal.shown) == 40 * 65536 + len(b"THE END")


def test_one_can_leave_while_the_terminal_is_stopped(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal)

    guest.say(b"x" * 1_000_000)
    terminal.type(b"\x1d")

    assert attached.result() is Ending.DETACHED
    assert not terminal.is_raw


def test_one_can_leave_a_guest_that_does_not_read(deaf: Guest, terminal: Terminal) -> None:
    attached = start(deaf, terminal)

    for _ in range(400):
        terminal.type(b"y" * 1000)
    terminal.type(b"\x1d")

    assert attached.result() is Ending.DETACHED


# input that is no terminal


def test_a_pipe_is_sent_whole_and_the_answer_awaited(guest: Guest) -> None:
    (stdin, giving), (taking, stdout) = os.pipe(), os.pipe()
    commands = b"uname\n\x1d" + b"z" * 300_000 + b"END"
    answered = threading.Event()

    def echo(_typed: bytes) -> bytes:
        if guest.typed.endswith(b"END") and not answered.is_set():
            answered.set()
            return b"Linux\n"
        return b""

    guest.echo = echo
    cancel = Cancel()
    attached = Call(
        lambda: attach(
            guest.base, guest.log, name=NAME, stdin_fd=stdin, stdout_fd=stdout, linger=600, cancel=cancel
        )
    )  # fmt: skip

    def give() -> None:
        with os.fdopen(giving, "wb") as file:
            file.write(commands)

    threading.Thread(target=give, daemon=True).start()

    answer = os.read(taking, 100)
    cancel.set()
    with pytest.raises(Interrupted):
        attached.result()

    assert guest.typed == commands
    assert answer == b"Linux\n"
    for fd in (stdin, taking, stdout):
        os.close(fd)


def test_input_may_be_a_file(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "answers").write_bytes(b"yes\n")
    with (tmp_path / "answers").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        ending = attach(
            guest.base, guest.log, name=NAME, stdin_fd=stdin.fileno(), stdout_fd=stdout.fileno(), linger=0.05
        )  # fmt: skip

    assert ending is Ending.IDLE
    guest.hear(b"yes\n")


def test_no_input_at_all_shows_what_is_said_until_the_guest_falls_silent(guest: Guest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch()

    def talk() -> None:
        while not out.read_bytes():
            guest.say(b"hello")

    with Path(os.devnull).open("rb") as stdin, out.open("wb") as stdout:
        talking = Call(talk)
        ending = attach(
            guest.base, guest.log, name=NAME, stdin_fd=stdin.fileno(), stdout_fd=stdout.fileno(), linger=1.0
        )  # fmt: skip
        talking.result()

    assert ending is Ending.IDLE
    assert b"hello" in out.read_bytes()


def test_a_reader_of_the_output_that_is_gone_ends_the_session(guest: Guest) -> None:
    (stdin, giving), (taking, stdout) = os.pipe(), os.pipe()
    attached = Call(lambda: attach(guest.base, guest.log, name=NAME, stdin_fd=stdin, stdout_fd=stdout))
    soon(guest.lock.exists, "session")
    os.close(taking)

    while not attached.ended:
        guest.say(b"into the void\r\n")

    assert attached.result() is Ending.DETACHED
    for fd in (stdin, giving, stdout):
        os.close(fd)


# readers


def test_reading_along_disturbs_nobody(guest: Guest, terminal: Terminal) -> None:
    guest.say(b"long ago\n")
    with open_console(guest.base, guest.log, name=NAME) as console:
        reader = start(guest, terminal, read_only=True)

        guest.say(b"now\n")
        terminal.see(b"now\n")
        console.expect("now\n", timeout=20)
        terminal.type(b"typed in vain\x03")

        assert reader.result() is Ending.DETACHED
        console.send("the writer still types")
        guest.hear(b"the writer still types")
    assert terminal.shown == b"now\n"
    assert b"in vain" not in guest.typed


def test_a_machine_that_does_not_run_can_be_read_along_with(guest: Guest, terminal: Terminal) -> None:
    guest.power_off()
    reader = start(guest, terminal, read_only=True)

    guest.power_on()
    guest.say(b"SeaBIOS")
    terminal.see(b"SeaBIOS")
    terminal.type(b"\x1d")

    assert reader.result() is Ending.DETACHED


# one writer


def test_a_second_writer_is_told_who_the_first_is(guest: Guest) -> None:
    with (
        open_console(guest.base, guest.log, name=NAME),
        pytest.raises(InUse, match=rf"in use by \S+ \(process {os.getpid()}\).*--steal"),
    ):
        attach(guest.base, guest.log, name=NAME)

    open_console(guest.base, guest.log, name=NAME).close()


def test_a_lock_file_that_a_killed_writer_left_behind_is_no_lock(guest: Guest) -> None:
    guest.lock.write_text("99999999 nobody\n")

    open_console(guest.base, guest.log, name=NAME).close()

    assert not guest.lock.exists()


def test_a_writer_that_was_killed_holds_nothing(guest: Guest) -> None:
    program = (
        "import sys, pathlib\n"
        "from vmprov.console.session import open_console\n"
        "console = open_console(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), name='vm-1')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, guest.base, guest.log], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(InUse, match=rf"\(process {other.pid}\)"):
            open_console(guest.base, guest.log, name=NAME)
        other.kill()

    assert guest.lock.exists()
    open_console(guest.base, guest.log, name=NAME).close()


def test_a_writer_who_was_stolen_from_leaves_with_one_line_and_types_nothing_more(
    guest: Guest, terminals: Callable[[], Terminal]
) -> None:
    first, second = terminals(), terminals()
    robbed = start(guest, first)
    first.type(b"before;")
    guest.hear(b"before;")

    thief = start(guest, second, steal=True)
    first.type(b"after;")

    with pytest.raises(InUse, match=rf"the console of vm-1 was taken over by \S+ \(process {os.getpid()}\)\Z"):
        robbed.result()
    assert not first.is_raw
    second.type(b"mine\x1d")
    assert thief.result() is Ending.DETACHED
    guest.hear(b"mine")
    assert guest.typed == b"before;mine"
    assert not guest.lock.exists()


def one_left(sessions: list[Call[Ending]]) -> None:
    soon(lambda: sum(not session.ended for session in sessions) == 1, "one session left")


def test_of_several_who_steal_at_once_one_has_it(guest: Guest, terminals: Callable[[], Terminal]) -> None:
    for _ in range(5):
        start(guest, terminals())  # whoever had it before
        places = [terminals() for _ in range(4)]
        thieves = [session(guest, place, steal=True) for place in places]
        one_left(thieves)
        guest.typed = b""
        winner = next(number for number, thief in enumerate(thieves) if not thief.ended)

        for number, place in enumerate(places):
            place.type(b"%d" % number)
        guest.hear(b"%d" % winner)
        places[winner].type(b"\x1d")

        assert thieves[winner].result() is Ending.DETACHED
        assert guest.typed == b"%d" % winner
        for number, thief in enumerate(thieves):
            if number != winner:
                with pytest.raises(InUse, match="taken over by"):
                    thief.result()
        assert not guest.lock.exists()


def test_who_takes_a_console_that_nobody_has_steals_nothing(guest: Guest, terminal: Terminal) -> None:
    attached = start(guest, terminal, steal=True)

    terminal.type(b"hi\x1d")

    assert attached.result() is Ending.DETACHED
    guest.hear(b"hi")


def test_many_who_ask_at_once_get_it_one_at_a_time(guest: Guest) -> None:
    holding: list[int] = []
    most: list[int] = []

    def use(number: int) -> bool:
        try:
            with open_console(guest.base, guest.log, name=NAME) as console:
                holding.append(number)
                most.append(len(holding))
                console.send(".")
                holding.remove(number)
        except InUse:
            return False
        return True

    for _ in range(5):
        calls = [Call(lambda number=number: use(number)) for number in range(8)]  # type: ignore[misc]
        assert True in [call.result() for call in calls]
    assert set(most) == {1}
    assert sorted(path.name for path in guest.base.parent.iterdir()) == ["1-0.in", "1-0.out"]
    assert list(drafts(guest.lock).iterdir()) == []


# a machine without a console


def test_a_machine_that_does_not_run_has_no_console(guest: Guest, tmp_path: Path) -> None:
    guest.power_off()

    with pytest.raises(Failed, match="vm-1 does not run; vmprov start vm-1"):
        attach(guest.base, guest.log, name=NAME)
    with pytest.raises(Failed, match="the console of vm-2 is not there; vmprov start vm-2"):
        open_console(tmp_path / "2-0", guest.log, name="vm-2")
    assert not list(tmp_path.rglob("*.lock*"))


# what was typed


def login(guest: Guest, *, question: bytes) -> Callable[[bytes], bytes]:
    """A getty that echoes a user's name and not the password, for which it asks with ``question``."""

    def echo(typed: bytes) -> bytes:
        lines = guest.typed.split(b"\r")
        if len(lines) == 2 and typed.endswith(b"\r"):
            return b"root\r\n" + question
        if len(lines) == 3 and typed.endswith(b"\r"):
            return b"\r\nWelcome!\r\nvm-1# "
        return b"" if len(lines) == 2 else typed.replace(b"\r", b"\r\n")

    return echo


@pytest.mark.parametrize(
    "question",
    [
        b"Password: ",
        "Wie heißt das Zauberwort? ".encode(),
        b"\x1b[1mVault\x1b[0m unlock> ",
        b"Type it blindly:\r\n",
        b"",
    ],
)
def test_what_was_typed_is_recorded_but_never_what_the_guest_did_not_show(
    guest: Guest, terminal: Terminal, question: bytes
) -> None:
    guest.say(b"vm-1 login: ")
    guest.echo = login(guest, question=question)
    attached = start(guest, terminal)

    terminal.type(b"root\r")
    terminal.see(b"root\r\n" + question)
    terminal.type(b"hunter2\r")
    terminal.see(b"vm-1# ")
    terminal.type(b"uptime\r")
    terminal.see(b"uptime\r\n")
    terminal.type(b"\x1d")

    assert attached.result() is Ending.DETACHED
    assert guest.typed == b"root\rhunter2\ruptime\r"
    assert [(entry.text, entry.hidden) for entry in read_inputs(guest.log)] == [
        ("root", False),
        ("", True),
        ("uptime", False),
    ]
    assert b"hunter2" not in inputs_path(guest.log).read_bytes()


def test_a_password_whose_answer_never_came_is_recorded_as_hidden(guest: Guest, terminal: Terminal) -> None:
    guest.say(b"Password: ")
    attached = start(guest, terminal)

    terminal.type(b"hunter2\r\x1d")

    assert attached.result() is Ending.DETACHED
    assert [(entry.text, entry.hidden) for entry in read_inputs(guest.log)] == [("", True)]


def test_reading_along_is_not_typing(guest: Guest, terminal: Terminal) -> None:
    reader = start(guest, terminal, read_only=True)
    guest.say(b"vm-1 login: root\r\n")
    terminal.see(b"root\r\n")
    terminal.type(b"x\r\x1d")

    assert reader.result() is Ending.DETACHED
    assert read_inputs(guest.log) == []
