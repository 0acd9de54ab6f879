"""Who gets what of what there is not enough of."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from vmprov.engine.scheduling.resources import Resources
from vmprov.engine.scheduling.steps import Step


def step(key: str, **takes: int) -> Step:
    return Step(key, key, key, takes=takes)


def served(resources: Resources, wanted: Callable[[Step], bool] = lambda _: True) -> list[str]:
    return [one.key for one, _ in resources.served(wanted)]


def waiting(steps: Iterable[Step], **capacity: int) -> Resources:
    resources = Resources(capacity)
    for one in steps:
        resources.add(one)
    return resources


def test_nobody_is_overtaken_by_those_who_need_less_of_the_same() -> None:
    resources = waiting(
        [step("a", memory=6), step("b", memory=6), step("c", memory=1), step("d", turn=1), step("e", turn=1, memory=1)],
        memory=10, turn=2,
    )  # fmt: skip

    assert served(resources) == ["a", "d"]
    assert len(resources) == 3
    resources.give_back("memory", 6)
    assert served(resources) == ["b", "c", "e"]
    assert not resources


def test_what_is_not_counted_is_enough() -> None:
    assert served(waiting([step("a", disk=10**15), step("b")], memory=1)) == ["a", "b"]


def test_who_is_not_wanted_any_more_leaves_and_holds_nobody_up() -> None:
    resources = waiting([step("a", memory=11), step("b", memory=10)], memory=10)

    assert served(resources, lambda one: one.key != "a") == ["b"]
    assert not resources


def test_the_first_of_those_who_wait_is_told_what_it_lacks() -> None:
    resources = waiting([step("a", memory=11, turn=1), step("b", turn=1)], memory=10, turn=1)

    first, lacking = resources.pop()
    assert (first.key, lacking) == ("a", ["memory"])
    second, lacking = resources.pop()
    assert (second.key, lacking) == ("b", [])


_STEPS = st.lists(st.dictionaries(st.sampled_from("xyz"), st.integers(1, 4), max_size=3), max_size=30)


@given(_STEPS, st.data())
def test_all_is_shared_out_as_by_looking_at_everybody_in_order(
    takes: list[dict[str, int]], data: st.DataObject
) -> None:
    """Beside a slow model: go through all that wait, and let nobody take what one before them lacks."""
    steps = [step(str(number), **one) for number, one in enumerate(takes)]
    free = {"x": 5, "y": 5}
    resources, left, held = waiting(steps, **free), list(steps), []
    while True:
        scarce: set[str] = set()
        expected = []
        for one in list(left):
            needed = one.takes.keys() & free.keys()
            if scarce & needed or any(one.takes[resource] > free[resource] for resource in needed):
                scarce |= needed
                continue
            for resource in needed:
                free[resource] -= one.takes[resource]
            left.remove(one)
            expected.append(one)
        assert served(resources) == [one.key for one in expected]
        held += expected
        if not held:
            break
        done = held.pop(data.draw(st.integers(0, len(held) - 1)))
        for resource in done.takes.keys() & free.keys():
            free[resource] += done.takes[resource]
            resources.give_back(resource, done.takes[resource])
    assert len(resources) == len(left) == 0
