"""The options that say what a machine is like, for every command that makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

Command = Callable[..., Any]

_OPTIONS = [
    click.option("--image", default="debian-12", show_default=True, help="The image; '' for a blank disk."),
    click.option("--cpus", type=int, default=1, show_default=True, help="Virtual CPUs of each."),
    click.option("--memory", default="1GiB", show_default=True, metavar="SIZE", help="Memory of each."),
    click.option("--disk", metavar="SIZE", help="System disk of each (default: the image's size, or 10GiB)."),
    click.option("--extra-disk", "disks", multiple=True, metavar="[NAME=]SIZE",
                 help="A blank data disk; may be given several times."),
    click.option("--network", "networks", multiple=True, metavar="per-vm|shared|isolated|NAME|bridge:NAME",
                 help="A network per machine (the default), one per lab, one without a way out, an existing one, or a "
                 "bridge of the host. Several times: several NICs."),
    click.option("--adopt", is_flag=True, help="Allow --boot-url to be told by an existing network's DHCP meanwhile."),
    click.option("--dhcp/--no-dhcp", default=True, help="Whether networks of ours hand out addresses (they do)."),
    click.option("--firmware", default="bios", show_default=True, metavar="bios|uefi|secure-boot",
                 help="What starts the machine; under secure-boot, nothing unsigned starts."),
    click.option("--boot-certificate", "boot_certificates", multiple=True, metavar="FILE",
                 help="Under secure-boot, a PEM file whose signatures count (default: Microsoft's)."),
    click.option("--tpm/--no-tpm", default=False, help="A TPM 2.0."),
    click.option("--boot", metavar="disk,network", help="What is tried, in order (default: disk; a blank one: both)."),
    click.option("--boot-url", metavar="URL", help="What UEFI firmware loads when it boots from the network."),
    click.option("--ca", multiple=True, metavar="FILE", help="A PEM file that firmware trusts when the URL is https."),
    click.option("--boot-dns", multiple=True, metavar="NAME=ADDRESS", help="A host name that the network's DNS knows."),
    click.option("--pxe/--no-pxe", default=False, help="Whether UEFI firmware tries PXE before HTTP boot."),
    click.option("--manufacturer", metavar="TEXT", help="SMBIOS manufacturer of each."),
    click.option("--product", metavar="TEXT", help="SMBIOS product name of each."),
    click.option("--consoles", type=int, default=1, show_default=True, help="Serial ports of each: 1 or 2."),
    click.option("--graphics", default="none", show_default=True, metavar="none|vnc", help="A screen, by VNC."),
    click.option("--flow", default="", metavar="NAME|FILE", help="What consoles have to pass; see: vmprov flow list."),
    click.option("--timeout", metavar="DURATION", help="Longest time to ready (default: the flow's limit, or 10m)."),
]  # fmt: skip


def machine_options(command: Command) -> Command:
    """Add the options to a command; :func:`machine_wishes` takes what they give."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(context: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's values that somebody gave: a flow may bring others in place of defaults."""
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in values.items() if context.get_parameter_source(name) is not default}


def machine_wishes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a :class:`vmprov.spec.machine.Machine` that the options stand for; other options stay."""
    wishes = dict(options)
    if "disks" in wishes:
        wishes["disks"] = tuple(_disk(text) for text in wishes["disks"])
    if "boot" in wishes:
        wishes["boot"] = tuple(device.strip() for device in wishes["boot"].split(","))
    http_boot = {name: wishes.pop(option) for name, option in _HTTP_BOOT.items() if option in wishes}
    if http_boot:
        if "url" not in http_boot:
            raise click.UsageError("--ca and --boot-dns need --boot-url")
        http_boot["dns"] = dict(_pair(text) for text in http_boot.get("dns", ()))
        wishes["http_boot"] = http_boot
    smbios = {name: wishes.pop(name) for name in ("manufacturer", "product") if name in wishes}
    if smbios:
        wishes["smbios"] = smbios
    return wishes


_HTTP_BOOT = {"url": "boot_url", "ca": "ca", "dns": "boot_dns"}


def _disk(text: str) -> dict[str, str]:
    name, equals, size = text.rpartition("=")
    return {"name": name, "size": size} if equals else {"size": text}


def _pair(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals:
        raise click.UsageError(f"--boot-dns {text!r} is not NAME=ADDRESS")
    return name, address
