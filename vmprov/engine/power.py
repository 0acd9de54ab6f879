"""Start, stop and reboot, the same for every driver: a domain is a domain."""

from __future__ import annotations

from vmprov.engine.context import Context
from vmprov.engine.ready import wait_until_ready
from vmprov.errors import Failed, WaitTimeout
from vmprov.hypervisor import DomainState
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
    offset = 0
    if _state(ctx, vm) is not DomainState.RUNNING:
        ctx.stage(vm.name, "power on")
        log = ctx.home.console_log(vm.name, 0)
        offset = log.stat().st_size if log.exists() else 0
        ctx.hypervisor.start_domain(vm.domain)
    elif vm.state == "ready":
        wait = False
    if wait:
        address = wait_until_ready(ctx, vm, image, deadline, log_offset=offset)
        ctx.store.update_vm(vm.name, address=address, state="ready", verdict="success", why="")
    ctx.stage(vm.name, "running")


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
        raise Failed("its domain is gone", hint=f"run: vmprov delete {vm.name}")
    return found.state
