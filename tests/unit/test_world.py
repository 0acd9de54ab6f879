"""The simulated host's world: many processes, one file, and what killed ones leave in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmprov.hypervisor.world import World

START = {"things": {"first": {"n": 0}}, "others": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "world.json"


def everything(world: World) -> dict[str, object]:
    with world.changing() as change:
        return {kind: dict(change.all(kind)) for kind in START}


def test_a_change_is_seen_within_its_call_and_by_others_afterwards(path: Path) -> None:
    one, other = World(path, START), World(path, START)
    with one.changing() as change:
        change.put("things", "a", {"n": 1})
        change.remove("things", "first")
        inside = (change.get("things", "a"), change.get("things", "first"), list(change.all("things")))

    assert inside == ({"n": 1}, None, ["a"])
    assert everything(one) == everything(other) == {"things": {"a": {"n": 1}}, "others": {}}


def test_nothing_of_a_call_that_fails_stays(path: Path) -> None:
    world = World(path, START)
    with pytest.raises(ZeroDivisionError), world.changing() as change:
        change.put("things", "a", {"n": 1})
        raise ZeroDivisionError

    assert everything(world) == everything(World(path, START)) == START


def test_in_memory_it_is_the_same_without_a_file() -> None:
    world = World(None, START)
    with world.changing() as change:
        assert change.remove("things", "first")
        assert not change.remove("things", "first")

    assert everything(world) == {"things": {}, "others": {}}


def test_half_a_line_of_a_killed_process_is_cut_off(path: Path) -> None:
    one = World(path, START)
    with one.changing() as change:
        change.put("things", "a", {"n": 1})
    with path.open("ab") as file:
        file.write(b'["things","b",{"n"')

    other = World(path, START)
    with other.changing() as change:
        change.put("things", "c", {"n": 3})

    assert everything(one) == everything(World(path, START))
    assert sorted(everything(one)["things"]) == ["a", "c", "first"]  # type: ignore[call-overload]


def test_a_file_that_grew_is_written_anew_and_says_the_same(path: Path) -> None:
    one, other = World(path, START), World(path, START)
    everything(other)
    with one.changing() as change:
        change.remove("things", "first")
    for number in range(3000):
        with one.changing() as change:
            change.put("things", "a", {"n": number})

    assert path.read_bytes().count(b"\n") < 1500
    assert everything(other) == everything(World(path, START)) == {"things": {"a": {"n": 2999}}, "others": {}}


def test_a_file_that_was_removed_is_a_new_world(path: Path) -> None:
    world = World(path, START)
    with world.changing() as change:
        change.put("things", "a", {"n": 1})
    path.unlink()

    assert everything(world) == START
