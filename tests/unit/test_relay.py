"""Copying what a log daemon writes, and rotates, into a capture."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from vmprov.console.index import Times
from vmprov.console.relay import Relay, daemon_log


class Daemon:
    """Writes as virtlogd does: a file that is renamed when it is full, and two backups of it."""

    def __init__(self, path: Path, *, size: int, backups: int = 2) -> None:
        self._path = path
        self._size = size
        self._backups = backups
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        if self._file.tell() >= self._size:
            self.rotate()

    def rotate(self) -> None:
        self._file.close()
        for number in range(self._backups - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number - 1}")
            if older.exists():
                older.rename(self._path.with_name(f"{self._path.name}.{number}"))
        self._path.rename(self._path.with_name(f"{self._path.name}.0"))
        self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "console-0.log"
    path.touch()
    return path


def told_losses(log: Path) -> int:
    times = Times(log)
    times.refresh()
    return len(times.lost)


def test_all_bytes_arrive_while_files_are_rotated_and_keepers_come_and_go(log: Path) -> None:
    chance = random.Random(7)
    data = b"".join(b"%d %s\n" % (number, chance.randbytes(30).hex().encode()) for number in range(4000))
    daemon = Daemon(daemon_log(log), size=32 * 1024)
    done = threading.Event()

    def write() -> None:
        position = 0
        while position < len(data):
            piece = data[position : position + chance.randrange(1, 900)]
            daemon.write(piece)
            position += len(piece)
            done.wait(0.0002)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    relay = Relay(daemon_log(log), log)
    looks = 0
    while not done.is_set():
        relay.look()
        looks += 1
        if looks % 50 == 0:  # a keeper is killed, and the next one begins
            relay.close()
            relay = Relay(daemon_log(log), log)
    writer.join()
    for _ in range(4):
        relay.look()
    relay.close()
    daemon.close()

    assert log.read_bytes() == data
    assert told_losses(log) == 0


def test_what_was_thrown_away_before_it_was_copied_is_said(log: Path) -> None:
    daemon = Daemon(daemon_log(log), size=1 << 20)
    daemon.write(b"first\n")
    relay = Relay(daemon_log(log), log)
    relay.look()
    for number in range(4):
        daemon.write(b"file %d\n" % number)
        daemon.rotate()
    daemon.write(b"last\n")
    for _ in range(5):
        relay.look()
    relay.close()
    daemon.close()

    assert log.read_bytes() == b"first\nfile 0\nfile 2\nfile 3\nlast\n"
    assert told_losses(log) == 1
