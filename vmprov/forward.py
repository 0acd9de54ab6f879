"""A TCP port of this machine's loopback address that leads to one of a host."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import ExitStack, suppress

from vmprov.errors import HostNotReady
from vmprov.hosts import Host
from vmprov.waiting import Cancel

_DIAL_LIMIT = 5.0
# Seconds between two looks at whether to go on.
_INTERVAL = 0.2
_PIECE = 64 * 1024


class Forward:
    """Clients of ``address`` reach ``target``, as the host sees it, while :meth:`serve` runs."""

    def __init__(self, host: Host, target: tuple[str, int], port: int = 0) -> None:
        """Listen on ``port``, or on one that is free; raises :class:`HostNotReady` if that cannot be."""
        self._host = host
        self._target = target
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError as problem:
            raise HostNotReady(
                f"cannot listen on port {port} of 127.0.0.1: {problem.strerror}", hint="choose another --port"
            ) from problem
        self.address: tuple[str, int] = self._listener.getsockname()[:2]

    def serve(self, cancel: Cancel) -> None:
        """Serve any number of clients until cancelled, and then hang up on all of them."""
        self._listener.settimeout(_INTERVAL)
        with self._listener, ExitStack() as clients:
            while not cancel.is_set:
                with suppress(TimeoutError):
                    client, _ = self._listener.accept()
                    thread = threading.Thread(target=self._carry, args=(client, cancel), name="forward")
                    thread.start()
                    clients.callback(thread.join)

    def _carry(self, client: socket.socket, cancel: Cancel) -> None:
        """Carry bytes both ways until one side hangs up; nobody answering there is the client's to see."""
        with client, suppress(OSError):
            there = self._host.dial(*self._target, _DIAL_LIMIT)
            with there, selectors.DefaultSelector() as ready:
                for stream, other in ((client, there), (there, client)):
                    stream.settimeout(_DIAL_LIMIT)
                    ready.register(stream, selectors.EVENT_READ, other)
                while not cancel.is_set:
                    for key, _ in ready.select(_INTERVAL):
                        piece = key.fileobj.recv(_PIECE)  # type: ignore[union-attr]
                        if not piece:
                            return
                        key.data.sendall(piece)
