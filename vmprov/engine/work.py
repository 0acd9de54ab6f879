"""One operation at work on a lab: its steps, and how it went for each VM.

``create``, ``apply``, ``rebuild`` and ``delete`` differ in the steps that they ask for; all else is the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pydantic import SecretStr

from vmprov.capacity import MEMORY_OVERHEAD_PER_VM
from vmprov.console.keeper import ensure_keeper
from vmprov.drivers import Order
from vmprov.engine.alter import Alteration
from vmprov.engine.context import Context
from vmprov.engine.judging.history import remember
from vmprov.engine.judging.ready import Judged, NotReady, judge, proof_of
from vmprov.engine.judging.watch import Beginning, begin
from vmprov.engine.objects.annotate import annotate
from vmprov.engine.objects.definition import keep_definition
from vmprov.engine.objects.orchestration import Inventory, Orchestration, enrol
from vmprov.engine.objects.prepare import prepare_lab, prepare_vm
from vmprov.engine.objects.remove import remove_lab_if_empty, remove_vm, take_down
from vmprov.engine.outcome import Outcome, failure_class, save_logs, verdict_kind
from vmprov.engine.plan import Change
from vmprov.engine.scheduling.run import Run
from vmprov.engine.scheduling.steps import OnFailure, Step
from vmprov.engine.scheduling.turns import BootTurns, boots_at_once
from vmprov.errors import NotFound, NotFullyUndone, Protected, VmprovError
from vmprov.flows.grammar import Flow
from vmprov.flows.verdict import Verdict
from vmprov.store import Operation, VMRecord
from vmprov.waiting import Cancel, Deadline

# Networks and seeds are quick; more threads than this only queue up inside libvirt.
_HANDS = 8
BOOT = "turns to boot"
MEMORY = "memory"


class Work:
    """Steps on the VMs of one lab are asked for; then :meth:`do` does them, and returns how it went.

    ``parallel``: so many of its VMs boot at once; 0: as many as the host boots of all. ``memory``: bytes that the host
    has for VMs that are powered on now. ``flows``: VM -> the flow that it has to pass; ``secrets``: VM -> what the flow
    types; ``orchestrations``: VM -> the orchestrator that it is onboarded to.
    """

    def __init__(
        self,
        ctx: Context,
        operation: Operation,
        lab: str,
        *,
        on_failure: OnFailure = OnFailure.ROLLBACK_VM,
        parallel: int = 0,
        memory: int | None = None,
        flows: Mapping[str, Flow | None] | None = None,
        secrets: Mapping[str, Mapping[str, SecretStr]] | None = None,
        orchestrations: Mapping[str, Orchestration | None] | None = None,
    ) -> None:
        self._ctx = ctx
        # Undoing goes on although the user asked to stop.
        self._patient = replace(ctx, cancel=Cancel())
        self._operation = operation
        self._lab = lab
        self._on_failure = on_failure
        self._parallel = parallel
        self._memory = memory
        self._flows = flows or {}
        self._secrets = secrets or {}
        self._orchestrations = orchestrations or {}
        self._inventory: Inventory | None = None
        self._started = time.monotonic()
        self._steps: list[Step] = []
        self._made: list[str] = []
        self._undoable: set[str] = set()
        # VMs that are powered on.
        self._booting: list[str] = []
        self._turns: BootTurns | None = None
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()
        self._orders: dict[str, Order] = {}
        self._beginnings: dict[str, Beginning] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._records: dict[str, VMRecord] = {}
        self._alterations: dict[str, Alteration] = {}
        # VMs of which something was begun.
        self._touched: set[str] = set()
        # What is left, in words, of a lab whose last VM is gone.
        self.left = ""

    # asking for steps

    def make(self, vm: VMRecord, *, after: Iterable[str] = (), anew: bool = False) -> None:
        """Make a recorded VM, once those that it comes ``after`` are done.

        ``anew``: its domain and system disk go first. Then it has data to lose, and is not removed if it fails.
        """
        shared = f"lab {self._lab}"
        if not self._made:
            self._add(Step(f"{shared}/share", shared, "make what the lab's machines share", do=self._share))
        self._made.append(vm.name)
        self._records[vm.name] = vm
        if anew:
            first = self._of(vm, "take down", "remove its domain and its system disk", self._take_down)
        else:
            first = self._of(vm, "record", "record it", undo=self._undo_making, before=True)
            self._touched.add(vm.name)
        # One that is made anew has its memory already, as far as the host's is shared out.
        memory = {} if anew else {MEMORY: vm.memory + MEMORY_OVERHEAD_PER_VM}
        needs = [first, f"{shared}/share"]
        needs = [self._of(vm, "prepare", "make its networks, disks and seed", self._prepare, needs=needs, brief=True)]
        if self._orchestrations.get(vm.name) is not None:
            needs += [
                self._of(vm, "enrol", "make it known to its orchestrator", self._enrol, needs=[first], brief=True)
            ]
        ended = [first, *self._ends(after)]
        # A machine with nothing to boot from, and nothing to prove, is no burden.
        needs += [self._wait(vm, ended)] if vm.login != "none" or self._flows.get(vm.name) else ended
        self._of(vm, "power on", "make its domain, and power it on", together=self._power_on, needs=needs, takes=memory)
        self._await(vm)

    def adopt(self, change: Change, vm: VMRecord, *, after: Iterable[str] = ()) -> None:
        """Start a recorded domain of others if it is off, once those that it comes ``after`` are done."""
        self._records[vm.name] = vm
        self._touched.add(vm.name)
        recorded = self._of(vm, "record", "record it", undo=self._undo_making, before=True)
        if change.boots:
            memory = {MEMORY: vm.memory + MEMORY_OVERHEAD_PER_VM} if change.starts else {}
            self.change(replace(change, record=vm), after=after, needs=[recorded], takes=memory)

    def change(
        self,
        change: Change,
        *,
        after: Iterable[str] = (),
        needs: Sequence[str] = (),
        takes: Mapping[str, int] | None = None,
    ) -> None:
        """Bring a VM to what is wanted, where it is; if that fails, it gets back what it had."""
        vm = change.record
        assert vm is not None
        self._records[vm.name] = vm
        alteration = self._alterations[vm.name] = Alteration(self._ctx, change)

        def alter(name: str) -> None:
            self._touched.add(name)
            beginning = alteration.do()
            if beginning is not None:
                self._beginnings[name] = beginning

        told = "; ".join(map(str, change.reasons))
        needs = [*needs, *self._ends(after)]
        self._of(
            vm, str(change.action), told, alter, needs=[self._wait(vm, needs)] if change.boots else needs,
            undo=lambda _: alteration.undo(), takes=takes or {},
        )  # fmt: skip
        self._await(vm)

    def remove(self, vm: VMRecord) -> None:
        """Remove a VM with all that belongs to it."""
        self._records[vm.name] = vm
        self._of(vm, "remove", "remove it with all that belongs to it", self._remove)

    def discard(self, vm: VMRecord) -> None:
        """Remove what there is of a VM that was never finished, and so has nothing that could be protected."""
        self._records[vm.name] = vm
        self._of(vm, "discard", "remove what there is of it", self._discard)

    def _wait(self, vm: VMRecord, needs: Sequence[str]) -> str:
        self._booting.append(vm.name)
        return self._of(vm, "turn", "wait until it may boot", self._take_turn, needs=needs, takes={BOOT: 1})

    def _await(self, vm: VMRecord) -> None:
        self._of(vm, "ready", "wait until it is ready", self._ready, needs=[self._last[vm.name]], gives=(BOOT,))

    def _ends(self, vms: Iterable[str]) -> list[str]:
        """The last steps so far of those VMs that are worked on."""
        return [self._last[vm] for vm in vms if vm in self._last]

    def _of(
        self,
        vm: VMRecord,
        what: str,
        told: str,
        do: Callable[[str], None] = lambda _: None,
        *,
        needs: Sequence[str] = (),
        undo: Callable[[str], None] | None = None,
        **more: object,
    ) -> str:
        """Add a step of a VM, whose actions are told its name; returns the step's key."""
        key, name = f"{vm.name}/{what}", vm.name
        self._add(
            Step(
                key, name, told, do=partial(do, name), needs=tuple(needs), undo=partial(undo, name) if undo else None,
                **more,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        self._last[name] = key
        return key

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        if step.undo is not None:
            self._undoable.add(step.subject)

    # doing them

    def do(self) -> list[Outcome]:
        """Do all steps; returns an outcome for each VM, in the order in which they were asked for.

        Never raises for what happens to VMs; an interruption shows as the verdict ``cancelled``.
        """
        parallel = self._parallel or 1
        if self._booting:
            usual = boots_at_once(self._ctx, max(self._records[name].memory for name in self._booting))
            parallel = self._parallel or usual
            self._turns = BootTurns(self._ctx, max(parallel, usual))
        run = Run(
            self._steps,
            journal=self._operation,
            observer=self,
            cancel=self._ctx.cancel,
            workers=min(len(self._records), parallel) + _HANDS,
            capacity={BOOT: parallel} | ({} if self._memory is None else {MEMORY: self._memory}),
            on_failure=self._on_failure,
        )
        try:
            run.run()
        finally:
            for name in self._booting:
                self._give_turn_back(name)
            if self._inventory is not None:
                self._inventory.close()
        self._finish_alterations()
        self.left = self._remove_empty_lab()
        return [self._outcomes.get(name) or self._succeeded(name) for name in self._records]

    def _finish_alterations(self) -> None:
        """What cannot be undone is done last, once it is clear that nothing is going to be."""
        for name, alteration in self._alterations.items():
            if name in self._outcomes:
                continue
            try:
                alteration.finish()
            except (VmprovError, OSError) as problem:
                self._outcomes[name] = replace(self._succeeded(name), state="broken", why=str(problem))

    def _succeeded(self, name: str) -> Outcome:
        """Nothing was told of it: all its steps were done."""
        try:
            vm = self._ctx.store.vm(name)
        except NotFound:
            return Outcome(self._records[name], "success", "removed", "", self._ctx.home.failed)
        return Outcome(vm, "success", "ready", "", self._ctx.home.vm(name))

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 1)

    # the steps

    def _share(self) -> None:
        # Those that failed already are gone.
        made = set(self._made)
        prepare_lab(self._ctx, self._lab, [vm for vm in self._ctx.store.vms(self._lab) if vm.name in made])

    def _take_down(self, name: str) -> None:
        self._touched.add(name)
        take_down(self._ctx, self._ctx.store.vm(name))

    def _prepare(self, name: str) -> None:
        order = prepare_vm(self._ctx, self._ctx.store.vm(name))
        with self._lock:
            self._orders[name] = order

    def _take_turn(self, name: str) -> None:
        assert self._turns is not None
        self._turns.take(name)

    def _give_turn_back(self, name: str) -> None:
        if self._turns is not None:
            self._turns.give_back(name)

    def _enrol(self, name: str) -> None:
        orchestration, flow = self._orchestrations[name], self._flows[name]
        assert orchestration is not None and flow is not None
        enrol(self._ctx, self._ctx.store.vm(name), flow, orchestration)
        with self._lock:
            self._inventory = self._inventory or Inventory(self._ctx, orchestration)

    def _power_on(self, keys: Sequence[str]) -> Mapping[str, VmprovError]:
        """One run of the driver for all whose turn it is."""
        ctx = self._ctx
        names = {key.partition("/")[0]: key for key in keys}
        orders = [self._orders[name] for name in names]
        limit = max(self._records[name].machine.limit for name in names)
        try:
            ctx.cancel.check()
            for name in names:
                ctx.stage(name, "power on")
                vm = ctx.store.vm(name)
                flow, proof = proof_of(vm, self._flows.get(name))
                self._beginnings[name] = begin(ctx, vm, flow, limit=vm.machine.limit, proof=proof)
            ensure_keeper(ctx.home, ctx.settings, ctx.runner)
            refused = ctx.driver.create(orders, events=ctx.events, cancel=ctx.cancel, deadline=Deadline(limit))
            for name in names:
                if name not in refused:
                    annotate(ctx, name)
        except VmprovError as problem:
            refused = dict.fromkeys(names, problem)
        return {names[name]: problem for name, problem in refused.items()}

    def _ready(self, name: str) -> None:
        """Judge a VM that was powered on; one that ran on is judged already."""
        ctx, beginning = self._ctx, self._beginnings.get(name)
        if beginning is None:
            return
        vm = ctx.store.vm(name)
        flow, _ = proof_of(vm, self._flows.get(name) if name in self._made else None)
        image = ctx.images.get(vm.image) if vm.image else None
        inventory = self._inventory if self._orchestrations.get(name) is not None else None
        told = partial(inventory.failure, vm.serial_number) if inventory is not None else None
        judged = judge(ctx, vm, image, flow, beginning, self._secrets.get(name, {}), told=told)
        if judged.verdict.kind != "success":
            raise NotReady(judged)
        keep_definition(ctx, vm)
        self._give_turn_back(name)
        remember(ctx, vm, judged, state="ready", seconds=self._seconds)
        ctx.stage(name, "ready")

    def _remove(self, name: str) -> None:
        vm = self._ctx.store.vm(name)
        # In one go: whoever protects it at the same time is either too late, or heard.
        if not self._ctx.store.update_vm_if(name, {"id": vm.id, "protected": 0}, state="deleting"):
            raise Protected(name, who="it")
        self._touched.add(name)
        remove_vm(self._ctx, self._ctx.store.vm(name))

    def _discard(self, name: str) -> None:
        self._touched.add(name)
        remove_vm(self._ctx, self._ctx.store.vm(name))

    def _undo_making(self, name: str) -> None:
        remove_vm(self._patient, self._ctx.store.vm(name))

    # what became of them

    def failed(self, subject: str, problem: VmprovError) -> None:
        """Write down a VM's verdict, and save its logs if it is going to be undone."""
        if subject not in self._records:
            return
        self._give_turn_back(subject)
        ctx = self._ctx
        vm = self._now(subject)
        if subject not in self._touched:
            self._outcomes[subject] = Outcome(vm, verdict_kind(problem), "refused", str(problem), ctx.home.vm(subject))
            return
        if isinstance(problem, NotFullyUndone) or vm.state == "deleting":
            self._outcomes[subject] = Outcome(vm, "failed", "broken", str(problem), ctx.home.vm(subject))
            return
        self._outcomes[subject] = Outcome(vm, verdict_kind(problem), "failed", str(problem), ctx.home.vm(subject))
        alteration = self._alterations.get(subject)
        if alteration is not None and not alteration.disturbs and not isinstance(problem, NotReady):
            # Its guest runs on, and has noticed nothing.
            ctx.stage(subject, "failed", str(problem))
            return
        judged = problem.judged if isinstance(problem, NotReady) else self._unjudged(vm, problem)
        # One that was only changed is none that was never ready: it has something to lose.
        state = "failed" if subject in self._made else vm.state
        remember(ctx, vm, judged, state=state, seconds=self._seconds)
        vm = self._now(subject)
        ctx.stage(subject, vm.verdict, vm.why)
        undoing = self._on_failure in (OnFailure.ROLLBACK_VM, OnFailure.ROLLBACK_LAB)
        logs = save_logs(self._patient, vm) if undoing and subject in self._made else ctx.home.vm(subject)
        self._outcomes[subject] = Outcome(vm, vm.verdict, "failed", vm.why, logs)

    def _now(self, name: str) -> VMRecord:
        try:
            return self._ctx.store.vm(name)
        except NotFound:
            return self._records[name]

    def _unjudged(self, vm: VMRecord, problem: VmprovError) -> Judged:
        """It failed before its consoles could be judged."""
        verdict = Verdict(
            verdict_kind(problem), failure_class=failure_class(problem), why=str(problem), at=self._seconds
        )
        return Judged(verdict, (), vm.address)

    def undone(self, subject: str, left: Sequence[str]) -> None:
        """A VM's steps were undone; with that, one that was being made is gone. One that was removed stays so."""
        if subject not in self._records or subject not in self._undoable:
            return
        outcome = self._outcomes.get(subject) or replace(
            self._succeeded(subject), verdict="failed", why="it was undone with the others, since one of them failed"
        )
        gone = self._ctx.store.has_vm(subject) is False
        if left:
            outcome = replace(outcome, state="broken", why="; ".join(filter(None, [outcome.why, *left])))
        elif gone:
            outcome = replace(outcome, state="removed")
        self._outcomes[subject] = outcome

    def _remove_empty_lab(self) -> str:
        """Remove what the VMs shared once the last of them is gone; returns what is left."""
        try:
            remove_lab_if_empty(self._patient, self._lab)
        except (VmprovError, OSError) as problem:
            return str(problem)
        return ""
