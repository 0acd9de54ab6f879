"""What happens, as typed values; the command line, logs and tests are listeners.

An event says *what* happened to *whom*; it never carries a secret and is never formatted for one reader.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something a user would like to know, about nobody in particular."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """A long piece of work on ``what`` moved on; ``total`` is 0 where the end is not known (bytes or steps)."""

    what: str
    done: int = 0
    total: int = 0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class StageChanged(Event):
    """The VM entered a stage of its life - network, disk, power on, ready, failed, removed... - or of its flow.

    ``started``: when that was, as :func:`time.monotonic`; ``None``: just now.
    """

    vm: str
    stage: str
    why: str = ""
    started: float | None = None


@dataclass(frozen=True, kw_only=True)
class Output(Event):
    """A line that another program printed on behalf of a VM (``vm`` is empty when it is about all of them)."""

    vm: str
    source: str
    line: str


# what is written down


@dataclass(frozen=True, kw_only=True)
class OperationBegan(Event):
    """A command is alone at work on a lab now; ``id`` is its number in the journal."""

    id: int
    command: str
    lab: str


@dataclass(frozen=True, kw_only=True)
class OperationEnded(Event):
    """It is done with it."""

    id: int
    command: str
    lab: str


@dataclass(frozen=True, kw_only=True)
class StepChanged(Event):
    """A step of an operation is about to be done, or was done or undone; ``state`` as in the journal."""

    operation: int
    subject: str
    step: str
    what: str
    state: str
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Recorded(Event):
    """Something is ours from now on: a ``lab``, a ``vm``, or an outside object by its kind.

    ``vm`` -- whose it is; empty for what a lab shares. ``fields`` -- what is recorded of it.
    """

    kind: str
    name: str
    lab: str
    vm: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Changed(Event):
    """Fields of a VM's record have other values now: its state, verdict, address, and so on."""

    vm: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Renamed(Event):
    """A VM has another name now."""

    vm: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Forgotten(Event):
    """Something is no longer ours: it is gone, or never came to be."""

    kind: str
    name: str
    lab: str = ""
    vm: str = ""


def event_json(event: Event) -> dict[str, Any]:
    """An event as an object for JSON: its kind, and when that was (seconds since the epoch), before its fields.

    >>> event_json(Renamed(vm="web-1", new="web-2")) | {"at": 0}
    {'event': 'renamed', 'at': 0, 'vm': 'web-1', 'new': 'web-2'}
    """
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(event).__name__).lower()
    values: dict[str, Any] = {"event": kind, "at": time.time(), **vars(event)}
    # A clock of this process alone.
    if (started := values.pop("started", None)) is not None:
        values["seconds_ago"] = round(time.monotonic() - started, 3)
    return values


Listener = Callable[[Event], None]


class Events:
    """Hands each event to every listener, one event at a time, from whichever thread it comes."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)
        self._lock = threading.Lock()

    def listen(self, listener: Listener) -> None:
        """Add a listener; it is called in the thread that emits and must not block."""
        with self._lock:
            self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        """Tell every listener."""
        with self._lock:
            for listener in self._listeners:
                listener(event)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Announce a piece of work that takes noticeable time, and how long it took once it is done."""
        start = time.monotonic()
        self.emit(Progress(what=what))
        yield
        self.emit(Progress(what=what, done=1, total=1, text=f"{time.monotonic() - start:.1f} s"))
