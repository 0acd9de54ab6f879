"""Locks between processes, as files that the kernel unlocks when their holder dies."""

from __future__ import annotations

import fcntl
import os
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
    turn = Turn(path)
    try:
        wait_until(turn.take, deadline, f"lock on {what}", cancel=cancel, interval=0.05)
        yield
    except WaitTimeout as problem:
        if turn.mine:
            raise
        raise WaitTimeout(
            f"another vmprov process works on {what} for more than {deadline.seconds:.0f} s",
            hint="wait for it to end, or find it with: pgrep -af vmprov",
        ) from problem
    finally:
        turn.close()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file."""
    if not path.exists():
        return False
    turn = Turn(path)
    try:
        return not turn.take()
    finally:
        turn.close()


def remove_unheld(path: Path) -> bool:
    """Remove a lock file that nobody holds; ``False`` if somebody does. One that is gone is fine."""
    if not path.exists():
        return True
    turn = Turn(path)
    if not turn.take():
        turn.close()
        return False
    turn.remove()
    return True


class Turn:
    """A lock that several ask for again and again, and one has until it closes it or dies."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """``shared``: several may have it at once, but nobody who wants it alone."""
        self._path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1
        self.mine = False

    def take(self) -> bool:
        """Whether it is ours now; never waits."""
        while not self.mine:
            if self._fd < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, self._kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # Its last holder may have removed the file: then others lock another one of that name.
            self.mine = self._is_there()
            if not self.mine:
                self.close()
        return True

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def tell(self, text: str) -> None:
        """Leave word for those who wait for it; it must be ours."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def told(self) -> str:
        """What its holder, or its last one, left word of."""
        try:
            return self._path.read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def remove(self) -> None:
        """Remove the file, which must be ours, and leave it."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it to others."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self.mine = -1, False
