"""What stands at the other side of a console in the unit tier: guests on FIFOs, people in front of terminals."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from vmprov.console.index import Mark, Moment, TimesWriter, encode, machine_run
from vmprov.console.ports import input_path, make_port
from vmprov.errors import VmprovError
from vmprov.waiting import Deadline, wait_until

T = TypeVar("T")

# Seconds after which something that should happen at once is not believed to come any more.
SOON = 20.0


def soon(probe: Callable[[], T | None], what: str) -> T:
    """Wait for what should be true in a moment."""
    return wait_until(probe, Deadline(SOON), what, interval=0.005)


def add(path: Path, data: bytes) -> None:
    """Append, as QEMU does."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


class Capturing:
    """A capture with times as the keeper would write them."""

    def __init__(self, log: Path, *, machine: int | None = None) -> None:
        self.log = log
        self.size = 0
        self._times = TimesWriter(log)
        self.note(Mark.MACHINE, machine_run() if machine is None else machine)

    def note(self, mark: Mark, offset: int, wall: float = 0.0, mono: float = 0.0, number: int = 0) -> None:
        assert self._times.write(encode(mark, offset, Moment(wall, mono), number))

    def say(self, data: bytes, wall: float, mono: float | None = None) -> int:
        """The guest says something that is seen at that time; returns at which offset."""
        start = self.size
        add(self.log, data)
        self.size += len(data)
        self.note(Mark.SEEN, self.size, wall, wall if mono is None else mono)
        return start


class Guest:
    """QEMU's side of one UART: what is typed comes from a FIFO, what the guest says is appended to the capture."""

    def __init__(self, directory: Path, *, deaf: bool = False) -> None:
        """``deaf``: it runs, but reads nothing."""
        self.base = directory / "run" / "1-0"
        self.log = directory / "console-0.log"
        make_port(self.base, self.log)
        self.typed = b""
        self.echo: Callable[[bytes], bytes] = lambda _typed: b""
        self._deaf = deaf
        self._fifo = -1
        self.power_on()

    def power_on(self) -> None:
        self._fifo = os.open(input_path(self.base), os.O_RDWR | os.O_NONBLOCK)
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            listening = [self._wake] if self._deaf else [self._wake, self._fifo]
            ready = select.select(listening, [], [])[0]
            if self._wake in ready:
                return
            typed = os.read(self._fifo, 65536)
            self.typed += typed
            self.say(self.echo(typed))

    def say(self, data: bytes) -> None:
        add(self.log, data)

    def hear(self, wanted: bytes) -> None:
        soon(lambda: wanted in self.typed, f"{wanted[:60]!r} typed")

    def power_off(self) -> None:
        if self._fifo < 0:
            return
        os.write(self._waker, b"x")
        self._thread.join()
        for fd in (self._fifo, self._wake, self._waker):
            os.close(fd)
        self._fifo = -1

    @property
    def lock(self) -> Path:
        return self.base.with_name("1-0.lock")


class Shell(Guest):
    """A guest with a real shell on a real terminal."""

    def __init__(self, directory: Path) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["sh", "-i"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=directory,
            env={"PS1": "vm-1# ", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        os.close(slave)
        super().__init__(directory)
        self.echo = self._press
        self._printer = threading.Thread(target=self._print, daemon=True)
        self._printer.start()

    def _press(self, typed: bytes) -> bytes:
        while typed:
            typed = typed[os.write(self._master, typed) :]
        return b""

    def _print(self) -> None:
        while True:
            try:
                printed = os.read(self._master, 65536)
            except OSError:  # EIO: the shell has ended
                return
            self.say(printed)

    def power_off(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._printer.join(SOON)
        super().power_off()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


class Terminal:
    """A pseudo-terminal: ``fd`` for the program under test, ``master`` for the person in front of it."""

    def __init__(self) -> None:
        self.master, self.fd = pty.openpty()
        self.shown = b""

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def see(self, wanted: bytes) -> None:
        deadline = Deadline(SOON)
        while wanted not in self.shown:
            assert select.select([self.master], [], [], deadline.left)[0], f"only {self.shown[-200:]!r}"
            self.shown += os.read(self.master, 65536)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def wait_until_raw(self) -> None:
        soon(lambda: self.is_raw, "raw mode")

    def hang_up(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.fd)


class Call(Generic[T]):
    """A call in a thread, with what it returned or raised."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: list[T] = []
        self._problem: VmprovError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._call())
        except VmprovError as problem:
            self._problem = problem

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        self._thread.join(SOON)
        assert self.ended
        if self._problem:
            raise self._problem
        return self._result[0]


def a_while(seconds: float = 0.3) -> None:
    """Give something that must not happen the time to happen; a slow machine makes such a test weaker, never red."""
    time.sleep(seconds)
