"""Steps: what an operation does to the outside world, as values, before any of it is done.

A step can say what it does, do it, and undo it. Steps name each other by their keys, and so form a graph;
``run.py`` does them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from vmprov.errors import VmprovError

Together = Callable[[Sequence[str]], Mapping[str, VmprovError]]


class OnFailure(StrEnum):
    """What becomes of a VM that failed, and of its siblings.

    ``ROLLBACK_VM``: the VM alone is undone. ``KEEP``: it stays as it is, siblings go on. ``ROLLBACK_LAB``: all that
    the operation did is undone. ``STOP``: nothing more is begun, and everything stays as it is.
    """

    ROLLBACK_VM = "rollback-vm"
    KEEP = "keep"
    ROLLBACK_LAB = "rollback-lab"
    STOP = "stop"


@dataclass(frozen=True)
class Step:
    """One action.

    ``key`` -- unique in its run. ``subject`` -- the VM, or the lab, whose step it is: what is undone together.
    ``what`` -- the action in words for people.
    ``do`` -- the action; doing it again after a crash must be the same as doing it once.
    ``together`` -- in place of ``do``: does all steps that share it and are ready at the same time, given their keys;
    returns why those that failed did.
    ``undo`` -- takes it back; gone is success. ``None``: there is nothing to take back.
    ``needs`` -- keys of steps that have to be done before.
    ``takes`` -- resource -> amount that the subject holds from the step's beginning on; ``gives`` -- resources that
    it gives back at the step's end. A subject that failed, or was undone, holds nothing any more.
    ``brief`` -- it is over in a moment: steps that are done together wait for each other while such ones are going on.
    ``before`` -- it was done before the run begins: nothing but its undoing is left to do.
    """

    key: str
    subject: str
    what: str
    do: Callable[[], None] = lambda: None
    together: Together | None = None
    undo: Callable[[], None] | None = None
    needs: tuple[str, ...] = ()
    takes: Mapping[str, int] = field(default_factory=dict)
    gives: tuple[str, ...] = ()
    brief: bool = False
    before: bool = False


class StepState(StrEnum):
    """What the journal says of a step."""

    DOING = "doing"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    LEFT = "left"  # it could not be undone
