"""Every file and directory name that vmprov ever creates on this machine.

``docs/explanation/state-directory.md`` describes the same tree for people.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vmprov.errors import HostNotReady

# sun_path of a UNIX socket address holds 108 bytes with the closing NUL (unix(7)).
LONGEST_SOCKET_PATH = 107
_LONGEST_SOCKET_NAME = len("/embedded/libvirt/vmprov-dial.sock")


@dataclass(frozen=True)
class Home:
    """The state directory: one database, and one directory per lab, VM, image and host."""

    root: Path

    def create(self) -> None:
        """Make the directory with mode 0700; raises :class:`HostNotReady` if it can't be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
        except OSError as problem:
            raise self._not_usable(str(problem.strerror)) from problem
        if not os.access(self.root, os.W_OK | os.X_OK) or _mounted_read_only(self.root):
            raise self._not_usable("read-only")

    def _not_usable(self, why: str) -> HostNotReady:
        return HostNotReady(
            f"the state directory {self.root} cannot be used: {why}",
            hint="make it writable, or name another in VMPROV_HOME",
        )

    @property
    def database(self) -> Path:
        """The SQLite file (beside it, while in use, ``-wal`` and ``-shm``)."""
        return self.root / "vmprov.db"

    @property
    def installation(self) -> Path:
        """The installation's id, which marks what is ours; kept apart, so that it outlives the database."""
        return self.root / "installation"

    def lock(self, name: str) -> Path:
        """The lock file for one shared thing."""
        return self.root / "locks" / f"{name}.lock"

    def host(self, name: str) -> Path:
        """Everything that belongs to one host."""
        return self.root / "hosts" / name

    def vagrant_home(self, host: str) -> Path:
        """Vagrant's own directory (boxes, machine index), mounted at ``/.vagrant.d`` in the runner."""
        return self.host(host) / "vagrant.d"

    def adopted(self, host: str, network: str) -> Path:
        """The definition of somebody else's network as it was before boot options were added."""
        return self.host(host) / "adopted" / f"{network}.xml"

    def lab(self, name: str) -> Path:
        """Vagrantfile, Vagrant's machine state, key pair and known hosts of one lab."""
        return self.root / "labs" / name

    def key(self, lab: str) -> Path:
        """The lab's private SSH key; the public one lies beside it."""
        return self.lab(lab) / "id_ed25519"

    def known_hosts(self, lab: str) -> Path:
        """SSH host keys of the lab's VMs, taken at first contact."""
        return self.lab(lab) / "known_hosts"

    @property
    def vms(self) -> Path:
        """A directory per VM."""
        return self.root / "vms"

    def vm(self, name: str) -> Path:
        """Console logs, Vagrant's output and domain fragments of one VM."""
        return self.vms / name

    def console_log(self, vm: str, port: int) -> Path:
        """Every byte that the VM's UART ``port`` sent since it was made."""
        return self.vm(vm) / f"console-{port}.log"

    def screen_password(self, vm: str) -> Path:
        """The password of the VM's VNC screen."""
        return self.vm(vm) / "vnc-password"

    def vagrant_log(self, vm: str) -> Path:
        """What vagrant printed about the VM."""
        return self.vm(vm) / "vagrant.log"

    def definition(self, vm: str) -> Path:
        """The domain's definition, as it was when it was known to be right."""
        return self.vm(vm) / "definition.xml"

    @property
    def keeper_log(self) -> Path:
        """What the keeper of the captures complained about last."""
        return self.root / "keeper.log"

    def device(self, name: str) -> Path:
        """Captures of a real board's serial port."""
        return self.root / "devices" / name

    @property
    def failed(self) -> Path:
        """Logs of VMs that failed and were removed, a directory each; ``vmprov delete --all`` empties it."""
        return self.root / "failed"

    def image(self, name: str) -> Path:
        """One image: ``disk.qcow2`` and ``image.json``."""
        return self.root / "images" / name

    @property
    def day0(self) -> Path:
        """Certificates, keys, boot files and inventory of the Day-0 lab; ``vmprov day0 lab down`` removes it."""
        return self.root / "day0"

    @property
    def run(self) -> Path:
        """Sockets: in the state directory, or under the temporary directory where that path is too long."""
        inside = self.root / "run"
        if len(os.fsencode(inside)) + _LONGEST_SOCKET_NAME <= LONGEST_SOCKET_PATH:
            return inside
        import hashlib

        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"vmprov-{os.getuid()}-{digest}"

    @property
    def consoles(self) -> Path:
        """FIFOs and sockets of all UARTs."""
        return self.run / "console"

    def console_port(self, vm_id: int, port: int) -> Path:
        """How the names of the FIFO, socket and lock of a UART begin: a number, as names can be too long."""
        return self.consoles / f"{vm_id}-{port}"


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, with mode 0700; what is there stays as it is."""
    if not directory.parent.exists():
        make_private(directory.parent)
    directory.mkdir(exist_ok=True, mode=0o700)


def _mounted_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
