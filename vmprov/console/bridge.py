"""Typing on hosts whose QEMU serves each console as a socket.

There, QEMU runs as a user who cannot open our files, so that libvirt has to hand it a listening socket. The keeper
forwards what is written into the FIFO. So that on these hosts, too, a console is a capture to read and a FIFO to write.

It is connected only while somebody types. A client that is connected takes its own copy of each byte, and a few hundred
of them that it has not read yet make QEMU wait, and drop what the guest sends meanwhile; without one, QEMU never waits.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from contextlib import suppress
from pathlib import Path

from vmprov.console.ports import input_path
from vmprov.paths import Home

_BLOCK = 16 * 1024
_SOCKET = ".sock"
# Seconds after the last byte typed for which it stays connected.
_LINGER = 1.0
# The kernel's list of UNIX sockets; those that listen have this flag (__SO_ACCEPTCON).
_SOCKETS = Path("/proc/net/unix")
_LISTENS = 0x10000


def bridges_of(home: Home) -> dict[Path, Path]:
    """FIFO -> socket, of all consoles whose QEMU runs and serves a socket."""
    try:
        sockets = [path for path in home.consoles.iterdir() if path.suffix == _SOCKET]
    except OSError:
        return {}
    if not sockets:
        return {}
    served = _listening()
    return {
        fifo: path for path in sockets if str(path) in served and (fifo := input_path(path.with_suffix(""))).exists()
    }


def _listening() -> set[str]:
    """The paths of UNIX sockets on which somebody listens."""
    found = set()
    for line in _SOCKETS.read_text(errors="replace").splitlines()[1:]:
        # Num RefCount Protocol Flags Type St Inode Path
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _LISTENS:
            found.add(fields[7])
    return found


class Bridge:
    """From one FIFO to one socket. While it exists, the FIFO has a reader."""

    def __init__(self, path: Path, fifo: Path, selector: selectors.BaseSelector) -> None:
        """Raises :class:`OSError` if the FIFO cannot be opened."""
        self._path = path
        self._selector = selector
        self._socket: socket.socket | None = None
        self._pending = b""
        self._typed = 0.0
        # For writing too, or each writer that leaves would look like the end of input.
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._fifo, selectors.EVENT_READ, self)

    def serve(self) -> None:
        """Copy what is there."""
        if not self._pending:
            with suppress(BlockingIOError):
                self._pending = os.read(self._fifo, _BLOCK)
                self._typed = time.monotonic()
        if self._pending and self._socket is None:
            self._connect()
        if self._socket is not None:
            self._exchange(self._socket)
        # A guest that does not read must not make us spin over the FIFO.
        listening = self._fifo in self._selector.get_map()
        if self._pending and listening:
            self._selector.unregister(self._fifo)
        elif not self._pending and not listening:
            self._selector.register(self._fifo, selectors.EVENT_READ, self)

    def _connect(self) -> None:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.setblocking(False)
        try:
            stream.connect(str(self._path))
        except OSError:  # QEMU has just ended, or somebody else is connected
            stream.close()
            return
        self._socket = stream
        self._selector.register(stream, selectors.EVENT_READ, self)

    def _exchange(self, stream: socket.socket) -> None:
        """Throw away what is received - the capture has it - and send what is pending."""
        try:
            with suppress(BlockingIOError):
                if not stream.recv(_BLOCK):
                    raise ConnectionResetError
            with suppress(BlockingIOError):
                self._pending = self._pending[stream.send(self._pending) :] if self._pending else b""
        except OSError:
            self._pending = b""
            self._disconnect()
            return
        self._selector.modify(stream, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._pending else 0), self)

    def rest(self) -> None:
        """Disconnect once nobody has typed for a while; try again what could not be sent."""
        if self._pending:
            self.serve()
        elif self._socket is not None and time.monotonic() - self._typed > _LINGER:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Let go of socket and FIFO."""
        self._disconnect()
        if self._fifo in self._selector.get_map():
            self._selector.unregister(self._fifo)
        os.close(self._fifo)
