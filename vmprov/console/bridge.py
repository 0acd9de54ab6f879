"""Typing and draining on hosts whose QEMU serves each console as a socket.

There, QEMU runs as a user who cannot open our files, so that libvirt has to hand it a listening socket. The keeper
is that socket's one client: it throws away what it receives (the capture has it), and forwards what is written into
the FIFO. So that on these hosts, too, a console is a capture to read and a FIFO to write, and nobody can stall the
guest.
"""

from __future__ import annotations

import os
import selectors
import socket
from contextlib import suppress
from pathlib import Path

from vmprov.console.ports import input_path
from vmprov.paths import Home

_BLOCK = 16 * 1024
_SOCKET = ".sock"


def bridges_of(home: Home) -> dict[Path, Path]:
    """FIFO -> socket, of all consoles that are sockets now."""
    try:
        sockets = [path for path in home.consoles.iterdir() if path.suffix == _SOCKET]
    except OSError:
        return {}
    return {fifo: path for path in sockets if (fifo := input_path(path.with_suffix(""))).exists()}


class Bridge:
    """Between one socket and one FIFO; the FIFO has a reader exactly while the socket has a client."""

    def __init__(self, path: Path, fifo: Path, selector: selectors.BaseSelector) -> None:
        self._path = path
        self._fifo_path = fifo
        self._selector = selector
        self._socket: socket.socket | None = None
        self._fifo = -1
        self._pending = b""

    def mend(self) -> None:
        """Connect unless connected; nobody there is no error."""
        if self._socket is not None:
            return
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.setblocking(False)
        try:
            stream.connect(str(self._path))
            # For writing too, or each writer that leaves would look like the end of input.
            self._fifo = os.open(self._fifo_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            stream.close()
            return
        self._socket = stream
        self._selector.register(stream, selectors.EVENT_READ, self)
        self._selector.register(self._fifo, selectors.EVENT_READ, self)

    def serve(self) -> None:
        """Copy what is there."""
        if self._socket is None:
            return
        try:
            with suppress(BlockingIOError):
                if not self._socket.recv(_BLOCK):
                    raise ConnectionResetError
            if not self._pending:
                with suppress(BlockingIOError):
                    self._pending = os.read(self._fifo, _BLOCK)
            if self._pending:
                with suppress(BlockingIOError):
                    self._pending = self._pending[self._socket.send(self._pending) :]
        except OSError:
            self.close()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._pending else 0)
        self._selector.modify(self._socket, events, self)
        # A guest that does not read must not make us spin over the FIFO.
        listening = self._fifo in self._selector.get_map()
        if self._pending and listening:
            self._selector.unregister(self._fifo)
        elif not self._pending and not listening:
            self._selector.register(self._fifo, selectors.EVENT_READ, self)

    def close(self) -> None:
        """Disconnect; :meth:`mend` connects again."""
        if self._socket is None:
            return
        self._selector.unregister(self._socket)
        if self._fifo in self._selector.get_map():
            self._selector.unregister(self._fifo)
        self._socket.close()
        os.close(self._fifo)
        self._socket, self._fifo, self._pending = None, -1, b""
