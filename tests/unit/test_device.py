"""A real board's serial port, played by a pseudo-terminal: captured, judged, typed on, unplugged."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.test_cli import Cli, Ran
from tests.unit.uarts import SOON, Call, Terminal, soon
from vmprov import Settings, Vmprov
from vmprov.console.capture import Capture
from vmprov.console.inputs import inputs_path, read_inputs
from vmprov.console.lines import Selection, captured
from vmprov.console.session import open_port
from vmprov.engine.judging.device import device_name, watch_port
from vmprov.errors import Failed, HostNotReady, InUse, SpecError
from vmprov.flows.grammar import Flow
from vmprov.flows.load import parse_flow
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.paths import Home
from vmprov.waiting import Cancel

FLOW = """
flow: board
settle: 100ms
secrets:
  password: {env: BOARD_PASSWORD, ask: Password of the board}
stages:
  - stage: bootloader
    optional: true
    expect:
      - "U-Boot 20"
  - stage: login
    expect:
      - prompt: "login:"
        send: root
  - stage: password
    expect:
      - prompt: "Kennwort:"
        send: [{secret: password}]
  - stage: shell
    expect:
      - prompt: "#"
"""


class Board:
    """What is at the other end of the cable; answers what it is sent."""

    def __init__(self) -> None:
        self.terminal = Terminal()
        self.url = os.ttyname(self.terminal.fd)
        self.typed = b""
        self.answers: dict[bytes, bytes] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def on(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.typed += os.read(self.terminal.master, 4096)
            except OSError:
                return
            for asked, answer in list(self.answers.items()):
                if self.typed.endswith(asked):
                    del self.answers[asked]
                    self.say(answer)

    def say(self, data: bytes) -> None:
        os.write(self.terminal.master, data)

    def unplug(self) -> None:
        assert not self._thread.is_alive()  # or it would read from whatever has its number next
        self.terminal.hang_up()

    def off(self) -> None:
        if self._thread.is_alive():
            self._stopping = True
            os.write(self.terminal.fd, b"off")  # to wake it
            self._thread.join(SOON)
        self.terminal.close()


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.off()


@pytest.fixture
def flow() -> Flow:
    return parse_flow(FLOW, "board.yaml")


Watched = tuple[Verdict, tuple[StageTime, ...], Path]


class Watching:
    """A port that is watched in a thread."""

    def __init__(
        self, home: Home, url: str, flow: Flow, *, limit: float | None = None, password: str = "hunter2"
    ) -> None:
        self.entered: list[str] = []
        self.cancel = Cancel()
        self.log = home.device(device_name(url)) / "console-0.log"
        self._call: Call[Watched] = Call(
            lambda: watch_port(
                home, url, 115200, flow, secrets={"password": SecretStr(password)}, cancel=self.cancel, limit=limit,
                entered=lambda stage, _at: self.entered.append(stage),
            )
        )  # fmt: skip
        soon(lambda: self.entered or self._call.ended, "first stage")

    def result(self) -> Watched:
        return self._call.result()

    def captured(self, data: bytes) -> None:
        soon(lambda: data in self.log.read_bytes(), f"{data!r} in the capture")


@pytest.fixture
def watch(home: Home, flow: Flow) -> Callable[..., Watching]:
    def watch(url: str, **words: Any) -> Watching:
        return Watching(home, url, words.pop("flow", flow), **words)

    return watch


def board_that_lets_in(board: Board) -> None:
    board.answers = {b"root\r": b"root\r\nKennwort: ", b"hunter2\r": b"\r\nWelcome!\r\n# "}
    board.on()


def test_a_board_that_is_logged_into_is_a_success(board: Board, watch: Callable[..., Watching]) -> None:
    board_that_lets_in(board)
    watching = watch(board.url)
    board.say(b"U-Boot 2030.01\r\nboard login: ")

    verdict, timeline, log = watching.result()

    assert str(verdict) == "success"
    assert watching.entered == ["bootloader", "login", "password", "shell"]
    assert [(stay.stage, stay.outcome) for stay in timeline] == [
        ("bootloader", "passed"), ("login", "passed"), ("password", "passed"), ("shell", "passed"),
    ]  # fmt: skip
    assert log == watching.log
    assert board.typed == b"root\rhunter2\r"
    assert log.read_bytes() == b"U-Boot 2030.01\r\nboard login: root\r\nKennwort: \r\nWelcome!\r\n# "
    lines = list(captured("board", Capture(log), Selection()))
    assert [line.text for line in lines] == ["U-Boot 2030.01", "board login: root", "Kennwort: ", "Welcome!", "# "]
    assert all(line.moment.current for line in lines)
    assert lines[0].moment.mono < lines[-1].moment.mono


def test_what_is_secret_is_typed_and_nowhere_written_down(board: Board, watch: Callable[..., Watching]) -> None:
    board_that_lets_in(board)
    watching = watch(board.url)
    board.say(b"board login: ")
    watching.result()

    entries = read_inputs(watching.log)
    assert [(entry.text, entry.secret, entry.by) for entry in entries] == [
        ("root", "", "flow board"), ("", "password", "flow board"),
    ]  # fmt: skip
    assert inputs_path(watching.log).exists()
    files = [path for path in watching.log.parent.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert [path.name for path in files if b"hunter2" in path.read_bytes()] == []
    assert [path.name for path in files if path.stat().st_mode & 0o077 and path.suffix != ".lock"] == []


def test_a_secret_that_the_board_echoes_is_in_no_verdict(board: Board, watch: Callable[..., Watching]) -> None:
    board.answers = {b"root\r": b"root\r\nKennwort: ", b"hunter2\r": b"hunter2\r\nno 'hunter2' here\r\n"}
    board.on()
    watching = watch(board.url, limit=3.0)
    board.say(b"board login: ")

    verdict, _, _ = watching.result()

    assert verdict.kind == "timeout"
    assert "hunter2" not in str(verdict.to_json())
    assert "no '***' here" in verdict.last_lines


def test_a_board_that_says_nothing_is_timed_out(board: Board, watch: Callable[..., Watching]) -> None:
    verdict, timeline, _ = watch(board.url, limit=0.3).result()

    assert str(verdict) == "timeout(bootloader)"
    assert "waited" in verdict.why
    assert [(stay.stage, stay.outcome) for stay in timeline] == [("bootloader", "timeout")]


def test_a_board_that_panics_has_failed_with_the_evidence(board: Board, watch: Callable[..., Watching]) -> None:
    watching = watch(board.url)
    said = b"U-Boot 2030.01\r\n"
    board.say(said + b"[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n")

    verdict, timeline, log = watching.result()

    assert str(verdict) == "failed(kernel-panic)"
    assert "Unable to mount root fs" in verdict.evidence
    assert verdict.offset == len(said)
    assert timeline[-1].outcome == "failed"
    assert json.loads((log.parent / "timeline.json").read_text())[-1]["outcome"] == "failed"
    assert json.loads((log.parent / "judged.json").read_text()) == {"0": log.stat().st_size}


def test_a_capture_goes_on_where_it_ended_and_only_what_is_new_is_judged(
    board: Board, watch: Callable[..., Watching]
) -> None:
    first = watch(board.url)
    board.say(b"[    1.5] Kernel panic - not syncing: VFS\r\n")
    assert first.result()[0].kind == "failed"

    board_that_lets_in(board)
    second = watch(board.url)
    board.say(b"board login: ")
    verdict, _, log = second.result()

    assert verdict.kind == "success"
    assert log.read_bytes().startswith(b"[    1.5] Kernel panic - not syncing: VFS\r\nboard login: ")
    assert [line.text for line in captured("board", Capture(log), Selection())][:2] == [
        "[    1.5] Kernel panic - not syncing: VFS", "board login: root",
    ]  # fmt: skip


def test_a_port_that_another_program_has_is_busy_and_left_alone(board: Board, watch: Callable[..., Watching]) -> None:
    with open_port(board.url) as console:
        with pytest.raises(InUse, match=f"the serial port {board.url} is in use by another program"):
            watch(board.url).result()
        board.say(b"still mine")
        console.expect("still mine", timeout=SOON)


def test_a_port_is_free_again_after_the_verdict(board: Board, watch: Callable[..., Watching]) -> None:
    watch(board.url, limit=0.1).result()

    open_port(board.url).close()


def test_a_port_that_is_unplugged_is_told_after_its_last_words(board: Board, watch: Callable[..., Watching]) -> None:
    watching = watch(board.url)
    board.say(b"U-Boot 2030.01\r\nlast words")
    watching.captured(b"last words")
    board.unplug()

    with pytest.raises(Failed, match=f"the serial port {board.url} is gone; see whether it is still plugged in"):
        watching.result()
    assert watching.entered == ["bootloader", "login"]


def test_a_port_that_is_unplugged_while_the_flow_types_is_gone_too(
    board: Board, watch: Callable[..., Watching]
) -> None:
    flow = parse_flow(
        "flow: talkative\nsettle: 50ms\nstages:\n"
        "  - stage: one\n    expect:\n      - prompt: 'login:'\n        send: [a, {pause: 500ms}, b]\n"
        "  - stage: two\n    expect: never\n",
        "talkative.yaml",
    )
    watching = watch(board.url, flow=flow)
    board.say(b"login: ")
    board.terminal.see(b"a\r")
    board.unplug()

    with pytest.raises(Failed, match="is gone"):
        watching.result()


def test_what_is_no_port_is_refused(watch: Callable[..., Watching], tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="cannot be opened"):
        watch(str(tmp_path / "ttyUSB9")).result()
    with pytest.raises(SpecError, match="no such serial port"):
        watch("nonsense://x").result()


def test_a_cancelled_watch_is_cancelled(board: Board, watch: Callable[..., Watching]) -> None:
    watching = watch(board.url)
    board.say(b"U-Boot 2030.01\r\n")
    soon(lambda: watching.entered == ["bootloader", "login"], "second stage")

    watching.cancel.set()
    verdict, timeline, _ = watching.result()

    assert str(verdict) == "cancelled"
    assert [(stay.stage, stay.outcome) for stay in timeline] == [("bootloader", "passed"), ("login", "cancelled")]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/dev/ttyUSB0", "dev-ttyusb0"),
        ("rfc2217://board.example:4001?ign_set_control", "rfc2217-board-example-4001-ign-set-control"),
        ("socket://[::1]:7", "socket-1-7"),
    ],
)
def test_a_port_has_a_name_that_a_directory_can_have(url: str, name: str) -> None:
    assert device_name(url) == name


# the command and the library


@pytest.fixture
def flow_file(tmp_path: Path) -> Path:
    (tmp_path / "board.yaml").write_text(FLOW)
    return tmp_path / "board.yaml"


@pytest.fixture
def command(home: Home, flow_file: Path) -> Iterator[Callable[..., Ran]]:
    """``vmprov watch --port``; it may install signal handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command(url: str, *words: str, typed: str = "", **environ: str) -> Ran:
        secrets = {"BOARD_PASSWORD": "", **environ}
        return Cli(home)("watch", "--port", url, "--flow", str(flow_file), *words, typed=typed, **secrets)

    yield command
    for number, handler in before.items():
        signal.signal(number, handler)


def answering(board: Board, home: Home) -> threading.Thread:
    """The board is switched on once somebody watches."""

    def switch_on() -> None:
        soon(lambda: (home.device(device_name(board.url)) / "watch.lock").exists(), "watcher")
        board.say(b"board login: ")

    board_that_lets_in(board)
    thread = threading.Thread(target=switch_on)
    thread.start()
    return thread


def test_the_command_tells_the_verdict_as_json_and_no_secret(
    board: Board, home: Home, command: Callable[..., Ran]
) -> None:
    thread = answering(board, home)

    ran = command(board.url, "--json", BOARD_PASSWORD="hunter2")

    thread.join()
    told = ran.json
    assert ran.code == 0
    assert (told["port"], told["flow"], told["verdict"]) == (board.url, "board", "success")
    assert [stay["stage"] for stay in told["stages"]] == ["bootloader", "login", "password", "shell"]
    assert told["log"] == str(home.device(device_name(board.url)) / "console-0.log")
    assert board.typed.endswith(b"hunter2\r")
    assert "hunter2" not in ran.out + ran.err
    assert "login" in ran.err


def test_the_command_asks_nobody_where_there_is_no_terminal(board: Board, command: Callable[..., Ran]) -> None:
    ran = command(board.url, typed="hunter2\n")

    assert (ran.code, ran.out) == (2, "")
    assert "BOARD_PASSWORD is not set and nobody can be asked" in ran.err


def test_the_command_exits_with_1_when_the_time_is_up_and_says_why(board: Board, command: Callable[..., Ran]) -> None:
    ran = command(board.url, "--timeout", "300ms", BOARD_PASSWORD="hunter2")

    assert ran.code == 1
    assert ran.out.startswith(f"{board.url}: timeout(bootloader): waited")


def test_the_command_says_that_a_port_is_busy(board: Board, command: Callable[..., Ran]) -> None:
    with open_port(board.url):
        ran = command(board.url, BOARD_PASSWORD="hunter2")

    assert ran.code == 1
    assert "is in use by another program" in ran.err


@pytest.mark.parametrize(
    ("words", "why"),
    [(("vm-1",), "name no machine"), (("--follow",), "leave -f out"), (("--timeout", "soon"), "--timeout")],
)
def test_the_command_refuses_what_does_not_go_with_a_port(
    board: Board, command: Callable[..., Ran], words: tuple[str, ...], why: str
) -> None:
    ran = command(board.url, *words, BOARD_PASSWORD="hunter2")

    assert ran.code == 2
    assert why in ran.err


def test_the_library_watches_a_port_too(board: Board, settings: Settings, flow_file: Path) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "hunter2"

    with Vmprov(settings, ask=ask) as vmprov:
        thread = answering(board, vmprov.home)
        found = vmprov.watch_port(board.url, flow=str(flow_file))
        thread.join()

    assert (found.kind, found.verdict) == ("success", "success")
    assert len(asked) == 1
    assert "hunter2" not in json.dumps(found.to_json())
