"""Drivers: ways to make a domain exist and stop existing, and no more.

Networks, seeds, base volumes, power, consoles and addresses are the same for every driver and are written
once, elsewhere. A driver gets finished :class:`Order` values and makes running domains of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmprov.containers.engine import Engine
from vmprov.errors import SpecError, VmprovError
from vmprov.events import Events
from vmprov.hosts import Host
from vmprov.hypervisor import Mark
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.store import Nic
from vmprov.waiting import Cancel, Deadline


@dataclass(frozen=True)
class BaseImage:
    """The image a disk starts from.

    ``box`` and ``version`` name the Vagrant box; ``volume`` is the base volume in the host's pool.
    """

    name: str
    box: str
    version: str
    volume: str
    disk: Path
    virtual_size: int


@dataclass(frozen=True)
class Uart:
    """A serial port: a libvirt character device of ``kind`` (``pipe`` or ``unix``) at ``path``, captured in ``log``."""

    kind: str
    path: Path
    log: Path


@dataclass(frozen=True)
class Firmware:
    """UEFI firmware: the host paths of its code and of the machine's own variable store."""

    loader: str
    nvram: str
    secure: bool = False


@dataclass(frozen=True)
class DataDisk:
    """A data disk: the host path of its volume, and the serial number by which the guest finds it."""

    path: str
    serial: str


@dataclass(frozen=True)
class Order:
    """One domain to be made; everything outside the domain itself exists already.

    ``memory`` and ``disk_size`` in bytes; ``disk_size`` is at least the image's virtual size.
    ``image`` is ``None`` for a machine with a blank disk. ``seed`` is the host path of the seed volume ("" for none).
    ``nics``: those without a network are on a bridge of the host. ``boot``: ``disk`` and ``network`` in order.
    ``firmware`` is ``None`` for a BIOS. ``pxe``: whether UEFI firmware tries PXE, too.
    ``screen_password``: the file with the password of a VNC screen; ``None`` for no screen.
    """

    vm: str
    lab: str
    domain: str
    uuid: str
    mark: Mark
    cpus: int
    memory: int
    disk_volume: str
    disk_size: int
    pool: str
    image: BaseImage | None
    seed: str
    nics: tuple[Nic, ...]
    serial_number: str
    consoles: tuple[Uart, ...]
    boot: tuple[str, ...]
    disks: tuple[DataDisk, ...] = ()
    firmware: Firmware | None = None
    pxe: bool = False
    tpm: bool = False
    manufacturer: str = ""
    product: str = ""
    screen_password: Path | None = None


class Driver(Protocol):
    """Makes domains exist and stop existing on one host."""

    @property
    def name(self) -> str:
        """The driver's name on the command line."""
        ...

    def check(self, *, events: Events, cancel: Cancel) -> None:
        """Make sure that :meth:`create` can work on the host, which is up: start or build what it needs.

        Raises :class:`vmprov.errors.HostNotReady` saying what stands in the way.
        """
        ...

    def create(
        self, orders: Sequence[Order], *, events: Events, cancel: Cancel, deadline: Deadline
    ) -> Mapping[str, VmprovError]:
        """Define and power on; returns at power-on, without waiting for guests.

        All orders belong to one lab. The result holds, for each VM that did not come up, why; a VM that is not
        in it runs. Creates exactly the domain ``order.domain`` and the volume ``order.disk_volume``.
        """
        ...

    def destroy(self, *, lab: str, vm: str, domain: str) -> None:
        """Remove the domain and all that this driver keeps about it. Gone is success; volumes stay."""
        ...

    def halt(self, lab: str) -> None:
        """End what a :meth:`create` that was killed may still be doing; whoever calls works on the lab alone."""
        ...


NAMES = ("vagrant", "fake")


def default_driver(host: Host) -> str:
    """The driver to use on a host where none is named."""
    return "fake" if host.name.startswith("fake:") else "vagrant"


def open_driver(name: str, host: Host, home: Home, settings: Settings, installation: str, engine: Engine) -> Driver:
    """The driver of that name for a host; raises :class:`vmprov.errors.SpecError` for an unknown one."""
    if name in NAMES and (name == "fake") != (default_driver(host) == "fake"):
        raise SpecError(
            f"driver {name} does not work on host {host.name}", hint="driver fake goes with host fake: and only with it"
        )
    if name == "vagrant":
        from vmprov.drivers.vagrant import VagrantDriver

        return VagrantDriver(host, home, settings, installation, engine)
    if name == "fake":
        from vmprov.drivers.fake import FakeDriver

        return FakeDriver(host)
    raise SpecError(f"no such driver: {name!r}", hint=f"use one of: {', '.join(NAMES)}")
