"""Locks between processes, as files that the kernel unlocks when their holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmprov.errors import WaitTimeout
from vmprov.waiting import Cancel, Deadline, wait_until


@contextmanager
def exclusive(path: Path, deadline: Deadline, what: str, *, cancel: Cancel | None = None) -> Iterator[None]:
    """Hold the lock file ``path``; waits for another holder, at most until the deadline.

    Raises :class:`WaitTimeout` naming ``what`` if another process holds it for longer.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a") as handle:

        def take() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            wait_until(take, deadline, f"lock on {what}", cancel=cancel, interval=0.05)
        except WaitTimeout as problem:
            raise WaitTimeout(
                f"another vmprov process works on {what} for more than {deadline.seconds:.0f} s",
                hint="wait for it to end, or find it with: pgrep -af vmprov",
            ) from problem
        yield
