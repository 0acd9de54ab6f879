"""Sees at once that a file grew: Linux's inotify, since polling would take the processor time that is measured."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

_IN_MODIFY = 0x2
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Growth:
    """Files that grow; :meth:`lines` hands out what was added, ``fileno`` is readable when something was."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._files: dict[int, tuple[str, int]] = {}
        self._positions: dict[int, int] = {}
        self._rests: dict[int, bytes] = {}
        for name, path in files.items():
            watched = _libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY)
            if watched < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._files[watched] = (name, file)
            self._positions[watched] = os.fstat(file).st_size

    def fileno(self) -> int:
        """For selectors."""
        return int(self._fd)

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Every line that was completed since the last call, without its end, and whose it is."""
        try:
            events = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        changed = {_EVENT.unpack_from(events, at)[0] for at in range(0, len(events), _EVENT.size)}
        for watched in changed & self._files.keys():
            name, file = self._files[watched]
            while data := os.pread(file, 1 << 20, self._positions[watched]):
                self._positions[watched] += len(data)
                *whole, self._rests[watched] = (self._rests.get(watched, b"") + data).split(b"\n")
                for line in whole:
                    yield name, line.rstrip(b"\r")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        for _, file in self._files.values():
            os.close(file)
        os.close(self._fd)
