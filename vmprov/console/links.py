"""Byte streams to consoles, and the lock that makes one at a time the one who types."""

from __future__ import annotations

import errno
import fcntl
import getpass
import io
import os
import re
import select
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vmprov.console.ports import drafts, input_path, lock_path
from vmprov.console.tail import Tail
from vmprov.errors import Failed, HostNotReady, InUse, SpecError, WaitTimeout

if TYPE_CHECKING:
    import serial

# Seconds between two looks at what cannot wake us: a serial port, a log file, a Cancel.
POLL = 0.02
# Seconds for which a program's input may wait for a guest that does not read.
SEND_LIMIT = 10.0
_BLOCK = 16 * 1024
# Bytes that a FIFO takes in one piece or not at all (PIPE_BUF).
_PIPE_BLOCK = 4096
# Seconds between two looks at whether somebody has taken over.
_CHECK_INTERVAL = 0.25
# Bytes given to a serial port in one go; at 9600 baud these take 70 ms.
_PORT_BLOCK = 64


# one writer


class Hold:
    """Being the only one who types; the lock file says who that is, and is released when its holder dies."""

    def __init__(self, path: Path, what: str, handle: int) -> None:
        self._path = path
        self._what = what
        self._handle = handle

    def check(self) -> None:
        """Raise :class:`InUse` if somebody has taken over since."""
        try:
            mine = os.path.samestat(self._path.stat(), os.fstat(self._handle))
        except FileNotFoundError:  # whoever took over has left
            mine = False
        if not mine:
            raise InUse(f"{self._what} was taken over by {_holder(self._path)}")

    def release(self) -> None:
        """Let somebody else type."""
        with suppress(InUse):
            self.check()
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


def hold(path: Path, what: str, *, steal: bool = False) -> Hold:
    """Be the only one who types; ``path`` is the lock file.

    Raises :class:`InUse` at once, naming the holder, if somebody else is. With ``steal`` it is taken from them: they
    find out before they type another byte.
    """
    own = drafts(path) / f"{path.name}.{os.getpid()}-{threading.get_ident()}"
    try:
        # Ports that were made by an earlier version have none yet.
        own.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(own, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise HostNotReady(f"{what} cannot be locked: {path}: {problem.strerror}") from problem
    with ExitStack() as undo:
        undo.callback(os.close, handle)
        undo.callback(own.unlink, missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(handle, f"{os.getpid()} {who()}\n".encode())
        _place(own, path, what, steal=steal)
        undo.pop_all()
    return Hold(path, what, handle)


def _place(own: Path, path: Path, what: str, *, steal: bool) -> None:
    """Make our locked file the lock file, in one step that only one of several can take."""
    if steal:
        own.replace(path)
        return
    while True:
        try:
            os.link(own, path)
        except FileExistsError:
            if _abandoned(path):
                continue
            raise InUse(
                f"{what} is in use by {_holder(path)}",
                hint="end that session, take it with --steal, or read along with --read-only",
            ) from None
        own.unlink()
        return


def _abandoned(path: Path) -> bool:
    """Whether the lock file's holder died; then it is removed."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only while locked: its holder may be gone and another one's file in its place.
        if os.path.samestat(os.fstat(handle), path.stat()):
            path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(handle)
    return True


def _holder(path: Path) -> str:
    try:
        pid, _, user = path.read_text(errors="replace").strip().partition(" ")
    except OSError:
        pid, user = "", ""
    return f"{user or 'somebody'} (process {pid or 'unknown'})"


def who() -> str:
    """The user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return str(os.getuid())


# byte streams


class Link(Protocol):
    """A byte stream to a guest or device; :meth:`receive` and :meth:`send` may run in different threads."""

    def fileno(self) -> int:
        """What becomes readable when there is something to receive; -1 if nothing does."""
        ...

    def receive(self, timeout: float) -> bytes | None:
        """What arrives within ``timeout`` seconds; ``None`` if nothing does, empty when the other side is gone."""
        ...

    def send(self, data: bytes) -> int:
        """Send what can be sent at once; returns how many bytes. Raises :class:`OSError`."""
        ...

    def close(self) -> None:
        """Give the stream back."""
        ...


class LogLink:
    """A capture file as a stream that only flows towards us."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    def fileno(self) -> int:
        """See :meth:`Link.fileno`."""
        return -1

    def receive(self, timeout: float) -> bytes | None:  # noqa: ARG002 - a file never makes anybody wait
        """See :meth:`Link.receive`."""
        return self._tail.read(_BLOCK) or None

    def send(self, data: bytes) -> int:
        """See :meth:`Link.send`."""
        return len(data)

    def close(self) -> None:
        """See :meth:`Link.close`."""


class ConsoleLink:
    """A UART of a running VM: what it sends is read from its capture, what is typed goes into its FIFO.

    Nothing of ours is ever connected to the guest's output, so a reader that stops holds up nobody.
    """

    def __init__(self, fifo: int, tail: Tail, held: Hold) -> None:
        self._fifo = fifo
        self._tail = tail
        self._held = held
        self._checked = time.monotonic()

    def fileno(self) -> int:
        """See :meth:`Link.fileno`."""
        return -1

    def receive(self, timeout: float) -> bytes | None:
        """See :meth:`Link.receive`; raises :class:`InUse` when somebody has taken over."""
        now = time.monotonic()
        if now - self._checked >= _CHECK_INTERVAL:
            self._checked = now
            self._held.check()
        if data := self._tail.read(_BLOCK):
            return data
        # The FIFO loses its last reader when QEMU ends; its last words may have come in between.
        if ready(self._fifo, 0, min(timeout, POLL)):
            return self._tail.read(_BLOCK)
        return self._tail.read(_BLOCK) or None

    def send(self, data: bytes) -> int:
        """See :meth:`Link.send`; raises :class:`InUse` when somebody has taken over."""
        self._held.check()
        try:
            return os.write(self._fifo, data[:_PIPE_BLOCK])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """See :meth:`Link.close`."""
        os.close(self._fifo)
        self._held.release()


def ready(fd: int, event: int, timeout: float) -> bool:
    """Whether ``fd`` is ready within ``timeout`` seconds for ``event`` (``select.POLLIN``, ``POLLOUT``)."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(timeout * 1000))


def open_uart(base: Path, log: Path, name: str, *, steal: bool = False) -> ConsoleLink:
    """The UART of the VM ``name`` whose files begin with ``base``, for us alone to type; reading begins at its
    present end.

    Raises :class:`Failed` if the VM does not run, :class:`InUse` if somebody else types and ``steal`` is not set.
    """
    try:
        # Without a reader on the other side, that is, without QEMU, this fails with ENXIO.
        fifo = os.open(input_path(base), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as problem:
        raise Failed(f"the console of {name} is not there", hint=f"vmprov start {name}") from problem
    except OSError as problem:
        if problem.errno == errno.ENXIO:
            raise Failed(f"{name} does not run", hint=f"vmprov start {name}") from problem
        raise HostNotReady(f"the console of {name} cannot be used: {problem.strerror}") from problem
    with ExitStack() as undo:
        undo.callback(os.close, fifo)
        held = hold(lock_path(base), f"the console of {name}", steal=steal)
        undo.pop_all()
    tail = Tail(log)
    tail.from_end(0)
    return ConsoleLink(fifo, tail, held)


class PortLink:
    """A serial port of this machine, or whatever else pyserial can open."""

    def __init__(self, port: serial.Serial) -> None:
        self._port = port

    def fileno(self) -> int:
        """See :meth:`Link.fileno`."""
        try:
            return int(self._port.fileno())
        except (AttributeError, io.UnsupportedOperation):  # not every kind of URL stands for a file
            return -1

    def receive(self, timeout: float) -> bytes | None:  # noqa: ARG002 - the port has its own, set on opening
        """See :meth:`Link.receive`."""
        try:
            first = bytes(self._port.read(1))
            return first + bytes(self._port.read(min(self._port.in_waiting, _BLOCK))) if first else None
        except OSError:  # serial.SerialException is one: unplugged
            return b""

    def send(self, data: bytes) -> int:
        """See :meth:`Link.send`; raises :class:`WaitTimeout` if the other side holds us off."""
        import serial

        try:
            self._port.write(data[:_PORT_BLOCK])
        except serial.SerialTimeoutException as problem:
            raise WaitTimeout(f"{self._port.name}: the device took no input for {SEND_LIMIT:.0f} s") from problem
        return len(data[:_PORT_BLOCK])

    def close(self) -> None:
        """See :meth:`Link.close`."""
        self._port.close()


def open_link(url: str, baud: int) -> PortLink:
    """The serial port that ``url`` names, locked; raises as :func:`vmprov.console.session.open_port`."""
    import serial

    try:
        try:
            port = serial.serial_for_url(url, baudrate=baud, timeout=POLL, write_timeout=SEND_LIMIT, exclusive=True)
        except NotImplementedError:  # RFC 2217 knows no limit for writing
            port = serial.serial_for_url(url, baudrate=baud, timeout=POLL)
    except ValueError as problem:
        raise SpecError(f"no such serial port: {url!r}: {problem}") from problem
    except OSError as problem:
        if problem.errno in (errno.EAGAIN, errno.EBUSY):
            raise InUse(f"the serial port {url} is in use by another program") from problem
        raise HostNotReady(f"the serial port {url} cannot be opened: {_reason(problem)}") from problem
    return PortLink(port)


def _reason(problem: OSError) -> str:
    """Why a port cannot be opened, without what pyserial wraps around it."""
    if problem.errno:
        return os.strerror(problem.errno).lower()
    wrapped = re.search(r"(?:\[Errno -?\d+\] |\(-?\d+, ['\"])([^:'\")]+)", str(problem))
    return wrapped[1].lower() if wrapped else str(problem)
