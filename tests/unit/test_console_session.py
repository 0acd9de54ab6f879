"""A console in the hands of a program: patterns, answers, commands, secrets, and serial ports."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.uarts import Call, Guest, Shell, Terminal, soon
from vmprov.console import session
from vmprov.console.inputs import inputs_path, read_inputs
from vmprov.console.session import Console, Ran, open_console, open_port
from vmprov.errors import Failed, HostNotReady, InUse, SpecError, WaitTimeout

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
def shell(tmp_path: Path) -> Iterator[Console]:
    guest = Shell(tmp_path)
    with open_console(guest.base, guest.log, name=NAME) as console:
        soon(lambda: b"vm-1# " in guest.log.read_bytes(), "prompt of the shell")
        yield console
    guest.power_off()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def console(guest: Guest) -> Iterator[Console]:
    with open_console(guest.base, guest.log, name=NAME) as console:
        yield console


# patterns


def test_a_program_waits_for_a_pattern_and_answers(guest: Guest, console: Console) -> None:
    guest.say(b"\x1b[2J\x1b[HDebian\r\r\n\x1b[1mvm-")
    guest.say(b"1\x1b[0m log")
    guest.say(b"in: ")

    match = console.expect(r"(\S+) login: $", timeout=20)
    console.sendline("root")

    assert match[1] == "vm-1"
    assert console.before == "Debian\n"
    guest.hear(b"root\r")


def test_of_several_patterns_that_counts_which_is_seen_first(guest: Guest, console: Console) -> None:
    guest.say(b"vm-1 login: root\r\nPassword: ")

    assert console.expect(["Password: ", re.compile("(log)in: "), "incorrect"], timeout=20) == 1
    assert (console.before, console.after, console.match and console.match[1]) == ("vm-1 ", "login: ", "log")
    assert console.expect(["incorrect", "Password: "]) == 1
    assert console.before == "root\n"
    with pytest.raises(WaitTimeout, match="no 'incorrect' or '# ' on the console"):
        console.expect(["incorrect", "# "], timeout=0.1)
    with pytest.raises(SpecError):
        console.expect([], timeout=0.1)


def test_what_was_said_before_the_console_was_opened_is_history(guest: Guest) -> None:
    guest.say(b"long ago\r\n")
    with open_console(guest.base, guest.log, name=NAME) as console:
        guest.say(b"now\r\n")
        console.expect("now", timeout=20)

    assert console.before == ""


def test_what_was_said_while_nobody_waited_is_not_lost(guest: Guest, console: Console) -> None:
    guest.say(b"x" * 1_000_000 + b"\r\nready\r\nlogin: ")

    assert console.expect("ready\n", timeout=20)
    assert console.expect("login: ", timeout=20)
    assert console.before == ""


def test_memory_stays_bounded_however_long_a_wait_is_in_vain(guest: Guest, console: Console) -> None:
    for _ in range(160):
        guest.say(b"x" * 65536)
    with pytest.raises(WaitTimeout):
        console.expect("THE END", timeout=0.3)
    guest.say(b"THE END")

    assert console.expect("THE END", timeout=20)
    assert len(console.before) <= 4 * 1024 * 1024 + 65536


def test_a_timeout_says_what_was_awaited_and_what_was_seen(guest: Guest, console: Console) -> None:
    guest.say(b"".join(b"line %d\r\n" % number for number in range(10)) + b"login: ")
    console.expect("login: ", timeout=20)

    with pytest.raises(WaitTimeout) as caught:
        console.expect("Password: ", timeout=0.2)

    awaited, _, seen = str(caught.value).partition("; ")
    assert re.fullmatch(r"vm-1: no 'Password: ' on the console within \d+\.\d s", awaited)
    assert seen == "last seen: line 6 | line 7 | line 8 | line 9 | login: "


def test_a_timeout_of_a_silent_guest_says_so(console: Console) -> None:
    with pytest.raises(WaitTimeout, match=r"no 'login' on the console within \d+\.\d s; nothing was seen\Z"):
        console.expect("login", timeout=0.05)


def test_a_timeout_loses_nothing(guest: Guest, console: Console) -> None:
    guest.say(b"abc")
    with pytest.raises(WaitTimeout):
        console.expect("abcd", timeout=0.1)

    guest.say(b"d")

    assert console.expect("abcd", timeout=20)


# commands


def test_a_command_is_run_in_a_shell_and_its_exit_code_told(shell: Console) -> None:
    assert shell.run("echo hello; (exit 3)", timeout=20) == Ran(code=3, output="hello\n")
    assert shell.run("true", timeout=20) == Ran(code=0, output="")


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("printf 'no end of line'", "no end of line"),
        ("printf '\\n\\n'", "\n\n"),
        ("echo \"it's\" 'a \"test\"' '$HOME' \\\\", 'it\'s a "test" $HOME \\\n'),
        ("printf 'end-'; printf '%s\\n' 'begin-'", "end-begin-\n"),
        ("echo ünï", "ünï\n"),
        ("echo " + "x" * 3800, "x" * 3800 + "\n"),
        ("for i in 1 2; do\n echo $i\ndone", "1\n2\n"),
    ],
)
def test_what_a_command_printed_is_told_as_it_is(shell: Console, command: str, output: str) -> None:
    assert shell.run(command, timeout=20) == Ran(code=0, output=output)


def test_a_command_keeps_what_it_changed_in_the_shell(shell: Console) -> None:
    shell.run("cd /; answer=42", timeout=20)

    assert shell.run("pwd; echo $answer", timeout=20).output == "/\n42\n"


def test_the_mark_of_a_command_is_not_found_in_its_own_echo(guest: Guest, console: Console) -> None:
    guest.echo = lambda typed: typed.replace(b"\r", b"\r\n")  # it shows what is typed, and runs nothing

    with pytest.raises(WaitTimeout, match="begin-"):
        console.run("true", timeout=0.5)

    assert b"printf" in guest.typed


def test_a_command_that_takes_too_long_is_not_waited_for(shell: Console) -> None:
    with pytest.raises(WaitTimeout, match=r"no '\\n(begin|end)-"):
        shell.run("sleep 60", timeout=0.5)


def test_a_command_longer_than_a_terminals_line_is_refused(console: Console, guest: Guest) -> None:
    with pytest.raises(SpecError, match="a command of 5000 characters is too long"):
        console.run("x" * 5000)
    console.send("after")
    guest.hear(b"after")

    assert guest.typed == b"after"


# secrets


def test_a_secret_is_in_no_error_and_no_record_even_where_the_guest_echoes_it(guest: Guest, console: Console) -> None:
    guest.echo = lambda typed: typed
    console.sendline("root")
    console.sendline("hunter2", secret=True)
    console.expect("hunter2", timeout=20)

    with pytest.raises(WaitTimeout) as caught:
        console.expect("Welcome", timeout=0.1)
    guest.power_off()
    with pytest.raises(Failed) as ended:
        console.expect("Welcome", timeout=20)

    for error in (caught.value, ended.value):
        assert "***" in str(error)
        assert "hunter2" not in "".join(traceback.format_exception(error))
    assert [(entry.text, entry.hidden) for entry in read_inputs(guest.log)] == [("root\r", False), ("", True)]
    assert b"hunter2" not in inputs_path(guest.log).read_bytes()


@pytest.mark.parametrize(
    "question", [b"Password: ", b"[sudo] password for root: ", b"Enter passphrase for key '/root/id': ", b"PIN> "]
)
def test_what_is_typed_at_a_question_for_a_secret_is_not_recorded(guest: Guest, question: bytes) -> None:
    with open_console(guest.base, guest.log, name=NAME) as console:
        guest.say(b"vm-1 login: root\r\n" + question)
        console.expect("root\n", timeout=20)
        console.sendline("hunter2")

    assert [(entry.text, entry.hidden) for entry in read_inputs(guest.log)] == [("", True)]


def test_a_record_says_who_typed_when_and_where(guest: Guest, console: Console) -> None:
    guest.say(b"12345")
    console.sendline("one")

    entry = read_inputs(guest.log)[0]
    assert (entry.by, entry.offset) == (open_user(), 5)
    assert entry.wall > 1_700_000_000


def open_user() -> str:
    from vmprov.console.links import who

    return who()


def test_a_record_whose_end_was_cut_off_is_read_up_to_there(guest: Guest, console: Console) -> None:
    console.send("one")
    path = inputs_path(guest.log)
    with path.open("ab") as file:
        file.write(b'{"wall": 1.0, "off')

    assert [entry.text for entry in read_inputs(guest.log)] == ["one"]


# several threads and programs


def test_one_thread_waits_while_another_types(guest: Guest, console: Console) -> None:
    guest.echo = lambda typed: b"pong\r\n" if b"ping" in typed else b""
    waiting = Call(lambda: console.expect("pong", timeout=20)[0])

    console.send("ping")

    assert waiting.result() == "pong"


def test_threads_that_wait_at_once_wait_one_after_the_other(guest: Guest, console: Console) -> None:
    waiting = [Call(lambda: console.expect(r"<\d>", timeout=20)[0]) for _ in range(5)]

    guest.say(b"<0><1><2><3><4>")

    assert {call.result() for call in waiting} == {f"<{number}>" for number in range(5)}


def test_what_several_threads_type_is_not_mixed_up(guest: Guest, console: Console) -> None:
    lines = [str(number) * 6000 for number in range(5)]
    for call in [Call(lambda line=line: console.sendline(line)) for line in lines]:  # type: ignore[misc]
        call.result()
    soon(lambda: guest.typed.count(b"\r") == 5, "five lines typed")

    assert sorted(guest.typed.decode().split("\r")) == ["", *lines]


def test_a_program_that_was_stolen_from_is_told_at_once_and_types_nothing_more(guest: Guest, console: Console) -> None:
    waiting = Call(lambda: console.expect("never", timeout=600))
    console.send("before;")
    guest.hear(b"before;")

    with open_console(guest.base, guest.log, name=NAME, steal=True) as thief:
        with pytest.raises(InUse, match=rf"taken over by \S+ \(process {os.getpid()}\)"):
            console.send("after;")
        with pytest.raises(InUse, match="taken over by"):
            waiting.result()
        with pytest.raises(InUse, match="taken over by"):
            console.expect("never", timeout=600)
        thief.send("mine")
        guest.hear(b"mine")

    assert guest.typed == b"before;mine"


def test_closing_ends_the_wait_of_another_thread(console: Console) -> None:
    waiting = Call(lambda: console.expect("never", timeout=600))

    console.close()

    with pytest.raises(Failed, match="the console was closed before 'never' was seen"):
        waiting.result()


def test_a_closed_console_is_free_and_closing_twice_is_the_same_as_once(guest: Guest) -> None:
    console = open_console(guest.base, guest.log, name=NAME)
    console.close()
    console.close()

    open_console(guest.base, guest.log, name=NAME).close()


# a guest that is not there, or does not listen


def test_power_off_fails_a_wait_at_once(guest: Guest, console: Console) -> None:
    guest.say(b"Power down\r\n")
    guest.power_off()

    with pytest.raises(Failed, match="closed before 'login' was seen; last seen: Power down"):
        console.expect("login", timeout=600)
    with pytest.raises(Failed, match="the console was closed; last seen: Power down"):
        console.send("hello")


def test_a_guest_that_reads_nothing_fails_what_is_typed(deaf: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SEND_LIMIT", 0.2)
    with open_console(deaf.base, deaf.log, name=NAME) as console:
        deaf.say(b"busy\r\n")
        console.expect("busy\n", timeout=20)

        with pytest.raises(WaitTimeout, match="vm-1: the guest read no input for 0 s; last seen: busy"):
            console.send("x" * 1_000_000)


def test_a_guest_that_reads_slowly_gets_all_of_it(guest: Guest, console: Console) -> None:
    text = "".join(f"{number}\r" for number in range(60_000))

    console.send(text)

    soon(lambda: len(guest.typed) == len(text), "all of it typed")
    assert guest.typed == text.encode()


# serial ports


def test_a_serial_port_is_a_console_too(terminal: Terminal) -> None:
    with open_port(os.ttyname(terminal.fd)) as console:
        terminal.type(b"device login: ")
        console.expect("login: ", timeout=20)
        console.sendline("admin" * 50)
        terminal.see(b"admin" * 50 + b"\r")


def test_anything_that_pyserial_opens_is_a_console() -> None:
    with open_port("loop://") as console:
        console.sendline("echo")
        assert console.expect("echo", timeout=20)


def test_a_serial_port_is_for_one_program(terminal: Terminal) -> None:
    with open_port(os.ttyname(terminal.fd)), pytest.raises(InUse, match="in use by another program"):
        open_port(os.ttyname(terminal.fd))


def test_a_serial_port_that_is_unplugged_fails_a_wait_at_once(terminal: Terminal) -> None:
    with open_port(os.ttyname(terminal.fd)) as console:
        terminal.type(b"last words")
        console.expect("last", timeout=20)
        terminal.hang_up()

        with pytest.raises(Failed, match="closed before 'never' was seen; last seen: last words"):
            console.expect("never", timeout=600)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/dev/none", "no such file or directory"),
        ("/dev/null", "inappropriate ioctl for device"),
        ("rfc2217://127.0.0.1:1", "connection refused"),
        ("socket://127.0.0.1:1", "connection refused"),
    ],
)
def test_a_port_that_cannot_be_opened_is_told_with_the_reason_alone(url: str, why: str) -> None:
    with pytest.raises(HostNotReady) as refused:
        open_port(url)

    assert str(refused.value) == f"the serial port {url} cannot be opened: {why}"


def test_what_is_no_serial_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="cannot be opened"):
        open_port(str(tmp_path / "ttyUSB9"))
    with pytest.raises(SpecError, match="no such serial port"):
        open_port("nonsense://x")
