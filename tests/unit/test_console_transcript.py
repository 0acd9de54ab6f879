"""What several UARTs sent, piece by piece: live and read again later, the same."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.uarts import Capturing, add, soon
from vmprov.console.capture import slowest_follower
from vmprov.console.holes import release_start
from vmprov.console.index import Mark, Moment
from vmprov.console.transcript import Piece, Transcript

NEVER = 600.0


@pytest.fixture
def logs(tmp_path: Path) -> dict[int, Path]:
    return {console: tmp_path / f"console-{console}.log" for console in (0, 1)}


@pytest.fixture
def captures(logs: dict[int, Path]) -> list[Capturing]:
    return [Capturing(logs[0]), Capturing(logs[1])]


@pytest.fixture
def live(logs: dict[int, Path]) -> Iterator[Transcript]:
    transcript = Transcript(logs, {}, patience=NEVER)
    yield transcript
    transcript.close()


def again(logs: dict[int, Path], begin: dict[int, int] | None = None) -> list[Piece]:
    transcript = Transcript(logs, begin or {}, patience=NEVER)
    try:
        return transcript.take()
    finally:
        transcript.close()


def test_pieces_of_both_consoles_come_in_the_order_of_time(captures: list[Capturing], logs: dict[int, Path]) -> None:
    captures[0].say(b"one", 100.0, 1.0)
    captures[1].say(b"two", 90.0, 2.0)  # the wall clock was set back
    captures[0].say(b"three", 91.0, 3.0)

    assert again(logs) == [
        Piece(0, 0, b"one", Moment(100.0, 1.0)),
        Piece(1, 0, b"two", Moment(90.0, 2.0)),
        Piece(0, 3, b"three", Moment(91.0, 3.0)),
    ]


def test_live_and_later_the_pieces_are_the_same(
    captures: list[Capturing], logs: dict[int, Path], live: Transcript
) -> None:
    chance = random.Random(1)
    seen: list[Piece] = []
    for number in range(300):
        console = chance.randrange(2)
        captures[console].say(bytes(chance.choices(range(256), k=chance.randrange(1, 3000))), 100.0 + number)
        if chance.random() < 0.4:
            seen += live.take()
    seen += live.take()

    assert len(seen) == 300
    assert seen == again(logs)
    for console, log in logs.items():
        assert b"".join(piece.data for piece in seen if piece.console == console) == log.read_bytes()


def test_it_begins_where_it_is_told_to(captures: list[Capturing], logs: dict[int, Path]) -> None:
    captures[0].say(b"before|now", 100.0)
    captures[1].say(b"before", 100.0)

    assert again(logs, {0: 7, 1: 6}) == [Piece(0, 7, b"now", Moment(100.0, 100.0))]


def test_bytes_wait_to_be_timed(captures: list[Capturing], logs: dict[int, Path], live: Transcript) -> None:
    captures[0].say(b"timed", 100.0)
    add(logs[0], b" and not yet")
    first = live.take(), live.take()
    captures[0].note(Mark.SEEN, 17, 101.0, 101.0)

    assert first == ([Piece(0, 0, b"timed", Moment(100.0, 100.0))], [])
    assert live.take() == [Piece(0, 5, b" and not yet", Moment(101.0, 101.0))]


def test_where_nobody_times_them_the_reader_does(logs: dict[int, Path]) -> None:
    logs[0].write_bytes(b"nobody looks")
    transcript = Transcript(logs, {}, patience=0.05)
    before = time.monotonic()

    [piece] = soon(transcript.take, "pieces")
    transcript.close()

    assert (piece.console, piece.offset, piece.data) == (0, 0, b"nobody looks")
    assert before + 0.05 <= piece.moment.mono <= time.monotonic()


def test_what_was_trimmed_is_left_out(captures: list[Capturing], logs: dict[int, Path]) -> None:
    captures[0].say(b"x" * 65536, 100.0)
    captures[0].say(b"y" * 65536, 101.0)
    captures[0].note(Mark.TRIMMED, release_start(logs[0], 98304))

    assert again(logs) == [Piece(0, 98304, b"y" * 32768, Moment(101.0, 101.0))]


def test_a_capture_that_is_missing_or_made_anew_is_read_from_its_beginning(
    captures: list[Capturing], logs: dict[int, Path], live: Transcript
) -> None:
    captures[0].say(b"a long first life", 100.0)
    first = live.take()
    logs[0].unlink()
    missing = live.take()
    logs[0].with_suffix(".times").unlink()
    anew = Capturing(logs[0])
    anew.say(b"anew", 200.0)

    assert [piece.data for piece in first] == [b"a long first life"]
    assert missing == []
    assert live.take() == [Piece(0, 0, b"anew", Moment(200.0, 200.0))]


def test_it_holds_back_trimming_until_it_is_closed(
    captures: list[Capturing], logs: dict[int, Path], live: Transcript
) -> None:
    captures[0].say(b"12345", 100.0)
    live.take()
    while_open = slowest_follower(logs[0])
    live.close()

    assert (while_open, slowest_follower(logs[0])) == (5, None)
