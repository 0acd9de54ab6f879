"""The keeper: one small process for each state directory that looks after its captures while there are any.

QEMU writes every byte into the capture by itself. The keeper notes when each was seen, counts boots, gives back disk
space beyond the limit, notices a full disk, and forwards what is typed on hosts whose QEMU serves a socket. It may be
killed at any time: capturing goes on, and the next keeper goes on where this one was.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vmprov.console.boots import LONGEST_START, boot_starts
from vmprov.console.bridge import Bridge, bridges_of
from vmprov.console.capture import slowest_follower
from vmprov.console.holes import data_start, release_start
from vmprov.console.index import Mark, Moment, Times, TimesWriter, encode, machine_run, thin, times_path
from vmprov.console.relay import Relay, relays_of
from vmprov.errors import VmprovError
from vmprov.paths import Home
from vmprov.runner import Runner
from vmprov.settings import Settings
from vmprov.waiting import Deadline, wait_until

# What runs a keeper in a process of its own.
_PROGRAM = "vmprov.engine.judging.guard"
# Seconds between two looks at the captures: while one grows, and after a while in which none did.
_INTERVAL = 0.02
_IDLE_INTERVAL = 0.05
_IDLE_AFTER = 5.0
# Seconds between two looks at which captures there are.
_SOURCES_INTERVAL = 0.5
# A follower may hold back trimming until a capture has this many times its limit.
_PATIENCE = 4
_BLOCK = 1 << 20
# Bytes of free disk space below which bytes must be expected to be missing.
_FULL = 64 * 1024
# Bytes of a times file above which its older half is thinned out.
_MOST_TIMES = 16 * 1024 * 1024
# Seconds that starting one may take.
_START_LIMIT = 30.0
# Seconds without any capture after which the keeper ends.
_GRACE = 2.0


class Kept:
    """One capture in the keeper's care."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._times = Times(log)
        self._times.refresh()
        self._writer = TimesWriter(log)
        # What the disk had no room for.
        self._unwritten: list[bytes] = []
        self._seen = self._times.seen
        self._boots = len(self._times.boots)
        self._trimmed = self._times.trimmed
        self._overlap: bytes | None = None
        self._identity: tuple[int, int] | None = None
        self._full_since: tuple[int, float] | None = None
        self._trims = True
        self._began = False
        # When it last grew, as time.monotonic.
        self.grew = 0.0

    def close(self) -> None:
        """Close its files."""
        self._writer.close()

    @property
    def deprived(self) -> bool:
        """Whether somebody removed the times file."""
        return self._writer.gone

    def look(self) -> bool:
        """Note what was added since the last look; ``False`` if the capture is another one, its times are void then."""
        try:
            found = self.log.stat()
        except FileNotFoundError:
            return True
        size = found.st_size
        identity = (found.st_dev, found.st_ino)
        if size < self._seen or identity != (self._identity or identity):
            return False
        self._identity = identity
        if size == self._seen and not self._unwritten:
            return True
        if not self._began:
            self._begin(size, found.st_mtime)
        if size > self._seen:
            moment = Moment.now()
            self._note(*self._new_boots(size, moment), encode(Mark.SEEN, size, moment))
            self._seen = size
            self.grew = moment.mono
        elif self._unwritten:
            self._note()
        return True

    def _begin(self, size: int, written: float) -> None:
        """Say to which run of the machine the times belong; what nobody saw came when the file was last written."""
        self._began = True
        now = Moment.now()
        if self._times.machine != machine_run():
            self._note(encode(Mark.MACHINE, machine_run(), now))
        first = data_start(self.log)
        if first > self._trimmed:  # an earlier keeper's doing, of which no record is left
            self._trimmed = first
            self._note(encode(Mark.TRIMMED, first, now))
        behind = now.wall - written
        if size > self._seen and behind > 1:
            earlier = Moment(written, now.mono - behind)
            self._note(*self._new_boots(size, earlier), encode(Mark.SEEN, size, earlier))
            self._seen = size

    def _note(self, *records: bytes) -> None:
        self._unwritten += records
        if self._unwritten and self._writer.write(*self._unwritten):
            self._unwritten.clear()

    def _new_boots(self, size: int, moment: Moment) -> list[bytes]:
        records = []
        with self.log.open("rb", buffering=0) as file:
            position = max(self._seen, self._trimmed)
            if self._overlap is None:  # what was seen by an earlier keeper may be the beginning of a start
                known = max(position - (LONGEST_START - 1), 0)
                self._overlap = os.pread(file.fileno(), position - known, known)
            while position < size:
                data = os.pread(file.fileno(), min(_BLOCK, size - position), position)
                if not data:
                    break
                window = self._overlap + data
                start = position - len(self._overlap)
                found = [start + at for at in boot_starts(window, known=len(self._overlap))]
                for offset in found:
                    if offset > self._last_boot:
                        self._boots += 1
                        self._last_boot = offset
                        records.append(encode(Mark.BOOT, offset, moment, self._boots))
                self._overlap = window[-(LONGEST_START - 1) :]
                position += len(data)
        return records

    @property
    def _last_boot(self) -> int:
        return self._times.boots[-1] if self._times.boots else -1

    @_last_boot.setter
    def _last_boot(self, offset: int) -> None:
        self._times.boots.append(offset)

    def trim(self, limit: int) -> None:
        """Give back what is older than the last ``limit`` bytes, and read by all who follow."""
        if self._seen - self._trimmed > limit + limit // 16 and self._trims:
            wanted = self._seen - limit
            reader = slowest_follower(self.log)
            if reader is not None:
                wanted = max(min(wanted, reader), self._seen - _PATIENCE * limit)
            wanted -= wanted % 4096
            if wanted > self._trimmed:
                self._trimmed = wanted
                self._note(encode(Mark.TRIMMED, wanted, Moment.now()))
                try:
                    release_start(self.log, wanted)
                except OSError:  # this file system cannot; the capture grows on
                    self._trims = False
        with suppress(FileNotFoundError):
            if times_path(self.log).stat().st_size > _MOST_TIMES:
                self._writer.close()
                thin(self.log)

    def watch_disk(self) -> None:
        """Remember when the disk is full, and say so in the times once it no longer is."""
        try:
            status = os.statvfs(self.log)
        except OSError:
            return
        full = status.f_bavail * status.f_frsize < _FULL
        if full and self._full_since is None:
            self._full_since = (self._seen, time.monotonic())
        elif not full and self._full_since is not None:
            offset, since = self._full_since
            self._full_since = None
            seconds = round(time.monotonic() - since)
            self._note(encode(Mark.LOST, offset, Moment.now(), max(1, seconds)))


class Keeper:
    """Looks after all captures of a state directory."""

    def __init__(self, home: Home, *, limit: int, guard: Callable[[], None] | None = None) -> None:
        """``limit``: bytes of each capture that are kept. ``guard``: called a few times per second, to judge."""
        self._guard = guard
        self._home = home
        self._limit = limit
        self._kept: dict[Path, Kept] = {}
        self._bridges: dict[Path, Bridge] = {}
        self._relays: dict[Path, Relay] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Look after the captures until there have been none for a while."""
        idle_since = time.monotonic()
        next_sources = 0.0
        while True:
            now = time.monotonic()
            if now >= next_sources:
                next_sources = now + _SOURCES_INTERVAL
                self._find()
                if self._kept or self._bridges:
                    idle_since = now
                elif now - idle_since > _GRACE:
                    return
                self._tidy()
                if self._guard:
                    with suppress(VmprovError):  # what cannot be judged is kept all the same
                        self._guard()
            self._look()
            busy = any(now - kept.grew < _IDLE_AFTER for kept in self._kept.values())
            for key, _ in self._selector.select(_INTERVAL if busy else _IDLE_INTERVAL):
                key.data.serve()

    def _tidy(self) -> None:
        for kept in list(self._kept.values()):
            with suppress(OSError):  # its VM is being removed, or the disk is full
                if kept.deprived:
                    self._renew(kept)
                else:
                    kept.trim(self._limit)
                    kept.watch_disk()

    def _look(self) -> None:
        for relay in self._relays.values():
            with suppress(OSError):  # its VM is being removed
                relay.look()
        for kept in list(self._kept.values()):
            with suppress(OSError):  # its VM is being removed
                if not kept.look():
                    self._renew(kept)

    def _renew(self, kept: Kept) -> None:
        """Begin anew with a capture whose times are lost or of no use."""
        kept.close()
        times_path(kept.log).unlink(missing_ok=True)
        self._kept[kept.log] = Kept(kept.log)

    def _find(self) -> None:
        """Take up new captures, let go of those that are gone."""
        try:
            present = set(self._home.vms.glob("*/console-?.log"))
        except OSError:
            present = set()
        for log in self._kept.keys() - present:
            if not log.parent.exists():
                self._kept.pop(log).close()
        for log in present - self._kept.keys():
            self._kept[log] = Kept(log)
        wanted = bridges_of(self._home)
        for path in self._bridges.keys() - wanted.keys():
            self._bridges.pop(path).close()
        for path in wanted.keys() - self._bridges.keys():
            with suppress(OSError):  # its VM is being removed
                self._bridges[path] = Bridge(wanted[path], path, self._selector)
        for bridge in self._bridges.values():
            bridge.rest()
        sources = relays_of(self._home)
        for log in self._relays.keys() - sources.keys():
            self._relays.pop(log).close()
        for log in sources.keys() - self._relays.keys():
            self._relays[log] = Relay(sources[log], log)


def needs_keeper(home: Home) -> bool:
    """Whether a state directory with captures has no keeper now."""
    lock = home.lock("keeper")
    if not lock.exists():
        return True
    fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def ensure_keeper(home: Home, settings: Settings, runner: Runner) -> None:
    """See that the state directory has a keeper, unless the settings say that there should be none."""
    if settings.keeper and needs_keeper(home):
        argv: list[str | Path] = [sys.executable, "-m", _PROGRAM, home.root, str(settings.console_limit)]
        runner.run(argv, deadline=Deadline(_START_LIMIT))


def serve(home: Home, make: Callable[[], Keeper]) -> None:
    """Keep the captures of a state directory in a background process, unless there is one that does.

    Returns in the process that calls once the other one holds the lock; that one never returns.
    """
    lock = home.lock("keeper")
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _take(fd):
        os.close(fd)
        return
    # The child holds the lock too, so there is no moment without a keeper.
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(home.keeper_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, target in ((0, null), (1, null), (2, log)):
        os.dup2(target, number)
    _keep(home, fd, make)


def _keep(home: Home, fd: int, make: Callable[[], Keeper]) -> None:
    """Keep until there is nothing to keep; ``fd`` is the lock file, and held."""
    while True:
        make().run()
        # Whoever made a VM in the meantime saw the lock held and relied on us.
        fcntl.flock(fd, fcntl.LOCK_UN)
        if not any(home.vms.glob("*")):
            return
        if not _take(fd):
            return


def _take(fd: int) -> bool:
    """Whether the lock is ours now, or else a keeper's; those who ask whether there is one share it for a moment."""

    def settled() -> str:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return "ours"
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
            return ""
        return "theirs"

    return wait_until(settled, Deadline(_START_LIMIT), "free lock of the keeper", interval=0.01) == "ours"
