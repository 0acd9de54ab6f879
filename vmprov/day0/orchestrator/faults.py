"""Faults on demand: what is to go wrong, and for whom."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

# Where a node can be made to hang, by the names of the flows' stages: while it is served a file ...
SERVED_STAGES = ("http-download", "boot-script", "kernel-download", "initramfs-download")
# ... or in its own micro-OS, or in the operating system that was installed.
NODE_STAGES = ("kernel", "username", "onboarding", "imaging", "reboot", "disk-boot")
_NUMBER = re.compile(r"[1-9]\d{0,5}")
_RATE = 64 * 1024
_CERTIFICATES = ("wrong-name", "other-ca", "expired")


class BadFault(ValueError):
    """The fault cannot be meant."""


@dataclass(frozen=True)
class Kind:
    """A fault that can be asked for: its argument's choices (or ``N``), its default, and what it does.

    ``of_all``: it strikes before a node says who it is, so it cannot be for one serial number.
    """

    does: str
    argument: tuple[str, ...] = ()
    default: str = ""
    of_all: bool = False


KINDS = {
    "boot-file-404": Kind("the boot file is not there (404)", of_all=True),
    "bad-certificate": Kind(
        "the boot server's certificate is for another name, of another CA, or expired",
        _CERTIFICATES,
        _CERTIFICATES[0],
        of_all=True,
    ),
    "slow-download": Kind("boot files come at N bytes per second", ("N",), str(_RATE), of_all=True),
    "unsigned-boot-file": Kind("the boot file carries no signature", of_all=True),
    "wrong-credentials": Kind("the first N logins of a node are refused", ("N",), "3"),
    "unregistered": Kind("the serial number is not known, whatever was registered"),
    "mismatch": Kind("the orchestrator wants Secure Boot where it is off, and off where it is on"),
    "secure-boot-unknown": Kind("the node cannot read whether Secure Boot is on"),
    "digest-wrong": Kind("the OS image does not have the digest that its profile names"),
    "disk-too-small": Kind("the OS image needs more room than any disk has"),
    "hang": Kind("the node stops at a stage and says nothing more", (*SERVED_STAGES, *NODE_STAGES), "imaging"),
    "reboot-loop": Kind("the micro-OS, or the installed OS, reboots for ever", ("micro-os", "os"), "micro-os"),
    "panic": Kind("the kernel of the micro-OS, or of the installed OS, panics", ("micro-os", "os"), "micro-os"),
    "token-expires": Kind("tokens are good for N seconds", ("N",), "5", of_all=True),
    "api-certificate": Kind(
        "the same of the API and the identity provider", _CERTIFICATES, _CERTIFICATES[0], of_all=True
    ),
    "api-401": Kind("the API says that the token is no good", of_all=True),
    "api-403": Kind("the API says that the user may not", of_all=True),
    "api-500": Kind("the API fails", of_all=True),
    "api-slow": Kind("the API answers after N seconds", ("N",), "30", of_all=True),
    "api-not-json": Kind("the API answers with a page of HTML", of_all=True),
    "api-null": Kind("the API answers null wherever there should be a string", of_all=True),
}


@dataclass(frozen=True)
class Fault:
    """One fault that is on; an empty ``serial`` means every node."""

    name: str
    argument: str = ""
    serial: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name

    @property
    def number(self) -> int:
        """The argument of a fault that takes a number."""
        return int(self.argument)


def parse(text: str, serial: str = "") -> Fault:
    """A fault from ``NAME`` or ``NAME:ARGUMENT``; raises :class:`BadFault`."""
    name, colon, argument = text.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        raise BadFault(f"no fault called {name!r}; there are: {', '.join(KINDS)}")
    argument = argument if colon else kind.default
    number = kind.argument == ("N",) and _NUMBER.fullmatch(argument)
    if not number and argument not in (kind.argument or ("",)):
        wanted = "a number from 1" if kind.argument == ("N",) else ", ".join(kind.argument) or "no argument"
        raise BadFault(f"fault {name} takes {wanted}, not {argument!r}")
    if serial and (kind.of_all or argument in SERVED_STAGES):
        raise BadFault(f"fault {text} strikes before a node says who it is: it cannot be for one serial number")
    return Fault(name, argument, serial)


@dataclass
class Faults:
    """The faults that are on, and how often those with a count have struck."""

    on: list[Fault] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Switch one on; it takes the place of the same kind for the same node."""
        self.remove(fault)
        self.on.append(fault)
        self.struck.clear()

    def remove(self, fault: Fault) -> None:
        """Switch this kind off for this node, whatever its argument."""
        self.on = [one for one in self.on if (one.name, one.serial) != (fault.name, fault.serial)]

    def clear(self, serial: str = "") -> None:
        """Switch all off, or those of one node."""
        self.on = [one for one in self.on if serial and one.serial != serial]
        self.struck.clear()

    def find(self, name: str, serial: str = "") -> Fault | None:
        """The fault of this name that concerns a node; one for that node comes before one for all."""
        fitting = [one for one in self.on if one.name == name and one.serial in ("", serial)]
        return max(fitting, key=lambda one: bool(one.serial), default=None)

    def strikes(self, name: str, serial: str) -> bool:
        """Whether a fault that strikes N times strikes now; counts."""
        fault = self.find(name, serial)
        if fault is None:
            return False
        count = self.struck.get(serial, 0)
        self.struck[serial] = count + 1
        return count < fault.number

    def to_json(self) -> list[dict[str, Any]]:
        """For the state file and the state document."""
        return [asdict(one) for one in self.on]
