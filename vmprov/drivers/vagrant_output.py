"""Reading what ``vagrant up`` prints: which line is about which machine, and why one failed.

::

    ==> web-1: Starting domain.
    An error occurred while executing the action on the 'web-2'
    machine. Please handle this error then try again:

    Failed to start domain: Network not found: no network with matching name 'trial-web-2'
"""

from __future__ import annotations

import re
from collections.abc import Collection

_ABOUT = re.compile(r"^(?:==>|   ) (?P<vm>[^\s:]+): (?P<text>.*)$")
_BLOCK = re.compile(r"^An (?:unexpected )?error occurred (?:while|when) executing the action on the")
_WHOSE = re.compile(r"'(?P<vm>[^']+)'")
_END_OF_PREAMBLE = re.compile(r"(?:then try again|report this as a bug):$")
# What vagrant says before it does anything.
_ROUTINE = re.compile(r"^Bringing machine '")
_BACKTRACE = re.compile(r"^\S+\.rb:\d+:in ")
# What stands before libvirt's own words, and says nothing that they do not say.
_NOISE = re.compile(
    r"^(?:There was an error talking to Libvirt\. The error message is shown below:"
    r"|Failed to start domain:|Error while creating domain:|Error saving the server:"
    r"|Call to vir\w+ failed:)\s*"
)


class Transcript:
    """What one run printed; :meth:`take` it line by line."""

    def __init__(self, vms: Collection[str]) -> None:
        self._vms = frozenset(vms)
        self._general: list[str] = []
        self._failed: dict[str, list[str]] = {}
        self._open: list[str] | None = None
        self._preamble = ""

    def take(self, line: str) -> tuple[str, str]:
        """Note a line; returns the VM it is about ("" for all of them) and its text."""
        about = _ABOUT.match(line)
        if about and about["vm"] in self._vms:
            return about["vm"], about["text"]
        self._note(line.strip())
        return "", line

    def _note(self, line: str) -> None:
        if _BLOCK.match(line):
            self._preamble = line
            self._open = None
        elif self._preamble:
            self._preamble += f" {line}"
        elif self._open is not None:
            self._open.append(line)
        elif line and not _ROUTINE.match(line):
            self._general.append(line)
        if self._preamble and _END_OF_PREAMBLE.search(self._preamble):
            whose = _WHOSE.search(self._preamble)
            self._open = self._failed.setdefault(whose["vm"] if whose else "", [])
            self._preamble = ""

    def why(self, vm: str) -> str:
        """Why a machine failed, on one line; empty where nothing was said about it.

        With a single machine, vagrant does not say whose error it prints.
        """
        said = self._failed.get(vm)
        if said is None and len(self._vms) == 1:
            said = self._general
        return one_line(said or [])

    @property
    def general(self) -> str:
        """What was said about no machine in particular, on one line."""
        return one_line(self._general)


def one_line(lines: Collection[str]) -> str:
    """An error message of vagrant's without its wrapping, backtrace and preamble."""
    text = " ".join(line for line in lines if line and not _BACKTRACE.match(line))
    while (shorter := _NOISE.sub("", text)) != text:
        text = shorter
    return text
