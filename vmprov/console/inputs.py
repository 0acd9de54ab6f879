"""What was typed on a console and by whom, without passwords.

``console-0.input`` beside a capture holds a JSON object a line: ``wall`` (seconds since the epoch), ``offset`` (how
long the capture was), ``by``, and one of ``text`` (typed, or what the guest echoed of it), ``secret`` (a secret's
name), ``hidden`` (true: something that the guest did not show). What a person types is never written down, only what
the guest showed of it on the line of its prompt: a password that is not echoed cannot get here.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmprov.console.tail import last_line
from vmprov.console.text import LineReader

_ENTER = re.compile(rb"[\r\n]")
_ASKS_FOR_SECRET = re.compile(r"(?i)(pass(word|phrase|code|wd)?|secret|token|pin|key)\b[^\n]{0,60}[:?>]\s*\Z")


def inputs_path(log: Path) -> Path:
    """Where the input of a capture's UART is recorded."""
    return log.with_suffix(".input")


@dataclass(frozen=True)
class Typed:
    """One entry; ``text`` is empty where ``hidden``, and ``secret`` is the name of a flow's secret or empty."""

    wall: float
    offset: int
    by: str
    text: str = ""
    secret: str = ""
    hidden: bool = False
    number: int = 0


def read_inputs(log: Path) -> list[Typed]:
    """All entries, oldest first; what cannot be read (the end of one that a crash cut off) is left out."""
    try:
        lines = inputs_path(log).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(Typed(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return entries


class InputLog:
    """Appends to the record of one console's input."""

    def __init__(self, log: Path, by: str) -> None:
        """``by``: who types, such as a user or a flow."""
        self._log = log
        self._by = by

    def write(self, **what: Any) -> None:
        """Add an entry; a full disk is no reason not to type."""
        try:
            offset = self._log.stat().st_size
        except FileNotFoundError:
            offset = 0
        entry = {"wall": round(time.time(), 3), "offset": offset, "by": self._by, **what}
        data = json.dumps(entry).encode() + b"\n"
        try:
            fd = os.open(inputs_path(self._log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.write(fd, data)
        except OSError:
            pass
        finally:
            os.close(fd)

    def sent(self, text: str, *, secret: bool) -> None:
        """A program typed ``text``; at a prompt for a password it is hidden, secret or not."""
        if secret or _ASKS_FOR_SECRET.search(last_line(self._log)):
            self.write(hidden=True)
        else:
            self.write(text=text)


class TypedLines:
    """Makes entries of what a person types, from what the guest shows of it."""

    def __init__(self, inputs: InputLog, prompt: str) -> None:
        """``prompt``: the unfinished line at which they begin."""
        self._inputs = inputs
        self._reader = LineReader()
        self._reader.feed(prompt.encode())
        self._prompt: str | None = None
        self._entered = 0

    def typed(self, data: bytes) -> None:
        """Keys were pressed."""
        if not data:
            return
        if self._prompt is None:
            self._prompt = self._reader.pending
        self._entered += len(_ENTER.findall(data))

    def seen(self, data: bytes) -> None:
        """The guest sent something."""
        for line in self._reader.feed(data):
            if self._entered:
                self._entered -= 1
                self._record(line)

    def finish(self) -> None:
        """The session ends; what was entered and never shown was hidden."""
        for _ in range(self._entered):
            self._record(self._reader.pending)
        self._entered = 0

    def _record(self, line: str) -> None:
        shown = line.removeprefix(self._prompt or "").strip()
        self._prompt = "" if self._entered else None
        if shown:
            self._inputs.write(text=shown)
        else:
            self._inputs.write(hidden=True)
