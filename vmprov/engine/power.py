"""Start, stop and reboot, the same for every driver: a domain is a domain."""

from __future__ import annotations

import time
from dataclasses import replace

from vmprov.console.keeper import ensure_keeper
from vmprov.engine.context import Context
from vmprov.engine.judging.history import remember
from vmprov.engine.judging.ready import failure_of, judge, proof_of
from vmprov.engine.judging.watch import Beginning, begin, begun
from vmprov.engine.objects.prepare import make_consoles
from vmprov.engine.renames import pending
from vmprov.errors import Failed, WaitTimeout
from vmprov.hypervisor import DomainState, foreign
from vmprov.images import Image
from vmprov.store import VMRecord
from vmprov.waiting import Deadline, wait_until

# An ACPI press can come before the guest listens; pressing again is harmless.
_PRESS_INTERVAL = 5.0
_OFF = (DomainState.STOPPED, DomainState.CRASHED, DomainState.MISSING)


def start(ctx: Context, vm: VMRecord, image: Image | None, deadline: Deadline, *, wait: bool) -> None:
    """Power on; returns when the VM is ready, or at power-on if not ``wait``.

    A VM that runs is not started again; if it was never seen ready (it failed and was kept), it gets another chance.
    """
    flow, _ = proof_of(vm, None)
    if _state(ctx, vm) is not DomainState.RUNNING:
        beginning = switch_on(ctx, vm, limit=deadline.left)
    elif vm.state == "ready" and vm.verdict == "success":
        wait = False
    else:
        beginning = go_on(ctx, vm, limit=deadline.left)
    if wait:
        judged = judge(ctx, vm, image, flow, beginning, {})
        if judged.verdict.kind != "success":
            remember(ctx, vm, judged, state=vm.state, seconds=vm.seconds)
            raise failure_of(judged)
        remember(ctx, vm, judged, state="ready", seconds=vm.seconds)
    ctx.stage(vm.name, "running")


def switch_on(ctx: Context, vm: VMRecord, *, limit: float) -> Beginning:
    """Power on; returns where the watch begins, for ``limit`` seconds."""
    ctx.stage(vm.name, "power on")
    make_consoles(ctx, vm)
    ensure_keeper(ctx.home, ctx.settings, ctx.runner)
    flow, proof = proof_of(vm, None)
    beginning = begin(ctx, vm, flow, limit=limit, proof=proof)
    ctx.hypervisor.start_domain(vm.domain)
    return beginning


def go_on(ctx: Context, vm: VMRecord, *, limit: float) -> Beginning:
    """Where the watch of a guest began that nobody waits for any more; it ends ``limit`` seconds from now."""
    before = begun(ctx.home.vm(vm.name))
    if before is not None:
        return replace(before[1], limit=time.time() - before[1].wall + limit)
    flow, proof = proof_of(vm, None)
    return begin(ctx, vm, flow, limit=limit, proof=proof)


def stop(ctx: Context, vm: VMRecord, deadline: Deadline, *, force: bool) -> None:
    """Ask the guest to stop and wait until it has; with ``force``, pull the plug at once.

    Raises :class:`WaitTimeout` when the guest does not obey.
    """
    _state(ctx, vm)
    ctx.stage(vm.name, "stopping")
    if force:
        ctx.hypervisor.power_off_domain(vm.domain)
    pressed = Deadline(0)

    def stopped() -> bool:
        nonlocal pressed
        if ctx.hypervisor.domain(vm.domain).state in _OFF:
            return True
        if pressed.expired:
            ctx.hypervisor.shutdown_domain(vm.domain)
            pressed = Deadline(_PRESS_INTERVAL)
        return False

    try:
        wait_until(stopped, deadline, "shutdown", cancel=ctx.cancel)
    except WaitTimeout as problem:
        raise WaitTimeout(problem.what, hint=f"pull the plug with: vmprov stop --force {vm.name}") from problem
    ctx.stage(vm.name, "stopped")


def reboot(ctx: Context, vm: VMRecord, image: Image | None, deadline: Deadline, *, force: bool, wait: bool) -> None:
    """Stop and start again, so that the domain's changed definition takes effect; the console log goes on."""
    stop(ctx, vm, deadline, force=force)
    start(ctx, vm, image, deadline, wait=wait)


def _state(ctx: Context, vm: VMRecord) -> DomainState:
    """The state of the VM's own domain; raises :class:`Failed` if it is gone, or its name is somebody else's now."""
    found = ctx.hypervisor.domain(vm.domain)
    if found.state is DomainState.MISSING or found.uuid != vm.uuid:
        if new := pending(ctx.store, vm.lab).get(vm.name):
            raise Failed("somebody began to rename it", hint=f"finish that: vmprov rename {vm.name} {new}")
        raise Failed("its domain is gone", hint=f"run: vmprov delete {vm.name}")
    if not vm.adopted and foreign(found.mark, ctx.store.installation):
        # Our mark is among the last that a domain gets: without it, it has neither our NIC nor our consoles.
        raise Failed("its domain was only half made", hint=f"run: vmprov delete {vm.name}")
    return found.state
