r"""Finds patterns in what consoles really send, whatever the pieces in which it arrives.

Segments
    Every CR and LF ends a segment of raw bytes; so each state of a line that is painted again and again
    (``10%\r20%\r``) is a segment of its own. A segment is cleaned and matched as a whole when its end arrives. Where
    the cursor jumps, it falls into several lines. One that has no end after 64 KiB is matched in pieces of 64 KiB,
    each of which begins with the last 4 KiB of the one before (unless something was found in that).
Lines at rest
    The end of what has arrived is not matched until it has stood still for ``settle`` seconds. Then prompts are looked
    for at its end, and texts and expressions in it. What was found in a line at rest is done with: the next segment
    begins behind it, so nothing is ever found, or answered, twice.
Intruders
    The kernel and systemd write their lines into the middle of what others write. Such a line is taken out together
    with its end, and what is left goes on: ``open`` holds the beginning of a line that was torn apart. Matched are
    the line that was put together, the intruder, and, for patterns that reach across the seam, the line as it came.
    Whether a line at rest stands still is a matter of that line: an intruder that comes or goes does not count.

All of this depends on the bytes and on the times at which they came, and on nothing else: bytes of one time count as
one piece. Speed comes from looking at blocks of many segments with one expression for everything of interest, and
at single lines only where it says that there is something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import re2

from vmprov.console.boots import FIRMWARE_START
from vmprov.flows.grammar import Pattern
from vmprov.flows.normal import INTRUDER, begun_intruder, clean, intruders, unfinished, without_noise

LONGEST_SEGMENT = 64 * 1024
_OVERLAP = 4 * 1024
_BLOCK = 3 * 1024
# Where a torn line is open, a block is taken in so many parts, and these again, down to so many bytes.
_PARTS = 3
_PART = 64
# Bytes of a torn line that are kept to be put together.
_LONGEST_OPEN = 4 * 1024
# Bytes of DFA states that RE2 may keep for one expression.
_MEMORY = 16 * 1024 * 1024

_SEGMENT = re.compile(rb"([^\r\n]*)([\r\n])")
_END = re.compile(rb"[\r\n]")
_INTRUDER_LINE = re.compile(rb"^" + INTRUDER, re.MULTILINE)
_TORN = rb"[^\n]" + INTRUDER


@lru_cache(maxsize=1024)
def _compiled(source: bytes, latin1: bool = False) -> Any:
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    options.max_mem = _MEMORY
    if latin1:
        options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(source, options)


def _for_blocks(regex: str) -> str:
    """An expression that finds in a block whatever ``regex`` finds in one of its lines, and perhaps more."""

    def replace(token: re.Match[str]) -> str:
        return {r"\A": "(?m:^)", r"\z": "(?m:$)"}.get(token[0], "(?:" if token[0].startswith("(") else token[0])

    return re.sub(r"\\.|\(\?P?<[^>]*>", replace, regex)


def _line_end(data: bytes, begin: int = 0, end: int | None = None) -> int:
    """Behind the first CR or LF between two places; 0 where there is none."""
    feed = data.find(b"\n", begin, end)
    return data.find(b"\r", begin, end if feed < 0 else feed) + 1 or feed + 1


def _behind_ends(data: bytes, count: int, begin: int = 0) -> int:
    """The place behind so many CRs and LFs from ``begin`` on."""
    return next(islice(_END.finditer(data, begin), count - 1, None)).end() if count else begin


def _start_segments(raw: bytes) -> list[int]:
    """In which segments, from 0, firmware begins to start, as escape sequences show."""
    if b"\x1b" not in raw:
        return []
    plain = without_noise(raw)
    starts = _compiled(FIRMWARE_START, latin1=True).finditer(plain)
    return [plain.count(b"\n", 0, at) + plain.count(b"\r", 0, at) for at in (start.start() for start in starts)]


def _shows_start(data: bytes) -> bool:
    marked = b"SeaBIOS" in data or b"\x1b" in data
    return marked and _compiled(FIRMWARE_START, latin1=True).search(data) is not None


def _only_intruders(raw: bytes) -> bool:
    text = clean(raw.replace(b"\r\n", b"\n"))
    return len(_INTRUDER_LINE.findall(text)) == text.count(b"\n")


@dataclass(frozen=True)
class Line:
    """A clean line; ``offset`` -- of the raw byte at which its segment begins.

    ``seams`` -- where not empty, only what reaches across one of these places counts; the rest is looked at elsewhere.
    """

    text: bytes
    offset: int
    seams: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Rule:
    """A pattern and what it means to who asks; of several that fit one line, the one with the least ``rank`` counts.

    ``noted``: it is only to be known of; not looked for in lines at rest, which are done with once something is found.
    """

    pattern: Pattern
    stage: int = -1
    rank: tuple[int, ...] = ()
    noted: bool = False

    @cached_property
    def _needle(self) -> bytes:
        pattern = self.pattern
        return (pattern.text or (pattern.prompt or "").rstrip()).encode()

    @cached_property
    def _regex(self) -> Any:
        return _compiled((self.pattern.regex or "").encode())

    def source(self) -> bytes:
        """For RE2, in blocks of lines; of prompts, which are not looked for in blocks, b""."""
        if self.pattern.regex is not None:
            return b"(?m:" + _for_blocks(self.pattern.regex).encode() + b")"
        return b"" if self.pattern.prompt is not None else bytes(re2.escape(self._needle))

    def fits(self, line: Line) -> bool:
        """Whether a text or an expression is found in ``line``, or a prompt is its end."""
        if self.pattern.prompt is not None:
            return not line.seams and line.text.rstrip().endswith(self._needle)
        if line.seams:
            return any(start < seam < end for start, end in self._spans(line.text) for seam in line.seams)
        if self.pattern.text is not None:
            return self._needle in line.text
        return self._regex.search(line.text) is not None

    def place(self, line: Line) -> int:
        """Where in a line that it fits the pattern is found."""
        if self.pattern.prompt is not None:
            return len(line.text)
        return next((start for start, _ in self._spans(line.text)), 0)

    def _spans(self, text: bytes) -> Iterator[tuple[int, int]]:
        found = self._regex if self.pattern.regex is not None else re.compile(re.escape(self._needle))
        return (match.span() for match in found.finditer(text))


class Watch:
    """The rules that count at one time on one console."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        ordered = sorted(rules, key=lambda rule: rule.rank)
        self._prompts = any(rule.pattern.prompt is not None for rule in ordered)
        self._ordered = [rule for rule in ordered if not rule.noted]
        self._lines = [rule for rule in ordered if rule.pattern.prompt is None]
        sources = [rule.source() for rule in self._lines]
        self._any = _compiled(b"|".join(sources)) if sources else None
        self._any_or_torn = _compiled(b"|".join([*sources, _TORN, FIRMWARE_START]))

    def suspect(self, block: bytes, begin: int) -> int:
        """Where in a clean block the next may be of what is looked for, torn lines, and names of firmware; or -1."""
        found = self._any_or_torn.search(block, begin)
        return found.start() if found else -1

    def find(self, lines: Sequence[Line], *, at_rest: bool = False) -> tuple[Rule, Line] | None:
        """The first rule that fits one of ``lines``; prompts only where they are ``at_rest``."""
        if not (at_rest and self._prompts):
            lines = [line for line in lines if line.text and self._any is not None and self._any.search(line.text)]
        if not lines:
            return None
        rules = self._ordered if at_rest else self._lines
        return next(((rule, line) for rule in rules for line in lines if line.text and rule.fits(line)), None)


@dataclass(frozen=True)
class Hit:
    """A rule that fits ``line``."""

    rule: Rule
    line: Line
    console: int


@dataclass(frozen=True)
class FirmwareStart:
    """Firmware starts, in ``line``; markers with no line of other output between them are one start."""

    line: Line
    console: int


@dataclass
class _Rest:
    """What stands at the end: ``since`` when, and for which asker it has been ``judged``."""

    key: object = None
    since: float = 0.0
    judged: object = None


@dataclass(frozen=True)
class _View:
    """What stands at the end of a console: a line, or what is behind an intruder's beginning in it."""

    key: object = None
    lines: tuple[Line, ...] = ()


@dataclass
class _Torn:
    """The beginning of a line that intruders tore apart, and the offsets of its parts by their places in it."""

    text: bytes = b""
    parts: tuple[tuple[int, int], ...] = ()

    def offset(self, place: int) -> int:
        return max((at, offset) for at, offset in self.parts if at <= place)[1]

    def until(self, place: int) -> _Torn:
        text = self.text[:place]
        if not text.strip() or len(text) > _LONGEST_OPEN:
            return _Torn()
        return _Torn(text, tuple(part for part in self.parts if part[0] < place))

    def since(self, place: int) -> _Torn:
        parts = tuple((max(0, at - place), offset) for at, offset in self.parts if at >= place)
        return _Torn(self.text[place:], ((0, self.offset(place)), *parts))

    def with_part(self, text: bytes, offset: int) -> _Torn:
        return _Torn(self.text + text, (*self.parts, (len(self.text), offset)))


@dataclass
class Console:
    """One UART: takes its bytes, says what was found. Which rules count may change after each thing that was found.

    ``seen`` is called with each clean block of lines, in their order.
    """

    number: int
    settle: float
    seen: Callable[[bytes], None]
    last_byte: float
    _tail: bytearray = field(default_factory=bytearray)
    _start: int | None = None
    _open: _Torn = field(default_factory=_Torn)
    _returned: bool = False
    _starting: bool = False
    _now: float = float("-inf")
    _rests: list[_Rest] = field(default_factory=lambda: [_Rest(), _Rest()])
    _views: tuple[_View, _View] | None = None

    def feed(self, offset: int, data: bytes, at: float, watch: Callable[[], Watch]) -> Iterator[Hit | FirmwareStart]:
        """Take the bytes that begin at ``offset`` and came ``at`` a time that is never before the last one."""
        if at > self._now:
            self._rests = [self._rest(which) for which in (0, 1)]
            self._now = at
        if self._start is None:
            self._start = offset
        end = self._start + len(self._tail)
        if offset < end:
            data = data[end - offset :]
        if not data:
            return
        self.last_byte = at
        if offset > end:
            yield from self._end_piece(watch)
            self._start = offset
        self._views = None
        if len(self._tail) + len(data) <= LONGEST_SEGMENT and not _line_end(data):
            self._tail += data
            return
        yield from self._take(bytes(self._tail) + data, watch)

    def _take(self, buffer: bytes, watch: Callable[[], Watch]) -> Iterator[Hit | FirmwareStart]:
        base = self._start or 0
        begin = 0
        # While lines are matched there is nothing behind them.
        self._tail.clear()
        while True:
            self._start = base + begin
            window = begin + _BLOCK
            end = max(buffer.rfind(b"\n", begin, window), buffer.rfind(b"\r", begin, window)) + 1
            if end == 0:
                end = _line_end(buffer, window, begin + LONGEST_SEGMENT + 1)
            if end == 0:
                if len(buffer) - begin > LONGEST_SEGMENT:
                    hits = list(self._piece(Line(buffer[begin : begin + LONGEST_SEGMENT], base + begin), watch))
                    yield from hits
                    begin += LONGEST_SEGMENT - (0 if hits else _OVERLAP)
                    continue
                break
            yield from self._block(buffer[begin:end], base + begin, watch)
            begin = end
        self._tail += buffer[begin:]
        self._views = None

    def _end_piece(self, watch: Callable[[], Watch]) -> Iterator[Hit]:
        """Bytes are missing: what stands is all that there will be of its line."""
        raw, self._tail = bytes(self._tail), bytearray()
        yield from self._piece(Line(raw, self._start or 0), watch)

    def _piece(self, raw: Line, watch: Callable[[], Watch]) -> Iterator[Hit]:
        text = clean(raw.text)
        self._open, self._views = _Torn(), None
        self.seen(text)
        found = watch().find([Line(line, raw.offset) for line in text.split(b"\n")])
        if found:
            yield Hit(*found, self.number)

    def _block(self, raw: bytes, offset: int, watch: Callable[[], Watch]) -> Iterator[Hit | FirmwareStart]:
        """Go from one segment that may be of interest to the next, and pass over those between.

        ``begin``, ``at`` -- how far one is in the bytes and in the text; ``ends`` -- how many CRs and LFs are behind.
        """
        plain = clean(raw, jump=b"\v")
        text = plain.replace(b"\v", b"\n")
        starts = _start_segments(raw)
        begin = at = ends = 0
        while begin < len(raw):
            if self._open.text and not _only_intruders(raw[begin:]):
                yield from self._in_parts(raw[begin:], offset + begin, watch)
                return
            skips = [segment - ends for segment in starts if segment >= ends]
            if (found := watch().suspect(text, at)) >= 0:
                skips.append(plain.count(b"\n", at, found))
            if not skips:
                self._pass_over(raw[begin:], text[at:])
                return
            calm, still = _behind_ends(raw, min(skips), begin), _behind_ends(plain, min(skips), at)
            self._pass_over(raw[begin:calm], text[at:still])
            end = _line_end(raw, calm)
            end += raw[end - 1 : end + 1] == b"\r\n"
            yield from self._by_line(raw[calm:end], offset + calm, watch)
            passed = 2 if raw[calm:end].endswith(b"\r\n") else 1
            begin, at, ends = end, _behind_ends(plain, passed, still), ends + min(skips) + passed

    def _in_parts(self, raw: bytes, offset: int, watch: Callable[[], Watch]) -> Iterator[Hit | FirmwareStart]:
        """Where a torn line has to be put together first: look for the place from which on none is open."""
        part = len(raw) // _PARTS
        begin = 0
        while begin < len(raw):
            end = _line_end(raw, begin + part) or len(raw)
            if part < _PART or end - begin == len(raw):
                yield from self._by_line(raw, offset, watch)
                return
            yield from self._block(raw[begin:end], offset + begin, watch)
            begin = end

    def _pass_over(self, raw: bytes, text: bytes) -> None:
        """Take segments in which there is nothing that one would have to look at."""
        if not raw:
            return
        self.seen(text)
        if text.strip(b"\n"):
            self._starting = False
        if not raw.endswith(b"\n"):
            since = raw[raw.rfind(b"\n") + 1 :]
            self._returned = bool(clean(since).strip(b"\n")) or (self._returned and len(since) == len(raw))
        else:
            self._returned = False

    def _by_line(self, raw: bytes, offset: int, watch: Callable[[], Watch]) -> Iterator[Hit | FirmwareStart]:
        for segment in _SEGMENT.finditer(raw):
            returned = segment[2] == b"\r"
            text = clean(segment[1])
            if text:
                self.seen(text + b"\n")
                self._returned = returned
                yield from self._segment(Line(segment[1], offset + segment.start()), text, watch)
            # A line feed after a carriage return ends the same line; otherwise the line before this was empty.
            elif not returned and not self._returned:
                yield from self._segment(Line(b"", offset + segment.start()), b"", watch)
            elif not returned:
                self._returned = False

    def _segment(self, raw: Line, text: bytes, watch: Callable[[], Watch]) -> Iterator[Hit | FirmwareStart]:
        lines = text.split(b"\n")
        starts = _shows_start(without_noise(raw.text)) and not any(map(_shows_start, lines))
        if starts and not self._starting:
            yield FirmwareStart(Line(next((line for line in lines if line.strip()), b""), raw.offset), self.number)
        for one in lines:
            candidates = self._complete(one, raw.offset)
            shown = next((line for line in candidates if not line.seams and _shows_start(line.text)), None)
            if shown and not starts and not self._starting:
                yield FirmwareStart(shown, self.number)
            starts = starts or shown is not None
            found = watch().find(candidates)
            if found:
                yield Hit(*found, self.number)
        if starts or text.strip(b"\n"):
            self._starting = starts

    def _complete(self, text: bytes, offset: int) -> list[Line]:
        """The lines to match when ``text`` was the rest of a line; what it tore apart, or left torn, stays open."""
        if not self._open.text and not intruders(text):
            return [Line(text, offset)]
        joined = self._open.with_part(text, offset)
        lines = self._put_together(joined, text, offset)
        last = max(intruders(joined.text), default=0)
        self._open, self._views = joined.until(last), None
        return lines

    def _put_together(self, joined: _Torn, text: bytes, offset: int) -> list[Line]:
        """What a line may have been; ``joined`` -- with the torn line before it, ``text`` -- as it came."""
        opened = self._open
        last = max(intruders(joined.text), default=0)
        lines = [Line(joined.text[last:], joined.offset(last))]
        # An intruder that seems torn may have been whole, and the text goes on with what is before it.
        lines += [Line(opened.text[:place] + text, opened.offset(0)) for place in intruders(opened.text) if place]
        seams = tuple(place for place in intruders(text) if place)
        if opened.text or seams:
            lines.append(Line(text, offset, seams))
        return lines

    def _look(self) -> tuple[_View, _View]:
        """The line at the end, without what intrudes upon it; and all of it where something does."""
        if self._views is None:
            self._views = self._read_end() if self._tail or self._open.text else (_View(), _View())
        return self._views

    def _read_end(self) -> tuple[_View, _View]:
        start = self._start or 0
        # A jump behind the last text is not followed by anything yet.
        *above, text = clean(bytes(self._tail)).rstrip(b"\n").split(b"\n")
        opened = _Torn() if above else self._open
        joined = opened.with_part(text, start)
        places = intruders(joined.text)
        cut = places[0] if places else begun_intruder(joined.text)
        lines = [Line(line, start) for line in above]
        line = joined.text[:cut]
        first, second = _View(), _View()
        if line.strip() or above:
            lines.append(Line(line, joined.offset(0)))
            key = (joined.offset(0), *(line.text for line in lines))
            if opened.text and cut == len(joined.text):
                lines.append(Line(text, start))
            first = _View(key, tuple(lines))
        if cut < len(joined.text):
            if not self._tail:
                # The intruder is one that was itself torn, and its rest has not begun.
                second = _View((joined.offset(cut), joined.text), (Line(joined.text[cut:], joined.offset(cut)),))
            else:
                second = _View((start, joined.text), tuple(self._put_together(joined, text, start)))
        return first, second

    def _rest(self, which: int) -> _Rest:
        key = self._look()[which].key
        return self._rests[which] if self._rests[which].key == key else _Rest(key, self._now)

    def deadline(self, asker: object) -> float | None:
        """When what stands at the end will have stood long enough; ``None`` if ``asker`` knows it already."""
        rests = [self._rest(which) for which in (0, 1)]
        times = [rest.since + self.settle for rest in rests if rest.key is not None and rest.judged != asker]
        return min(times, default=None)

    def judge(self, at: float, asker: object, watch: Watch) -> Hit | None:
        """Match what has stood long enough, once for each ``asker``; what is found is done with."""
        for which in (0, 1):
            rest = self._rest(which)
            if rest.key is None or rest.judged == asker or rest.since + self.settle > at:
                continue
            self._rests[which] = _Rest(rest.key, rest.since, asker)
            found = watch.find(self._look()[which].lines, at_rest=True)
            if found:
                self._done_with(which)
                return Hit(*found, self.number)
        return None

    def be_done_with(self, rule: Rule) -> None:
        """Begin a new segment behind what stands at the end, if a rule fits it."""
        for which in (0, 1):
            if any(line.text and rule.fits(line) for line in self._look()[which].lines):
                self._done_with(which)
                return

    def _done_with(self, which: int) -> None:
        """Begin a new segment behind what was found; an intruder that is still being written is kept."""
        tail = bytes(self._tail)
        text = clean(tail).rstrip(b"\n").rpartition(b"\n")[2]
        joined = self._open.text + text
        places = intruders(joined)
        cut = places[0] if places else begun_intruder(joined)
        end = len(tail) - unfinished(tail)
        if which == 0 and cut < len(joined):
            rest = joined[max(cut, len(self._open.text)) :]
            starts = (at for at in range(len(tail) - 1, -1, -1) if tail[at] in b"[<" and clean(tail[at:]) == rest)
            end = next(starts, 0 if rest == text else end)
        keep = _Torn()
        if cut < len(self._open.text):
            keep = self._open.until(cut) if which == 1 else self._open.since(cut)
        elif which == 1:
            keep = self._open
        self.seen(clean(tail[:end]) + b"\n")
        self._start = (self._start or 0) + end
        del self._tail[:end]
        self._open, self._views = keep, None
        self._rests = [_Rest(), _Rest()]

    @property
    def pending(self) -> bytes:
        """What stands at the end, clean."""
        return clean(bytes(self._tail))
