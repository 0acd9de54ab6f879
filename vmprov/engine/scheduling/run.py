"""Doing steps: a graph on a bounded pool of threads, each step written down before and after it is done.

The thread that calls :meth:`Run.run` decides everything; the pool's threads only do. So there is no lock here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from vmprov.engine.scheduling.resources import Resources
from vmprov.engine.scheduling.steps import OnFailure, Step, StepState, Together
from vmprov.errors import Failed, Interrupted, VmprovError
from vmprov.waiting import Cancel

# Seconds between two looks whether the operation was cancelled, while nothing ends.
_LOOK = 0.2
# Seconds to wait between attempts, where a failure is known to be passing.
BACKOFF = (0.2, 0.8, 2.0)


class Journal(Protocol):
    """Where steps are written down; called from any thread."""

    def note(self, step: Step, state: StepState, why: str = "") -> None:
        """A step is about to be done, or was done, or undone."""
        ...


class Observer(Protocol):
    """Who is told what became of subjects; called from any thread."""

    def failed(self, subject: str, problem: VmprovError) -> None:
        """A step of the subject failed, or will never be done. Nothing is undone yet."""
        ...

    def undone(self, subject: str, left: Sequence[str]) -> None:
        """All that the subject's steps did was undone, but for what is ``left``, and why."""
        ...


@dataclass
class _Subject:
    """What is known of the steps that are undone together."""

    steps: list[Step] = field(default_factory=list)
    begun: list[Step] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    running: int = 0
    held: dict[str, int] = field(default_factory=dict)
    problem: VmprovError | None = None

    def hold(self, taken: Mapping[str, int]) -> None:
        """Note what it got of resources."""
        for resource, amount in taken.items():
            self.held[resource] = self.held.get(resource, 0) + amount


class Run:
    """One run over a graph of steps.

    ``capacity``: resource -> how much there is of it. ``workers``: at most so many steps are done at once.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        journal: Journal,
        observer: Observer,
        cancel: Cancel,
        workers: int,
        capacity: Mapping[str, int] | None = None,
        on_failure: OnFailure = OnFailure.ROLLBACK_VM,
        backoff: Sequence[float] = BACKOFF,
    ) -> None:
        self._steps = {step.key: step for step in steps}
        self._journal = journal
        self._observer = observer
        self._cancel = cancel
        self._workers = workers
        self._waiting = Resources(capacity or {})
        self._on_failure = on_failure
        self._backoff = backoff
        self._subjects: dict[str, _Subject] = {}
        for step in steps:
            subject = self._subjects.setdefault(step.subject, _Subject())
            subject.steps.append(step)
            if step.before:
                subject.begun.append(step)
                subject.done.add(step.key)
        done = {step.key for step in steps if step.before}
        self._missing = {step.key: len(set(step.needs) - done) for step in steps}
        self._dependants: dict[str, list[Step]] = {}
        for step in steps:
            for need in set(step.needs):
                self._dependants.setdefault(need, []).append(step)
        for step in steps:
            if not step.before and not self._missing[step.key]:
                self._waiting.add(step)
        # Steps that have what they need, and wait for others to be done together with.
        self._crews: dict[Together, list[Step]] = {}
        self._jobs: dict[Future[Any], Callable[[Any], None]] = {}
        self._over: SimpleQueue[Future[Any]] = SimpleQueue()
        # Brief steps that are being done.
        self._brief = 0
        # Failed, and still to be told of and undone.
        self._failing: list[str] = []
        self._first_failure = ""

    def run(self) -> None:
        """Do every step that can be done. Never raises for what happens to subjects: the observer is told."""
        with ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="step") as pool:
            while self._waiting or self._crews or self._failing or self._jobs:
                self._begin(pool)
                self._give_up(pool)
                if self._jobs:
                    self._collect()
                elif self._waiting:
                    self._refuse()
            if self._first_failure and self._on_failure is OnFailure.ROLLBACK_LAB:
                self._undo_everything(pool)

    # beginning

    def _begin(self, pool: ThreadPoolExecutor) -> None:
        """Begin what has its resources, in order; steps that are done together once there is no more to wait for."""
        if obstacle := self._obstacle():
            for step in self._not_begun():
                self._fail(step, obstacle(step))
        for step, taken in self._waiting.served(self._is_wanted):
            self._subjects[step.subject].hold(taken)
            if step.together:
                self._crews.setdefault(step.together, []).append(step)
            else:
                self._submit(pool, [step])
        # While brief steps go on, more may be ready in a moment; where somebody waits, there is no room for more.
        if self._crews and (not self._brief or self._waiting):
            crews, self._crews = self._crews, {}
            for crew in crews.values():
                if wanted := list(filter(self._is_wanted, crew)):
                    self._submit(pool, wanted)

    def _submit(self, pool: ThreadPoolExecutor, crew: list[Step]) -> None:
        for step in crew:
            self._subjects[step.subject].running += 1
            self._subjects[step.subject].begun.append(step)
            self._brief += step.brief
        self._start(pool, partial(self._do, crew), partial(self._ended, crew))

    def _start(self, pool: ThreadPoolExecutor, action: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do something in another thread; ``then`` is called in this one, with what it returned."""
        job = pool.submit(action)
        self._jobs[job] = then
        job.add_done_callback(self._over.put)

    def _not_begun(self) -> Iterator[Step]:
        """All that could be begun, or waits for something, and does so no more."""
        crews, self._crews = self._crews, {}
        for crew in crews.values():
            yield from crew
        while self._waiting:
            yield self._waiting.pop()[0]

    def _is_wanted(self, step: Step) -> bool:
        return self._subjects[step.subject].problem is None

    def _obstacle(self) -> Callable[[Step], VmprovError] | None:
        """Why nothing more is begun, if so."""
        if self._cancel.is_set:
            return lambda _: Interrupted("interrupted")
        if self._first_failure and self._on_failure in (OnFailure.STOP, OnFailure.ROLLBACK_LAB):
            return lambda step: Failed(f"{step.what} was not begun, since {self._first_failure} failed")
        return None

    def _refuse(self) -> None:
        """Nothing runs that would give anything back: what a step lacks now, it always will."""
        step, lacking = self._waiting.pop()
        self._fail(step, Failed(f"{step.what}: the host has not enough {' and '.join(lacking)} left"))

    # doing, in the pool's threads

    def _do(self, crew: Sequence[Step]) -> Mapping[str, VmprovError]:
        for step in crew:
            self._journal.note(step, StepState.DOING)
        problems = self._attempt_together(crew) if crew[0].together else self._attempt(crew[0])
        for step in crew:
            problem = problems.get(step.key)
            self._journal.note(step, StepState.FAILED if problem else StepState.DONE, str(problem or ""))
        return problems

    def _attempt_together(self, crew: Sequence[Step]) -> Mapping[str, VmprovError]:
        together, keys = crew[0].together, [step.key for step in crew]
        assert together is not None
        try:
            return together(keys)
        except OSError as problem:
            return dict.fromkeys(keys, _without_file(problem))

    def _attempt(self, step: Step) -> Mapping[str, VmprovError]:
        pauses = iter(self._backoff)
        while True:
            try:
                step.do()
                return {}
            except VmprovError as problem:
                pause = next(pauses, None) if problem.passing else None
                if pause is None:
                    return {step.key: problem}
            except OSError as problem:
                return {step.key: _without_file(problem)}
            try:
                self._cancel.sleep(pause)
            except Interrupted as interrupted:
                return {step.key: interrupted}

    # what became of it

    def _collect(self) -> None:
        with suppress(Empty):
            job = self._over.get(timeout=_LOOK)
            while True:
                self._jobs.pop(job)(job.result())
                job = self._over.get_nowait()

    def _ended(self, crew: Sequence[Step], problems: Mapping[str, VmprovError]) -> None:
        for step in crew:
            subject = self._subjects[step.subject]
            subject.running -= 1
            self._brief -= step.brief
            if step.key in problems:
                self._fail(step, problems[step.key])
                continue
            subject.done.add(step.key)
            self._give_back(subject, step.gives)
            for dependant in self._dependants.get(step.key, ()):
                self._missing[dependant.key] -= 1
                if not self._missing[dependant.key]:
                    self._waiting.add(dependant)

    def _give_back(self, subject: _Subject, resources: Iterable[str]) -> None:
        for resource in resources:
            self._waiting.give_back(resource, subject.held.pop(resource, 0))

    def _fail(self, step: Step, problem: VmprovError) -> None:
        """The subject failed, and with it all that need what will never be done now."""
        passed_on = problem if isinstance(problem, Interrupted) else Failed(f"{step.subject} failed: {problem}")
        failed = deque([step.subject])
        while failed:
            name = failed.popleft()
            subject = self._subjects[name]
            if subject.problem is not None:
                continue
            subject.problem = problem if name == step.subject else passed_on
            self._failing.append(name)
            self._first_failure = self._first_failure or name
            for undone in subject.steps:
                if undone.key not in subject.done:
                    failed.extend(one.subject for one in self._dependants.get(undone.key, ()))

    def _give_up(self, pool: ThreadPoolExecutor) -> None:
        """Let go of subjects that failed, once none of their steps is being done."""
        for name in [name for name in self._failing if not self._subjects[name].running]:
            self._failing.remove(name)
            self._start(pool, partial(self._abandon, name), partial(self._abandoned, name))

    def _abandon(self, name: str) -> None:
        subject = self._subjects[name]
        assert subject.problem is not None
        with suppress(OSError):  # on a full disk, what can be said of it is said without files
            self._observer.failed(name, subject.problem)
        if self._on_failure is OnFailure.ROLLBACK_VM:
            self._undo(name)

    def _abandoned(self, name: str, _nothing: None) -> None:
        """A VM that was undone holds nothing any more; one that stays runs on, but takes no part in this run."""
        subject = self._subjects[name]
        given = {resource for step in subject.steps for resource in step.gives}
        self._give_back(subject, tuple(subject.held) if self._on_failure is OnFailure.ROLLBACK_VM else given)

    def _undo(self, name: str) -> None:
        """Take back what was begun, last first; below what cannot be taken back, everything stays."""
        left: list[str] = []
        for step in reversed(self._subjects[name].begun):
            if problem := self._take_back(step):
                left.append(problem)
                break
        self._observer.undone(name, left)

    def _take_back(self, step: Step) -> str:
        """Undo one step; returns why it could not be undone."""
        if step.undo is None:
            return ""
        self._journal.note(step, StepState.UNDOING)
        try:
            step.undo()
        except (VmprovError, OSError) as problem:
            told = problem if isinstance(problem, VmprovError) else _without_file(problem)
            self._journal.note(step, StepState.LEFT, str(told))
            return str(told)
        self._journal.note(step, StepState.UNDONE)
        return ""

    def _undo_everything(self, pool: ThreadPoolExecutor) -> None:
        """Undo all that was begun, each step after those that need it."""
        begun = {step.key: step for subject in self._subjects.values() for step in subject.begun}
        needed_by: dict[str, list[str]] = {
            key: [step.key for step in self._dependants.get(key, ()) if step.key in begun] for key in begun
        }
        stuck: set[str] = set()
        left: dict[str, list[str]] = {name: [] for name in self._subjects}

        def take_back(key: str) -> tuple[str, str]:
            return key, "" if stuck & set(needed_by[key]) else self._take_back(begun[key])

        order = TopologicalSorter(needed_by)
        order.prepare()
        while order.is_active():
            keys = order.get_ready()
            stuck |= {key for key in keys if stuck & set(needed_by[key])}
            for key, problem in pool.map(take_back, keys):
                if problem:
                    stuck.add(key)
                    left[begun[key].subject].append(problem)
            order.done(*keys)
        for name, problems in left.items():
            self._observer.undone(name, problems)


def _without_file(problem: OSError) -> Failed:
    """A file that cannot be used fails the subject that needs it, like anything else that can go wrong."""
    return Failed(
        f"cannot use {problem.filename or 'a file'}: {problem.strerror or problem}",
        hint="see that the disk is not full, and what is at that place",
    )
