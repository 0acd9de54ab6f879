"""A console in the hands of a program: wait for a pattern, type something."""

from __future__ import annotations

import io
import re
import secrets
import shlex
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, overload

import pexpect
from pexpect.spawnbase import SpawnBase

from vmprov.console.inputs import InputLog
from vmprov.console.links import POLL, SEND_LIMIT, Link, open_link, open_uart, who
from vmprov.console.text import LineReader, Stripper
from vmprov.errors import Failed, InUse, SpecError, WaitTimeout
from vmprov.waiting import Deadline

# Characters kept for a program that does not wait for them, or not for these.
_MOST_KEPT = 4 * 1024 * 1024
# Characters handed over in one go; what pexpect gets at once must fit into the window below.
_BLOCK = 16 * 1024
# Characters up to which small pieces are put together.
_PIECE = 1024
# Characters at the end of the output within which a pattern must fit.
_PATTERN_WINDOW = 64 * 1024
_LAST_LINES = 5
# Characters of a line that every terminal driver takes (N_TTY_BUF_SIZE is 4096).
_LONGEST_COMMAND = 4000

Several: TypeAlias = list[str] | list[re.Pattern[str]] | list[str | re.Pattern[str]]
Patterns: TypeAlias = str | re.Pattern[str] | Several

if TYPE_CHECKING:
    _Spawn = SpawnBase[str]
else:  # generic for type checkers only
    _Spawn = SpawnBase


class _Drain(_Spawn):
    """Reads a link all the time, whether or not anybody waits for anything, and hands the text to pexpect."""

    _before: io.StringIO

    def __init__(self, link: Link) -> None:
        super().__init__(
            timeout=None, maxread=_BLOCK, searchwindowsize=_PATTERN_WINDOW, encoding="utf-8", codec_errors="replace"
        )
        self._link = link
        self._kept: deque[str] = deque()
        self._size = 0
        self._ended = False
        self.problem: InUse | None = None
        self._stripper = Stripper()
        self._reader = LineReader()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="console-drain", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        held = ""
        while not self._ended:
            try:
                data = self._link.receive(POLL)
            except InUse as problem:  # somebody has taken over
                self.problem = problem
                data = b""
            if data is None:
                continue
            # Patterns are written for lines that end in a line feed alone; it may be yet to come.
            text = held + (self._stripper.feed(data) if data else self._stripper.finish())
            whole = text.rstrip("\r") if data else text
            held = text[len(whole) :]
            with self._change:
                self._lines.extend(self._reader.feed(data))
                self._keep(re.sub(r"\r+\n", "\n", whole))
                self._ended = self._ended or not data
                self._change.notify()

    def _keep(self, text: str) -> None:
        # Guests print a few bytes at a time; four million pieces of one character would weigh far more than that.
        if self._kept and len(self._kept[-1]) + len(text) <= _PIECE:
            self._kept[-1] += text
        else:
            self._kept.extend(text[start : start + _BLOCK] for start in range(0, len(text), _BLOCK))
        self._size += len(text)
        while self._size > _MOST_KEPT:
            self._size -= len(self._kept.popleft())

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:  # noqa: ARG002 - pieces are small
        with self._change:
            if not self._change.wait_for(lambda: self._kept or self._ended, timeout):
                raise pexpect.TIMEOUT("nothing arrived")
            if not self._kept:
                raise pexpect.EOF("the other side is gone")
            text = self._kept.popleft()
            self._size -= len(text)
        self._forget()
        return text

    def _forget(self) -> None:
        """Let go of the beginning of what was read in vain; pexpect itself would keep it for ever."""
        read: io.StringIO = self._before
        if read.tell() > _MOST_KEPT:
            end = read.getvalue()[-_PATTERN_WINDOW:]
            self._before = io.StringIO()
            self._before.write(end)

    def last_lines(self) -> list[str]:
        with self._change:
            lines = [*self._lines, self._reader.pending]
        return [line for line in lines if line.strip()][-_LAST_LINES:]

    def close(self) -> None:
        with self._change:
            self._ended = True
            self._change.notify_all()
        self._thread.join()
        self._link.close()


@dataclass(frozen=True)
class Ran:
    """How a command ended that was run over a serial console: its exit code, and what it printed on the terminal."""

    code: int
    output: str


class Console:
    """A console in the hands of a program; a context manager that gives it back.

    It reads all the time, so a program that is busy elsewhere never stops the guest. Up to 4 MiB that nobody
    has waited for are kept. Patterns see text without escape sequences, with lines that end in ``\\n``.
    """

    def __init__(self, link: Link, name: str, inputs: InputLog | None = None) -> None:
        """``inputs``: where to record what is sent."""
        self.name = name
        self.before = ""
        self.after = ""
        self.match: re.Match[str] | None = None
        self._link = link
        self._inputs = inputs
        self._drain = _Drain(link)
        self._secrets: list[str] = []
        self._closed = False
        # One thread may wait while another one types.
        self._expecting = threading.RLock()
        self._sending = threading.RLock()
        self._pause = threading.Event()

    @overload
    def expect(self, pattern: str | re.Pattern[str], timeout: float = 30.0) -> re.Match[str]: ...
    @overload
    def expect(self, pattern: Several, timeout: float = 30.0) -> int: ...
    def expect(self, pattern: Patterns, timeout: float = 30.0) -> re.Match[str] | int:
        """Wait for a regular expression in what was not matched before, and return the match.

        Of several expressions, that counts which matches first in what arrives, and of those that match at one place
        the first one of the list, as with pexpect; then its index is returned. ``before`` is the text up to the match,
        ``match`` the match, ``after`` its text; what comes behind it is left for the next call.
        A match is at most 64 KiB long, and ``timeout`` in seconds.
        Raises :class:`WaitTimeout` with the last lines, :class:`Failed` if the console is gone.
        """
        with self._expecting:
            if isinstance(pattern, str | re.Pattern):
                return self._expect([pattern], timeout)[1]
            return self._expect(list(pattern), timeout)[0]

    def _expect(self, patterns: list[str | re.Pattern[str]], timeout: float) -> tuple[int, re.Match[str]]:
        if not patterns:
            raise SpecError("there is no pattern to wait for")
        shown = " or ".join(repr(one if isinstance(one, str) else one.pattern) for one in patterns)
        start = time.monotonic()
        try:
            index = self._drain.expect([*patterns], timeout=timeout)
        except pexpect.TIMEOUT as problem:
            spent = time.monotonic() - start
            raise WaitTimeout(
                f"{self.name}: no {shown} on the console within {spent:.1f} s; {self._said()}"
            ) from problem
        except pexpect.EOF as problem:
            if self._drain.problem:
                raise self._drain.problem from problem
            raise Failed(f"{self.name}: the console was closed before {shown} was seen; {self._said()}") from problem
        self.before = self._drain.before or ""
        match = self._drain.match
        assert isinstance(match, re.Match)
        self.match, self.after = match, match[0]
        return index, match

    def send(self, text: str, *, secret: bool = False) -> None:
        """Type ``text``; a ``secret`` is not shown in any message, even where the guest echoes it.

        Raises :class:`WaitTimeout` if the guest reads nothing for 10 s, :class:`Failed` if the console is gone.
        """
        with self._sending:
            if secret and text.strip():
                self._secrets.append(text.strip())
            if self._inputs:
                self._inputs.sent(text, secret=secret)
            self._send(text.encode())

    def _send(self, data: bytes) -> None:
        deadline = Deadline(SEND_LIMIT)
        while data:
            try:
                sent = self._link.send(data)
            except OSError as problem:
                raise Failed(f"{self.name}: the console was closed; {self._said()}") from problem
            data = data[sent:]
            if sent:
                deadline = Deadline(SEND_LIMIT)
            elif deadline.expired:
                raise WaitTimeout(f"{self.name}: the guest read no input for {SEND_LIMIT:.0f} s; {self._said()}")
            else:
                self._pause.wait(POLL)

    def sendline(self, text: str = "", *, secret: bool = False) -> None:
        """Type ``text`` and the Enter key, which is a carriage return; raises as :meth:`send`."""
        self.send(f"{text}\r", secret=secret)

    def run(self, command: str, timeout: float = 60.0) -> Ran:
        """Run a command in the shell that waits at a prompt; returns what it printed and its exit code.

        The marks around its output are typed in two halves, so that the echo of what is typed is never taken for them.
        Raises :class:`SpecError` for a command longer than a terminal takes in one line, else as :meth:`expect`.
        """
        mark = f"{secrets.randbits(48):012x}"
        line = (
            f"printf '\\n%s\\n' 'begin-''{mark}'; eval {shlex.quote(command)}; "
            f"printf '\\n%s %d.\\n' 'end-''{mark}' \"$?\""
        )
        if len(line) > _LONGEST_COMMAND:
            raise SpecError(f"a command of {len(command)} characters is too long for a terminal's line")
        with self._expecting:
            self.sendline(line)
            deadline = Deadline(timeout)
            self.expect(f"\nbegin-{mark}\n", deadline.left)
            found = self.expect(f"\nend-{mark} (\\d+)\\.", deadline.left)
            return Ran(int(found[1]), self.before)

    def close(self) -> None:
        """Give the console back; doing so twice is the same as once."""
        if self._closed:
            return
        self._closed = True
        self._drain.close()

    def _said(self) -> str:
        said = " | ".join(self._drain.last_lines())
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return f"last seen: {said}" if said else "nothing was seen"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_console(base: Path, log: Path, *, name: str, steal: bool = False) -> Console:
    """The console of the VM ``name``, for a program; arguments and errors are those of :func:`attach`."""
    return Console(open_uart(base, log, name, steal=steal), name, InputLog(log, who()))


def open_port(url: str, baud: int = 115200) -> Console:
    """The serial port of a device, for a program: a device file, or any URL that pyserial knows; ``baud`` in bit/s.

    Raises :class:`InUse` if another program has locked it, :class:`HostNotReady` if it can't be opened,
    :class:`SpecError` if the URL cannot be meant.
    """
    return Console(open_link(url, baud), url)
