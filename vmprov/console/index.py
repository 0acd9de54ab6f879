"""When what was seen: the times file beside each capture, and who may read and write it.

A capture is a file that only grows: ``console-0.log`` holds the UART's bytes at the offsets at which they were sent,
for the whole life of the VM. Its times file ``console-0.times`` is a sequence of fixed records, appended by the keeper:

* SEEN: at this time, the capture was ``offset`` bytes long. A line's time is that of the first such record at or
  behind its end.
* BOOT: firmware started at ``offset``; ``number`` counts the boots from 1.
* TRIMMED: the bytes before ``offset`` are gone, to stay within the size limit. Offsets stay what they were.
* LOST: bytes may be missing at ``offset``: the disk was full for ``number`` seconds (0: for another reason).
* MACHINE: from here on, times are those of another run of this machine, named by ``offset``; the monotonic clock
  began anew.
"""

from __future__ import annotations

import os
import struct
import time
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import pairwise
from pathlib import Path

# kind, padding, number, offset, wall-clock time, monotonic time: 32 bytes, written at once, so that no reader sees a
# half.
_RECORD = struct.Struct("<BxxxIQdd")
_BLOCK = _RECORD.size * 4096
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Mark(IntEnum):
    """The kinds of records; see the module."""

    SEEN = 1
    BOOT = 2
    TRIMMED = 3
    LOST = 4
    MACHINE = 5


@dataclass(frozen=True)
class Moment:
    """A time on both clocks, in seconds: ``wall`` since the epoch, ``mono`` as :func:`time.monotonic`.

    ``current``: whether ``mono`` belongs to the present run of this machine, so that it may be compared with others.
    """

    wall: float
    mono: float
    current: bool = True

    @classmethod
    def now(cls) -> Moment:
        """The present."""
        return cls(time.time(), time.monotonic())

    @property
    def running(self) -> float:
        """Seconds on the present monotonic clock; negative for what was before this run of the machine."""
        return self.mono if self.current else self.wall - time.time() + time.monotonic()

    @property
    def order(self) -> tuple[bool, float]:
        """What sorts moments of several captures, also where the wall clock was set back."""
        return (self.current, self.mono if self.current else self.wall)


@dataclass(frozen=True)
class Lost:
    """Bytes may be missing at ``offset``: the disk was full for about ``seconds``, or there was another reason (0)."""

    offset: int
    seconds: int


@cache
def machine_run() -> int:
    """A number that stands for this run of the machine, from boot to shutdown (Linux's boot_id)."""
    try:
        return int(_BOOT_ID.read_text().replace("-", "")[:15], 16)
    except (OSError, ValueError):
        return 0


def times_path(log: Path) -> Path:
    """The times file of a capture."""
    return log.with_suffix(".times")


def encode(mark: Mark, offset: int, moment: Moment, number: int = 0) -> bytes:
    """One record."""
    return _RECORD.pack(mark, number, offset, moment.wall, moment.mono)


class Times:
    """What the times file of one capture says; :meth:`refresh` takes up what was added."""

    def __init__(self, log: Path) -> None:
        self.path = times_path(log)
        self.trimmed = 0
        self.boots: list[int] = []
        self.lost: list[Lost] = []
        self.machine = -1
        self._offsets = array("Q")
        self._wall = array("d")
        self._mono = array("d")
        # Index of the first record of the machine's present run.
        self._current = 0
        self._read = 0
        self._identity: tuple[int, int] | None = None

    @property
    def seen(self) -> int:
        """How long the capture was when it was last looked at."""
        return self._offsets[-1] if self._offsets else 0

    def refresh(self) -> bool:
        """Read what is new; ``True`` if anything was. A file that was written anew is read anew."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            self._forget()
            return False
        with file:
            found = os.fstat(file.fileno())
            identity = (found.st_dev, found.st_ino)
            if identity != self._identity or found.st_size < self._read:
                self._forget()
                self._identity = identity
            if found.st_size - self._read < _RECORD.size:
                return False
            file.seek(self._read)
            while block := file.read(_BLOCK):
                whole = len(block) - len(block) % _RECORD.size
                self._take(block[:whole])
                self._read += whole
                if whole < len(block):
                    break
        return True

    def _forget(self) -> None:
        self.trimmed, self.machine, self._current, self._read, self._identity = 0, -1, 0, 0, None
        for kept in (self.boots, self.lost, self._offsets, self._wall, self._mono):
            del kept[:]

    def _take(self, block: bytes) -> None:
        for kind, number, offset, wall, mono in _RECORD.iter_unpack(block):
            if kind == Mark.SEEN:
                self._offsets.append(offset)
                self._wall.append(wall)
                self._mono.append(mono)
            elif kind == Mark.BOOT:
                self.boots.append(offset)
            elif kind == Mark.TRIMMED:
                self.trimmed = max(self.trimmed, offset)
            elif kind == Mark.LOST:
                self.lost.append(Lost(offset, number))
            elif kind == Mark.MACHINE:
                self.machine = offset
                self._current = len(self._offsets)

    def at(self, end: int) -> Moment | None:
        """When the byte before ``end`` was seen; ``None`` if nobody has looked since."""
        place = bisect_left(self._offsets, end)
        if place == len(self._offsets):
            return None
        current = self.machine == machine_run() and place >= self._current
        return Moment(self._wall[place], self._mono[place], current)

    def offset_since(self, wall: float) -> int:
        """How long the capture was at that wall-clock time: what was seen later begins there."""
        place = next((at for at, time in enumerate(self._wall) if time >= wall), len(self._wall))
        return self._offsets[place - 1] if place else 0

    def boot(self, offset: int) -> int:
        """The number of the boot to which a byte belongs; 1 before any firmware was seen."""
        return max(1, bisect_right(self.boots, offset))

    def boot_range(self, number: int) -> tuple[int, int | None] | None:
        """Where boot ``number`` begins and ends (``None``: it lasts); ``None`` if there was no such boot."""
        starts = self.boots or [0]
        if not 1 <= number <= len(starts):
            return None
        start = 0 if number == 1 else starts[number - 1]
        return start, starts[number] if number < len(starts) else None

    def pieces(self, start: int, end: int) -> list[tuple[int, Moment]]:
        """The bytes from ``start`` to ``end`` as they were seen: (end of piece, when), in order.

        Bytes that nobody has seen yet are left out.
        """
        found = []
        place = bisect_right(self._offsets, start)
        while place < len(self._offsets) and start < end:
            stop = min(end, self._offsets[place])
            current = self.machine == machine_run() and place >= self._current
            found.append((stop, Moment(self._wall[place], self._mono[place], current)))
            start = stop
            place += 1
        return found


class TimesWriter:
    """Appends to a times file; records are whole or not there."""

    def __init__(self, log: Path) -> None:
        self._path = times_path(log)
        self._fd = -1

    def write(self, *records: bytes) -> bool:
        """Append records; ``False`` if the disk is full (nothing was written: offer them again)."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._mend()
        data = b"".join(records)
        try:
            written = os.write(self._fd, data)
        except OSError:
            return False
        if written < len(data):
            # Of none of them, or those that had room would be there twice.
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            return False
        return True

    @property
    def gone(self) -> bool:
        """Whether somebody removed or replaced the file that we append to."""
        if self._fd < 0:
            return False
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _mend(self) -> None:
        """Cut off half a record, which a full disk left."""
        size = os.fstat(self._fd).st_size
        if size % _RECORD.size:
            os.ftruncate(self._fd, size - size % _RECORD.size)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def thin(log: Path) -> None:
    """Halve the resolution of the older half of a times file: forget every other time in it, but no other record."""
    path = times_path(log)
    data = path.read_bytes()
    records = [data[at : at + _RECORD.size] for at in range(0, len(data), _RECORD.size)]
    older = len(records) // 2
    kept: list[bytes] = []
    dropped = False
    for record, following in pairwise(records[: older + 1]):
        # The last one before another record stays: what it timed did not come after that.
        dropped = not dropped and record[0] == following[0] == Mark.SEEN
        if not dropped:
            kept.append(record)
    unfinished = path.with_suffix(".times.part")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
        file.write(b"".join(kept + records[older:]))
    unfinished.replace(path)
