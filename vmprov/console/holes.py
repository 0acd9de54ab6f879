"""Give disk space back without moving a byte: the beginning of a file becomes a hole; offsets stay what they are."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

# fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, which ext4, XFS, Btrfs and tmpfs have.
_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_PAGE = 4096


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return libc


def data_start(path: Path) -> int:
    """Where the data of a file begins, behind the hole that :func:`release_start` made; 0 for an empty file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole, or nothing at all
        return 0
    finally:
        os.close(fd)


def release_start(path: Path, end: int) -> int:
    """Free the blocks of a file before ``end`` (rounded down to pages); returns where its data begins now.

    Raises :class:`OSError` where the file system cannot do that.
    """
    end -= end % _PAGE
    if end <= 0:
        return 0
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if _libc().fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, 0, end):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)
    return end
