"""A libvirt of this machine that is not ours: ``qemu:///system``, or the same by another socket.

Nothing about it is started, stopped or configured; its bridges, pools and sockets are used as they are.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vmprov.addressing import parse_routes
from vmprov.containers.engine import Engine
from vmprov.errors import HostNotReady
from vmprov.events import Events
from vmprov.hosts import Acceleration, RunnerPlace, acceleration
from vmprov.hypervisor import Hypervisor
from vmprov.paths import Home
from vmprov.settings import Settings

_DEFAULT_SOCKETS = Path("/var/run/libvirt")


class SystemHost:
    """See the module."""

    dialer: Path | None = None

    def __init__(self, uri: str, home: Home, settings: Settings, installation: str) -> None:
        self.name = uri
        self._installation = installation
        self.slug = re.sub(r"[^a-z0-9]+", "-", uri.lower()).strip("-")
        self.pool = settings.pool
        self._home = home
        self._engine = Engine()
        self._connection: Hypervisor | None = None
        self._acceleration: Acceleration | None = None

    def up(self, events: Events) -> None:  # noqa: ARG002 - it is not ours to start
        """Check that libvirt answers and has the pool."""
        self.hypervisor().pool(self.pool)

    def is_up(self) -> bool:
        """Whether libvirt answers."""
        try:
            self.hypervisor()
        except HostNotReady:
            return False
        return True

    def down(self) -> bool:
        """Remove our runner container; libvirt itself is not ours to stop."""
        self.close()
        containers = self._engine.find({"vmprov.installation": self._installation, "vmprov.host": self.slug})
        for container in containers:
            self._engine.remove(container.id)
        return bool(containers)

    def hypervisor(self) -> Hypervisor:
        """The libvirt connection."""
        if self._connection is None:
            from vmprov.hypervisor.libvirt import LibvirtHypervisor

            connection = LibvirtHypervisor(self.name)
            connection.node()
            self._connection = connection
        return self._connection

    def acceleration(self) -> Acceleration:
        """KVM or TCG."""
        if self._acceleration is None:
            self._acceleration = acceleration.find_out(self._engine, self._home, Events())
        return self._acceleration

    def routes(self) -> list[IPv4Network]:
        """Subnets that this machine routes."""
        return parse_routes(Path("/proc/net/route").read_text())

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A plain TCP connection: the guests' bridges are this machine's own."""
        return socket.create_connection((address, port), timeout=timeout)

    def runner_place(self) -> RunnerPlace:
        """Runner containers share this machine's network and libvirt's sockets."""
        given = parse_qs(urlsplit(self.name).query).get("socket", [""])[0]
        return RunnerPlace(network="host", libvirt_sockets=Path(given).parent if given else _DEFAULT_SOCKETS)

    def close(self) -> None:
        """Give back the connections to libvirt and Docker."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.close()
