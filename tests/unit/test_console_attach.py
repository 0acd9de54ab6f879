"""The writer of a console: real sockets, pseudo-terminals, and a thread in QEMU's place."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmprov.console.attach import Ending, attach, parse_escape
from vmprov.console.session import Console, open_console, open_port
from vmprov.errors import Failed, HostNotReady, Interrupted, InUse, SpecError, VmprovError, WaitTimeout
from vmprov.waiting import Cancel, Deadline, wait_until

NAME = "vm-1"


class Guest:
    """QEMU's side of one console: serves one client at a time, and keeps what it typed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.typed = b""
        self.client: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(5)
        self._listener.bind(str(path))
        self._listener.listen(1)

    def serve(self) -> None:
        self.client, _ = self._listener.accept()
        self.client.settimeout(5)

    def say(self, data: bytes) -> None:
        assert self.client
        self.client.sendall(data)

    def hear(self, wanted: bytes) -> None:
        assert self.client
        while wanted not in self.typed:
            data = self.client.recv(65536)
            assert data, f"hung up after {self.typed!r}"
            self.typed += data

    def power_off(self) -> None:
        if self.client:
            self.client.close()
        self._listener.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "1-0.sock")
    yield guest
    guest.power_off()


class Terminal:
    """A pseudo-terminal: ``fd`` for the program under test, ``master`` for the person in front of it."""

    def __init__(self) -> None:
        self.master, self.fd = pty.openpty()
        self.shown = b""

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def see(self, wanted: bytes) -> None:
        deadline = Deadline(5)
        while wanted not in self.shown:
            assert select.select([self.master], [], [], deadline.left)[0], f"only {self.shown[-200:]!r}"
            self.shown += os.read(self.master, 65536)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def wait_until_raw(self) -> None:
        wait_until(lambda: self.is_raw, Deadline(5), "raw mode", interval=0.005)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.master)
    os.close(terminal.fd)


class Session:
    """A call in a thread, with what it returned or raised."""

    def __init__(self, call: Callable[[], Ending]) -> None:
        self._call = call
        self._ending: Ending | None = None
        self._problem: VmprovError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ending = self._call()
        except VmprovError as problem:
            self._problem = problem

    def ending(self) -> Ending:
        self._thread.join(5)
        assert not self._thread.is_alive()
        if self._problem:
            raise self._problem
        assert self._ending
        return self._ending


def start(
    guest: Guest,
    terminal: Terminal,
    *,
    escape: str = "^]",
    notice: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> Session:
    fd = terminal.fd
    key = parse_escape(escape)
    session = Session(
        lambda: attach(guest.path, name=NAME, stdin_fd=fd, stdout_fd=fd, escape=key, notice=notice, cancel=cancel)
    )
    guest.serve()
    terminal.wait_until_raw()
    return session


# by hand


def test_a_terminal_is_connected_both_ways_until_the_escape_key(guest: Guest, terminal: Terminal) -> None:
    session = start(guest, terminal)

    guest.say(b"vm-1 login: ")
    terminal.see(b"vm-1 login: ")
    terminal.type(b"root\r\x03")
    guest.hear(b"root\r\x03")
    terminal.type(b"bye\x1dnot sent")

    assert session.ending() is Ending.DETACHED
    guest.hear(b"bye")
    assert b"not sent" not in guest.typed
    assert not terminal.is_raw
    assert not list(guest.path.parent.glob("*.lock"))


def test_the_escape_key_can_be_another(guest: Guest, terminal: Terminal) -> None:
    session = start(guest, terminal, escape="^A")

    terminal.type(b"\x1d")
    guest.hear(b"\x1d")
    terminal.type(b"\x01")

    assert session.ending() is Ending.DETACHED


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


def test_power_off_ends_the_session_after_the_last_word(guest: Guest, terminal: Terminal) -> None:
    session = start(guest, terminal)

    guest.say(b"reboot: Power down")
    guest.power_off()

    assert session.ending() is Ending.CLOSED
    terminal.see(b"Power down")
    assert not terminal.is_raw


def test_the_terminal_is_as_before_after_a_cancel(guest: Guest, terminal: Terminal) -> None:
    cancel = Cancel()
    before = termios.tcgetattr(terminal.fd)
    session = start(guest, terminal, cancel=cancel)

    cancel.set()

    with pytest.raises(Interrupted):
        session.ending()
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
        attach(guest.path, name=NAME, stdin_fd=terminal.fd, stdout_fd=terminal.fd)
    thread.join()

    assert termios.tcgetattr(terminal.fd) == before
    assert signal.getsignal(number) == handler


def test_a_stopped_terminal_does_not_stop_the_guest(guest: Guest, terminal: Terminal) -> None:
    notices: list[str] = []
    session = start(guest, terminal, notice=notices.append)

    for _ in range(100):  # nobody reads the terminal meanwhile
        guest.say(b"x" * 65536)
    terminal.type(b"still typing")
    guest.hear(b"still typing")
    guest.say(b"THE END")
    terminal.see(b"THE END")
    terminal.type(b"\x1d")

    assert session.ending() is Ending.DETACHED
    assert re.match(r"\d{7} bytes were not shown because the terminal was stopped", notices[0])


def test_one_can_leave_a_guest_that_does_not_read(guest: Guest, terminal: Terminal) -> None:
    session = start(guest, terminal)

    for _ in range(400):
        terminal.type(b"y" * 1000)
    terminal.type(b"\x1d")

    assert session.ending() is Ending.DETACHED


def test_a_pipe_is_sent_whole_and_the_answer_awaited(guest: Guest) -> None:
    (stdin, giving), (taking, stdout) = os.pipe(), os.pipe()
    session = Session(lambda: attach(guest.path, name=NAME, stdin_fd=stdin, stdout_fd=stdout, linger=0.2))
    guest.serve()
    commands = b"uname\n\x1d" + b"z" * 300_000

    def give() -> None:
        with os.fdopen(giving, "wb") as file:
            file.write(commands)

    threading.Thread(target=give, daemon=True).start()
    guest.hear(commands)
    guest.say(b"Linux\n")

    assert session.ending() is Ending.IDLE
    assert os.read(taking, 100) == b"Linux\n"
    for fd in (stdin, taking, stdout):
        os.close(fd)


def test_input_may_be_a_file(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "answers").write_bytes(b"yes\n")
    with (tmp_path / "answers").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        session = Session(
            lambda: attach(guest.path, name=NAME, stdin_fd=stdin.fileno(), stdout_fd=stdout.fileno(), linger=0.05)
        )
        guest.serve()
        guest.hear(b"yes\n")

        assert session.ending() is Ending.IDLE


def test_reading_along_disturbs_nobody(guest: Guest, terminal: Terminal, tmp_path: Path) -> None:
    log = tmp_path / "console-0.log"
    log.write_bytes(b"long ago\n")
    fd = terminal.fd
    with open_console(guest.path, name=NAME):
        reader = Session(lambda: attach(guest.path, name=NAME, stdin_fd=fd, stdout_fd=fd, read_only=True, log=log))
        terminal.wait_until_raw()

        with log.open("ab") as file:
            file.write(b"now\n")
        terminal.see(b"now\n")
        terminal.type(b"typed in vain\x03")

        assert reader.ending() is Ending.DETACHED
    assert terminal.shown == b"now\n"


# one writer


def test_a_second_writer_is_told_who_the_first_is(guest: Guest) -> None:
    with open_console(guest.path, name=NAME), pytest.raises(InUse, match=rf"in use by \S+ \(process {os.getpid()}\)"):
        attach(guest.path, name=NAME)

    open_console(guest.path, name=NAME).close()


def test_a_lock_file_that_a_killed_writer_left_behind_is_no_lock(guest: Guest) -> None:
    guest.path.with_name("1-0.sock.lock").write_text("99999999 nobody\n")

    open_console(guest.path, name=NAME).close()


def test_a_vm_that_does_not_run_has_no_console(guest: Guest, tmp_path: Path) -> None:
    guest.power_off()

    with pytest.raises(Failed, match="vm-1 does not run; vmprov start vm-1"):
        attach(guest.path, name=NAME)
    with pytest.raises(Failed, match="vm-2 does not run"):
        open_console(tmp_path / "2-0.sock", name="vm-2")
    assert not list(tmp_path.glob("*.lock"))


def test_another_program_in_the_queue_is_not_waited_for(guest: Guest) -> None:
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(str(guest.path))
        second.connect(str(guest.path))  # a backlog of 1 holds two

        with pytest.raises(InUse, match="another program"):
            open_console(guest.path, name=NAME)


# by program


@pytest.fixture
def console(guest: Guest) -> Iterator[Console]:
    with open_console(guest.path, name=NAME) as console:
        guest.serve()
        yield console


def test_a_program_waits_for_a_pattern_and_answers(guest: Guest, console: Console) -> None:
    guest.say(b"\x1b[2J\x1b[HDebian\r\r\n\x1b[1mvm-")
    guest.say(b"1\x1b[0m log")
    guest.say(b"in: ")

    match = console.expect(r"(\S+) login: $", timeout=5)
    console.sendline("root")

    assert match[1] == "vm-1"
    assert console.before == "Debian\n"
    guest.hear(b"root\r")


def test_what_was_said_while_nobody_waited_is_not_lost(guest: Guest, console: Console) -> None:
    guest.say(b"x" * 1_000_000 + b"\r\nready\r\nlogin: ")

    assert console.expect("ready\n", timeout=5)
    assert console.expect("login: ", timeout=5)
    assert console.before == ""


def test_a_program_that_is_busy_elsewhere_does_not_stop_the_guest(guest: Guest, console: Console) -> None:
    for _ in range(100):
        guest.say(b"x" * 65536)
    guest.say(b"THE END")

    assert console.expect("THE END", timeout=10)


def test_memory_stays_bounded_however_long_a_wait_is_in_vain(guest: Guest, console: Console) -> None:
    for _ in range(160):
        guest.say(b"x" * 65536)
    with pytest.raises(WaitTimeout):
        console.expect("THE END", timeout=0.3)
    guest.say(b"THE END")

    assert console.expect("THE END", timeout=10)
    assert len(console.before) <= 4 * 1024 * 1024 + 65536


def test_a_timeout_says_what_was_awaited_and_what_was_seen(guest: Guest, console: Console) -> None:
    console.send("hunter2", secret=True)
    guest.say(b"".join(b"line %d\r\n" % number for number in range(10)) + b"login: hunter2")

    with pytest.raises(WaitTimeout) as caught:
        console.expect("Password: ", timeout=0.2)

    assert str(caught.value) == (
        "vm-1: no 'Password: ' on the console within 0.2 s; last seen: line 6 | line 7 | line 8 | line 9 | login: ***"
    )


def test_a_timeout_loses_nothing(guest: Guest, console: Console) -> None:
    guest.say(b"abc")
    with pytest.raises(WaitTimeout):
        console.expect("abcd", timeout=0.1)

    guest.say(b"d")

    assert console.expect("abcd", timeout=5)


def test_power_off_fails_a_wait_at_once(guest: Guest, console: Console) -> None:
    guest.say(b"Power down\r\n")
    guest.power_off()

    with pytest.raises(Failed, match="closed before 'login' was seen; last seen: Power down"):
        console.expect("login", timeout=60)
    with pytest.raises(Failed, match="the console was closed"):
        console.send("hello")


def test_a_closed_console_is_free_and_closing_twice_is_the_same_as_once(guest: Guest) -> None:
    console = open_console(guest.path, name=NAME)
    console.close()
    console.close()

    open_console(guest.path, name=NAME).close()


def test_a_serial_port_is_a_console_too(terminal: Terminal) -> None:
    with open_port(os.ttyname(terminal.fd)) as console:
        terminal.type(b"device login: ")
        console.expect("login: ", timeout=5)
        console.sendline("admin" * 50)
        terminal.see(b"admin" * 50 + b"\r")


def test_anything_that_pyserial_opens_is_a_console() -> None:
    with open_port("loop://") as console:
        console.sendline("echo")
        assert console.expect("echo", timeout=5)


def test_a_serial_port_is_for_one_program(terminal: Terminal) -> None:
    with open_port(os.ttyname(terminal.fd)), pytest.raises(InUse, match="in use by another program"):
        open_port(os.ttyname(terminal.fd))


def test_what_is_no_serial_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="cannot be opened"):
        open_port(str(tmp_path / "ttyUSB9"))
    with pytest.raises(SpecError, match="no such serial port"):
        open_port("nonsense://x")
