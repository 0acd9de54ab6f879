"""What several UARTs of one machine sent, piece by piece in the order of time: live, or again from captures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmprov.console.capture import Capture, Follower
from vmprov.console.index import Moment

# Seconds after which bytes that the keeper has not timed are timed by their reader: it may have died.
PATIENCE = 0.3
# Bytes of each UART taken at once.
_MOST = 4 * 1024 * 1024


@dataclass(frozen=True)
class Piece:
    """Bytes that were seen together: where they begin in the capture of which UART, and when they were seen."""

    console: int
    offset: int
    data: bytes
    moment: Moment


class Transcript:
    """Follows captures; times are the keeper's, so that following live and reading again later give the same pieces."""

    def __init__(self, logs: Mapping[int, Path], begin: Mapping[int, int], *, patience: float = PATIENCE) -> None:
        """``logs``: UART -> capture; ``begin``: UART -> the offset of the first byte wanted.

        ``patience``: seconds for which bytes wait for the keeper to time them; then their reader does.
        """
        self._patience = patience
        self._captures = {console: Capture(log) for console, log in logs.items()}
        self._followers = {console: Follower(log) for console, log in logs.items()}
        self.positions = {console: begin.get(console, 0) for console in logs}
        self._untimed_since: dict[int, float] = {}

    def take(self) -> list[Piece]:
        """What is new, oldest first."""
        pieces: list[Piece] = []
        for console, capture in self._captures.items():
            pieces += self._new(console, capture)
        return sorted(pieces, key=lambda piece: piece.moment.order)

    def _new(self, console: int, capture: Capture) -> list[Piece]:
        start = self.positions[console]
        try:
            size = capture.log.stat().st_size
        except FileNotFoundError:
            return []
        if size < start:  # somebody made it shorter
            start = self.positions[console] = 0
        if size == start:
            self._untimed_since.pop(console, None)
            return []
        capture.times.refresh()
        end = min(start + _MOST, size)
        timed = capture.times.pieces(start, end)
        covered = timed[-1][0] if timed else start
        if timed:
            self._untimed_since.pop(console, None)
        if covered < end and self._waited(console):
            timed.append((end, Moment.now()))
            covered = end
        if covered == start:
            return []
        pieces = _cut(console, list(capture.read(start, covered)), timed)
        self.positions[console] = covered
        self._followers[console].tell(covered)
        return pieces

    def _waited(self, console: int) -> bool:
        """Whether bytes have been waiting for the keeper for too long."""
        now = time.monotonic()
        return now - self._untimed_since.setdefault(console, now) >= self._patience

    def close(self) -> None:
        """No longer hold back the keeper."""
        for follower in self._followers.values():
            follower.close()


def _cut(console: int, blocks: list[tuple[int, bytes]], timed: list[tuple[int, Moment]]) -> list[Piece]:
    """Blocks of bytes, cut where their time changes."""
    pieces = []
    ends = iter(timed)
    end, moment = next(ends)
    for start, block in blocks:
        offset = start
        stop = start + len(block)
        while offset < stop:
            while end <= offset:
                end, moment = next(ends)
            upto = min(end, stop)
            pieces.append(Piece(console, offset, block[offset - start : upto - start], moment))
            offset = upto
    return pieces
