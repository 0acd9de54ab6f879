"""What the hosts on this machine have in common: one libvirt connection, one Docker engine, containers of ours."""

from __future__ import annotations

from vmprov.containers.engine import Engine
from vmprov.errors import HostNotReady
from vmprov.events import Events
from vmprov.hosts import Acceleration, acceleration
from vmprov.hypervisor import Hypervisor
from vmprov.paths import Home


class LocalHost:
    """Base of the hosts on this machine; ``uri`` is what libvirt is given."""

    # What to do where libvirt does not answer.
    hint = "start libvirtd, or give another --host"

    def __init__(
        self, *, name: str, slug: str, pool: str, uri: str, home: Home, installation: str, engine: Engine
    ) -> None:
        self.name = name
        self.slug = slug
        self.pool = pool
        self.uri = uri
        self._home = home
        self._installation = installation
        self._engine = engine
        self._connection: Hypervisor | None = None
        self._acceleration: Acceleration | None = None

    @property
    def labels(self) -> dict[str, str]:
        """What marks the containers of this host as ours."""
        return {"vmprov.installation": self._installation, "vmprov.host": self.slug}

    def is_up(self) -> bool:
        """Whether libvirt answers now."""
        try:
            self.hypervisor().node()
        except HostNotReady:
            return False
        return True

    def down(self) -> bool:
        """Remove our containers on this host; definitions and disks stay. ``False`` if there were none."""
        self.close()
        containers = self._engine.find(self.labels)
        for container in containers:
            self._engine.remove(container.id)
        return bool(containers)

    def hypervisor(self) -> Hypervisor:
        """The libvirt connection; raises :class:`HostNotReady` at its first use if nobody answers."""
        if self._connection is None:
            from vmprov.hypervisor.libvirt import LibvirtHypervisor

            self._connection = LibvirtHypervisor(self.uri, hint=self.hint)
        return self._connection

    def acceleration(self) -> Acceleration:
        """KVM or TCG."""
        return self._find_acceleration(Events())

    def _find_acceleration(self, events: Events) -> Acceleration:
        if self._acceleration is None:
            self._acceleration = acceleration.find_out(self._engine, self._home, events, labels=self.labels)
        return self._acceleration

    def close(self) -> None:
        """Give back the connection to libvirt."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
