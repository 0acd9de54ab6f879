"""Turns to boot: a host boots only so many VMs at once, whichever processes make them.

A boot keeps cores busier than anything else that a guest does; with too many of them at once, emulated kernels miss
their timers, and guests fail that would have been fine. Turns are lock files, so who dies gives his back.
"""

from __future__ import annotations

from vmprov.capacity import sensible_parallelism
from vmprov.engine.context import Context
from vmprov.errors import SpecError, WaitTimeout
from vmprov.events import Note
from vmprov.locks import Turn
from vmprov.waiting import Deadline, wait_until

# Seconds after which somebody who waits is told why.
_PATIENCE = 1.0
_LIMIT = 3600.0


def boots_at_once(ctx: Context, memory: int) -> int:
    """How many VMs of a size (bytes) may boot at once, by the host's cores and memory."""
    kvm = ctx.host.acceleration().kind == "kvm"
    return sensible_parallelism(ctx.hypervisor.node(), memory=memory, kvm=kvm)


def check_parallel(parallel: int) -> None:
    """Raise :class:`SpecError` for a number of VMs that cannot boot at once; 0 means as many as the host boots."""
    if parallel < 0:
        raise SpecError(f"--parallel must be at least 0, not {parallel}")


class BootTurns:
    """The turns of one operation among all that the host has, ``most`` of which may be taken; for several threads."""

    def __init__(self, ctx: Context, most: int) -> None:
        self._ctx = ctx
        self._most = most
        self._taken: dict[str, Turn] = {}

    def take(self, vm: str) -> None:
        """Wait until the VM may boot, at most an hour; raises :class:`WaitTimeout`, or that it was cancelled."""
        what = f"turn to boot {vm}"
        try:
            turn = wait_until(self._free, Deadline(_PATIENCE), what, cancel=self._ctx.cancel)
        except WaitTimeout:
            self._ctx.events.emit(Note(text=f"{vm} waits: as many VMs are booting on {self._ctx.host.name} as may"))
            hint = f"{self._most} VMs of this or other processes were booting all the time"
            turn = wait_until(self._free, Deadline(_LIMIT), what, cancel=self._ctx.cancel, hint=hint)
        self._taken[vm] = turn

    def give_back(self, vm: str) -> None:
        """The VM is up, or will not be; one that has no turn is fine."""
        if turn := self._taken.pop(vm, None):
            turn.remove()

    def _free(self) -> Turn | None:
        for number in range(self._most):
            turn = Turn(self._ctx.home.lock(f"boot-{self._ctx.host.slug}-{number}"))
            if turn.take():
                return turn
            turn.close()
        return None
