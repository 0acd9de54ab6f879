"""A connection to libvirt: made at first use, and again after it broke; libvirt's errors become ours here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from vmprov.errors import HostNotReady, LibvirtFailed, VmprovError

# Without a handler of its own, the library prints every error to stderr as well as raising it.
libvirt.registerErrorHandler(lambda _context, _error: None, None)

_NO_CONNECTION = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}

# It was busy, or did not answer in time.
_PASSING = {
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_RESOURCE_BUSY,
    libvirt.VIR_ERR_RPC,
}

_HINTS = {
    "No space left on device": "free some disk space on the host",
    "Cannot allocate memory": "stop some machines, or ask for smaller ones",
    "Could not access KVM": "KVM does not work on this host: see vmprov doctor",
    "Permission denied": "the user that QEMU runs as may not use this file",
}


class Connection:
    """One libvirt, by its URI; it is connected to at first use, and again after the connection broke.

    ``hint``: what to do where nobody answers.
    """

    def __init__(self, uri: str, *, hint: str = "") -> None:
        self._uri = uri
        self._hint = hint
        self._lock = threading.Lock()
        self._connection: Any = None
        self._closed = False

    # the connection

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(libvirt.libvirtError):
                self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        with self._lock:
            if self._closed:
                raise HostNotReady(f"the connection to libvirt at {self._uri} was closed")
            if self._connection is not None and not alive(self._connection):
                self._drop()
            if self._connection is None:
                try:
                    self._connection = libvirt.open(self._uri)
                except libvirt.libvirtError as problem:
                    raise self._unreachable(problem) from problem
            return self._connection

    def _unreachable(self, problem: libvirt.libvirtError) -> HostNotReady:
        said = message_of(problem)
        what = f"libvirt does not answer at {self._uri}: {said}"
        if "Permission denied" in said or "authentication" in said.lower():
            return HostNotReady(what, hint="run: sudo usermod -aG libvirt $USER, then log in again")
        return HostNotReady(what, hint=self._hint, passing=True)

    @contextmanager
    def trying(self, doing: str) -> Iterator[Any]:
        """The connection, and our exceptions in place of libvirt's, saying that it could not do ``doing``."""
        connection = self._connect()
        try:
            yield connection
        except libvirt.libvirtError as problem:
            raise self._explain(problem, doing, connection) from problem

    def _explain(self, problem: libvirt.libvirtError, doing: str, connection: Any) -> VmprovError:
        if problem.get_error_code() in _NO_CONNECTION or not alive(connection):
            return self._unreachable(problem)
        said = message_of(problem)
        hint = next((hint for sign, hint in _HINTS.items() if sign in said), "")
        return LibvirtFailed(f"could not {doing}: {said}", hint=hint, passing=problem.get_error_code() in _PASSING)


def alive(connection: Any) -> bool:
    """Whether a connection still works."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def message_of(problem: libvirt.libvirtError) -> str:
    """What libvirt said, on one line."""
    return " ".join((problem.get_error_message() or str(problem)).split())


@contextmanager
def tolerating(*codes: int) -> Iterator[None]:
    """Go on after the block if it fails with one of these of libvirt's error codes."""
    try:
        yield
    except libvirt.libvirtError as problem:
        if problem.get_error_code() not in codes:
            raise


def look_up(find: Callable[[str], Any], name: str, missing: int) -> Any | None:
    """What is found by its name; ``None`` where libvirt says, with the code ``missing``, that there is none."""
    with tolerating(missing):
        return find(name)
    return None
