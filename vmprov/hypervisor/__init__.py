"""What exists on a host: domains, networks, storage pools and volumes.

:class:`Hypervisor` is everything vmprov asks of one. ``libvirt.py`` is the real one, ``fake.py`` an in-memory
one with the same behaviour; ``tests/conformance`` holds both to it. Removal always treats *gone* as success.

Names follow libvirt: a *domain* is a machine, a *pool* holds *volumes*, an *overlay* is a volume with a
*backing file*.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

# The XML namespace of the marks that we leave in libvirt's metadata.
METADATA_URI = "urn:vmprov:1"
# And that of what we note about a domain: libvirt replaces metadata by their namespace.
NOTE_URI = "urn:vmprov:note:1"


class DomainState(StrEnum):
    """The states that a user can tell apart."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CRASHED = "crashed"
    MISSING = "missing"

    @property
    def is_on(self) -> bool:
        """Whether there is a guest, which has its memory and disks."""
        return self in (DomainState.RUNNING, DomainState.PAUSED)


@dataclass(frozen=True)
class Mark:
    """Who made an object: the installation's id (one per state directory), the lab's and the VM's name."""

    installation: str
    lab: str
    vm: str = ""


@dataclass(frozen=True)
class Domain:
    """A domain as libvirt shows it."""

    name: str
    uuid: str
    state: DomainState
    mark: Mark | None


@dataclass(frozen=True)
class Network:
    """A network as libvirt shows it; ``subnets`` are those of its addresses (IPv4 only)."""

    name: str
    bridge: str
    active: bool
    subnets: tuple[IPv4Network, ...]
    mark: Mark | None


@dataclass(frozen=True)
class Lease:
    """An address that a network's DHCP handed out.

    ``mac`` in lower case; ``hostname``: what the guest calls itself, or empty; ``expires`` in seconds since the epoch.
    """

    mac: str
    address: str
    hostname: str
    expires: float


@dataclass(frozen=True)
class Pool:
    """A storage pool; sizes in bytes."""

    name: str
    path: str
    capacity: int
    available: int


@dataclass(frozen=True)
class Volume:
    """A volume of a pool; ``path`` is where the host finds it; sizes in bytes."""

    name: str
    path: str
    capacity: int
    allocation: int


@dataclass(frozen=True)
class Node:
    """The machine underneath; sizes in bytes."""

    cpus: int
    memory: int
    free_memory: int
    libvirt: str
    qemu: str


class Hypervisor(Protocol):
    """One connection to libvirt, safe to use from several threads.

    Every method raises :class:`vmprov.errors.LibvirtFailed` when libvirt refuses and
    :class:`vmprov.errors.HostNotReady` when it cannot be reached.
    """

    def close(self) -> None:
        """Give the connection back; calling it twice is the same as once."""
        ...

    def node(self) -> Node:
        """What the machine has."""
        ...

    def loaders(self) -> list[str]:
        """Paths on the host of UEFI firmware that it has for machines of the type q35."""
        ...

    # domains
    def domains(self) -> list[Domain]:
        """All domains, ours and others', running or not."""
        ...

    def domain(self, name: str) -> Domain:
        """One domain; its state is ``MISSING`` (and its uuid empty) where there is none."""
        ...

    def domain_xml(self, name: str) -> str:
        """The domain as libvirt prints it, without passwords; raises :class:`LibvirtFailed` where there is none."""
        ...

    def domain_definition(self, name: str) -> str:
        """The domain as its next start will have it, with passwords; raises :class:`LibvirtFailed` if there is none."""
        ...

    def define_domain(self, xml: str) -> Domain:
        """Define (or redefine) a domain without starting it."""
        ...

    def annotate_domain(self, name: str, text: str) -> None:
        """Keep a text with the domain, in place of an earlier one; :func:`definitions.find_note` reads it.

        Raises :class:`LibvirtFailed` where there is no such domain.
        """
        ...

    def rename_domain(self, name: str, new: str) -> Domain:
        """Give a stopped domain another name; all else in its definition stays.

        Raises :class:`vmprov.errors.NameTaken` if there is one of that name, and :class:`LibvirtFailed` if the domain
        runs, or is not there.
        """
        ...

    def start_domain(self, name: str) -> None:
        """Power on; a running domain stays as it is."""
        ...

    def shutdown_domain(self, name: str) -> None:
        """Press the power button: ask the guest to stop. A stopped domain stays as it is."""
        ...

    def reboot_domain(self, name: str) -> None:
        """Ask the guest to reboot."""
        ...

    def reset_domain(self, name: str) -> None:
        """Press the reset button: the guest is not asked."""
        ...

    def power_off_domain(self, name: str) -> None:
        """Pull the plug; a stopped or missing domain is fine."""
        ...

    def resume_domain(self, name: str) -> None:
        """Let a paused domain run on; one that runs stays as it is."""
        ...

    def remove_domain(self, name: str) -> bool:
        """Power off and undefine with NVRAM, TPM state, managed save, snapshots' and checkpoints' metadata.

        Other volumes than that of the NVRAM stay. ``False`` if there was none.
        """
        ...

    def domain_addresses(self, name: str, mac: str) -> list[str]:
        """IPv4 addresses that DHCP leased to the interface (or that the host's ARP table knows), best first."""
        ...

    # networks
    def networks(self) -> list[Network]:
        """All networks, ours and others', active or not."""
        ...

    def network(self, name: str) -> Network | None:
        """One network, or ``None``."""
        ...

    def create_network(self, xml: str) -> Network:
        """Define a persistent network and start it.

        Raises :class:`vmprov.errors.NameTaken` if the name, bridge or subnet belongs to another network or
        interface; nothing is left behind then.
        """
        ...

    def start_network(self, name: str) -> None:
        """Start a network that is defined; an active one stays as it is."""
        ...

    def remove_network(self, name: str) -> bool:
        """Stop and undefine; ``False`` if there was none."""
        ...

    def network_xml(self, name: str) -> str:
        """The network's definition as libvirt prints it; raises :class:`LibvirtFailed` where there is none."""
        ...

    def network_definition(self, name: str) -> str:
        """What the network will be like from its next start on; raises :class:`LibvirtFailed` like network_xml."""
        ...

    def redefine_network(self, xml: str) -> bool:
        """Change a network that exists, and restart it, so that it is active as it is defined.

        Where running machines are on it, it is not restarted and stays as it is until its next start: then ``False``.
        What does not start leaves the network as it was.
        """
        ...

    def network_leases(self, name: str) -> list[Lease]:
        """The network's DHCP leases, by address; raises :class:`LibvirtFailed` where there is none of that name."""
        ...

    # storage
    def pool(self, name: str) -> Pool:
        """An active pool with fresh figures; raises :class:`vmprov.errors.HostNotReady` where there is none."""
        ...

    def create_pool(self, name: str, path: str) -> Pool:
        """Make sure that a directory pool exists, starts with the host and is active now."""
        ...

    def volumes(self, pool: str) -> list[Volume]:
        """All volumes of a pool."""
        ...

    def volume(self, pool: str, name: str) -> Volume | None:
        """One volume, or ``None``."""
        ...

    def create_volume(self, pool: str, name: str, *, size: int, format: str = "qcow2", backing: str = "") -> Volume:
        """Make an empty volume of ``size`` bytes, or an overlay over the qcow2 file ``backing``.

        Raises :class:`vmprov.errors.NameTaken` if the pool has one of that name.
        """
        ...

    def upload_volume(self, pool: str, name: str, source: Path, *, format: str, capacity: int) -> Volume:
        """Make a volume with the contents of a local file; nothing is left behind on failure.

        ``capacity`` is the virtual size in bytes. Raises :class:`vmprov.errors.NameTaken` like create_volume.
        """
        ...

    def grow_volume(self, pool: str, name: str, size: int) -> Volume:
        """Make a volume larger, to ``size`` bytes; one that is as large already stays as it is.

        Only while no running domain has it.
        """
        ...

    def remove_volume(self, pool: str, name: str) -> bool:
        """Delete a volume; ``False`` if there was none."""
        ...


def foreign(mark: Mark | None, installation: str) -> bool:
    """Whether an object with that mark belongs to somebody else: then nobody here may touch it."""
    return mark is None or mark.installation != installation
