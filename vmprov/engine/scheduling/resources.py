"""What there is a limited amount of on a host, and the steps that wait for some of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count

from vmprov.engine.scheduling.steps import Step


class Resources:
    """Shared out in order: nobody is overtaken by those who need less of the same.

    What is added and given back is looked at by the next :meth:`served`, in a time that does not depend on how many
    wait.
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        """``capacity``: resource -> how much there is of it; of any other, there is enough."""
        self._free = dict(capacity)
        # By the resources that steps need: those that came first come first, with the numbers by which they came.
        self._lines: dict[frozenset[str], deque[tuple[int, Step]]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    def add(self, step: Step) -> None:
        """Let a step wait for what it takes."""
        needed = frozenset(resource for resource in step.takes if resource in self._free)
        self._lines.setdefault(needed, deque()).append((next(self._numbers), step))

    def served(self, wanted: Callable[[Step], bool]) -> Iterator[tuple[Step, dict[str, int]]]:
        """Those that can go on, in order, with what they got; those not ``wanted`` any more leave."""
        scarce: set[str] = set()
        held_up: set[frozenset[str]] = set()
        while (needed := self._first(held_up)) is not None:
            _, step = self._lines[needed][0]
            if not wanted(step):
                self._lines[needed].popleft()
            elif needed & scarce or any(step.takes[resource] > self._free[resource] for resource in needed):
                scarce |= needed
                held_up.add(needed)
            else:
                self._lines[needed].popleft()
                taken = {resource: step.takes[resource] for resource in needed}
                for resource, amount in taken.items():
                    self._free[resource] -= amount
                yield step, taken

    def give_back(self, resource: str, amount: int) -> None:
        """Somebody needs it no more."""
        if resource in self._free:
            self._free[resource] += amount

    def pop(self) -> tuple[Step, list[str]]:
        """The one that waits for the longest time, and the resources of which it needs more than there is now."""
        needed = self._first()
        assert needed is not None
        _, step = self._lines[needed].popleft()
        return step, [resource for resource in needed if step.takes[resource] > self._free[resource]]

    def _first(self, held_up: Collection[frozenset[str]] = ()) -> frozenset[str] | None:
        """The line, of those not held up, in which the one stands that came first."""
        heads = [(line[0][0], needed) for needed, line in self._lines.items() if line and needed not in held_up]
        return min(heads, key=lambda head: head[0])[1] if heads else None
