"""Deadlines, cancellation, and the one function that waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from vmprov.errors import Interrupted, WaitTimeout

T = TypeVar("T")


class Deadline:
    """A point in (monotonic) time that nested waits pass on to each other.

    >>> Deadline(0).expired
    True
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the deadline was set."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the deadline; never negative."""
        return max(0.0, self.seconds - self.spent)

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.left <= 0.0

    def at_most(self, seconds: float) -> Deadline:
        """A deadline that comes after ``seconds``, or with this one if that is earlier."""
        return Deadline(min(seconds, self.left))


class Cancel:
    """A token that one thread sets and every wait of the operation looks at."""

    def __init__(self) -> None:
        # threading.Event would hang for ever when a signal handler sets it while its own thread is inside wait();
        # SimpleQueue.put is documented to be safe there.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._set = False

    def set(self) -> None:
        """Ask everything that holds this token to stop; may be called from a signal handler."""
        self._set = True
        self._bell.put(None)

    @property
    def is_set(self) -> bool:
        """Whether somebody asked to stop."""
        return self._set

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake at once when cancelled; raises :class:`Interrupted`."""
        try:
            self._bell.get(timeout=seconds)
        except Empty:
            return
        # For the next sleeper.
        self._bell.put(None)
        raise Interrupted("interrupted")

    def check(self) -> None:
        """Raise :class:`Interrupted` if somebody asked to stop."""
        if self.is_set:
            raise Interrupted("interrupted")


def wait_until(
    probe: Callable[[], T | None],
    deadline: Deadline,
    what: str,
    *,
    cancel: Cancel | None = None,
    interval: float = 0.2,
    hint: str = "",
) -> T:
    """Call ``probe`` every ``interval`` seconds until it returns something true, and return that.

    Raises :class:`WaitTimeout` naming ``what`` when the deadline passes, :class:`Interrupted` when cancelled.
    """
    token = cancel or Cancel()
    while True:
        found = probe()
        if found:
            return found
        if deadline.expired:
            raise WaitTimeout(f"no {what} within {deadline.seconds:.0f} s", hint=hint)
        token.sleep(min(interval, deadline.left or interval))
