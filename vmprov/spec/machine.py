"""The shape of one machine: everything of its hardware, and how it boots, that can be wished for.

One model for ``vmprov create``, flows that bring defaults, files that describe labs, and the records of what was made.
Only the fields that somebody gave are *set* (pydantic's ``model_fields_set``), so that wishes can be laid over each
other:

>>> flow = Machine(firmware="uefi", tpm=True, memory="4GiB")
>>> Machine(memory="8GiB").over(flow).given() == {"firmware": "uefi", "tpm": True, "memory": 8 * 1024**3}
True
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from vmprov.spec.forms import LIST, SIZE_IN_FILES, Or, Seconds, Size, at_least
from vmprov.spec.names import (
    check_disk_name,
    check_host_name,
    check_image_name,
    check_nic,
    check_smbios,
)

MIB = 1024**2
DEFAULT_LIMIT = 600.0
SMALLEST_MEMORY = 32 * MIB
SMALLEST_DISK = MIB
MOST_DISKS = 16
MOST_NICS = 8
# What a NIC of ours is on; anything else is ``bridge:NAME`` or the name of a network that exists.
NETWORK_MODES = ("per-vm", "shared", "isolated")

BootDevice = Literal["disk", "network"]
_URL = re.compile(r"[!#-\[\]-~]{1,1000}")


def _disk(value: object) -> object:
    """A size alone stands for a disk."""
    return {"size": value} if isinstance(value, str | int) else value


def _path(path: Path) -> Path:
    if path == Path():
        raise ValueError("must name a file")
    try:
        return path.expanduser().absolute()
    except RuntimeError as nobody:
        raise ValueError(f"{str(path)[:200]!r} is in nobody's home directory") from nobody


def _url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _URL.fullmatch(url):
        raise ValueError(
            f"{url[:60]!r} is not a URL to boot from; it begins with http:// or https:// and has no blanks"
        )
    return url


def _unique(boot: tuple[BootDevice, ...]) -> tuple[BootDevice, ...]:
    if len(set(boot)) != len(boot):
        raise ValueError("the same device is named twice")
    return boot


FilePath = Annotated[Path, AfterValidator(_path)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def given(self) -> dict[str, Any]:
        """The fields that were set, with their values; all others have their defaults."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def over(self, base: _Model) -> Self:
        """This, with what ``base`` sets where this sets nothing; the same goes for models within."""
        merged = base.given()
        for name, value in self.given().items():
            below = merged.get(name)
            merged[name] = value.over(below) if isinstance(value, _Model) and isinstance(below, _Model) else value
        return type(self)(**merged)


class Disk(_Model):
    """A blank data disk: ``size`` in bytes (or text such as ``20GiB``).

    The guest sees ``name`` as the disk's serial number: ``/dev/disk/by-id/virtio-NAME``. Where not given, it is
    ``data-1`` for the first data disk, ``data-2`` for the second, and so on.
    """

    name: Annotated[str, AfterValidator(lambda name: check_disk_name(name) if name else name)] = ""
    size: Annotated[Size, AfterValidator(at_least(SMALLEST_DISK))]


class HttpBoot(_Model):
    """UEFI HTTP boot: ``url`` is what the network's DHCP tells firmware to load.

    ``ca``: PEM files with the certificates that firmware trusts for TLS. ``dns``: host names that the network's DNS
    knows beside the world's, each with its IPv4 address.
    """

    url: Annotated[str, AfterValidator(_url)]
    ca: Annotated[tuple[FilePath, ...], LIST] = ()
    dns: dict[Annotated[str, AfterValidator(check_host_name)], IPv4Address] = Field(default_factory=dict)


class Smbios(_Model):
    """What SMBIOS says of the machine, beside its serial number and UUID, which are recorded for each VM."""

    manufacturer: Annotated[str, AfterValidator(check_smbios)] = ""
    product: Annotated[str, AfterValidator(check_smbios)] = ""


def _named(disks: tuple[Disk, ...]) -> tuple[Disk, ...]:
    """Every disk with a name; :class:`ValueError` if two have the same."""
    named = tuple(
        disk if disk.name else Disk(name=f"data-{place}", size=disk.size) for place, disk in enumerate(disks, 1)
    )
    names = [disk.name for disk in named]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise ValueError(f"two disks are called {twice!r}")
    return named


class Machine(_Model):
    """One machine. Sizes in bytes (or text such as ``2GiB``), ``timeout`` in seconds (or text such as ``5m``).

    ``image`` may be empty: a machine with a blank disk, ready as soon as it is powered on unless a flow says more.
    ``disk``: the system disk; ``None`` is the image's size, or 10 GiB for a blank one. ``disks``: blank data disks.
    ``networks``: what each NIC is on: ``per-vm``, ``shared``, ``isolated``, the name of an existing libvirt network, or
    ``bridge:NAME``, a bridge of the host. The first NIC is the one that is reached, and booted from.
    ``adopt``: an existing network may get the options of ``http_boot``; they are taken away again with the VM.
    ``dhcp``: whether networks of ours hand out addresses.
    ``firmware``: ``bios``, ``uefi``, or ``secure-boot``: UEFI that starts nothing unsigned. ``boot_certificates``: PEM
    files whose signatures it accepts then; Microsoft's where none is given. ``tpm``: a TPM 2.0.
    ``boot``: what is tried, in order; empty: the disk, and then the network where the disk is blank.
    ``pxe``: whether UEFI firmware tries PXE before HTTP boot; it takes its time.
    ``consoles``: serial ports; at least as many as the flow listens to are made.
    ``graphics``: ``vnc`` is a screen on the host's loopback address, with a password.
    ``flow`` is a shipped flow's name or a file; empty: ready is when SSH answers, or the login prompt shows.
    ``timeout`` of ``None`` means: the flow's own limit, or ten minutes.
    """

    image: Annotated[str, AfterValidator(lambda name: check_image_name(name) if name else name)] = "debian-12"
    cpus: int = Field(default=1, ge=1, le=256, strict=True)
    memory: Annotated[Size, AfterValidator(at_least(SMALLEST_MEMORY))] = 1024 * MIB
    disk: Annotated[Size, AfterValidator(at_least(SMALLEST_DISK))] | None = None
    disks: Annotated[
        tuple[Annotated[Disk, Or(_disk, lambda _: dict(SIZE_IN_FILES))], ...],
        Field(max_length=MOST_DISKS),
        LIST,
        AfterValidator(_named),
    ] = ()
    networks: Annotated[
        tuple[Annotated[str, AfterValidator(check_nic)], ...],
        Field(min_length=1, max_length=MOST_NICS),
        LIST,
    ] = ("per-vm",)
    adopt: Annotated[bool, Strict()] = False
    dhcp: Annotated[bool, Strict()] = True
    firmware: Literal["bios", "uefi", "secure-boot"] = "bios"
    boot_certificates: Annotated[tuple[FilePath, ...], LIST] = ()
    tpm: Annotated[bool, Strict()] = False
    boot: Annotated[tuple[BootDevice, ...], LIST, AfterValidator(_unique)] = ()
    http_boot: HttpBoot | None = None
    pxe: Annotated[bool, Strict()] = False
    smbios: Smbios = Field(default_factory=Smbios)
    consoles: int = Field(default=1, ge=1, le=2, strict=True)
    graphics: Literal["none", "vnc"] = "none"
    flow: str = ""
    timeout: Annotated[Seconds, Field(gt=0)] | None = None

    @property
    def boot_order(self) -> tuple[BootDevice, ...]:
        """What is tried, in order."""
        return self.boot or (("disk",) if self.image else ("disk", "network"))

    @property
    def limit(self) -> float:
        """Seconds from power-on to the verdict."""
        return DEFAULT_LIMIT if self.timeout is None else self.timeout

    def conflicts(self, *, ours: Container[str] = ()) -> Iterator[tuple[str, str]]:
        """What does not go together: the field, and why. Defaults are laid under a machine before this is asked.

        ``ours``: networks that are made for the machine, beside those of the modes.
        """
        if self.boot_certificates and self.firmware != "secure-boot":
            yield "boot_certificates", f"they are for firmware secure-boot, and this is {self.firmware}"
        if self.http_boot is None:
            if self.adopt:
                yield "adopt", "a network is adopted for HTTP boot, and no URL to boot from is given"
            return
        if self.firmware == "bios":
            yield "http_boot", "HTTP boot needs firmware uefi or secure-boot"
        if "network" not in self.boot_order:
            yield "http_boot", "the network is not in the boot order"
        if not self.dhcp:
            yield "http_boot", "the URL is told by DHCP, which is switched off"
        first = self.networks[0]
        if first.startswith("bridge:"):
            yield "http_boot", f"nobody here rules the DHCP on {first}; leave the URL to the server there"
        elif first not in NETWORK_MODES and first not in ours and not self.adopt:
            yield (
                "http_boot",
                f"network {first!r} is not ours: let it be adopted, or leave the URL to its own DHCP",
            )
