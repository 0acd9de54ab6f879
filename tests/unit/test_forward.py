from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest

from vmprov import CreateRequest, Settings, Vmprov
from vmprov.errors import Failed, HostNotReady
from vmprov.forward import Forward
from vmprov.hosts import Host
from vmprov.waiting import Cancel


class Echoing:
    """A host on which something says where it was reached, and then everything back."""

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        if port == 1:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)

        def echo() -> None:
            with suppress(OSError), theirs:
                theirs.sendall(f"{address}:{port}\n".encode())
                while piece := theirs.recv(100_000):
                    theirs.sendall(piece)

        threading.Thread(target=echo).start()
        return ours


@contextmanager
def serving(port: int) -> Iterator[tuple[str, int]]:
    forward, cancel = Forward(cast("Host", Echoing()), ("127.0.0.1", port)), Cancel()
    thread = threading.Thread(target=forward.serve, args=(cancel,))
    thread.start()
    yield forward.address
    cancel.set()
    thread.join(10)
    assert not thread.is_alive()


def test_clients_reach_what_the_host_reaches() -> None:
    with serving(5900) as address, socket.create_connection(address, 5) as one, socket.create_connection(address, 5):
        stream = one.makefile("rwb")
        told = stream.readline()
        stream.write(b"hello\n")
        stream.flush()

        assert (told, stream.readline()) == (b"127.0.0.1:5900\n", b"hello\n")
        stream.close()


def test_a_client_is_hung_up_on_where_nobody_answers() -> None:
    with serving(1) as address, socket.create_connection(address, 5) as client:
        assert client.recv(1) == b""


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostNotReady, match="cannot listen on port"):
        Forward(cast("Host", Echoing()), ("127.0.0.1", 1), taken.getsockname()[1])


def request(**words: Any) -> CreateRequest:
    return CreateRequest.parse(image="", driver="fake", memory="64MiB", name="a", **words)


def test_the_screen_of_a_machine(settings: Settings) -> None:
    with Vmprov(settings) as vmprov:
        vmprov.create(request(graphics="vnc"))
        screen, cancel = vmprov.screen("a"), Cancel()
        cancel.set()
        screen.serve(cancel)

        assert screen.address[0] == "127.0.0.1"
        vmprov.stop(["a"], force=True)
        with pytest.raises(Failed, match="a shows nothing: it does not run"):
            vmprov.screen("a")


def test_a_machine_without_a_screen_says_so(settings: Settings) -> None:
    with Vmprov(settings) as vmprov:
        vmprov.create(request())

        with pytest.raises(Failed, match="a has no screen; make it with: vmprov create --graphics vnc"):
            vmprov.screen("a")
