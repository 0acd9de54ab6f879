"""What happens, as typed values; the command line, logs and tests are listeners.

An event says *what* happened to *whom*; it never carries a secret and is never formatted for one reader.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


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
