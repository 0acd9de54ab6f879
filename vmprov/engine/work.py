"""One operation at work on a lab: its lock, its entry in the journal, its steps, and how it went for each VM.

``create``, ``apply``, ``rebuild`` and ``delete`` differ in the steps that they ask for; all else is the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pydantic import SecretStr

from vmprov.capacity import MEMORY_OVERHEAD_PER_VM
from vmprov.console.keeper import ensure_keeper
from vmprov.drivers import Order
from vmprov.engine.alter import alter
from vmprov.engine.context import Context
from vmprov.engine.history import remember
from vmprov.engine.outcome import Outcome, failure_class, save_logs, verdict_kind
from vmprov.engine.plan import Change
from vmprov.engine.prepare import prepare_lab, prepare_vm
from vmprov.engine.ready import Judged, NotReady, judge, proof_of
from vmprov.engine.remove import remove_lab_if_empty, remove_vm, take_down
from vmprov.engine.run import Run
from vmprov.engine.steps import OnFailure, Step
from vmprov.engine.watch import Beginning, begin
from vmprov.errors import Failed, NotFound, NotFullyUndone, VmprovError
from vmprov.flows.grammar import Flow
from vmprov.flows.verdict import Verdict
from vmprov.store import Operation, VMRecord
from vmprov.waiting import Cancel, Deadline

# Networks and seeds are quick; more threads than this only queue up inside libvirt.
_HANDS = 8
BOOT = "turn to boot"
MEMORY = "memory"


class Work:
    """Steps on the VMs of one lab are asked for, then :meth:`do` does them and returns how it went.

    ``parallel``: so many VMs boot at once. ``memory``: bytes that the host has for VMs that are powered on.
    ``flows``: VM -> the flow that it has to pass; ``secrets``: VM -> what the flow types.
    """

    def __init__(
        self,
        ctx: Context,
        operation: Operation,
        lab: str,
        *,
        on_failure: OnFailure,
        parallel: int,
        memory: int,
        flows: Mapping[str, Flow | None] | None = None,
        secrets: Mapping[str, Mapping[str, SecretStr]] | None = None,
    ) -> None:
        self._ctx = ctx
        self._operation = operation
        self._lab = lab
        self._on_failure = on_failure
        self._parallel = parallel
        self._memory = memory
        self._flows = flows or {}
        self._secrets = secrets or {}
        self._started = time.monotonic()
        self._steps: list[Step] = []
        self._making: list[VMRecord] = []
        self._last: dict[str, str] = {}
        self._orders: dict[str, Order] = {}
        self._beginnings: dict[str, Beginning] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._order: list[str] = []

    # asking for steps

    def make(self, vm: VMRecord, *, after: Iterable[str] = (), anew: bool = False) -> None:
        """Make a recorded VM, once those that it comes ``after`` are done; ``anew``: what there is of it goes first.

        A VM that is made for the first time is undone if it fails; one that is made anew has data to lose, and stays.
        """
        name = vm.name
        if not self._making:
            self._step(f"lab {self._lab}", "share", "make what the lab's machines share", self._share)
        self._making.append(vm)
        needs = [f"lab {self._lab}: share"]
        undo = None if anew else partial(self._remove, name)
        if anew:
            needs.append(self._step(name, "take down", "remove the domain and the system disk", partial(self._take_down, name)))
        prepared = self._step(
            name, "prepare", "make its networks and its seed", partial(self._prepare, name), needs=needs, undo=undo
        )  # fmt: skip
        on = self._step(
            name, "power on", "make its domain, and power on", together=self._power_on,
            needs=[prepared, *self._ends(after)],
            takes={BOOT: 1, MEMORY: vm.memory + MEMORY_OVERHEAD_PER_VM},
        )  # fmt: skip
        self._step(name, "ready", "wait until it is ready", partial(self._ready, name), needs=[on], gives=(BOOT,))

    def change(self, change: Change, *, after: Iterable[str] = ()) -> None:
        """Bring a VM to what is wanted and recorded, where it is."""
        vm = change.record
        assert vm is not None
        told = "; ".join(map(str, change.reasons))
        undone: list[object] = []
        self._step(
            vm.name, change.action.value, told, partial(self._alter, change), needs=self._ends(after), takes={BOOT: 1},
            gives=(BOOT,),
        )  # fmt: skip
        del undone

    def remove(self, vm: VMRecord) -> None:
        """Remove a VM with all that belongs to it."""
        self._step(vm.name, "remove", "remove it with all that belongs to it", partial(self._remove, vm.name))

    def _ends(self, vms: Iterable[str]) -> list[str]:
        """The last steps of those VMs that are worked on."""
        return [self._last[vm] for vm in vms if vm in self._last]

    def _step(self, subject: str, what: str, told: str, do: object = None, **more: object) -> str:
        raise NotImplementedError
