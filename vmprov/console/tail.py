"""Readers of capture files. Any number may read at once; none of them disturbs the guest or another reader."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vmprov.console.text import LineReader, clean

_BLOCK = 64 * 1024
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
                self.position = max(self.position, os.lseek(file.fileno(), 0, os.SEEK_DATA))
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
    # The beginning may have been trimmed away; there is nothing to look for in a hole.
    first = os.lseek(fd, 0, os.SEEK_DATA)
    # The end of the last line ends it; it does not begin another.
    end = size - 1 if os.pread(fd, 1, size - 1) == b"\n" else size
    while end > first:
        start = max(first, end - _BLOCK)
        block = os.pread(fd, end - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            missing -= 1
            if missing == 0:
                return start + at + 1
        end = start
    return first


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
