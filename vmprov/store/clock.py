"""Times at which VMs expire, also when somebody sets the clock.

They are kept in the clock's time. Beside them, each run of this machine (its boot) keeps how far the clock is from the
time since boot, which nobody can set. When that changes, the clock was set, and the times move with it. From one run to
the next, the clock is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from vmprov.store.database import Database

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Seconds by which a clock that nobody set may have been slewed.
_SLEWED = 30.0

# The clock, and seconds since boot, suspended or not.
Clock = Callable[[], tuple[float, float]]


def read_clock() -> tuple[float, float]:
    """Both at this moment."""
    return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)


def follow_clock(database: Database, clock: Clock = read_clock) -> None:
    """Move all times of expiry if the clock was set since this was last called."""
    wall, running = clock()
    boot, offset = _boot(), wall - running
    known = database.rows("SELECT boot, offset FROM clock")
    if known and known[0]["boot"] == boot and abs(known[0]["offset"] - offset) <= _SLEWED:
        return
    with database.transaction():
        known = database.rows("SELECT boot, offset FROM clock")
        if known and known[0]["boot"] == boot:
            database.write("UPDATE vms SET expires = expires + ? WHERE expires > 0", offset - known[0]["offset"])
        database.write("DELETE FROM clock")
        database.write("INSERT INTO clock VALUES (?, ?)", boot, offset)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
