"""Deleting VMs and whole labs, from records alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from vmprov.engine.at_work import at_work
from vmprov.engine.context import Context
from vmprov.engine.outcome import Outcome
from vmprov.engine.renames import pending
from vmprov.engine.work import Work
from vmprov.errors import Interrupted, NotFullyUndone, VmprovError
from vmprov.store import LabRecord
from vmprov.views import Failure

# At most this many labs are worked on at once, and so many VMs of one lab.
_LABS = 8
_VMS = 16
_LEFT = NotFullyUndone.exit_code


def delete(
    labs: Sequence[LabRecord], vms: Collection[str] | None, context: Callable[[LabRecord], Context]
) -> tuple[list[str], list[Failure]]:
    """Remove all VMs of labs, or those named ``vms``; returns the names of those removed, and what failed.

    A lab goes with its last VM. Never raises for what happens to one VM or lab.
    """
    deleted: list[str] = []
    failed: list[Failure] = []

    def attempt(lab: LabRecord) -> None:
        ctx = context(lab)
        # Those that somebody was killed over while they got another name have it when we begin.
        renamed = pending(ctx.store, lab.name)
        wanted = None if vms is None else {renamed.get(name, name) for name in vms}
        try:
            with at_work(ctx, lab.name, "delete") as operation:
                ctx.host.up(ctx.events)
                work = Work(ctx, operation, lab.name, parallel=_VMS)
                for vm in ctx.store.vms(lab.name):
                    if wanted is None or vm.name in wanted:
                        work.remove(vm)
                outcomes = work.do()
        except VmprovError as problem:
            failed.append(Failure(lab.name, str(problem), _LEFT))
            return
        deleted.extend(outcome.vm.name for outcome in outcomes if outcome.state == "removed")
        left = [outcome for outcome in outcomes if outcome.state != "removed"]
        failed.extend(Failure(outcome.vm.name, outcome.why, _code(outcome)) for outcome in left)
        if work.left:
            failed.append(Failure(lab.name, work.left, _LEFT))

    with ThreadPoolExecutor(max_workers=_LABS, thread_name_prefix="lab") as pool:
        list(pool.map(attempt, labs))
    return deleted, failed


def _code(outcome: Outcome) -> int:
    """What it means for the command that a VM was not removed."""
    if outcome.state != "refused":
        return _LEFT
    return Interrupted.exit_code if outcome.verdict == "cancelled" else 1
