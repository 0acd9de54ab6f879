"""Captures on disk, and the followers of whom the keeper has to know.

The keeper gives back the disk space of a capture's oldest bytes once it is longer than the limit. It waits, within
reason, for followers that have not read them yet: each follower says in a file of its own how far it has come.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from vmprov.console.index import Moment, Times

_PLACE = struct.Struct("<Q")
_numbers = itertools.count()


def followers_directory(log: Path) -> Path:
    """Where the followers of a capture say how far they have come."""
    return log.with_suffix(".readers")


class Follower:
    """Says how far one reader has come; what it has not read stays, until four times the limit is reached."""

    def __init__(self, log: Path) -> None:
        self._path = followers_directory(log) / f"{os.getpid()}-{next(_numbers)}"
        self._fd = -1
        self._told = -1

    def tell(self, offset: int) -> None:
        """Everything before ``offset`` has been read. Where nothing can be written, the keeper just does not know."""
        if offset == self._told:
            return
        try:
            if self._fd < 0:
                self._path.parent.mkdir(mode=0o700, exist_ok=True)
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                # The keeper may be asking, for a moment, whether it is locked.
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.pwrite(self._fd, _PLACE.pack(offset), 0)
        except OSError:
            return
        self._told = offset

    def close(self) -> None:
        """No longer a reader."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def slowest_follower(log: Path) -> int | None:
    """The first byte that some follower has not read yet; ``None`` where there is no follower.

    Removes what followers that died have left.
    """
    places = []
    try:
        files = list(followers_directory(log).iterdir())
    except OSError:
        return None
    for path in files:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # An empty one belongs to a follower that is about to lock it.
            if os.fstat(fd).st_size:
                path.unlink(missing_ok=True)
        except BlockingIOError:
            said = os.pread(fd, _PLACE.size, 0)
            places.append(_PLACE.unpack(said)[0] if len(said) == _PLACE.size else 0)
        finally:
            os.close(fd)
    return min(places, default=None)


class Capture:
    """One UART's capture: its bytes, and when they were seen. Reading changes nothing."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.times = Times(log)

    @property
    def size(self) -> int:
        """How many bytes the UART has sent, those that were trimmed included."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, start: int, end: int | None = None, *, block: int = 1 << 20) -> Iterator[tuple[int, bytes]]:
        """The bytes from ``start`` to ``end`` (default: the present end) as (offset, block), without trimmed ones."""
        self.times.refresh()
        try:
            file = self.log.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            stop = size if end is None else end
            # Of a capture that was made anew the keeper has yet to say that nothing is trimmed.
            position = max(start, self.times.trimmed if self.times.trimmed <= size else 0)
            while position < stop:
                data = os.pread(file.fileno(), min(block, stop - position), position)
                if not data:
                    return
                # The keeper says that it will trim before it does.
                if self.times.refresh() and position < self.times.trimmed <= os.fstat(file.fileno()).st_size:
                    data = data[self.times.trimmed - position :]
                    position = self.times.trimmed
                if data:
                    yield position, data
                position += len(data)

    def at(self, end: int) -> Moment:
        """When the byte before ``end`` was seen; where nobody has looked since, when the file was last written."""
        found = self.times.at(end)
        if found is not None:
            return found
        try:
            written = self.log.stat().st_mtime
        except FileNotFoundError:
            return Moment(0.0, 0.0, current=False)
        mono = time.monotonic() - (time.time() - written)
        return Moment(written, mono, current=mono > 0)
