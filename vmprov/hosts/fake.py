"""A host without any machine: ``fake:``, or ``fake:NAME`` for one of several.

Its world is a file in the state directory, so that one command's machines are there for the next. It is always
up. Something listens on every port of a running machine and introduces itself as an SSH server, but no more.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Network
from pathlib import Path

from vmprov.errors import HostNotReady, SpecError
from vmprov.events import Events
from vmprov.hosts import Acceleration, RunnerPlace
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.paths import Home
from vmprov.settings import Settings

_SCHEME = "fake:"


class FakeHost:
    """See the module."""

    pool = "default"
    console_kind = "pipe"
    dialer: Path | None = None

    def __init__(self, uri: str, home: Home, settings: Settings) -> None:
        """Raises :class:`SpecError` for a name that cannot be a directory's."""
        name = uri.removeprefix(_SCHEME)
        if not re.fullmatch(r"[a-z0-9-]*", name):
            raise SpecError(f"no such host: {uri!r}", hint="name it with lower-case letters, digits and hyphens")
        self.name = uri
        self.uri = uri
        self.slug = f"fake-{name}" if name else "fake"
        world = home.host(self.slug) / "world.json"
        self._hypervisor = FakeHypervisor(world, memory=settings.fake_memory, pool_capacity=settings.fake_pool)

    def up(self, events: Events) -> None:
        """Do nothing: it is up."""

    def is_up(self) -> bool:
        """Always."""
        return True

    def down(self) -> bool:
        """Do nothing: nothing runs."""
        return False

    def hypervisor(self) -> FakeHypervisor:
        """The fake libvirt, whose calls can be made to fail."""
        return self._hypervisor

    def acceleration(self) -> Acceleration:
        """No KVM."""
        return Acceleration("tcg", "simulated")

    def routes(self) -> list[IPv4Network]:
        """None."""
        return []

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A stream that says ``SSH-2.0-fake`` and ends; refused unless a running machine has the address."""
        if self._hypervisor.domain_at(address) is None:
            raise ConnectionRefusedError(f"nothing listens on port {port} of {address}")
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"SSH-2.0-fake\r\n")
        ours.settimeout(timeout)
        return ours

    def qemu_log(self, domain: str) -> Path | None:  # noqa: ARG002 - there is no QEMU
        """None."""
        return None

    def discard(self, path: Path) -> None:
        """Do nothing: there are no files."""

    def remains(self, prefix: str) -> list[tuple[Path, str]]:  # noqa: ARG002 - there are no files
        """None."""
        return []

    def runner_place(self) -> RunnerPlace:
        """None: there is no libvirt for vagrant to talk to."""
        raise HostNotReady(f"{self.name} has no libvirt that vagrant could use", hint="use --driver fake")

    def close(self) -> None:
        """Do nothing: there is no connection."""
