"""Locks between processes: one at a time, several at a time, and none for the dead."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.uarts import Call, soon
from vmprov.errors import Interrupted, WaitTimeout
from vmprov.locks import Turn, exclusive
from vmprov.waiting import Cancel, Deadline

HOLDER = """
import sys
from pathlib import Path
from vmprov.locks import Turn
turn = Turn(Path(sys.argv[1]), shared=sys.argv[2] == "shared")
print(turn.take(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "thing.lock"


@pytest.fixture
def turns(path: Path) -> Iterator[Callable[..., Turn]]:
    made: list[Turn] = []

    def turn(*, shared: bool = False) -> Turn:
        made.append(Turn(path, shared=shared))
        return made[-1]

    yield turn
    for one in made:
        one.close()


class Other:
    """Another process that takes its turn, and has it until it ends or is killed."""

    def __init__(self, path: Path, kind: str = "alone") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.took = self._process.stdout.readline().strip() == "True"

    def kill(self) -> None:
        with self._process:
            self._process.kill()


# a turn


def test_one_has_the_turn_until_it_closes_it(turns: Callable[..., Turn]) -> None:
    first, second = turns(), turns()

    assert (first.take(), second.take(), first.take(), second.take()) == (True, False, True, False)
    assert (first.mine, second.mine) == (True, False)
    first.close()
    assert (first.mine, second.take(), second.mine) == (False, True, True)
    assert not first.take()
    second.close()
    assert first.take()


def test_closing_twice_or_without_a_turn_is_harmless(turns: Callable[..., Turn]) -> None:
    turn = turns()
    turn.close()
    turn.take()
    turn.close()
    turn.close()

    assert turns().take()


def test_several_share_a_turn_that_nobody_may_have_alone(turns: Callable[..., Turn]) -> None:
    one, another, alone = turns(shared=True), turns(shared=True), turns()

    assert (one.take(), another.take(), alone.take()) == (True, True, False)
    one.close()
    assert not alone.take()
    another.close()
    assert (alone.take(), one.take()) == (True, False)


def test_the_turn_of_a_process_that_was_killed_is_free(path: Path, turns: Callable[..., Turn]) -> None:
    other, turn = Other(path), turns()
    meanwhile = turn.take()
    other.kill()

    assert (other.took, meanwhile) == (True, False)
    assert soon(turn.take, "turn")


def test_processes_share_as_threads_do(path: Path, turns: Callable[..., Turn]) -> None:
    other, one, alone = Other(path, "shared"), turns(shared=True), turns()
    meanwhile = one.take(), alone.take()
    one.close()
    other.kill()

    assert (other.took, meanwhile) == (True, (True, False))
    assert soon(alone.take, "turn")


def test_asking_makes_the_directory_and_a_private_file(path: Path, turns: Callable[..., Turn]) -> None:
    turns().take()

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_of_many_threads_that_ask_at_once_one_has_it(turns: Callable[..., Turn]) -> None:
    many = [turns() for _ in range(16)]
    for _ in range(20):
        barrier = threading.Barrier(len(many))

        def ask(turn: Turn, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return turn.take()

        calls = [Call(lambda turn=turn: ask(turn)) for turn in many]  # type: ignore[misc]
        assert sum(call.result() for call in calls) == 1
        for turn in many:
            turn.close()


# a lock that is waited for


def test_the_second_waits_for_the_first(path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with exclusive(path, Deadline(20), "the thing"):
            order.append("second")

    with exclusive(path, Deadline(20), "the thing"):
        waiting = Call(second)
        order.append("first")
    waiting.result()

    assert order == ["first", "second"]


def test_a_wait_that_takes_too_long_says_for_what(path: Path) -> None:
    with (
        exclusive(path, Deadline(20), "the thing"),
        pytest.raises(WaitTimeout, match="works on the thing for more than 0 s; wait for it"),
        exclusive(path, Deadline(0.1), "the thing"),
    ):
        pass


def test_a_wait_can_be_cancelled(path: Path) -> None:
    cancel = Cancel()

    def second() -> None:
        with exclusive(path, Deadline(600), "the thing", cancel=cancel):
            pass

    with exclusive(path, Deadline(20), "the thing"):
        waiting = Call(second)
        cancel.set()
        with pytest.raises(Interrupted):
            waiting.result()


def test_an_error_releases_it(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(path, Deadline(20), "the thing"):
        raise ZeroDivisionError

    with exclusive(path, Deadline(0.1), "the thing"):
        pass
