"""The times file of a capture: records in, moments out, whatever happens to the file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.uarts import Capturing, add
from vmprov.console.index import Lost, Mark, Moment, Times, TimesWriter, encode, machine_run, thin, times_path

RECORD = 32


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console-0.log"


@pytest.fixture
def capture(log: Path) -> Capturing:
    return Capturing(log)


def read(log: Path) -> Times:
    times = Times(log)
    times.refresh()
    return times


def test_a_file_is_called_after_its_capture(log: Path) -> None:
    assert times_path(log).name == "console-0.times"


def test_what_was_written_is_read(capture: Capturing, log: Path) -> None:
    capture.say(b"12345", 100.5, 1.25)
    capture.note(Mark.BOOT, 2, number=1)
    capture.say(b"67890", 101.5, 2.25)
    capture.note(Mark.TRIMMED, 4)
    capture.note(Mark.LOST, 8, number=77)

    times = read(log)

    assert (times.seen, times.trimmed, times.boots, times.lost) == (10, 4, [2], [Lost(8, 77)])
    assert times.machine == machine_run()
    assert times.at(5) == Moment(100.5, 1.25)
    assert times.at(6) == times.at(10) == Moment(101.5, 2.25)
    assert times_path(log).stat().st_size == 6 * RECORD
    assert times_path(log).stat().st_mode & 0o777 == 0o600


def test_without_a_file_nothing_is_known(log: Path) -> None:
    times = Times(log)

    assert not times.refresh()
    assert (times.seen, times.trimmed, times.boots, times.lost) == (0, 0, [], [])
    assert times.at(1) is None
    assert times.pieces(0, 100) == []
    assert times.offset_since(0.0) == 0
    assert times.boot(5) == 1
    assert times.boot_range(1) == (0, None)


def test_what_is_new_is_taken_up(capture: Capturing, log: Path) -> None:
    times = read(log)
    capture.say(b"one", 1.0)
    first = times.refresh(), times.seen
    capture.say(b"two", 2.0)
    second = times.refresh(), times.seen

    assert (first, second, times.refresh()) == ((True, 3), (True, 6), False)


@pytest.mark.parametrize("size", range(1, RECORD))
def test_half_a_record_waits_for_its_other_half(capture: Capturing, log: Path, size: int) -> None:
    capture.say(b"one", 1.0)
    record = encode(Mark.SEEN, 10, Moment(2.0, 2.0))
    times = read(log)

    add(times_path(log), record[:size])
    before = times.refresh(), times.seen
    add(times_path(log), record[size:])
    after = times.refresh(), times.seen

    assert (before, after) == ((False, 3), (True, 10))


def test_a_writer_cuts_off_the_half_record_that_another_left(capture: Capturing, log: Path) -> None:
    capture.say(b"one", 1.0)
    add(times_path(log), encode(Mark.SEEN, 99, Moment(9.0, 9.0))[:17])

    writer = TimesWriter(log)
    assert writer.write(encode(Mark.SEEN, 6, Moment(2.0, 2.0)))
    writer.close()

    assert read(log).seen == 6
    assert times_path(log).stat().st_size % RECORD == 0


def test_a_file_that_is_removed_replaced_or_shortened_is_read_anew(capture: Capturing, log: Path) -> None:
    capture.say(b"x" * 100, 1.0)
    capture.note(Mark.BOOT, 0, number=1)
    capture.note(Mark.TRIMMED, 50)
    times = read(log)

    times_path(log).unlink()
    times.refresh()
    removed = times.seen, times.trimmed, times.boots
    add(times_path(log), encode(Mark.SEEN, 7, Moment(1.0, 1.0)) * 3)
    times.refresh()
    anew = times.seen
    other = log.with_name("other")
    add(other, encode(Mark.SEEN, 8, Moment(1.0, 1.0)) * 3)
    other.replace(times_path(log))
    times.refresh()
    replaced = times.seen
    times_path(log).write_bytes(encode(Mark.SEEN, 5, Moment(1.0, 1.0)))
    times.refresh()

    assert (removed, anew, replaced, times.seen) == ((0, 0, []), 7, 8, 5)


def test_a_writer_knows_when_its_file_is_gone(log: Path) -> None:
    writer = TimesWriter(log)
    unopened = writer.gone
    writer.write(encode(Mark.SEEN, 1, Moment(1.0, 1.0)))
    there = writer.gone
    times_path(log).unlink()
    removed = writer.gone
    times_path(log).touch()
    replaced = writer.gone
    writer.close()

    assert (unopened, there, removed, replaced, writer.gone) == (False, False, True, True, False)


# questions


def test_bytes_are_cut_into_the_pieces_in_which_they_were_seen(capture: Capturing, log: Path) -> None:
    for number in range(5):
        capture.say(b"x" * 10, 100.0 + number)
    times = read(log)
    moments = [Moment(100.0 + number, 100.0 + number) for number in range(5)]

    assert times.pieces(0, 50) == [(10 * (number + 1), moments[number]) for number in range(5)]
    assert times.pieces(15, 25) == [(20, moments[1]), (25, moments[2])]
    assert times.pieces(20, 30) == [(30, moments[2])]
    assert times.pieces(45, 99) == [(50, moments[4])]
    assert times.pieces(50, 99) == []
    assert times.pieces(30, 30) == []


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    place=st.tuples(st.integers(0, 1600), st.integers(0, 1600)),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_what_was_asked_for_and_each_says_what_its_bytes_say(
    log: Path, sizes: list[int], place: tuple[int, int]
) -> None:
    start, end = min(place), max(place)
    times_path(log).unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    capture = Capturing(log)
    for number, size in enumerate(sizes):
        capture.say(b"x" * size, float(number))
    times = read(log)

    pieces = times.pieces(start, end)

    known = min(end, capture.size)
    assert [stop for stop, _ in pieces] == sorted({stop for stop, _ in pieces})
    assert (pieces[-1][0] if pieces else start) == max(start, known)
    begin = start
    for stop, moment in pieces:
        assert {times.at(byte) for byte in range(begin + 1, stop + 1)} == {moment}
        begin = stop


def test_boots_have_numbers_and_ranges(capture: Capturing, log: Path) -> None:
    for number, offset in enumerate((0, 100, 250), 1):
        capture.note(Mark.BOOT, offset, number=number)
    times = read(log)

    assert [times.boot(offset) for offset in (0, 99, 100, 249, 250, 10**9)] == [1, 1, 2, 2, 3, 3]
    assert [times.boot_range(number) for number in range(5)] == [None, (0, 100), (100, 250), (250, None), None]


def test_what_was_said_before_the_first_firmware_belongs_to_the_first_boot(capture: Capturing, log: Path) -> None:
    capture.note(Mark.BOOT, 40, number=1)
    capture.note(Mark.BOOT, 90, number=2)
    times = read(log)

    assert (times.boot(0), times.boot_range(1), times.boot_range(2)) == (1, (0, 90), (90, None))


def test_since_a_time_begins_where_the_capture_was_before_it(capture: Capturing, log: Path) -> None:
    capture.say(b"x" * 10, 100.0)
    capture.say(b"x" * 10, 200.0)
    times = read(log)

    assert [times.offset_since(wall) for wall in (99.0, 100.0, 100.1, 200.0, 200.1)] == [0, 0, 10, 10, 20]


# another run of the machine


def test_times_of_an_earlier_run_of_the_machine_are_not_compared_with_todays(log: Path) -> None:
    capture = Capturing(log, machine=7)
    capture.say(b"earlier", 1000.0, 50_000.0)
    only = read(log)
    capture.note(Mark.MACHINE, machine_run())
    capture.say(b"now", 2000.0, 5.0)
    both = read(log)

    earlier, now = both.at(7), both.at(10)
    assert only.at(7) == earlier == Moment(1000.0, 50_000.0, current=False)
    assert now == Moment(2000.0, 5.0)
    assert [moment for _, moment in both.pieces(0, 10)] == [earlier, now]
    assert earlier.order < now.order
    assert now.running == 5.0
    assert earlier.running == pytest.approx(1000.0 - time.time() + time.monotonic(), abs=1)


def test_a_machine_has_one_number_for_as_long_as_it_runs() -> None:
    program = "from vmprov.console.index import machine_run; print(machine_run())"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert int(other) == machine_run() != 0


# thinning


def test_thinning_halves_the_resolution_of_the_older_half_and_forgets_nothing_else(
    capture: Capturing, log: Path
) -> None:
    for number in range(1000):
        if number % 100 == 0:
            capture.note(Mark.BOOT, capture.size, number=number // 100 + 1)
        if number == 200:
            capture.note(Mark.TRIMMED, 1500)
            capture.note(Mark.LOST, 1600, number=3)
        if number in (300, 303):
            capture.note(Mark.MACHINE, machine_run())
        capture.say(b"x" * 10, 1000.0 + number)
    before = read(log)

    thin(log)

    after = read(log)
    assert (after.boots, after.trimmed, after.lost) == (before.boots, before.trimmed, before.lost)
    assert (after.seen, after.machine) == (before.seen, before.machine)
    assert after.pieces(5100, 10_000) == before.pieces(5100, 10_000)
    # What was said before the machine was restarted is not said after it.
    assert [after.at(offset) for offset in (3000, 3030)] == [before.at(offset) for offset in (3000, 3030)]
    # Each byte of the older half is seen at most one record later.
    for offset in range(10, 5100, 10):
        was, now = before.at(offset), after.at(offset)
        assert was
        assert now
        assert was.wall <= now.wall <= was.wall + 1
    assert times_path(log).stat().st_size == pytest.approx(1015 * RECORD * 0.75, rel=0.05)
    assert times_path(log).stat().st_mode & 0o777 == 0o600
    before.refresh()
    assert before.pieces(0, 10_000) == after.pieces(0, 10_000)


# a full disk


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from vmprov.console.index import Mark, Moment, TimesWriter, encode

log, limit = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = TimesWriter(log)

def records(offset):
    return [encode(Mark.BOOT, offset, Moment(1.0, 1.0), 1), encode(Mark.SEEN, offset, Moment(1.0, 1.0))]

assert writer.write(*records(1))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
for _ in range(3):
    assert not writer.write(*records(2))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert writer.write(*records(2))
print("done")
"""


@pytest.mark.parametrize("limit", [2 * RECORD, 2 * RECORD + 1, 3 * RECORD, 3 * RECORD + 31])
def test_a_full_disk_leaves_neither_half_a_record_nor_one_of_two(log: Path, limit: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, log, str(limit)], capture_output=True, text=True, check=False
    )  # fmt: skip

    assert (ran.stdout, ran.stderr) == ("done\n", "")
    assert times_path(log).stat().st_size == 4 * RECORD
    times = read(log)
    assert (times.boots, times.seen) == ([1, 2], 2)


def test_what_cannot_be_opened_is_an_error_and_not_a_full_disk(tmp_path: Path) -> None:
    writer = TimesWriter(tmp_path / "missing" / "console-0.log")

    with pytest.raises(OSError, match="No such file"):
        writer.write(encode(Mark.SEEN, 1, Moment(1.0, 1.0)))
    writer.close()
    assert os.listdir(tmp_path) == []  # noqa: PTH208
