"""The embedded host: libvirtd, QEMU, firmware and DHCP in one container of ours.

It needs nothing on the machine but Docker. Its bridges and firewall rules live in its own network namespace;
its libvirt socket, state and disks in a directory of ours that is mounted at the same path inside.
"""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path

from vmprov.addressing import parse_routes
from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine, Mount
from vmprov.errors import HostNotReady
from vmprov.events import Events
from vmprov.hosts import RunnerPlace, acceleration
from vmprov.hosts.local import LocalHost
from vmprov.hypervisor import Hypervisor
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.waiting import Deadline, wait_until

_START_LIMIT = 60.0
# Characters of a uuid: the name of a directory with a TPM's state.
_UUID = 36
# Seconds for a small program in the container.
_INSIDE_LIMIT = 15.0


class EmbeddedHost(LocalHost):
    """See the module; one per state directory."""

    hint = "run: vmprov host up"

    def __init__(self, home: Home, settings: Settings, installation: str, engine: Engine) -> None:
        self._sockets = home.run / "embedded" / "libvirt"
        super().__init__(
            name="embedded",
            slug="embedded",
            pool=settings.pool,
            uri=f"qemu+unix:///system?socket={self._sockets / 'libvirt-sock'}",
            home=home,
            installation=installation,
            engine=engine,
        )

    console_kind = "pipe"

    @property
    def container(self) -> str:
        """The container's name."""
        return f"vmprov-host-{self._installation}"

    def up(self, events: Events) -> None:
        """Start the container unless libvirt answers already."""
        if self.is_up():
            return
        with exclusive(self._home.lock("host-embedded"), Deadline(_START_LIMIT * 10), "the embedded host"):
            if self.is_up():
                return
            image = recipes.ensure(self._engine, "host", self._home, events)
            with events.step("start the embedded host"):
                self._start(image, events)

    def _start(self, image: str, events: Events) -> None:
        own = self._home.host(self.slug)
        pool = own / "pool"
        for directory in (own / "lib", pool, self._sockets):
            directory.mkdir(parents=True, exist_ok=True)
        self._home.run.chmod(0o700)
        roots = {self._home.root, self._home.run}
        devices = ["/dev/net/tun:/dev/net/tun"] if Path("/dev/net/tun").exists() else []
        if self._find_acceleration(events).kind == "kvm":
            devices.append(f"{acceleration.KVM_DEVICE}:{acceleration.KVM_DEVICE}")
        self._engine.start(
            ContainerSpec(
                name=self.container,
                image=image,
                labels={**self.labels, "vmprov.role": "host"},
                mounts=[
                    *(Mount(root, str(root)) for root in roots),
                    Mount(self._sockets, "/run/libvirt"),
                    Mount(own / "lib", "/var/lib/libvirt"),
                ],
                devices=devices,
                hostname=self.container,
                privileged_like=True,
            )
        )
        wait_until(
            self._answers, Deadline(_START_LIMIT), "answer from libvirt in the embedded host",
            interval=0.1, hint=f"see: docker logs {self.container}",
        )  # fmt: skip
        self.hypervisor().create_pool(self.pool, str(pool))

    def _answers(self) -> bool:
        if self.is_up():
            return True
        if self._engine.status(self.container) != "running":
            said = self._engine.logs(self.container).strip().splitlines()
            raise HostNotReady(
                f"the embedded host's container stopped: {said[-1] if said else 'it said nothing'}",
                hint=f"see: docker logs {self.container}",
            )
        return False

    def hypervisor(self) -> Hypervisor:
        """The libvirt connection; raises :class:`HostNotReady` while the host was never up."""
        if not (self._sockets / "libvirt-sock").exists():
            raise HostNotReady("the embedded host is not running", hint=self.hint)
        return super().hypervisor()

    def routes(self) -> list[IPv4Network]:
        """Subnets routed inside the container."""
        lines: list[str] = []
        self._engine.exec(
            self.container, ["cat", "/proc/net/route"], on_line=lines.append, deadline=Deadline(_INSIDE_LIMIT)
        )
        return parse_routes("\n".join(lines))

    def qemu_log(self, domain: str) -> Path | None:
        """Where libvirt's log directory is mounted from."""
        return self._home.host(self.slug) / "lib" / "log" / "qemu" / f"{domain}.log"

    def remains(self, prefix: str) -> list[tuple[Path, str]]:
        """Logs of QEMU and of the emulated TPMs, and the TPMs' state."""
        lib = self._home.host(self.slug) / "lib"
        found = [(path, path.name.partition(".log")[0]) for path in lib.glob(f"log/qemu/{prefix}*.log*")]
        found += [
            (path, path.name.partition("-swtpm.log")[0])
            for path in lib.glob(f"log/swtpm/libvirt/qemu/{prefix}*-swtpm.log*")
        ]
        return found + [(path, path.name) for path in lib.glob("swtpm/*") if len(path.name) == _UUID]

    def discard(self, path: Path) -> None:
        """Remove it; what belongs to root can be removed from inside, where it has the same path."""
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except PermissionError:
            argv = ["rm", "-rf", "--", str(path)]
            self._engine.exec(self.container, argv, on_line=lambda _line: None, deadline=Deadline(_INSIDE_LIMIT))

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A stream through the container's dialer."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as undo:
            undo.callback(stream.close)
            stream.settimeout(timeout)
            stream.connect(str(self.dialer))
            stream.sendall(f"{address} {port}\n".encode("ascii"))
            undo.pop_all()
        return stream

    @property
    def dialer(self) -> Path:
        """The dialer's socket."""
        return self._sockets / "vmprov-dial.sock"

    def runner_place(self) -> RunnerPlace:
        """Runner containers share the network namespace, so that they reach guests."""
        return RunnerPlace(network=f"container:{self.container}", libvirt_sockets=self._sockets)
