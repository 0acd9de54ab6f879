"""Doing a graph of steps: order, resources, failures and what is undone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmprov.engine.scheduling.run import Run
from vmprov.engine.scheduling.steps import OnFailure, Step, StepState
from vmprov.errors import Failed, LibvirtFailed, VmprovError
from vmprov.waiting import Cancel


class Book:
    """A journal and an observer that remember everything."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.problems: dict[str, str] = {}
        self.left: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def note(self, step: Step, state: StepState, why: str = "") -> None:  # noqa: ARG002 - tests ask for states only
        with self._lock:
            self.notes.append((step.key, state.value))

    def failed(self, subject: str, problem: VmprovError) -> None:
        with self._lock:
            assert subject not in self.problems
            self.problems[subject] = f"{type(problem).__name__}: {problem}"

    def undone(self, subject: str, left: Sequence[str]) -> None:
        with self._lock:
            self.left[subject] = list(left)

    def states(self, state: str) -> list[str]:
        return [key for key, noted in self.notes if noted == state]


def step(key: str, do: Callable[[], None] = lambda: None, **more: object) -> Step:
    words = {"subject": key.split("/")[0], "what": key, "undo": lambda: None, **more}
    return Step(key=key, do=do, **words)  # type: ignore[arg-type]


def fails(text: str = "no luck", *, passing: bool = False, times: int = 99) -> Callable[[], None]:
    count = iter(range(times))

    def do() -> None:
        if next(count, None) is not None:
            raise LibvirtFailed(text, passing=passing)

    return do


def ran(steps: list[Step], *, cancel: Cancel | None = None, workers: int = 4, **more: object) -> Book:
    book = Book()
    run = Run(
        steps,
        journal=book,
        observer=book,
        cancel=cancel or Cancel(),
        workers=workers,
        backoff=(0.01, 0.01, 0.01),
        **more,
    )  # type: ignore[arg-type]
    run.run()
    return book


def test_a_step_is_written_down_before_and_after_it_is_done() -> None:
    book = Book()
    seen: list[list[tuple[str, str]]] = []
    run = Run(
        [step("a/1", lambda: seen.append(list(book.notes)))], journal=book, observer=book, cancel=Cancel(), workers=1
    )
    run.run()

    assert (seen, book.notes) == ([[("a/1", "doing")]], [("a/1", "doing"), ("a/1", "done")])


def test_steps_wait_for_what_they_need() -> None:
    book = ran([step("c/1", needs=("b/1", "a/1")), step("b/1", needs=("a/1",)), step("a/1")])

    assert book.states("done") == ["a/1", "b/1", "c/1"]


def test_a_resource_is_never_given_out_twice() -> None:
    inside, most = set(), [0]

    def enter(name: str) -> None:
        inside.add(name)
        most[0] = max(most[0], len(inside))
        time.sleep(0.003)

    steps = []
    for number in range(12):
        name = f"vm{number}"
        steps += [
            step(f"{name}/on", lambda name=name: enter(name), takes={"boot": 1}),  # type: ignore[misc]
            step(f"{name}/up", lambda name=name: inside.discard(name), needs=(f"{name}/on",), gives=("boot",)),  # type: ignore[misc]
        ]
    book = ran(steps, workers=12, capacity={"boot": 3})

    assert (len(book.states("done")), most[0]) == (24, 3)


def test_what_does_not_fit_waits_for_room_and_is_refused_when_there_never_will_be() -> None:
    steps = [
        step("a/on", takes={"memory": 6}, gives=("memory",)),
        step("b/on", takes={"memory": 6}),
        step("c/on", takes={"memory": 6}),
    ]

    book = ran(steps, capacity={"memory": 10})

    assert (book.states("done"), list(book.problems)) == (["a/on", "b/on"], ["c"])
    assert "has not enough memory left" in book.problems["c"]


def test_a_large_step_is_not_overtaken_for_ever() -> None:
    order: list[str] = []
    steps = [step("a/1", lambda: time.sleep(0.02), takes={"x": 2}, gives=("x",))]
    steps += [
        step(name, lambda name=name: order.append(name), takes={"x": size}, gives=("x",))  # type: ignore[misc]
        for name, size in (("big/1", 3), ("s1/1", 1), ("s2/1", 1))
    ]

    ran(steps, capacity={"x": 3})

    assert order[0] == "big/1"


def test_steps_of_one_crew_that_are_ready_together_are_done_in_one_call() -> None:
    calls: list[list[str]] = []

    def together(keys: Sequence[str]) -> Mapping[str, VmprovError]:
        calls.append(sorted(keys))
        return {"b/on": Failed("no luck")}

    steps = [step("lab/keys")]
    steps += [step(f"{name}/on", needs=("lab/keys",), together=together) for name in "abc"]

    book = ran(steps)

    assert (calls, list(book.problems)) == ([["a/on", "b/on", "c/on"]], ["b"])


def test_a_crew_waits_for_those_who_are_ready_in_a_moment_as_long_as_there_is_room_for_them() -> None:
    calls: list[list[str]] = []

    def together(keys: Sequence[str]) -> Mapping[str, VmprovError]:
        calls.append(sorted(keys))
        return {}

    def crew(room: int) -> list[list[str]]:
        calls.clear()
        steps = [step(f"{name}/net", lambda wait=wait: time.sleep(wait), brief=True) for name, wait in WAITS]  # type: ignore[misc]
        steps += [
            step(f"{name}/on", needs=(f"{name}/net",), together=together, takes={"boot": 1}, gives=("boot",))
            for name, _ in WAITS
        ]
        ran(steps, capacity={"boot": room})
        return list(calls)

    assert crew(room=3) == [["a/on", "b/on", "c/on"]]
    assert len(crew(room=1)) == 3


WAITS = [("a", 0.0), ("b", 0.02), ("c", 0.04)]


def test_a_subject_that_fails_is_undone_alone_last_step_first() -> None:
    undone: list[str] = []
    steps = [step("a/1"), step("a/2", needs=("a/1",))]
    steps += [
        step("b/1", undo=lambda: undone.append("b/1")),
        step("b/2", fails(), needs=("b/1",), undo=lambda: undone.append("b/2")),
        step("b/3", needs=("b/2",), undo=lambda: undone.append("b/3")),
    ]

    book = ran(steps)

    assert (undone, book.left, book.states("done")) == (["b/2", "b/1"], {"b": []}, ["a/1", "b/1", "a/2"])
    assert book.problems == {"b": "LibvirtFailed: no luck"}


def test_what_cannot_be_undone_is_told_and_what_lies_below_it_stays() -> None:
    undone: list[str] = []
    steps = [
        step("b/1", undo=lambda: undone.append("b/1")),
        step("b/2", needs=("b/1",), undo=fails("it is busy")),
        step("b/3", fails(), needs=("b/2",)),
    ]

    book = ran(steps)

    assert (undone, book.left, book.states("left")) == ([], {"b": ["it is busy"]}, ["b/2"])


def test_those_who_come_after_one_that_failed_fail_too_and_others_do_not() -> None:
    steps = [
        step("web/up", fails()),
        step("db/on", needs=("web/up",)),
        step("cache/on", needs=("db/on",)),
        step("other/on"),
    ]

    book = ran(steps)

    assert sorted(book.problems) == ["cache", "db", "web"]
    assert book.problems["cache"] == "Failed: web failed: no luck"
    assert book.states("done") == ["other/on"]


def test_a_failure_that_is_passing_is_tried_again_and_another_is_not() -> None:
    again = ran([step("a/1", fails(passing=True, times=2))])
    once = ran([step("a/1", fails(times=1))])

    assert (again.problems, list(once.problems)) == ({}, ["a"])


def test_a_failure_that_never_passes_ends_in_it() -> None:
    book = ran([step("a/1", fails(passing=True))])

    assert book.problems == {"a": "LibvirtFailed: no luck"}


@pytest.mark.parametrize("policy", [OnFailure.KEEP, OnFailure.STOP])
def test_a_failed_subject_may_be_kept(policy: OnFailure) -> None:
    book = ran([step("a/1"), step("a/2", fails(), needs=("a/1",))], on_failure=policy)

    assert (list(book.problems), book.left, book.states("undoing")) == (["a"], {}, [])


def test_a_kept_subject_gives_back_its_turn_and_nothing_else() -> None:
    steps = [step("a/on", takes={"boot": 1, "memory": 4}), step("a/up", fails(), needs=("a/on",), gives=("boot",))]
    steps += [step("b/on", takes={"boot": 1, "memory": 4}, needs=("a2/x",)), step("a2/x", lambda: time.sleep(0.05))]
    steps += [step("c/on", takes={"memory": 4}, needs=("b/on",))]

    book = ran(steps, capacity={"boot": 1, "memory": 8}, on_failure=OnFailure.KEEP)

    assert sorted(book.problems) == ["a", "c"]


def test_after_a_failure_nothing_more_is_begun_if_so_asked() -> None:
    steps = [step("a/1", fails()), step("b/1", lambda: time.sleep(0.05)), step("b/2", needs=("b/1",))]

    book = ran(steps, on_failure=OnFailure.STOP)

    assert book.states("done") == ["b/1"]
    assert book.problems["b"] == "Failed: b/2 was not begun, since a failed"


def test_the_whole_lab_is_undone_if_so_asked_shared_things_last() -> None:
    undone: list[str] = []
    steps = [step("lab/net", undo=lambda: undone.append("lab"))]
    steps += [
        step(f"{name}/on", needs=("lab/net",), undo=lambda name=name: undone.append(name))  # type: ignore[misc]
        for name in ("a", "b")
    ]
    steps += [step("c/on", fails(), needs=("a/on", "b/on"))]

    book = ran(steps, on_failure=OnFailure.ROLLBACK_LAB)

    assert (sorted(undone[:2]), undone[2:], sorted(book.left)) == (["a", "b"], ["lab"], ["a", "b", "c", "lab"])


def test_a_cancelled_run_ends_soon_and_undoes_what_was_not_finished() -> None:
    cancel = Cancel()
    undone: list[str] = []

    def wait() -> None:
        cancel.sleep(20)

    steps = [step("done/1"), step("a/1", undo=lambda: undone.append("a/1")), step("a/2", wait, needs=("a/1",))]
    steps += [step("b/1", needs=("a/2",))]
    threading.Timer(0.05, cancel.set).start()

    book = ran(steps, cancel=cancel)

    assert (sorted(book.problems), undone) == (["a", "b"], ["a/1"])
    assert all(told.startswith("Interrupted") for told in book.problems.values())


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Step], set[str]]:
    """Steps of several subjects that need earlier ones; some fail."""
    steps: list[Step] = []
    broken: set[str] = set()
    for number in range(draw(st.integers(1, 14))):
        subject = draw(st.sampled_from("abcd"))
        key = f"{subject}/{number}"
        needs = draw(st.sets(st.sampled_from([one.key for one in steps]), max_size=3)) if steps else set()
        needs |= {one.key for one in steps if one.subject == subject}
        if draw(st.booleans()) and draw(st.booleans()):
            broken.add(key)
        steps.append(
            step(key, fails() if key in broken else (lambda: None), needs=tuple(needs), takes={"x": 1}, gives=("x",))
        )
    return steps, broken


@settings(max_examples=60)
@given(graphs(), st.sampled_from(OnFailure), st.integers(1, 3))
def test_every_subject_either_did_all_its_steps_or_failed(
    graph: tuple[list[Step], set[str]], policy: OnFailure, capacity: int
) -> None:
    steps, broken = graph

    book = ran(steps, capacity={"x": capacity}, on_failure=policy)

    done = set(book.states("done"))
    for one in steps:
        assert (one.key in done) <= all(need in done for need in one.needs)
        assert one.key not in broken or one.key not in done
    for subject in {one.subject for one in steps}:
        finished = all(one.key in done for one in steps if one.subject == subject)
        assert finished != (subject in book.problems)


def test_a_step_that_waits_for_others_is_not_begun_once_its_subject_failed() -> None:
    """It has all that it needs, and would be done together with another's, which is not ready yet."""
    together = lambda _keys: {}  # noqa: E731

    book = ran(
        [
            step("a/on", together=together),
            step("a/other", fails()),
            step("b/prepare", lambda: time.sleep(0.2), brief=True),
            step("b/on", together=together, needs=("b/prepare",)),
        ]
    )

    assert ("a/on", "doing") not in book.notes
    assert ("b/on", "done") in book.notes


def test_a_long_chain_fails_from_end_to_end() -> None:
    chain = [step("vm0/on", fails())]
    chain += [step(f"vm{number}/on", needs=(f"vm{number - 1}/on",)) for number in range(1, 3000)]
    book = ran(chain)

    assert book.states("done") == []
    assert book.problems["vm2999"].endswith(": vm0 failed: no luck")
