"""Watching VMs that somebody else is making, or was making when it was killed."""

from __future__ import annotations

from collections.abc import Callable

from vmprov.engine.at_work import is_at_work
from vmprov.engine.context import Context
from vmprov.engine.judging.history import remember
from vmprov.engine.judging.ready import judge
from vmprov.engine.judging.watch import begun
from vmprov.engine.objects.orchestration import environ_of, found_again
from vmprov.engine.secrets import Secrets
from vmprov.errors import Failed, NotFound
from vmprov.hypervisor import DomainState
from vmprov.images import Image
from vmprov.store import VMRecord

# Seconds between two looks at a VM that is not powered on yet.
_INTERVAL = 0.2


def attend(ctx: Context, vm: VMRecord, image: Image | None, *, ask: Callable[[str], str] | None) -> VMRecord:
    """Watch a VM until it has a verdict; returns its record then. A VM that has one is left as it is.

    Where the ``create`` that made it is gone, this goes on in its place: it replays the captures to the present
    stage, types what is still to be typed, and writes down the verdict. The VM is kept, whatever the verdict.
    Raises :class:`Failed` for a VM that was never powered on.
    """
    while True:
        try:
            vm = ctx.store.vm(vm.name)
        except NotFound as problem:
            raise Failed("it failed and was removed", hint=f"its logs are below {ctx.home.failed}") from problem
        if vm.adopted and not vm.verdict:
            # Others made it, and we know nothing of it but that it is there.
            return vm
        if vm.verdict:
            ctx.stage(vm.name, "ready" if vm.verdict == "success" else vm.verdict, vm.why)
            return vm
        before = begun(ctx.home.vm(vm.name))
        if before is not None and ctx.hypervisor.domain(vm.domain).state is not DomainState.MISSING:
            break
        if not is_at_work(ctx, vm.lab):
            raise Failed("it was never powered on", hint=f"run: vmprov delete {vm.name}")
        ctx.cancel.sleep(_INTERVAL)
    flow, beginning = before
    judged = judge(
        ctx, vm, image, flow, beginning, Secrets(flow, ask=ask, environ=environ_of(found_again(ctx, vm))).of(vm.name)
    )
    if not is_at_work(ctx, vm.lab):
        # One that was ready before has something to lose.
        state = "ready" if judged.verdict.kind == "success" or vm.state == "ready" else "failed"
        remember(ctx, vm, judged, state=state, seconds=round(judged.verdict.at, 1))
        ctx.stage(vm.name, "ready" if judged.verdict.kind == "success" else judged.verdict.kind, judged.verdict.why)
        return ctx.store.vm(vm.name)
    return _as_told(ctx, vm)


def _as_told(ctx: Context, vm: VMRecord) -> VMRecord:
    """The record once the ``create`` at work has written down its verdict; it judges as we do."""
    while True:
        try:
            vm = ctx.store.vm(vm.name)
        except NotFound as problem:
            raise Failed("it failed and was removed", hint=f"its logs are below {ctx.home.failed}") from problem
        if vm.verdict or not is_at_work(ctx, vm.lab):
            return vm
        ctx.cancel.sleep(_INTERVAL)
