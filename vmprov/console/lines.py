"""Lines of captures with their times: what was captured, and what arrives."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vmprov.console.capture import Capture, Follower
from vmprov.console.index import Lost, Moment
from vmprov.console.tail import Tail
from vmprov.console.text import LONGEST_LINE, LineReader
from vmprov.errors import Interrupted, NotFound
from vmprov.spec.quantities import format_size
from vmprov.waiting import Cancel

_BLOCK = 64 * 1024
_PLAIN = re.compile(rb"[\t\x20-\x7e]{1,4096}\r?\n")
# Seconds without a byte after which an unfinished line is taken for a prompt.
_SILENCE = 0.3
# Seconds between two looks at which sources there are, and between two looks at the files.
_SOURCES_INTERVAL = 0.5
_INTERVAL = 0.02


@dataclass(frozen=True)
class Line:
    """A line of a VM's console.

    ``offset`` -- where it begins in the capture. ``moment`` -- when its last byte was seen. ``boot`` -- the boot's
    number.
    ``complete`` -- its end has arrived; otherwise it is a prompt, or the like, that stood still.
    ``continues`` -- its beginning was handed out before as incomplete, and ``text`` is only what came after that.
    ``note`` -- it is no line of the guest's, but says what is missing from the capture here.
    """

    vm: str
    text: str
    offset: int
    moment: Moment
    boot: int = 1
    complete: bool = True
    continues: bool = False
    note: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object that ``logs --json`` prints."""
        when = datetime.fromtimestamp(self.moment.wall).astimezone().isoformat(timespec="milliseconds")
        return {
            "vm": self.vm, "time": when, "monotonic": round(self.moment.mono, 6), "boot": self.boot,
            "offset": self.offset, "text": self.text, "complete": self.complete, "note": self.note,
        }  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which lines of a capture: since a wall-clock time, of one boot, the last so many; ``None``: no limit.

    ``offset``: of the bytes from there on.
    """

    since: float | None = None
    boot: int | None = None
    tail: int | None = None
    offset: int = 0


def span(vm: str, capture: Capture, selection: Selection) -> tuple[int, int | None]:
    """Where a selection begins and ends in a capture; raises :class:`NotFound` if there was no such boot."""
    capture.times.refresh()
    start, end = selection.offset, None
    if selection.boot is not None:
        found = capture.times.boot_range(selection.boot)
        if found is None:
            boots = max(1, len(capture.times.boots))
            times = "once" if boots == 1 else f"{boots} times"
            raise NotFound(f"{vm} has no boot {selection.boot}", hint=f"it has booted {times}; counted from 1")
        start, end = max(start, found[0]), found[1]
    if selection.since is not None:
        start = max(start, _start_of_line(capture.log, capture.times.offset_since(selection.since)))
    if selection.tail is not None and end is None:
        tail = Tail(capture.log)
        tail.from_end(selection.tail)
        start = max(start, tail.position)
    return start, end


def _start_of_line(log: Path, offset: int) -> int:
    """Where the line begins that ``offset`` is within; ``offset`` itself where no line is that long."""
    start = max(0, offset - LONGEST_LINE)
    try:
        with log.open("rb", buffering=0) as file:
            before = os.pread(file.fileno(), offset - start, start)
    except FileNotFoundError:
        return offset
    found = before.rfind(b"\n")
    return start + found + 1 if found >= 0 or start == 0 else offset


def captured(vm: str, capture: Capture, selection: Selection) -> Iterator[Line]:
    """The lines of a selection, oldest first, with an unfinished one as the last."""
    start, end = span(vm, capture, selection)
    if selection.since is not None and _nothing_since(capture, selection.since):
        return
    reader = _Reader(vm, capture, start)
    lines = _all(reader, capture, start, end)
    if selection.tail is None or end is None:
        yield from lines
    else:
        yield from deque(lines, maxlen=selection.tail)


def _nothing_since(capture: Capture, since: float) -> bool:
    """Whether all that is there was seen before: a prompt that has stood for an hour is not of the last minute."""
    return 0 < capture.size == capture.times.seen <= capture.times.offset_since(since)


def _all(reader: _Reader, capture: Capture, start: int, end: int | None) -> Iterator[Line]:
    for offset, block in capture.read(start, end, block=_BLOCK):
        yield from reader.feed(offset, block)
    yield from reader.end()


class _Reader:
    """Makes lines with offsets and times of a capture's bytes."""

    def __init__(self, vm: str, capture: Capture, start: int, *, live: bool = False) -> None:
        """``live``: bytes that nobody has timed yet are as old as their reading."""
        self._vm = vm
        self._capture = capture
        self._reader = LineReader()
        self._live = live
        self._begin = start
        self._line_start = start
        self._expected = start
        # How many of the places with lost bytes have been passed.
        self._lost = 0
        self._shown = ""

    def feed(self, offset: int, data: bytes) -> Iterator[Line]:
        """The lines that bytes complete, which begin at ``offset`` of the capture."""
        yield from self._gap(offset)
        self._expected = offset + len(data)
        start = 0
        while start < len(data):
            end = data.find(b"\n", start) + 1 or len(data)
            yield from self._losses(offset + end - 1)
            for text in self._texts(data[start:end]):
                yield from self._complete(text, offset + end)
            if data[end - 1 : end] == b"\n":
                self._line_start = offset + end
            start = end

    def _texts(self, data: bytes) -> list[str]:
        # Most lines have nothing in them that would have to be cleaned away.
        if _PLAIN.fullmatch(data) and self._reader.at_start:
            return [data.rstrip(b"\r\n").decode("ascii")]
        return self._reader.feed(data)

    def _gap(self, offset: int) -> Iterator[Line]:
        """Say what is missing before ``offset``; the line before it is not the line behind it."""
        if offset > self._expected:
            yield from self.end()
            self._reader, self._shown = LineReader(), ""
            dropped = format_size(offset - self._expected)
            yield self._note(f"{dropped} of older output were dropped to stay within the limit", self._expected)
            self._line_start = offset

    def _losses(self, end: int) -> Iterator[Line]:
        """Say where up to ``end`` bytes were lost, or where that has become known since."""
        lost = self._capture.times.lost
        while self._lost < len(lost) and lost[self._lost].offset <= end:
            one = lost[self._lost]
            self._lost += 1
            if one.offset >= self._begin:
                yield self._note(_loss(one), one.offset)

    def _note(self, text: str, offset: int) -> Line:
        return Line(self._vm, f"[vmprov: {text}]", offset, self._moment(offset), note=True)

    def _complete(self, text: str, end: int) -> Iterator[Line]:
        shown, self._shown = self._shown, ""
        if not shown or not text.startswith(shown):
            yield self._line(text, end, complete=True)
        elif text != shown:
            yield self._line(text[len(shown) :], end, complete=True, continues=True)

    def unfinished(self) -> Iterator[Line]:
        """The line that has no end yet, or what was added to it since it was last shown."""
        pending = self._reader.pending
        if pending == self._shown or not pending.strip():
            return
        continues = bool(self._shown) and pending.startswith(self._shown)
        text = pending[len(self._shown) :] if continues else pending
        self._shown = pending
        yield self._line(text, self._expected, complete=False, continues=continues)

    def end(self) -> Iterator[Line]:
        """What is left when nothing more comes."""
        for text in self._reader.finish():
            yield from self._complete(text, self._expected)
        yield from self.unfinished()
        yield from self._losses(self._expected)

    def _line(self, text: str, end: int, *, complete: bool, continues: bool = False) -> Line:
        boot = self._capture.times.boot(self._line_start)
        return Line(self._vm, text, self._line_start, self._moment(end), boot, complete, continues)

    def _moment(self, end: int) -> Moment:
        found = self._capture.times.at(end)
        if found is None and self._live:
            return Moment.now()
        return found or self._capture.at(end)


def _loss(lost: Lost) -> str:
    if lost.seconds:
        return f"the disk was full for {lost.seconds} s: output may be missing here"
    return "the host's log daemon threw output away before it was copied: some is missing here"


class Followed:
    """One capture that is followed; :meth:`look` hands out what is new."""

    def __init__(self, vm: str, log: Path, selection: Selection) -> None:
        self.log = log
        self._capture = Capture(log)
        self._follower = Follower(log)
        self._position, self._end = span(vm, self._capture, selection)
        self._reader = _Reader(vm, self._capture, self._position, live=True)
        self._vm = vm
        self._last_byte = time.monotonic()
        self._identity: tuple[int, int] | None = None
        self._gone = False
        self.more = False
        # What was handed out and is to be told once nothing older can come from others.
        self.waiting: deque[Line] = deque()

    def look(self) -> list[Line]:
        """What is new; at most one block, so that one talkative VM does not keep the others waiting."""
        self.more = False
        try:
            found = self.log.stat()
        except FileNotFoundError:
            self._gone = self._identity is not None
            return []
        identity = (found.st_dev, found.st_ino)
        lines: list[Line] = []
        if found.st_size < self._position or self._gone or identity != (self._identity or identity):
            lines += self._restart()
        self._identity, self._gone = identity, False
        now = time.monotonic()
        if found.st_size == self._position:
            return lines + (list(self._reader.unfinished()) if now - self._last_byte >= _SILENCE else [])
        self._last_byte = now
        end = min(found.st_size, self._position + _BLOCK)
        if self._position < self._capture.times.trimmed:
            end = max(end, self._capture.times.trimmed + _BLOCK)
        for offset, block in self._capture.read(self._position, min(end, found.st_size)):
            lines += self._reader.feed(offset, block)
        self._position = min(end, found.st_size)
        self.more = self._position < found.st_size
        self._follower.tell(self._position)
        return lines

    def _restart(self) -> list[Line]:
        """Somebody made the file anew, or shorter: all of it is news. Returns what was left of the old one."""
        left = list(self._reader.end())
        self._position = 0
        self._reader = _Reader(self._vm, self._capture, 0, live=True)
        return left

    def rest(self) -> Iterator[Line]:
        """All that the file still holds, to the end."""
        yield from self.waiting
        self.waiting.clear()
        yield from self.look()
        while self.more:
            yield from self.look()
        yield from self._reader.end()

    def close(self) -> None:
        """Let go of the capture."""
        self._follower.close()


Sources = Callable[[], Mapping[str, Path]]


def follow(
    sources: Sources, *, cancel: Cancel, selection: Selection, interval: float = _INTERVAL
) -> Generator[Line, None, None]:
    """The lines of several VMs, merged in order of arrival, until cancelled; then returns.

    ``sources``: VM -> log file; asked twice a second, so that VMs may come and go. A file that comes later is
    told from its beginning. ``selection``: with what to begin. ``interval``: seconds between two looks at the files.
    What the files held when ``cancel`` was set is still told.
    """
    followed: dict[str, Followed] = {}
    looked = float("-inf")
    first = True
    try:
        while True:
            stop = cancel.is_set
            now = time.monotonic()
            if stop or now - looked >= _SOURCES_INTERVAL:
                looked = now
                yield from _update(followed, sources(), selection if first else Selection())
                first = False
            for one in followed.values():
                if not one.waiting:
                    one.waiting.extend(one.look())
            yield from _ripe(list(followed.values()))
            if any(one.more for one in followed.values()):
                continue
            if stop:
                yield from _merged(line for one in followed.values() for line in one.rest())
                return
            with suppress(Interrupted):
                cancel.sleep(interval)
    finally:
        for one in followed.values():
            one.close()


def _merged(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.moment.order)


def _ripe(followed: list[Followed]) -> list[Line]:
    """Take what may be told: what is no younger than what has been read of those of whom more can be read at once."""
    behind = [max((line.moment.order for line in one.waiting), default=None) for one in followed if one.more]
    if None in behind:
        return []
    limit = min((order for order in behind if order is not None), default=None)
    ripe = []
    for one in followed:
        while one.waiting and (limit is None or one.waiting[0].moment.order <= limit):
            ripe.append(one.waiting.popleft())
    return _merged(ripe)


def _update(followed: dict[str, Followed], present: Mapping[str, Path], selection: Selection) -> Iterator[Line]:
    """Take up new sources, and give up those that are gone after a last look."""
    for vm in [vm for vm, one in followed.items() if present.get(vm) != one.log]:
        one = followed.pop(vm)
        yield from one.rest()
        one.close()
    for vm, log in present.items():
        if vm not in followed:
            followed[vm] = Followed(vm, log, selection)
