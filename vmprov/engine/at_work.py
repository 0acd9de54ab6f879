"""Who is at work on a lab: one operation at a time changes it, others wait their turn and are told for whom."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vmprov.engine.context import Context
from vmprov.engine.renames import pending
from vmprov.errors import WaitTimeout
from vmprov.events import Note
from vmprov.locks import Turn
from vmprov.store import Operation
from vmprov.waiting import Deadline, wait_until

# Seconds after which somebody who waits is told for whom.
_PATIENCE = 1.0
_LIMIT = 3600.0


def lab_turn(ctx: Context, lab: str) -> Turn:
    """The lock that whoever changes the lab holds."""
    return Turn(ctx.home.lock(f"at-work-{lab}"))


def is_at_work(ctx: Context, lab: str) -> bool:
    """Whether an operation is at work on the lab; who was, is gone when its process is."""
    turn = lab_turn(ctx, lab)
    try:
        return not turn.take()
    finally:
        turn.close()


@contextmanager
def at_work(ctx: Context, lab: str, command: str, turn: Turn | None = None) -> Iterator[Operation]:
    """Work on a lab alone, with an entry in the journal; waits for its turn, at most an hour.

    VMs that somebody was killed over while they got another name have it then.
    ``turn``: the lab's lock where it is held already; it is given back. Raises :class:`WaitTimeout`,
    :class:`vmprov.errors.Interrupted`.
    """
    turn = turn or lab_turn(ctx, lab)
    try:
        _wait(ctx, lab, turn)
        turn.tell(json.dumps({"pid": os.getpid(), "command": command}))
        if ctx.store.cut_short(lab):
            ctx.driver.halt(lab)
        with ctx.store.operation(command, lab) as operation:
            if pending(ctx.store, lab):
                from vmprov.engine.rename import finish_renames

                finish_renames(ctx, operation, lab)
            yield operation
    finally:
        try:
            if turn.mine and ctx.store.lab(lab) is None:
                turn.remove()
        finally:
            turn.close()


def _wait(ctx: Context, lab: str, turn: Turn) -> None:
    try:
        wait_until(turn.take, Deadline(_PATIENCE), f"turn to work on lab {lab}", cancel=ctx.cancel, interval=0.02)
        return
    except WaitTimeout:
        who = holder(turn)
        ctx.events.emit(Note(text=f"waiting until {who} is done with lab {lab}"))
    wait_until(
        turn.take, Deadline(_LIMIT), f"turn to work on lab {lab}", cancel=ctx.cancel, hint=f"{who} is at work on it"
    )


def holder(turn: Turn) -> str:
    """Who has a lab's lock, or had it last, in words."""
    try:
        told = json.loads(turn.told())
        return f"vmprov {told['command']} (pid {told['pid']})"
    except (ValueError, KeyError, TypeError):
        return "another vmprov process"
