"""Readers of capture files. Any number may read at once; none of them disturbs the guest or another reader."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmprov.console.text import LineReader, clean
from vmprov.errors import Interrupted
from vmprov.waiting import Cancel

__all__ = [
    "LineReader", "LogLine", "Tail", "clean", "follow", "last_line", "last_lines", "shows_login_prompt",
]  # fmt: skip

_BLOCK = 64 * 1024
# Seconds without a byte after which an unfinished line is taken for a prompt.
_SILENCE = 0.5
# Seconds between two looks at which sources there are.
_SOURCES_INTERVAL = 0.5
# Bytes at the end of a log among which a login prompt is looked for.
_PROMPT_WINDOW = 16 * 1024

# What others write to the console behind a prompt, or into the middle of it: the kernel, systemd's status lines.
# Each takes its line end with it, so that what it tore apart is whole again.
_INTRUDER = re.compile(
    r"""\[(?:
        \ *[\d.]*\Z
      | (?:\ *\d+\.\d+\](?:\[[^\]\n]*\])? | (?:\ {2}OK\ {2}|FAILED|DEPEND|\ INFO\ |[ *]{6})\]) [^\n]*(?:\n|\Z)
    )""",
    re.VERBOSE,
)
# cloud-init's farewell, which arrives after the prompt on most cloud images.
_FAREWELL = re.compile(
    r"(?:^|(?<= login: ))(?:<\d+>|ci-info:|-----(?:BEGIN|END) SSH|(?:ssh|ecdsa)-\S+ AAAA)[^\n]*(?:\n|\Z)", re.MULTILINE
)
_LOGIN_PROMPT = re.compile(r"\S+ login: ?")
_PANIC = "Kernel panic - not syncing"


class Tail:
    """What a file gained since one last looked; it may not exist yet, be truncated, or be replaced.

    Holds no file open, so there is nothing to close.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self._identity: tuple[int, int] | None = None

    def read(self, limit: int | None = None) -> bytes:
        """The new bytes since the last call (``limit``: at most so many of them); never blocks."""
        try:
            with self.path.open("rb") as file:
                size = self._look(os.fstat(file.fileno()))
                if size <= self.position:
                    return b""
                file.seek(self.position)
                data = file.read(size - self.position if limit is None else min(limit, size - self.position))
        except FileNotFoundError:
            self.position, self._identity = 0, None
            return b""
        self.position += len(data)
        return data

    def from_end(self, lines: int) -> None:
        """Go on ``lines`` lines before the present end; an unfinished line counts as one, 0 is the very end."""
        try:
            with self.path.open("rb") as file:
                size = self._look(os.fstat(file.fileno()))
                self.position = _start_of_last(file.fileno(), size, lines)
        except FileNotFoundError:
            self.position, self._identity = 0, None

    def _look(self, found: os.stat_result) -> int:
        """Start over if this is not the file of last time; returns its size."""
        identity = (found.st_dev, found.st_ino)
        if identity != self._identity or found.st_size < self.position:
            if self._identity is not None:
                self.position = 0
            self._identity = identity
        return found.st_size


def _start_of_last(fd: int, size: int, lines: int) -> int:
    """Where the last ``lines`` lines begin; reads blocks from the end until it knows."""
    if lines <= 0 or size == 0:
        return size
    missing = lines
    # The end of the last line ends it; it does not begin another.
    end = size - 1 if os.pread(fd, 1, size - 1) == b"\n" else size
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(fd, end - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            missing -= 1
            if missing == 0:
                return start + at + 1
        end = start
    return 0


def last_lines(path: Path, count: int) -> list[str]:
    """The last ``count`` lines, cleaned, with an unfinished one as the last; none if there is no such file.

    Reads no more of the file than these lines and one block.
    """
    if count <= 0:
        return []
    tail = Tail(path)
    tail.from_end(count)
    reader = LineReader()
    lines: list[str] = []
    while data := tail.read(_BLOCK):
        lines += reader.feed(data)
        del lines[:-count]
    lines += reader.finish()
    if reader.pending:
        lines.append(reader.pending)
    return lines[-count:]


def last_line(path: Path) -> str:
    """The last line with anything in it, cleaned, finished or not; "" if there is none in the last 64 KiB."""
    for line in reversed(_end_of(path, 0, _BLOCK).split("\n")):
        if line.strip():
            return line
    return ""


def shows_login_prompt(path: Path, since: int = 0) -> bool:
    """Whether a login prompt is the last thing that the guest said, counting from ``since`` (bytes).

    Lines that the kernel, systemd and cloud-init write behind a prompt, or into it, are overlooked; a panic is not.
    """
    said = _end_of(path, since, _PROMPT_WINDOW)
    if _PANIC in said:
        return False
    rest = _FAREWELL.sub("", _INTRUDER.sub("", said)).rstrip("\n")
    return _LOGIN_PROMPT.fullmatch(rest[rest.rfind("\n") + 1 :]) is not None


def _end_of(path: Path, since: int, limit: int) -> str:
    """The cleaned text of the last ``limit`` bytes, but none from before ``since``."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A file shorter than that was begun anew: all of it is news.
            start = max(since if since <= size else 0, size - limit)
            return clean(os.pread(file.fileno(), size - start, start))
    except FileNotFoundError:
        return ""


@dataclass(frozen=True)
class LogLine:
    """A line of a VM's console.

    ``complete`` -- its end has arrived; otherwise it is a prompt, or the like, that stood still.
    ``continues`` -- its beginning was handed out before as incomplete, and ``text`` is only what came after that.
    """

    vm: str
    text: str
    complete: bool
    continues: bool = False


Sources = Mapping[str, Path] | Callable[[], Mapping[str, Path]]


def follow(
    sources: Sources, *, cancel: Cancel, interval: float = 0.05, history: int | None = None
) -> Iterator[LogLine]:
    """The lines of several VMs' logs, merged in order of arrival, until cancelled; then returns.

    ``sources``: VM -> log file; a function that returns that is asked twice a second, so that VMs may come and go.
    ``interval``: seconds between two looks at the files.
    ``history``: begin so many lines before the present end of each file; ``None``: with the first line.
    A file that comes later is told from its beginning. What the files held when ``cancel`` was set is still told.
    """
    find = sources if callable(sources) else lambda: sources
    followed: dict[str, _Followed] = {}
    looked = float("-inf")
    first = True
    while True:
        stop = cancel.is_set
        now = time.monotonic()
        if stop or now - looked >= _SOURCES_INTERVAL:
            looked = now
            yield from _update(followed, find(), history if first else None)
            first = False
        busy = False
        for one in list(followed.values()):
            lines = one.look(now)
            busy = busy or one.more
            yield from lines
        if stop and not busy:
            for one in followed.values():
                yield from one.end()
            return
        if not busy:
            with suppress(Interrupted):
                cancel.sleep(interval)


def _update(followed: dict[str, _Followed], present: Mapping[str, Path], history: int | None) -> Iterator[LogLine]:
    """Take up new sources, and give up those that are gone after a last look."""
    for vm in [vm for vm, one in followed.items() if present.get(vm) != one.path]:
        one = followed.pop(vm)
        yield from one.rest()
    for vm, path in present.items():
        if vm not in followed:
            followed[vm] = _Followed(vm, path, history)


class _Followed:
    """One VM's log, and how much of its unfinished line was shown."""

    def __init__(self, vm: str, path: Path, history: int | None) -> None:
        self._vm = vm
        self._tail = Tail(path)
        if history is not None:
            self._tail.from_end(history)
        self._reader = LineReader()
        self._shown = ""
        self._last_byte = time.monotonic()
        self.more = False

    @property
    def path(self) -> Path:
        return self._tail.path

    def look(self, now: float) -> list[LogLine]:
        """What is new; at most one block, so that one talkative VM does not keep the others waiting."""
        data = self._tail.read(_BLOCK)
        self.more = len(data) == _BLOCK
        if data:
            self._last_byte = now
            return list(self._complete(self._reader.feed(data)))
        if now - self._last_byte >= _SILENCE:
            return list(self._unfinished())
        return []

    def end(self) -> Iterator[LogLine]:
        """What is left when nobody will look again."""
        yield from self._complete(self._reader.finish())
        yield from self._unfinished()

    def rest(self) -> Iterator[LogLine]:
        """All that the file still holds, to the end."""
        yield from self.look(time.monotonic())
        while self.more:
            yield from self.look(time.monotonic())
        yield from self.end()

    def _complete(self, lines: Iterable[str]) -> Iterator[LogLine]:
        for line in lines:
            shown, self._shown = self._shown, ""
            if not shown or not line.startswith(shown):
                yield LogLine(self._vm, line, complete=True)
            elif line != shown:
                yield LogLine(self._vm, line[len(shown) :], complete=True, continues=True)

    def _unfinished(self) -> Iterator[LogLine]:
        pending = self._reader.pending
        if pending == self._shown or not pending.strip():
            return
        continues = bool(self._shown) and pending.startswith(self._shown)
        text = pending[len(self._shown) :] if continues else pending
        self._shown = pending
        yield LogLine(self._vm, text, complete=False, continues=continues)
