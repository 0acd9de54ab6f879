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
from vmprov.events import Events
from vmprov.hosts import RunnerPlace
from vmprov.hosts.local import LocalHost
from vmprov.paths import Home
from vmprov.settings import Settings

_DEFAULT_SOCKETS = Path("/var/run/libvirt")
_QEMU_LOGS = Path("/var/log/libvirt/qemu")


class SystemHost(LocalHost):
    """See the module."""

    console_kind = "unix"
    dialer: Path | None = None

    def __init__(self, uri: str, home: Home, settings: Settings, installation: str, engine: Engine) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", uri.lower()).strip("-")
        super().__init__(
            name=uri, slug=slug, pool=settings.pool, uri=uri, home=home, installation=installation, engine=engine
        )

    def up(self, events: Events) -> None:  # noqa: ARG002 - it is not ours to start
        """Check that libvirt answers and has the pool."""
        self.hypervisor().pool(self.pool)

    def routes(self) -> list[IPv4Network]:
        """Subnets that this machine routes."""
        return parse_routes(Path("/proc/net/route").read_text())

    def qemu_log(self, domain: str) -> Path | None:
        """Where distributions have it, for the system's libvirt; often only root may read it."""
        return _QEMU_LOGS / f"{domain}.log" if urlsplit(self.name).path == "/system" else None

    def discard(self, path: Path) -> None:
        """Do nothing: its files are not ours."""

    def remains(self, prefix: str) -> list[tuple[Path, str]]:  # noqa: ARG002 - its files are not ours
        """None."""
        return []

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A plain TCP connection: the guests' bridges are this machine's own."""
        return socket.create_connection((address, port), timeout=timeout)

    def runner_place(self) -> RunnerPlace:
        """Runner containers share this machine's network and libvirt's sockets."""
        given = parse_qs(urlsplit(self.name).query).get("socket", [""])[0]
        return RunnerPlace(network="host", libvirt_sockets=Path(given).parent if given else _DEFAULT_SOCKETS)
