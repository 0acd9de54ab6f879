"""Creating a batch of VMs: record, make, judge; a VM that fails is undone alone."""

from __future__ import annotations

from collections.abc import Callable

from vmprov.capacity import memory_left
from vmprov.engine.at_work import at_work, lab_turn
from vmprov.engine.context import Context
from vmprov.engine.objects.orchestration import environ_of, find_orchestration
from vmprov.engine.outcome import Outcome, blamed
from vmprov.engine.records import record_request
from vmprov.engine.scheduling.steps import OnFailure
from vmprov.engine.secrets import Secrets
from vmprov.engine.wanted import flows_of, suited
from vmprov.engine.work import Work
from vmprov.locks import Turn
from vmprov.spec.request import CreateRequest
from vmprov.store import VMRecord


class _Looked(Exception):
    """Takes records back that were made only to be looked at."""


def create(
    ctx: Context, request: CreateRequest, *, ask: Callable[[str], str] | None = None
) -> tuple[str, list[Outcome]]:
    """Make VMs and judge each; returns the lab and an outcome for each VM.

    Raises :class:`vmprov.errors.SpecError` and :class:`vmprov.errors.HostNotReady` before anything is made.
    """
    flow = flows_of([request]).get(request.flow)
    request = suited(request, flow)
    orchestration = find_orchestration(ctx, request, flow)
    if orchestration is not None:
        request = request.model_copy(update=orchestration.fitted(request))
    request.refuse_conflicts()
    ctx.host.up(ctx.events)
    ctx.driver.check(events=ctx.events, cancel=ctx.cancel)
    if orchestration is not None and flow is not None:
        orchestration = orchestration.unlocked(flow, ask)
    secrets = Secrets(flow, ask=ask, environ=environ_of(orchestration)) if flow else None
    if secrets is not None:
        for name in request.vm_names({vm.name for vm in ctx.store.vms()}):
            secrets.of(name)
    lab, turn = _lab(ctx, request)
    with at_work(ctx, lab, "create", turn) as operation:
        memory = room(ctx)
        vms = record_request(ctx, request.model_copy(update={"lab": lab}))
        work = Work(
            ctx, operation, lab, on_failure=OnFailure(request.policy), parallel=request.parallel, memory=memory,
            flows={vm.name: flow for vm in vms}, orchestrations={vm.name: orchestration for vm in vms},
            secrets={vm.name: secrets.of(vm.name) for vm in vms} if secrets else {},
        )  # fmt: skip
        for vm in vms:
            work.make(vm)
        outcomes = work.do()
        return lab, blamed(outcomes, work.left) if work.left else outcomes


def planned(ctx: Context, request: CreateRequest) -> list[VMRecord]:
    """The records that :func:`create` would make; nothing is changed, and no host is started for it."""
    request = suited(request, flows_of([request]).get(request.flow))
    request.refuse_conflicts()
    vms: list[VMRecord] = []
    try:
        with ctx.store.transaction():
            vms += record_request(ctx, request, ask_host=ctx.host.is_up())
            raise _Looked
    except _Looked:
        return vms


def _lab(ctx: Context, request: CreateRequest) -> tuple[str, Turn]:
    """The lab to work on; a new one is ours before anybody else can choose its name."""
    if request.lab:
        return request.lab, lab_turn(ctx, request.lab)
    number = 0
    while True:
        number += 1
        name = f"lab-{number}"
        turn = lab_turn(ctx, name)
        if ctx.store.lab(name) is None and turn.take() and ctx.store.lab(name) is None:
            return name, turn
        turn.close()


def room(ctx: Context) -> int:
    """Bytes of memory that the host has for VMs that are not recorded yet."""
    committed = sum(vm.memory for vm in ctx.store.vms() if vm.host == ctx.host.name)
    return memory_left(ctx.hypervisor.node(), committed=committed)
