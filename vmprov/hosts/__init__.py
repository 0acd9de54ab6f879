"""Hosts: where machines run. A host is given by URI: ``embedded``, or any libvirt URI.

Everything above this package is the same for all hosts; nothing outside ``embedded.py`` knows that one of
them lives in a container.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

from vmprov.containers.engine import Engine
from vmprov.errors import SpecError
from vmprov.events import Events
from vmprov.hypervisor import Hypervisor
from vmprov.paths import Home
from vmprov.settings import Settings


@dataclass(frozen=True)
class Acceleration:
    """Whether guests run on KVM (``kind == "kvm"``) or under TCG (``"tcg"``), and the evidence for it."""

    kind: str
    why: str


@dataclass(frozen=True)
class RunnerPlace:
    """How a runner container reaches the host.

    ``network`` is a Docker network mode; ``libvirt_sockets`` the directory to mount at ``/var/run/libvirt``.
    """

    network: str
    libvirt_sockets: Path


class Host(Protocol):
    """One hypervisor machine."""

    @property
    def name(self) -> str:
        """The URI as the user gives it."""
        ...

    @property
    def uri(self) -> str:
        """What a libvirt client needs to reach it."""
        ...

    @property
    def slug(self) -> str:
        """The name as a directory name."""
        ...

    @property
    def pool(self) -> str:
        """The storage pool for disks."""
        ...

    @property
    def console_kind(self) -> str:
        """The character device behind a UART: ``pipe`` where QEMU can open files of ours, else ``unix``."""
        ...

    @property
    def dialer(self) -> Path | None:
        """The UNIX socket through which guests are reached; ``None`` where this machine reaches them itself."""
        ...

    def up(self, events: Events) -> None:
        """Make the host usable; raises :class:`vmprov.errors.HostNotReady` saying why it can't be."""
        ...

    def is_up(self) -> bool:
        """Whether it is usable now, without changing anything."""
        ...

    def down(self) -> bool:
        """Stop what :meth:`up` started (nothing, for a host that is not ours); ``False`` if nothing ran."""
        ...

    def hypervisor(self) -> Hypervisor:
        """The (one, shared) libvirt connection; raises :class:`vmprov.errors.HostNotReady`."""
        ...

    def acceleration(self) -> Acceleration:
        """KVM or TCG, as found out by trying; the answer is remembered."""
        ...

    def routes(self) -> list[IPv4Network]:
        """Subnets that the machine underneath already routes somewhere."""
        ...

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A byte stream to a TCP port of a guest; raises :class:`OSError` when nobody answers."""
        ...

    def runner_place(self) -> RunnerPlace:
        """How a runner container reaches this host."""
        ...

    def qemu_log(self, domain: str) -> Path | None:
        """The file into which QEMU writes about a domain, whether it is there or not; ``None`` if nobody knows."""
        ...

    def remains(self, prefix: str) -> list[tuple[Path, str]]:
        """Files that the host keeps of domains, there or gone: path, and name or uuid of the domain.

        By name, only of domains whose names begin with ``prefix``. Nothing for a host whose files are not ours.
        """
        ...

    def discard(self, path: Path) -> None:
        """Remove one of the files or directories that :meth:`remains` told of; gone is success."""
        ...

    def close(self) -> None:
        """Give back connections; the machines run on."""
        ...


def open_host(uri: str, home: Home, settings: Settings, installation: str, engine: Engine) -> Host:
    """The host that a URI names; nothing is started or connected yet. ``engine`` stays the caller's to close.

    Raises :class:`vmprov.errors.SpecError` for a URI that names none.
    """
    if uri == "embedded":
        from vmprov.hosts.embedded import EmbeddedHost

        return EmbeddedHost(home, settings, installation, engine)
    if uri.startswith("fake:"):
        from vmprov.hosts.fake import FakeHost

        return FakeHost(uri, home, settings)
    if uri.startswith("qemu") and ":///" in uri:
        from vmprov.hosts.system import SystemHost

        return SystemHost(uri, home, settings, installation, engine)
    raise SpecError(
        f"no such host: {uri!r}", hint="use embedded, or a libvirt URI of this machine such as qemu:///system"
    )
