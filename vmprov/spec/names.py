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
_SERIAL_NUMBER = re.compile(r"[A-Za-z0-9]{5,20}")


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


def check_serial_number(number: str) -> str:
    """An SMBIOS serial number that orchestrators accept, or :class:`ValueError`."""
    if not _SERIAL_NUMBER.fullmatch(number):
        raise ValueError(f"serial number {number[:40]!r} is not allowed; use 5 to 20 letters and digits")
    return number
