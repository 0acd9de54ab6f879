"""Captures on hosts where libvirt's log daemon writes for QEMU: it keeps the last few MiB, in files that it rotates.

There, the keeper copies what the daemon writes into the capture. Which bytes it has copied already is found out by
comparing, so that a keeper can be killed at any moment without losing or doubling one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vmprov.console.index import Mark, Moment, TimesWriter, encode
from vmprov.paths import Home

_BLOCK = 1 << 20
# virtlogd keeps so many files besides the one that it writes (max_backups in virtlogd.conf), and may keep more.
_MOST_BACKUPS = 16
# Bytes at the end of the capture by which the place in the daemon's files is found again.
_TAIL = 4096


def relays_of(home: Home) -> dict[Path, Path]:
    """Capture -> the file that libvirt's log daemon writes, of all consoles that need copying."""
    found = {}
    try:
        links = [path for path in home.consoles.iterdir() if path.suffix == ".log"]
    except OSError:
        return {}
    for link in links:
        log = link.readlink()
        found[log] = daemon_log(log)
    return found


def daemon_log(log: Path) -> Path:
    """The file that the log daemon writes for a capture."""
    return log.with_suffix(".libvirt")


class Relay:
    """Copies one console's output into its capture; :meth:`look` takes what is new."""

    def __init__(self, source: Path, log: Path) -> None:
        self._source = source
        self._log = log
        self._fd = -1

    def look(self) -> None:
        """Copy what was added since the last look. What cannot be written now is copied later."""
        # The daemon may begin another file at any moment: then the next look goes on.
        with suppress(FileNotFoundError):
            if self._fd < 0 and not self._begin():
                return
            # What was written after the last look and before the daemon began another file is in ours, too.
            rotated = not _same(self._source, self._fd)
            if self._copy() and rotated:
                self._next()

    def close(self) -> None:
        """Close its file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _chain(self) -> list[Path]:
        """The daemon's files, oldest first."""
        backups = [self._source.with_name(f"{self._source.name}.{number}") for number in range(_MOST_BACKUPS)]
        return [path for path in (*reversed(backups), self._source) if path.exists()]

    def _begin(self) -> bool:
        """Go on where an earlier keeper was."""
        files: list[int] = []
        try:
            files += (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self._chain())
            # Unless the daemon began another file just now, and one was taken twice.
            if not files or [os.fstat(fd).st_ino for fd in files] != [path.stat().st_ino for path in self._chain()]:
                return False
            kept = [_contents(fd) for fd in files]
            tail = _end_of(self._log)
            place = _behind(tail, b"".join(kept), self._log.stat().st_size)
            if place < 0:
                self._tell_loss()
                place = 0
            number = 0
            while place > len(kept[number]):
                place -= len(kept[number])
                number += 1
            self._fd = files.pop(number)
            os.lseek(self._fd, place, os.SEEK_SET)
        finally:
            for fd in files:
                os.close(fd)
        return True

    def _copy(self) -> bool:
        """Whether all of the file was copied."""
        target = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            while data := os.read(self._fd, _BLOCK):
                try:
                    written = os.write(target, data)
                except OSError:  # the disk is full
                    written = 0
                if written < len(data):
                    os.lseek(self._fd, written - len(data), os.SEEK_CUR)
                    return False
        finally:
            os.close(target)
        return True

    def _next(self) -> None:
        """The daemon began another file: go on with the one after ours."""
        chain = self._chain()
        mine = next((number for number, path in enumerate(chain) if _same(path, self._fd)), None)
        if mine is None:
            # Ours was thrown away, and perhaps others after it.
            self._tell_loss()
            following = chain[:1]
        else:
            following = chain[mine + 1 : mine + 2]
        for path in following:
            self.close()
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _tell_loss(self) -> None:
        """What the daemon has thrown away before it was copied cannot be had any more."""
        moment = Moment.now()
        writer = TimesWriter(self._log)
        writer.write(encode(Mark.LOST, self._log.stat().st_size, moment))
        writer.close()


def _same(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _behind(tail: bytes, stream: bytes, size: int) -> int:
    """Where ``stream`` goes on behind the ``tail`` of a capture of ``size`` bytes; -1 if that is not in it."""
    # As long as the daemon has thrown nothing away, that is where the capture ends.
    if stream[:size].endswith(tail) and size <= len(stream):
        return size
    found = stream.rfind(tail)
    return found + len(tail) if found >= 0 else -1


def _contents(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _end_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read()
    except FileNotFoundError:
        return b""
