"""Creating a batch: record, prepare, power on, judge; a VM that fails is undone alone.

Every VM takes one of ``parallel`` slots from power-on to its verdict. VMs that wait for a slot are handed to
the driver together as slots become free, so that one run of the driver serves many.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from vmprov.capacity import sensible_parallelism
from vmprov.console.keeper import ensure_keeper
from vmprov.drivers import Order
from vmprov.engine.attend import creating
from vmprov.engine.collect import collect
from vmprov.engine.context import Context
from vmprov.engine.history import remember
from vmprov.engine.prepare import prepare_lab, prepare_vm
from vmprov.engine.ready import Judged, judge, proof_of
from vmprov.engine.records import Batch
from vmprov.engine.remove import remove_lab_if_empty, remove_vm
from vmprov.engine.secrets import Secrets
from vmprov.engine.watch import Beginning, begin
from vmprov.errors import Interrupted, LibvirtFailed, NotFullyUndone, VmprovError, WaitTimeout
from vmprov.flows.grammar import Flow
from vmprov.flows.verdict import Kind, Verdict
from vmprov.paths import make_private
from vmprov.spec.request import CreateRequest
from vmprov.store import VMRecord
from vmprov.waiting import Cancel, Deadline, wait_until

# Networks and seeds are quick; more threads than this only queue up inside libvirt.
_PREPARERS = 8
_KEPT_LOGS = 50
# Seconds for which others may look whether somebody works on a lab.
_TURN_LIMIT = 10.0


@dataclass(frozen=True)
class Outcome:
    """How it went for one VM.

    ``verdict``: success, failed, timeout or cancelled. ``state``: ready; failed (and kept); removed (undone);
    broken (could not be undone fully). ``logs`` is the directory in which its logs are to be found.
    """

    vm: VMRecord
    verdict: str
    state: str
    why: str
    logs: Path


class Creation:
    """One run of ``create`` over recorded VMs, ``parallel`` of them at once."""

    def __init__(
        self,
        ctx: Context,
        batch: Batch,
        request: CreateRequest,
        *,
        parallel: int,
        flow: Flow | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        """``flow``: what the consoles have to pass; ``secrets``: what it types."""
        self._ctx = ctx
        self._batch = batch
        self._request = request
        self._flow = flow
        self._secrets = secrets
        self._beginnings: dict[str, Beginning] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._started = time.monotonic()
        self._parallel = parallel
        self._slots = threading.Semaphore(parallel)

    def run(self) -> list[Outcome]:
        """Make every VM, whatever happens to its siblings; returns an outcome for each, in order.

        Never raises for what happens to VMs; an interruption shows as the verdict ``cancelled``.
        """
        threads = min(len(self._batch.vms), self._parallel) + _PREPARERS
        at_work = creating(self._ctx, self._batch.lab)
        wait_until(at_work.take, Deadline(_TURN_LIMIT), f"turn to work on lab {self._batch.lab}", interval=0.01)
        with closing(at_work), ThreadPoolExecutor(max_workers=threads, thread_name_prefix="create") as pool:
            try:
                prepare_lab(self._ctx, self._batch, self._request.network)
            except VmprovError as problem:
                for done in [pool.submit(self._fail, vm, problem) for vm in self._batch.vms]:
                    done.result()
            else:
                self._power_on_all(pool, self._prepare_all(pool))
        self._remove_empty_lab()
        return [self._outcomes[vm.name] for vm in self._batch.vms]

    def _prepare_all(self, pool: ThreadPoolExecutor) -> list[Order]:
        ctx, orders = self._ctx, {}
        running = {
            pool.submit(prepare_vm, ctx, vm, self._batch.image, self._request.network): vm for vm in self._batch.vms
        }
        for done in as_completed(running):
            vm = running[done]
            try:
                orders[vm.name] = done.result()
            except VmprovError as problem:
                self._fail(vm, problem)
        return [orders[vm.name] for vm in self._batch.vms if vm.name in orders]

    def _power_on_all(self, pool: ThreadPoolExecutor, orders: list[Order]) -> None:
        waiting = deque(orders)
        judging: list[Future[None]] = []
        while waiting:
            batch = [waiting.popleft() for _ in range(self._take_slots(len(waiting)))]
            deadline = Deadline(self._request.limit)
            refused = self._power_on(batch, deadline)
            for order in batch:
                vm = self._ctx.store.vm(order.vm)
                judging.append(pool.submit(self._judge, vm, refused.get(order.vm)))
        for done in judging:
            done.result()

    def _take_slots(self, wanted: int) -> int:
        """Wait for one slot, then take as many more as are free; an interruption frees everybody."""
        taken = 0
        while not taken:
            if self._ctx.cancel.is_set:
                return wanted
            taken = int(self._slots.acquire(timeout=0.2))
        while taken < wanted and self._slots.acquire(blocking=False):
            taken += 1
        return taken

    def _power_on(self, batch: list[Order], deadline: Deadline) -> Mapping[str, VmprovError]:
        ctx = self._ctx
        try:
            ctx.cancel.check()
            for order in batch:
                ctx.stage(order.vm, "power on")
                vm = ctx.store.vm(order.vm)
                flow, proof = proof_of(vm, self._flow)
                self._beginnings[vm.name] = begin(ctx, vm, flow, limit=self._request.limit, proof=proof)
            ensure_keeper(ctx.home, ctx.settings, ctx.runner)
            return ctx.driver.create(batch, events=ctx.events, cancel=ctx.cancel, deadline=deadline)
        except VmprovError as problem:
            return {order.vm: problem for order in batch}

    def _judge(self, vm: VMRecord, refusal: VmprovError | None) -> None:
        try:
            if refusal is not None:
                raise refusal
            flow, _ = proof_of(vm, self._flow)
            secrets = self._secrets.of(vm.name) if self._secrets else {}
            judged = judge(self._ctx, vm, self._batch.image, flow, self._beginnings[vm.name], secrets)
            if judged.verdict.kind == "success":
                self._succeed(vm, judged)
            else:
                self._conclude(vm, judged)
        except VmprovError as problem:
            self._fail(vm, problem)
        finally:
            self._slots.release()

    def _succeed(self, vm: VMRecord, judged: Judged) -> None:
        ctx = self._ctx
        remember(ctx, vm, judged, state="ready", seconds=self._seconds)
        self._outcomes[vm.name] = Outcome(ctx.store.vm(vm.name), "success", "ready", "", ctx.home.vm(vm.name))
        ctx.stage(vm.name, "ready")

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 1)

    def _fail(self, vm: VMRecord, problem: VmprovError) -> None:
        """It failed before its consoles could be judged."""
        verdict = Verdict(_kind(problem), failure_class=_class(problem), why=str(problem), at=self._seconds)
        self._conclude(vm, Judged(verdict, (), vm.address))

    def _conclude(self, vm: VMRecord, judged: Judged) -> None:
        """Keep a VM that failed as it is if asked to, else undo it; either way its logs stay."""
        ctx = self._ctx
        remember(ctx, vm, judged, state="failed", seconds=self._seconds)
        vm = ctx.store.vm(vm.name)
        verdict, why = vm.verdict, vm.why
        ctx.stage(vm.name, verdict, why)
        logs, state = ctx.home.vm(vm.name), "failed"
        if not self._request.keep_on_failure:
            logs = self._save_logs(vm)
            try:
                # A second token: undoing goes on although the user asked to stop.
                remove_vm(replace(ctx, cancel=Cancel()), vm)
                state = "removed"
            except NotFullyUndone as left:
                why, state = f"{why}; {left}", "broken"
        self._outcomes[vm.name] = Outcome(vm, verdict, state, why, logs)

    def _save_logs(self, vm: VMRecord) -> Path:
        """Move a failed VM's logs where undoing does not reach them; the oldest of many make room."""
        source, shelf = self._ctx.home.vm(vm.name), self._ctx.home.failed
        target = shelf / f"{vm.name}-{vm.id}"
        try:
            make_private(shelf)
            if source.is_dir():
                collect(self._ctx, vm, source)
            shutil.copytree(source, target, dirs_exist_ok=True)
        except OSError:
            # There are none yet, or the disk is full: no reason not to undo.
            return source
        kept = sorted(shelf.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in kept[:-_KEPT_LOGS]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def _remove_empty_lab(self) -> None:
        try:
            remove_lab_if_empty(replace(self._ctx, cancel=Cancel()), self._batch.lab)
        except NotFullyUndone as left:
            for name, outcome in self._outcomes.items():
                self._outcomes[name] = replace(outcome, state="broken", why=f"{outcome.why}; {left}")


def parallelism(ctx: Context, request: CreateRequest) -> int:
    """How many VMs of a request may boot at once: as asked for, else what the host's cores and memory suggest."""
    kvm = ctx.host.acceleration().kind == "kvm"
    return request.parallel or sensible_parallelism(ctx.hypervisor.node(), memory=request.memory, kvm=kvm)


def _kind(problem: VmprovError) -> Kind:
    if isinstance(problem, Interrupted):
        return "cancelled"
    return "timeout" if isinstance(problem, WaitTimeout) else "failed"


def _class(problem: VmprovError) -> str:
    """The failure's class where no console had a say."""
    if isinstance(problem, Interrupted | WaitTimeout):
        return ""
    return "libvirt" if isinstance(problem, LibvirtFailed) else "power-on"
