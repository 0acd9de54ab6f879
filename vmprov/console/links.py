"""Byte streams to consoles, and the lock that makes their user the only one.

QEMU serves one client at a time and stops the guest's output while that client does not read. So whoever is
attached holds a lock that names them, and reads all the time, whatever becomes of the other side.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import io
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vmprov.console.tail import Tail
from vmprov.errors import Failed, HostNotReady, InUse, SpecError, WaitTimeout

if TYPE_CHECKING:
    import serial

# Seconds between two looks at what cannot wake us: a serial port, a log file, a Cancel.
POLL = 0.05
# Seconds for which a program's input may wait for a guest that does not read.
SEND_LIMIT = 10.0
_BLOCK = 16 * 1024
# Bytes given to a serial port in one go; at 9600 baud these take 70 ms.
_PORT_BLOCK = 64


# one writer


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Be the only one attached; ``path`` is the lock file, which says who that is and goes with them.

    Raises :class:`InUse` at once, naming the holder, if somebody else is.
    """
    handle = _lock(path, what)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} {_user()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path, what: str) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise HostNotReady(f"{what} cannot be locked: {path}: {problem.strerror}") from problem
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed the file between our opening and locking it: then this lock is of nothing.
            if os.fstat(handle).st_nlink:
                return handle
        except BlockingIOError as problem:
            pid, _, user = os.pread(handle, 200, 0).decode(errors="replace").strip().partition(" ")
            os.close(handle)
            raise InUse(
                f"{what} is in use by {user or 'somebody'} (process {pid or 'unknown'})",
                hint="end that session, or read along with --read-only",
            ) from problem
        os.close(handle)


def _user() -> str:
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


class SocketLink:
    """A connected socket, which must not block."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def fileno(self) -> int:
        """See :meth:`Link.fileno`."""
        return self._stream.fileno()

    def receive(self, timeout: float) -> bytes | None:
        """See :meth:`Link.receive`."""
        if not ready(self._stream.fileno(), select.POLLIN, timeout):
            return None
        try:
            return self._stream.recv(_BLOCK)
        except BlockingIOError:
            return None
        except OSError:  # reset: it is gone, however rudely
            return b""

    def send(self, data: bytes) -> int:
        """See :meth:`Link.send`."""
        try:
            return self._stream.send(data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """See :meth:`Link.close`."""
        self._stream.close()


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


def ready(fd: int, event: int, timeout: float) -> bool:
    """Whether ``fd`` is ready within ``timeout`` seconds for ``event`` (``select.POLLIN``, ``POLLOUT``)."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(timeout * 1000))


def _connect(socket_path: Path, name: str) -> SocketLink:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Or we would wait, for who knows how long, in the queue behind somebody who holds no lock of ours.
    stream.setblocking(False)
    try:
        stream.connect(str(socket_path))
    except (FileNotFoundError, ConnectionRefusedError) as problem:
        stream.close()
        raise Failed(
            f"the console of {name} is not there: {name} does not run", hint=f"vmprov start {name}"
        ) from problem
    except BlockingIOError as problem:
        stream.close()
        raise InUse(f"the console of {name} is in use by another program") from problem
    except OSError as problem:
        stream.close()
        raise HostNotReady(f"the console of {name} cannot be used: {socket_path}: {problem.strerror}") from problem
    return SocketLink(stream)


@contextmanager
def connected(socket_path: Path, name: str) -> Iterator[SocketLink]:
    """The console's socket, for us alone."""
    # Nobody can be attached to what is not there, and no lock file must come of trying.
    if not socket_path.exists():
        _connect(socket_path, name).close()
    with hold(socket_path.with_name(f"{socket_path.name}.lock"), f"the console of {name}"):
        link = _connect(socket_path, name)
        try:
            yield link
        finally:
            link.close()


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
        port = serial.serial_for_url(url, baudrate=baud, timeout=POLL, write_timeout=SEND_LIMIT, exclusive=True)
    except ValueError as problem:
        raise SpecError(f"no such serial port: {url!r}: {problem}") from problem
    except OSError as problem:
        if problem.errno in (errno.EAGAIN, errno.EBUSY):
            raise InUse(f"the serial port {url} is in use by another program") from problem
        raise HostNotReady(f"the serial port {url} cannot be opened: {problem}") from problem
    return PortLink(port)
