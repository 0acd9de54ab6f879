"""Repaving: a VM is made anew, with a new system disk; its name, addresses, serial number and data disks stay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic import SecretStr

from vmprov.engine.context import Context
from vmprov.engine.create import room
from vmprov.engine.objects.orchestration import Orchestration, environ_of, find_orchestration, found_again
from vmprov.engine.outcome import Outcome
from vmprov.engine.plan import spec_of
from vmprov.engine.records import record_again
from vmprov.engine.secrets import Secrets
from vmprov.engine.wanted import flows_of
from vmprov.engine.work import Work
from vmprov.errors import Failed, Protected, SpecError, VmprovError
from vmprov.flows.grammar import Flow
from vmprov.spec.quantities import format_size
from vmprov.store import Operation, VMRecord


def rebuild(
    ctx: Context,
    operation: Operation,
    lab: str,
    names: Collection[str],
    *,
    image: str | None = None,
    parallel: int = 0,
    ask: Callable[[str], str] | None = None,
) -> list[Outcome]:
    """Make VMs of a lab anew, from another ``image`` if one is named; returns an outcome for each.

    Whoever calls holds the lab. A VM that fails stays as it is then, with its data disks. Raises :class:`SpecError`
    and :class:`vmprov.errors.HostNotReady` before anything is changed.
    """
    ctx.driver.check(events=ctx.events, cancel=ctx.cancel)
    vms = [vm for vm in ctx.store.vms(lab) if vm.name in names]
    for vm in vms:
        _check_image(ctx, vm, vm.image if image is None else image)
    flows = flows_of(vm.machine for vm in vms)
    orchestrations, secrets = _orchestrations(ctx, vms, flows, ask)
    work = Work(
        ctx, operation, lab, parallel=parallel, memory=room(ctx),
        flows={vm.name: flows.get(vm.machine.flow) for vm in vms}, secrets=secrets, orchestrations=orchestrations,
    )  # fmt: skip
    refused = {}
    for vm in vms:
        try:
            work.make(_record(ctx, vm.name, image), anew=True)
        except VmprovError as problem:
            refused[vm.name] = Outcome(vm, "failed", "refused", str(problem), ctx.home.vm(vm.name))
    done = {outcome.vm.name: outcome for outcome in work.do()} | refused
    return [done[vm.name] for vm in vms]


def _orchestrations(
    ctx: Context, vms: Sequence[VMRecord], flows: Mapping[str, Flow], ask: Callable[[str], str] | None
) -> tuple[dict[str, Orchestration | None], dict[str, Mapping[str, SecretStr]]]:
    """By VM: the orchestrator that its flow needs, and what the flow types; a person is asked once for each kind."""
    known: dict[tuple[str, str], tuple[Orchestration | None, Secrets]] = {}
    orchestrations: dict[str, Orchestration | None] = {}
    secrets: dict[str, Mapping[str, SecretStr]] = {}
    for vm in vms:
        machine = vm.machine
        if not machine.flow:
            continue
        flow, kind = flows[machine.flow], (machine.flow, machine.http_boot.url if machine.http_boot else "")
        if kind not in known:
            found = found_again(ctx, vm) or find_orchestration(ctx, machine, flow)
            found = found.unlocked(flow, ask) if found is not None else None
            known[kind] = found, Secrets(flow, ask=ask, environ=environ_of(found))
        orchestrations[vm.name] = known[kind][0]
        secrets[vm.name] = known[kind][1].of(vm.name)
    return orchestrations, secrets


def _check_image(ctx: Context, vm: VMRecord, name: str) -> None:
    """Raise :class:`SpecError` if there is no such image, or the VM's system disk has no room for it."""
    size = vm.machine.disk
    if name and size is not None and size < (image := ctx.images.get(name)).virtual_size:
        needed = format_size(image.virtual_size)
        raise SpecError(
            f"the system disk of {vm.name} has {format_size(size)}, and image {name} needs {needed}",
            hint=f"enlarge it first: vmprov resize {vm.name} --disk {needed}",
        )
    if name:
        ctx.images.get(name)


def _record(ctx: Context, name: str, image: str | None) -> VMRecord:
    """Record that a VM is made anew; raises :class:`Failed` if it must not be."""
    # In one go with the record: whoever protects it at the same time is either too late, or heard.
    with ctx.store.transaction():
        vm = ctx.store.vm(name)
        if vm.protected:
            raise Protected(name, who="it")
        if vm.adopted:
            raise Failed("its domain is not ours to make anew")
        record_again(ctx, spec_of(vm) if image is None else spec_of(vm, image=image))
        # It is the same VM, and does not live longer for it.
        ctx.store.update_vm(name, expires=vm.expires)
        return ctx.store.vm(name)
