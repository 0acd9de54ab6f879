"""Dials a guest for OpenSSH's client (``ProxyCommand`` with ``ProxyUseFdpass``): a program, not a module to import.

    python -I -S _dial.py SOCKET ADDRESS PORT

``SOCKET`` is a host's dialer, or ``-`` to dial ADDRESS from this machine. The connection is handed over on
standard output, which ssh has made a socket, and ssh does the rest: no process stands between it and the guest.
It starts before every connection, hence imports next to nothing.
"""

from __future__ import annotations

import array
import os
import socket
import sys

# Seconds; ssh's own ConnectTimeout counts only from the time it has the connection.
_LIMIT = 10.0


def _dial(dialer: str, address: str, port: str) -> socket.socket:
    if dialer == "-":
        return socket.create_connection((address, int(port)), timeout=_LIMIT)
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(_LIMIT)
    stream.connect(dialer)
    stream.sendall(f"{address} {port}\n".encode("ascii"))
    return stream


def _hand_over(stream: socket.socket, fd: int) -> None:
    # A timeout of Python's makes the socket non-blocking, and that would go with it.
    stream.setblocking(True)
    with socket.socket(fileno=os.dup(fd)) as receiver:
        rights = array.array("i", [stream.fileno()])
        receiver.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        sys.stderr.write("usage: _dial.py SOCKET ADDRESS PORT\n")
        return 2
    dialer, address, port = arguments
    try:
        _hand_over(_dial(dialer, address, port), 1)
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        sys.stderr.write(f"vmprov: cannot reach {address} port {port}: {why}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
