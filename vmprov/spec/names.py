"""Names, checked once so that no file, XML, Ruby or shell ever sees a surprising one."""

from __future__ import annotations

import re

# RFC 1123 host names, since a VM's name is its host name; short enough for every place that it lands in.
LONGEST_NAME = 40
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_IMAGE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_NETWORK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_FLOW_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_STAGE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_DOMAIN = re.compile(r"[!-.0-~](?:[ -.0-~]{0,126}[!-.0-~])?")
_SERIAL_NUMBER = re.compile(r"[A-Za-z0-9]{5,20}")
# What virtio tells a guest of a disk's serial number.
_LONGEST_DISK_NAME = 20
# The kernel's IFNAMSIZ less the closing NUL.
_BRIDGE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SMBIOS = re.compile(r"[ -~]{0,64}")


def check_name(name: str, what: str = "name") -> str:
    """A VM's or lab's name, or :class:`ValueError`."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{what} {name[:20]!r}... is {len(name)} characters long; at most {LONGEST_NAME} are allowed")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r} is not allowed; use a-z, 0-9 and '-', beginning and ending with a letter or digit"
        )
    return name


def check_image_name(name: str) -> str:
    """An image's name, or :class:`ValueError`."""
    if len(name) > LONGEST_NAME or not _IMAGE_NAME.fullmatch(name):
        raise ValueError(
            f"image name {name[:60]!r} is not allowed; use at most {LONGEST_NAME} of a-z, 0-9, '.', '_', '-'"
        )
    return name


def check_flow_name(name: str) -> str:
    """A flow's name, or :class:`ValueError`."""
    if len(name) > LONGEST_NAME or not _FLOW_NAME.fullmatch(name):
        raise ValueError(f"flow name {name[:60]!r} is not allowed; use a-z, 0-9, '.', '_' and '-'")
    return name


def check_stage_name(name: str) -> str:
    """The name of a stage, a failure class, a recovery or a secret, or :class:`ValueError`."""
    if len(name) > LONGEST_NAME or not _STAGE_NAME.fullmatch(name):
        raise ValueError(f"name {name[:60]!r} is not allowed; use a-z, 0-9 and '-'")
    return name


def check_network_name(name: str) -> str:
    """The name of a libvirt network, or :class:`ValueError`."""
    if not _NETWORK_NAME.fullmatch(name):
        raise ValueError(f"network name {name[:60]!r} is not allowed; use letters, digits, '.', '_' and '-'")
    return name


def check_domain_name(name: str) -> str:
    """The name of a domain that somebody made, or :class:`ValueError`."""
    if not _DOMAIN.fullmatch(name):
        raise ValueError(f"domain name {name[:60]!r} is not allowed; use at most 128 printable characters but '/'")
    return name


def check_serial_number(number: str) -> str:
    """An SMBIOS serial number that orchestrators accept, or :class:`ValueError`."""
    if not _SERIAL_NUMBER.fullmatch(number):
        raise ValueError(f"serial number {number[:40]!r} is not allowed; use 5 to 20 letters and digits")
    return number


def check_disk_name(name: str) -> str:
    """A data disk's name, or :class:`ValueError`."""
    if len(name) > _LONGEST_DISK_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"disk name {name[:40]!r} is not allowed; use at most {_LONGEST_DISK_NAME} of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit"
        )
    return name


def check_nic(network: str) -> str:
    """What a NIC is on - a mode, a network's name, or ``bridge:NAME`` - or :class:`ValueError`."""
    kind, colon, bridge = network.partition(":")
    if not colon:
        return check_network_name(network)
    if kind != "bridge" or not _BRIDGE.fullmatch(bridge) or bridge in (".", ".."):
        raise ValueError(
            f"network {network[:60]!r} is not allowed; use a name, or bridge:NAME with at most 15 of letters, digits, "
            "'.', '_' and '-'"
        )
    return network


def check_host_name(name: str) -> str:
    """A DNS host name in lower case, or :class:`ValueError`."""
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"host name {name[:60]!r} is not allowed; use labels of a-z, 0-9 and '-', with dots between")
    return name


def check_smbios(text: str) -> str:
    """A text for SMBIOS, or :class:`ValueError`."""
    if not _SMBIOS.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not allowed; use at most 64 printable ASCII characters")
    return text
