"""A console by hand: a terminal connected with the guest's serial port."""

from __future__ import annotations

import enum
import os
import re
import selectors
import signal
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from vmprov.console.inputs import InputLog, TypedLines
from vmprov.console.links import POLL, Link, LogLink, open_uart, who
from vmprov.console.tail import Tail, last_line
from vmprov.errors import Interrupted, SpecError
from vmprov.waiting import Cancel

# Ctrl-], as in telnet and virsh.
ESCAPE = b"\x1d"
_CTRL_C = b"\x03"
_BLOCK = 16 * 1024
# Bytes kept for a terminal that does not take them.
_MOST_KEPT = 1024 * 1024
# Bytes up to which small pieces are put together.
_PIECE = 1024
# Bytes kept for a guest that does not read.
_MOST_UNSENT = 64 * 1024
# Seconds for which a slow terminal may still print what was received before the end.
_FLUSH_LIMIT = 1.0


class Ending(enum.Enum):
    """Why an interactive session ended."""

    DETACHED = "detached"
    """The escape key was typed, or the terminal went away."""
    IDLE = "idle"
    """The input was used up, and the guest fell silent."""
    CLOSED = "closed"
    """The console is gone: the VM was powered off."""


def parse_escape(text: str) -> bytes:
    """The key that ``text`` names: ``^]`` or ``ctrl-]``, a character, or ``none`` (empty: no key ends the session).

    Raises :class:`SpecError` for anything else.
    """
    if text.lower() == "none":
        return b""
    if control := re.fullmatch(r"(?:\^|ctrl-)([@-_a-z])", text, re.IGNORECASE):
        return bytes([ord(control[1].upper()) & 0x1F])
    if len(text) == 1 and text.isascii() and text.isprintable():
        return text.encode()
    raise SpecError(f"no such key: {text!r}", hint="for example ^] or ctrl-a")


def attach(
    base: Path,
    log: Path,
    *,
    name: str,
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    escape: bytes = ESCAPE,
    read_only: bool = False,
    steal: bool = False,
    linger: float = 1.0,
    attached: Callable[[], None] | None = None,
    notice: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> Ending:
    """Connect a terminal, or any pair of file descriptors, with the console of the VM ``name`` until told to stop.

    ``base``: how the names of the UART's files begin; ``log``: its capture.
    ``escape``: the byte that ends the session when a terminal sends it; see :func:`parse_escape`.
    ``read_only``: only show what arrives, beside whoever is attached; Ctrl-C ends it too.
    ``steal``: take over from whoever is attached.
    ``linger``: where the input is no terminal and was used up, the seconds of the guest's silence that end the session.
    ``attached``: called once it is connected.
    ``notice``: told what a user should know; called from another thread, and may block.

    The terminal is in raw mode meanwhile and as before afterwards, whatever happens. A terminal that is stopped
    never stops the guest: what it misses is dropped (it is in the log), and ``notice`` told.
    Raises :class:`Failed` if the VM does not run, :class:`InUse` if somebody else is attached,
    :class:`Interrupted` on SIGTERM, SIGHUP or ``cancel``.
    """
    with ExitStack() as stack:
        link: Link
        record = None
        if read_only:
            tail = Tail(log)
            tail.from_end(0)
            link = LogLink(tail)
        else:
            link = open_uart(base, log, name, steal=steal)
            stack.callback(link.close)
            record = TypedLines(InputLog(log, who()), last_line(log))
            stack.callback(record.finish)
        if attached:
            attached()
        wake = stack.enter_context(_signals())
        stack.enter_context(_raw(stdin_fd))
        screen = _Screen(stdout_fd, notice or (lambda _text: None))
        stack.callback(screen.close)
        leave = escape + _CTRL_C if read_only else escape
        session = Attachment(
            link, screen, stdin_fd, leave=leave, linger=linger, cancel=cancel or Cancel(), record=record
        )
        return session.run(wake)


class _Screen:
    """Writes to a file descriptor in a thread of its own, so that nobody ever waits for a stopped terminal."""

    def __init__(self, fd: int, notice: Callable[[str], None]) -> None:
        self._fd = fd
        self._notice = notice
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._closing = False
        self.broken = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="console-screen", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        with self._change:
            # Guests print a few bytes at a time; four million pieces of one byte would weigh far more than that.
            if self._kept and len(self._kept[-1]) < _PIECE:
                self._kept[-1] += data
            else:
                self._kept.append(data)
            self._size += len(data)
            while self._size > _MOST_KEPT:
                oldest = self._kept.popleft()
                self._size -= len(oldest)
                self._dropped += len(oldest)
            self._change.notify()

    def close(self) -> None:
        """Let it print what it still has, but not for long: a stopped terminal must not keep the session alive."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(_FLUSH_LIMIT)

    def _run(self) -> None:
        try:
            while data := self._next():
                while data:
                    data = data[os.write(self._fd, data) :]
        except OSError:  # the terminal or pipe is gone
            pass
        finally:
            self.broken = True

    def _next(self) -> bytes:
        with self._change:
            self._change.wait_for(lambda: self._kept or self._closing)
            data = self._kept.popleft() if self._kept else b""
            self._size -= len(data)
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._notice(f"{dropped} bytes were not shown because the terminal was stopped; they are in the log")
        return data


class Attachment:
    """An interactive session: copies both ways until it has a reason to end."""

    def __init__(
        self,
        link: Link,
        screen: _Screen,
        stdin_fd: int,
        *,
        leave: bytes,
        linger: float,
        cancel: Cancel,
        record: TypedLines | None = None,
    ) -> None:
        """``leave``: the bytes that end the session, each alone, when a terminal sends them."""
        self._link = link
        self._screen = screen
        self._stdin = stdin_fd
        self._terminal = os.isatty(stdin_fd)
        self._leave = leave if self._terminal else b""
        self._linger = linger
        self._cancel = cancel
        self._record = record
        self._unsent = b""
        self._used_up = False
        self._last = time.monotonic()
        # Whether bytes went either way: then there may be more of them at once.
        self._flowing = False

    def run(self, wake: int) -> Ending:
        """Copy until the end; ``wake`` becomes readable when a signal asks to stop."""
        # poll, unlike epoll, takes regular files too: vmprov console VM < answers
        with selectors.PollSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            if self._link.fileno() >= 0:
                selector.register(self._link.fileno(), selectors.EVENT_READ)
            while True:
                self._register(selector)
                ready = {key.fd for key, _ in selector.select(0 if self._flowing else POLL)}
                self._flowing = False
                if wake in ready:
                    number = os.read(wake, 1)[0]
                    raise Interrupted(f"interrupted by {signal.Signals(number).name}")
                self._cancel.check()
                ending = self._output() or self._input(self._stdin in ready)
                if ending:
                    return ending

    def _register(self, selector: selectors.BaseSelector) -> None:
        """Listen to the input only while there is room for it, and to the guest's readiness only when needed."""
        listening = self._stdin in selector.get_map()
        wanted = not self._used_up and (self._terminal or len(self._unsent) < _MOST_UNSENT)
        if wanted and not listening:
            selector.register(self._stdin, selectors.EVENT_READ)
        elif listening and not wanted:
            selector.unregister(self._stdin)
        if self._link.fileno() >= 0:
            writing = selectors.EVENT_WRITE if self._unsent else 0
            selector.modify(self._link.fileno(), selectors.EVENT_READ | writing)

    def _output(self) -> Ending | None:
        data = self._link.receive(0)
        if data == b"":
            return Ending.CLOSED
        if data:
            self._flowing = True
            self._screen.put(data)
            if self._record:
                self._record.seen(data)
            self._last = time.monotonic()
        return Ending.DETACHED if self._screen.broken else None

    def _input(self, ready: bool) -> Ending | None:
        if ready:
            try:
                typed = os.read(self._stdin, _BLOCK)
            except OSError:  # EIO: the terminal hung up
                return Ending.DETACHED
            if not typed:
                if self._terminal:
                    return Ending.DETACHED
                self._used_up = True
            before, found = self._until_left(typed)
            # Only a terminal gets here with a full buffer: its user must still be able to leave.
            self._unsent = (self._unsent + before)[:_MOST_UNSENT] if self._terminal else self._unsent + before
            self._last = time.monotonic()
            if found:
                self._send()
                return Ending.DETACHED
        if self._unsent and not self._send():
            return Ending.CLOSED
        if self._used_up and not self._unsent and time.monotonic() - self._last >= self._linger:
            return Ending.IDLE
        return None

    def _until_left(self, typed: bytes) -> tuple[bytes, bool]:
        for at, code in enumerate(typed):
            if code in self._leave:
                return typed[:at], True
        return typed, False

    def _send(self) -> bool:
        try:
            sent = self._link.send(self._unsent)
            self._flowing = self._flowing or sent > 0
            if self._record:
                self._record.typed(self._unsent[:sent])
            self._unsent = self._unsent[sent:]
        except OSError:
            return False
        return True


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    """A terminal in raw mode; anything else as it is."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        # At once, not after output has drained: that would wait for ever for a terminal that is stopped.
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # it hung up
            termios.tcsetattr(fd, termios.TCSANOW, before)


@contextmanager
def _signals() -> Iterator[int]:
    """A file descriptor from which the number of a SIGTERM or SIGHUP can be read while this lasts."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def tell(number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            os.write(writing, bytes([number]))

    before = {}
    try:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGTERM, signal.SIGHUP):
                before[number] = signal.signal(number, tell)
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
