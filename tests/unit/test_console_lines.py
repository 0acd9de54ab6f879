"""Lines of captures with their times: what was captured, what arrives, and what is missing."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.uarts import Capturing, add, soon
from vmprov.console.capture import Capture, Follower, followers_directory, slowest_follower
from vmprov.console.holes import release_start
from vmprov.console.index import Mark, Moment, machine_run, times_path
from vmprov.console.keeper import Kept
from vmprov.console.lines import Followed, Line, Selection, captured, follow
from vmprov.errors import NotFound
from vmprov.waiting import Cancel

ALL = Selection()
FIRMWARE = b"\x1bc\x1b[?7l\x1b[2JSeaBIOS (version 1.16)\r\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console-0.log"


def texts(log: Path, selection: Selection = ALL) -> list[str]:
    return [line.text for line in captured("vm-1", Capture(log), selection)]


def told(sources: dict[str, Path], selection: Selection = ALL) -> list[Line]:
    """All that following tells of what is there."""
    cancel = Cancel()
    cancel.set()
    return list(follow(lambda: sources, cancel=cancel, selection=selection))


class Following:
    """Follows in a thread, so that a test can write meanwhile."""

    def __init__(
        self, sources: dict[str, Path] | Callable[[], dict[str, Path]], selection: Selection | None = None
    ) -> None:
        self.cancel = Cancel()
        self.lines: list[Line] = []
        found = sources if callable(sources) else lambda: sources
        self._lines = follow(found, cancel=self.cancel, selection=selection or ALL, interval=0.005)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for line in self._lines:
            self.lines.append(line)

    @property
    def texts(self) -> list[str]:
        return [line.text for line in list(self.lines)]

    def wait_for(self, text: str, *, complete: bool = True, continues: bool = False) -> Line:
        def found() -> Line | None:
            for line in list(self.lines):
                if (line.text, line.complete, line.continues) == (text, complete, continues):
                    return line
            return None

        return soon(found, f"line {text!r}")

    def stop(self) -> list[Line]:
        self.cancel.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.lines


# history


def test_a_line_has_its_offset_its_boot_and_the_time_of_its_last_byte(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"one\r\ntw", 100.0, 1.0)
    capture.say(b"o\r\n", 102.0, 3.0)
    capture.note(Mark.BOOT, 0, number=1)
    second = capture.say(FIRMWARE, 104.0, 5.0)
    capture.note(Mark.BOOT, second, number=2)
    capture.say(b"vm-1 login: ", 106.0, 7.0)

    lines = list(captured("vm-1", Capture(log), ALL))

    assert [(line.text, line.offset, line.moment, line.boot, line.complete) for line in lines] == [
        ("one", 0, Moment(100.0, 1.0), 1, True),
        ("two", 5, Moment(102.0, 3.0), 1, True),
        ("SeaBIOS (version 1.16)", second, Moment(104.0, 5.0), 2, True),
        ("vm-1 login: ", second + len(FIRMWARE), Moment(106.0, 7.0), 2, False),
    ]
    assert lines[3].to_json() == {
        "vm": "vm-1", "time": lines[3].to_json()["time"], "monotonic": 7.0, "boot": 2,
        "offset": second + len(FIRMWARE), "text": "vm-1 login: ", "complete": False, "note": False,
    }  # fmt: skip
    assert datetime.fromisoformat(lines[3].to_json()["time"]) == datetime.fromtimestamp(106.0, UTC)


def test_a_machine_that_never_said_anything_has_no_lines(tmp_path: Path, log: Path) -> None:
    log.touch()

    assert texts(log) == []
    assert texts(tmp_path / "missing.log") == []
    assert told({"vm-1": log, "vm-2": tmp_path / "missing.log"}) == []


def test_bytes_that_nobody_timed_are_as_old_as_the_file_is(log: Path) -> None:
    log.write_bytes(b"nobody looked\n")
    written = time.time() - 60
    os.utime(log, (written, written))

    [line] = captured("vm-1", Capture(log), ALL)

    assert line.moment.wall == pytest.approx(written, abs=0.01)
    if line.moment.current:  # this machine runs for longer than a minute
        assert line.moment.mono == pytest.approx(time.monotonic() - 60, abs=5)


def test_histories_of_several_machines_are_merged_in_the_order_of_time(tmp_path: Path) -> None:
    one, two = Capturing(tmp_path / "one.log"), Capturing(tmp_path / "two.log")
    for number in range(3000):
        one.say(b"%06d %s\n" % (2 * number, b"x" * 60), 1000.0 + number)
    for number in range(0, 3000, 100):
        two.say(b"%06d\n" % (2 * number + 1), 1000.5 + number)
    sources = {"vm-1": one.log, "vm-2": two.log}

    followed = [line.text[:6] for line in told(sources)]
    each = [captured(vm, Capture(path), ALL) for vm, path in sources.items()]
    merged = [line.text[:6] for line in heapq.merge(*each, key=lambda line: line.moment.order)]

    assert len(followed) == 3030
    assert followed == sorted(followed)
    assert merged == followed


def test_a_line_is_not_told_before_an_older_one_that_takes_longer_to_read(tmp_path: Path) -> None:
    long, short = Capturing(tmp_path / "long.log"), Capturing(tmp_path / "short.log")
    long.say(b"x" * 65536, 100.0)
    short.say(b"later\n", 101.0)
    long.say(b"y" * 100_000 + b"\n", 99.0, 100.5)

    lines = told({"short": short.log, "long": long.log})

    assert [line.vm for line in lines] == ["long", "long", "long", "short"]


def test_the_order_is_that_of_time_also_where_the_wall_clock_was_set_back(tmp_path: Path) -> None:
    one, two = Capturing(tmp_path / "one.log"), Capturing(tmp_path / "two.log")
    one.say(b"first\n", 5000.0, 10.0)
    two.say(b"second\n", 5001.0, 11.0)
    one.say(b"third\n", 2000.0, 12.0)  # set back by almost an hour
    two.say(b"fourth\n", 2001.0, 13.0)
    one.say(b"fifth\n", 2002.0, 14.0)

    lines = told({"vm-1": one.log, "vm-2": two.log})

    assert [line.text for line in lines] == ["first", "second", "third", "fourth", "fifth"]


def test_what_was_said_before_the_machine_was_restarted_comes_first(tmp_path: Path) -> None:
    earlier, now = Capturing(tmp_path / "one.log", machine=7), Capturing(tmp_path / "two.log")
    earlier.say(b"first\n", 9000.0, 100_000.0)
    now.say(b"second\n", 5000.0, 5.0)
    earlier.note(Mark.MACHINE, machine_run())
    earlier.say(b"third\n", 5001.0, 6.0)

    lines = told({"vm-1": earlier.log, "vm-2": now.log})

    assert [(line.text, line.moment.current) for line in lines] == [
        ("first", False), ("second", True), ("third", True),
    ]  # fmt: skip


# selections


def test_since_a_time_are_the_lines_that_ended_then_or_later(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"old\r\nvm-1 login: ", 100.0)
    capture.say(b"root\r\n", 200.0)
    capture.say(b"new\r\n", 300.0)

    assert texts(log, Selection(since=50.0)) == ["old", "vm-1 login: root", "new"]
    assert texts(log, Selection(since=150.0)) == ["vm-1 login: root", "new"]
    assert texts(log, Selection(since=200.0)) == ["vm-1 login: root", "new"]
    assert texts(log, Selection(since=200.5)) == ["new"]
    assert texts(log, Selection(since=301.0)) == []
    assert [line.text for line in told({"vm-1": log}, Selection(since=150.0))] == ["vm-1 login: root", "new"]


def test_a_prompt_that_has_stood_there_for_long_is_not_of_the_last_minute(log: Path) -> None:
    capturing = Capturing(log)
    capturing.say(b"old\nvm-1 login: ", wall=100.0)

    assert texts(log, Selection(since=100.0)) == ["old", "vm-1 login: "]
    assert texts(log, Selection(since=101.0)) == []
    add(log, b"root")  # nobody has timed that yet
    assert texts(log, Selection(since=101.0)) == ["vm-1 login: root"]


def test_since_a_time_leaves_out_nothing_where_the_wall_clock_was_set_back(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"before\n", 5000.0, 1.0)
    capture.say(b"after\n", 2000.0, 2.0)

    assert texts(log, Selection(since=1999.0)) == ["before", "after"]
    assert texts(log, Selection(since=4999.0)) == ["before", "after"]


@pytest.fixture
def rebooted(log: Path) -> Path:
    """A capture of three boots of three lines each; the last one has not ended."""
    capture = Capturing(log)
    for boot in range(1, 4):
        start = capture.say(FIRMWARE + b"boot %d a\r\nboot %d b\r\n" % (boot, boot), 100.0 * boot)
        capture.note(Mark.BOOT, start, number=boot)
    return log


def test_one_boot_can_be_selected(rebooted: Path) -> None:
    assert texts(rebooted, Selection(boot=1)) == ["SeaBIOS (version 1.16)", "boot 1 a", "boot 1 b"]
    assert texts(rebooted, Selection(boot=2)) == ["SeaBIOS (version 1.16)", "boot 2 a", "boot 2 b"]
    assert texts(rebooted, Selection(boot=3)) == ["SeaBIOS (version 1.16)", "boot 3 a", "boot 3 b"]
    assert [line.boot for line in captured("vm-1", Capture(rebooted), Selection(boot=2))] == [2, 2, 2]


@pytest.mark.parametrize("boot", [2, 3])
def test_the_last_lines_of_one_boot_can_be_selected(rebooted: Path, boot: int) -> None:
    assert texts(rebooted, Selection(boot=boot, tail=1)) == [f"boot {boot} b"]
    assert texts(rebooted, Selection(boot=boot, tail=0)) == []
    assert len(texts(rebooted, Selection(boot=boot, tail=99))) == 3


def test_one_boot_since_a_time(rebooted: Path) -> None:
    assert texts(rebooted, Selection(boot=2, since=150.0)) == ["SeaBIOS (version 1.16)", "boot 2 a", "boot 2 b"]
    assert texts(rebooted, Selection(boot=2, since=250.0)) == []


def test_a_boot_that_never_was_is_refused(rebooted: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="vm-1 has no boot 4; it has booted 3 times"):
        texts(rebooted, Selection(boot=4))
    with pytest.raises(NotFound, match="no boot 2; it has booted once"):
        texts(tmp_path / "missing.log", Selection(boot=2))
    assert texts(tmp_path / "missing.log", Selection(boot=1)) == []


@pytest.mark.parametrize(
    ("tail", "lines"),
    [(0, []), (1, ["prompt: "]), (2, ["two", "prompt: "]), (99, ["one", "two", "prompt: "])],
)
def test_the_last_lines_can_be_selected(log: Path, tail: int, lines: list[str]) -> None:
    log.write_bytes(b"one\ntwo\nprompt: ")

    assert texts(log, Selection(tail=tail)) == lines
    assert [line.text for line in told({"vm-1": log}, Selection(tail=tail))] == lines


def test_the_last_lines_since_a_time_are_both(log: Path) -> None:
    capture = Capturing(log)
    for number in range(1, 6):
        capture.say(b"%d\n" % number, 100.0 * number)

    assert texts(log, Selection(tail=2, since=150.0)) == ["4", "5"]
    assert texts(log, Selection(tail=4, since=450.0)) == ["5"]


def test_a_history_is_read_in_bounded_memory(log: Path) -> None:
    capture = Capturing(log)
    block = b"".join(b"line %d of many, many lines: %s\r\n" % (number, b"." * 1000) for number in range(100))
    for number in range(80):
        capture.say(block, 100.0 + number)
    tracemalloc.start()

    count = sum(1 for _ in captured("vm-1", Capture(log), ALL))
    last = list(captured("vm-1", Capture(log), Selection(boot=1, tail=10)))

    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, len(last)) == (8000, 10)
    assert log.stat().st_size > 8_000_000
    assert most < 3_000_000


# what is missing


def test_a_trimmed_beginning_is_said_with_how_much_was_dropped(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"old line\n" * 8192, 100.0)
    capture.note(Mark.TRIMMED, release_start(log, 65536))
    last = capture.say(b"new\n", 200.0)

    lines = list(captured("vm-1", Capture(log), ALL))

    assert lines[0].text == "[vmprov: 64KiB of older output were dropped to stay within the limit]"
    assert lines[0].note
    assert [line.note for line in lines[1:]] == [False] * (len(lines) - 1)
    assert (lines[-1].text, lines[-1].offset) == ("new", last)
    assert told({"vm-1": log}) == lines
    assert texts(log, Selection(tail=2)) == ["old line", "new"]


def test_a_reader_from_whom_bytes_were_dropped_does_not_glue_together_what_is_left(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"an unfinished li", 100.0)
    following = Following({"vm-1": log})
    following.wait_for("an unfinished li", complete=False)

    capture.note(Mark.TRIMMED, 65536)  # before the reader could read it
    capture.say(b"x" * 65536 + b"ne of another\n", 101.0)
    following.wait_for("[vmprov: 64KiB of older output were dropped to stay within the limit]")

    assert following.stop()[-1].text == "x" * 16 + "ne of another"


def test_what_a_reader_had_of_a_line_that_was_dropped_is_shown(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"one\nan unfinished li", 100.0)
    followed = Followed("vm-1", log, ALL)
    first = followed.look()

    capture.note(Mark.TRIMMED, 65536)
    capture.say(b"x" * 65536 + b"ne of another\n", 101.0)
    later = [line for _ in range(3) for line in followed.look()]
    followed.close()

    assert [line.text for line in first] == ["one"]
    assert [(line.text[:20], line.complete, line.note) for line in later] == [
        ("an unfinished li", False, False), ("[vmprov: 64KiB of ol", True, True),
        ("x" * 20, True, False),
    ]  # fmt: skip


def test_places_where_the_disk_was_full_are_shown_where_they_are(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"one\n", 100.0)
    lost = capture.say(b"two\n", 101.0)
    capture.note(Mark.LOST, lost, 102.0, 102.0, number=5)
    capture.say(b"three\n", 103.0)

    lines = list(captured("vm-1", Capture(log), ALL))

    said = "[vmprov: the disk was full for 5 s: output may be missing here]"
    assert [line.text for line in lines] == ["one", said, "two", "three"]
    assert [line.note for line in lines] == [False, True, False, False]
    assert texts(log, Selection(tail=1)) == ["three"]


def test_a_follower_is_told_of_lost_bytes_as_soon_as_it_is_known(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"one\n", 100.0)
    following = Following({"vm-1": log})
    following.wait_for("one")
    lost = capture.say(b"two\n", 101.0)
    following.wait_for("two")

    capture.note(Mark.LOST, lost, 102.0, 102.0, number=5)
    capture.say(b"three\n", 103.0)
    following.wait_for("three")

    said = "[vmprov: the disk was full for 5 s: output may be missing here]"
    assert [line.text for line in following.stop()] == ["one", "two", said, "three"]


# following


def test_lines_of_several_machines_come_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"old\nolder\n")
    following = Following({"vm-1": one, "vm-2": two}, Selection(tail=1))

    following.wait_for("older")
    add(two, b"first\r\n")
    assert following.wait_for("first").vm == "vm-2"
    add(one, b"second\r\n")
    assert following.wait_for("second").vm == "vm-1"

    assert [line.text for line in following.stop()] == ["older", "first", "second"]


def test_a_prompt_is_shown_after_a_silence_and_never_twice(log: Path) -> None:
    log.write_bytes(b"vm-1 login: ")
    following = Following({"vm-1": log})

    following.wait_for("vm-1 login: ", complete=False)
    add(log, b"root\r\nPassword: ")
    following.wait_for("root", continues=True)
    following.wait_for("Password: ", complete=False)
    add(log, b"\r\n")

    assert len(following.stop()) == 3


def test_a_prompt_that_grows_is_continued_and_one_that_is_painted_anew_begins_anew(log: Path) -> None:
    log.write_bytes(b"loading")
    following = Following({"vm-1": log})

    first = following.wait_for("loading", complete=False)
    add(log, b" ...")
    more = following.wait_for(" ...", complete=False, continues=True)
    add(log, b"\rgrub> ")
    anew = following.wait_for("grub> ", complete=False)
    following.stop()

    assert (first.offset, more.offset, anew.offset) == (0, 0, 0)


def test_what_was_written_before_the_end_is_told_before_the_end(log: Path) -> None:
    log.write_bytes(b"x" * 100_000 + b"\r\nlast words")

    lines = told({"vm-1": log})

    assert [(len(line.text), line.complete) for line in lines] == [(65536, True), (34464, True), (10, False)]


def test_machines_may_come_and_go_while_they_are_followed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"long ago\none is here\n")
    two.write_bytes(b"two is\nlate\n")
    sources = {"vm-1": one}
    following = Following(lambda: dict(sources), Selection(tail=1))

    following.wait_for("one is here")
    add(one, b"ready\n")
    following.wait_for("ready")
    sources["vm-2"] = two
    following.wait_for("late")
    add(one, b"bye")
    del sources["vm-1"]
    following.wait_for("bye", complete=False)

    assert following.texts[:4] == ["one is here", "ready", "two is", "late"]
    assert [line.text for line in following.stop() if line.vm == "vm-1"] == ["one is here", "ready", "bye"]


def test_a_log_that_is_truncated_deleted_or_replaced_is_told_from_its_beginning(tmp_path: Path, log: Path) -> None:
    log.write_bytes(b"a long first life\nand a prompt: ")
    following = Following({"vm-1": log})
    following.wait_for("and a prompt: ", complete=False)

    log.write_bytes(b"short\n")
    following.wait_for("short")
    (tmp_path / "new").write_bytes(b"replaced by a longer one\n")
    (tmp_path / "new").replace(log)
    following.wait_for("replaced by a longer one")
    with log.open("rb"):  # or its inode would be used again at once
        log.unlink()
        log.write_bytes(b"made anew, and longer than ever before\n")
        following.wait_for("made anew, and longer than ever before")

    assert [line.text for line in following.stop()] == [
        "a long first life", "and a prompt: ", "short", "replaced by a longer one",
        "made anew, and longer than ever before",
    ]  # fmt: skip


def test_a_log_that_is_made_anew_is_news_even_where_its_inode_is_the_same(log: Path) -> None:
    log.write_bytes(b"first life\nand a prompt: ")
    followed = Followed("vm-1", log, ALL)
    first = [line.text for line in followed.look()]
    log.unlink()
    gone = followed.look()
    log.write_bytes(b"second life, a longer one than the first one\n")

    assert (first, gone) == (["first life"], [])
    assert [line.text for line in followed.look()] == ["and a prompt: ", "second life, a longer one than the first one"]
    followed.close()


def test_what_was_not_shown_yet_of_a_log_that_is_replaced_is_shown(tmp_path: Path, log: Path) -> None:
    log.write_bytes(b"first\n")
    following = Following({"vm-1": log})
    following.wait_for("first")

    add(log, b"an unfinished")
    soon(lambda: (slowest_follower(log) or 0) == 19, "reader at the end")
    (tmp_path / "new").write_bytes(b"second life\n")
    (tmp_path / "new").replace(log)
    following.wait_for("second life")

    assert following.texts[:2] == ["first", "an unfinished"]
    following.stop()


def test_a_log_that_was_trimmed_and_is_made_anew_is_read_from_its_first_byte(log: Path) -> None:
    capture = Capturing(log)
    capture.say(b"x" * 70_000 + b"\n", 100.0)
    capture.note(Mark.TRIMMED, 65536)

    log.write_bytes(b"anew\n")  # the keeper has not looked yet

    assert texts(log) == ["anew"]


def test_a_machine_that_talks_without_end_keeps_nobody_waiting(tmp_path: Path) -> None:
    loud, quiet = tmp_path / "loud", tmp_path / "quiet"
    quiet.touch()
    loud.touch()
    following = Following({"loud": loud, "quiet": quiet})
    stop = threading.Event()

    def talk() -> None:
        while not stop.wait(0.001):
            add(loud, b"and another thing\r\n" * 20)

    talking = threading.Thread(target=talk)
    talking.start()
    soon(lambda: following.texts.count("and another thing") > 100, "the loud one's lines")
    add(quiet, b"excuse me\r\n")
    following.wait_for("excuse me")
    stop.set()
    talking.join()

    assert len(following.stop()) > 100


# followers hold back trimming


def keep(log: Path) -> Iterator[Kept]:
    kept = Kept(log)
    assert kept.look()
    yield kept
    kept.close()


@pytest.fixture
def kept(log: Path) -> Iterator[Kept]:
    """The keeper of a capture of ten lines of 100 KB each."""
    for number in range(10):
        add(log, b"%d" % number * 99_999 + b"\n")
    yield from keep(log)


LIMIT = 200_000


def trimmed(log: Path) -> int:
    capture = Capture(log)
    capture.times.refresh()
    return capture.times.trimmed


def test_without_followers_all_beyond_the_limit_is_given_back(kept: Kept, log: Path) -> None:
    with log.open("rb") as file:
        os.fsync(file.fileno())
    before = log.stat().st_blocks
    kept.trim(LIMIT)

    assert trimmed(log) == 800_000 // 4096 * 4096
    assert log.stat().st_size == 1_000_000
    assert (before - log.stat().st_blocks) * 512 == trimmed(log)
    assert "".join(line[:1] for line in texts(log)) == "[78899"  # lines of that length are cut in two


def test_a_little_beyond_the_limit_is_no_reason_to_trim(kept: Kept, log: Path) -> None:
    kept.trim(990_000)

    assert trimmed(log) == 0


def test_what_a_follower_has_not_read_stays(kept: Kept, log: Path) -> None:
    follower, faster = Follower(log), Follower(log)
    follower.tell(500_000)
    faster.tell(700_000)
    kept.trim(LIMIT)
    while_reading = trimmed(log)

    follower.tell(600_000)
    kept.trim(LIMIT)
    after_more = trimmed(log)
    follower.close()
    faster.close()
    kept.trim(LIMIT)

    assert (while_reading, after_more) == (500_000 // 4096 * 4096, 600_000 // 4096 * 4096)
    assert trimmed(log) == 800_000 // 4096 * 4096
    assert list(followers_directory(log).iterdir()) == []


def test_a_follower_that_stands_still_holds_back_no_more_than_four_times_the_limit(kept: Kept, log: Path) -> None:
    follower = Follower(log)
    follower.tell(0)
    kept.trim(LIMIT)

    assert trimmed(log) == 200_000 // 4096 * 4096
    follower.close()


def test_a_follower_that_died_holds_back_nothing(kept: Kept, log: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from vmprov.console.capture import Follower\n"
        "follower = Follower(pathlib.Path(sys.argv[1]))\n"
        "follower.tell(300_000)\n"
        "print('told', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"told\n"
        while_alive = slowest_follower(log)
        other.kill()

    assert (while_alive, slowest_follower(log)) == (300_000, None)
    kept.trim(LIMIT)
    assert trimmed(log) == 800_000 // 4096 * 4096
    assert list(followers_directory(log).iterdir()) == []


def test_a_follower_that_is_about_to_say_where_it_is_stays_known(log: Path) -> None:
    log.touch()
    directory = followers_directory(log)
    directory.mkdir()
    (directory / "1-0").touch()  # made, but not locked yet

    assert slowest_follower(log) is None
    assert (directory / "1-0").exists()


def test_following_holds_back_what_was_not_read_until_it_ends(kept: Kept, log: Path) -> None:
    lines = follow(lambda: {"vm-1": log}, cancel=Cancel(), selection=ALL)
    first = next(lines)  # read are the first blocks only

    kept.trim(LIMIT)
    while_following = trimmed(log)
    lines.close()
    kept.trim(LIMIT)

    assert first.text[0] == "0"
    assert while_following == 200_000 // 4096 * 4096  # four times the limit
    assert trimmed(log) == 800_000 // 4096 * 4096


def test_where_no_follower_can_be_written_down_reading_goes_on(log: Path) -> None:
    log.write_bytes(b"hello\n")
    followers_directory(log).write_text("in the way")

    assert [line.text for line in told({"vm-1": log})] == ["hello"]
    assert slowest_follower(log) is None
    assert not times_path(log).exists()
