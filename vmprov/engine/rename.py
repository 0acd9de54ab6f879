"""Another name for a VM: of its domain, its directory, its records, and wherever else the name is written.

The new name is handed out first, and recorded last, in one transaction that ends it all. Until then the record has the
old name, and each step is the same done twice as done once: whoever is killed in between is finished by the next one
who works on the lab. The volumes and networks that are there keep their names, which say where they come from; the old
name is remembered for as long, so that no new VM of that name meets them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from vmprov.addressing import domain_name
from vmprov.console.ports import relay_path
from vmprov.engine.context import Context
from vmprov.engine.objects.annotate import annotate
from vmprov.engine.objects.prepare import make_consoles
from vmprov.engine.objects.remove import discard_logs
from vmprov.engine.objects.volumes import volumes_of
from vmprov.engine.renames import FORMER_NAME, NEW_NAME, pending
from vmprov.engine.scheduling.steps import Step, StepState
from vmprov.errors import Failed, NameTaken, VmprovError
from vmprov.hypervisor import DomainState, Mark
from vmprov.hypervisor.definitions import with_captures_in, with_name, with_owner
from vmprov.ssh import rename_host
from vmprov.store import Operation, VMRecord


def rename(ctx: Context, operation: Operation, name: str, new: str) -> None:
    """Rename a VM, which is off. Whoever calls holds the lab.

    Raises :class:`NameTaken`, and :class:`Failed` if it runs; then nothing is changed. What fails later is finished
    when it is tried again.
    """
    vm = ctx.store.vm(name)
    found = ctx.hypervisor.domain(vm.domain)
    if not vm.adopted and found.uuid == vm.uuid and found.state.is_on:
        raise Failed(f"{name} is {found.state}", hint="stop it before, or use --restart")
    with ctx.store.transaction():
        check_free(ctx, new)
        ctx.store.lease(host="", kind=NEW_NAME, lab=vm.lab, vm=name, candidates=[new])
    try:
        _check_domain(ctx, vm, _domain_of(ctx, vm, new))
    except VmprovError:
        ctx.store.release(host="", kind=NEW_NAME, value=new)
        raise
    finish(ctx, operation, vm, new)


def finish_renames(ctx: Context, operation: Operation, lab: str) -> None:
    """Finish what others began and were killed over; the lab is held."""
    for name, new in pending(ctx.store, lab).items():
        ctx.host.up(ctx.events)
        finish(ctx, operation, ctx.store.vm(name), new)


def check_free(ctx: Context, new: str) -> None:
    """Raise :class:`NameTaken` if a VM cannot get this name."""
    if new in {vm.name for vm in ctx.store.vms()} | ctx.store.leased(host="", kind=NEW_NAME):
        raise NameTaken(f"there is a VM called {new!r} already", hint="choose another name")
    if ctx.store.lab(new) is not None:
        raise NameTaken(f"there is a lab called {new!r}, and a VM cannot have the same name")


def _check_domain(ctx: Context, vm: VMRecord, domain: str) -> None:
    found = ctx.hypervisor.domain(domain)
    if found.state is not DomainState.MISSING and found.uuid != vm.uuid:
        raise NameTaken(f"there is a domain called {domain!r} already", hint="it is not ours; remove or rename it")


def _domain_of(ctx: Context, vm: VMRecord, new: str) -> str:
    if vm.adopted:
        return vm.domain
    others = {name for name, holder in ctx.store.holders(host="", kind=FORMER_NAME).items() if holder != vm.name}
    return domain_name(ctx.store.installation, new, vm.id if new in others else 0)


def finish(ctx: Context, operation: Operation, vm: VMRecord, new: str) -> None:
    """Do what is left to do."""
    name, domain = vm.name, _domain_of(ctx, vm, new)
    ctx.stage(name, "renaming")
    actions: dict[str, Callable[[], None]] = {
        "rename domain": lambda: _rename_domain(ctx, vm, domain),
        "rename in definitions": lambda: _redefine(ctx, vm, domain, new),
        "rename files": lambda: _move_files(ctx, vm, new),
        "rename record": lambda: _record(ctx, vm, domain, new),
    }
    if vm.adopted:
        actions = {what: action for what, action in actions.items() if what in ("rename files", "rename record")}
    for what, action in actions.items():
        step = Step(f"{name}/{what}", name, f"{what}: {new}")
        operation.note(step, StepState.DOING)
        try:
            action()
        except (VmprovError, OSError) as problem:
            operation.note(step, StepState.FAILED, str(problem))
            raise Failed(
                f"{name} is not renamed yet: {problem}", hint=f"finish it with: vmprov rename {name} {new}"
            ) from problem
        operation.note(step, StepState.DONE)
    ctx.stage(new, "renamed")


def _rename_domain(ctx: Context, vm: VMRecord, domain: str) -> None:
    if ctx.hypervisor.domain(vm.domain).uuid == vm.uuid and vm.domain != domain:
        ctx.hypervisor.rename_domain(vm.domain, domain)
    if vm.domain != domain:
        discard_logs(ctx, vm)
    # What the driver keeps under the old name is made anew when it makes the VM anew.
    if ctx.hypervisor.domain(vm.domain).state is DomainState.MISSING:
        ctx.driver.destroy(lab=vm.lab, vm=vm.name, domain=vm.domain)


def _redefine(ctx: Context, vm: VMRecord, domain: str, new: str) -> None:
    """Write the new name into what is defined on the host, and into what we keep of it."""

    def renamed(xml: str) -> str:
        moved = with_captures_in(xml, ctx.home.vm(vm.name), ctx.home.vm(new))
        return with_owner(with_name(moved, domain), vm=new)

    if ctx.hypervisor.domain(domain).uuid == vm.uuid:
        definition = ctx.hypervisor.domain_definition(domain)
        if (wanted := renamed(definition)) != definition:
            ctx.hypervisor.define_domain(wanted)
    kept = ctx.home.definition(vm.name)
    with suppress(FileNotFoundError):  # it was moved already, or never kept
        text = renamed(kept.read_text())
        draft = kept.with_name(f".{kept.name}.part")
        draft.touch(mode=0o600)
        draft.write_text(text)
        draft.replace(kept)
    ours = Mark(ctx.store.installation, vm.lab, vm.name)
    for network in ctx.hypervisor.networks():
        if network.mark == ours:
            ctx.hypervisor.redefine_network(with_owner(ctx.hypervisor.network_definition(network.name), vm=new))


def _move_files(ctx: Context, vm: VMRecord, new: str) -> None:
    before, now = ctx.home.vm(vm.name), ctx.home.vm(new)
    if before.is_dir():
        # Of a VM that was not removed fully, at most: no record has the name.
        shutil.rmtree(now, ignore_errors=True)
        before.rename(now)
    for port in range(vm.consoles):
        relay_path(ctx.home.console_port(vm.id, port)).unlink(missing_ok=True)
    rename_host(ctx.home.known_hosts(vm.lab), vm.name, new)
    ctx.home.lock(f"watch-{vm.name}").unlink(missing_ok=True)


def _record(ctx: Context, vm: VMRecord, domain: str, new: str) -> None:
    """All of it at once; with that, the VM is renamed."""
    store = ctx.store
    with store.transaction():
        volumes = volumes_of(ctx, vm)
        disks = {volumes.disk(""): "", **volumes.data}
        for owned in store.owned(vm=vm.name, kind="volume"):
            if owned.name in disks:
                store.detail(owned.id, disk=disks[owned.name])
        store.rename_vm(vm.name, new, domain=domain)
        store.release(host="", kind=NEW_NAME, value=new)
        store.lease(host="", kind=FORMER_NAME, lab=vm.lab, vm=new, candidates=[vm.name])
    annotate(ctx, new)
    make_consoles(ctx, replace(vm, name=new, domain=domain))
