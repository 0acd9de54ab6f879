"""Labs from files as they are wanted, and what makes them so; nothing of what would be needed to do it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vmprov.engine.context import Context, check_place
from vmprov.engine.observe import Seen, observe
from vmprov.engine.plan import Plan, make_plan, refuse_losses
from vmprov.engine.renames import pending
from vmprov.errors import Failed, NotFound, SpecError
from vmprov.spec.lab import LabSpec, VMSpec
from vmprov.spec.machine import Machine
from vmprov.store import VMRecord

if TYPE_CHECKING:
    from vmprov.engine.objects.orchestration import Orchestration
    from vmprov.flows.grammar import Flow

M = TypeVar("M", bound=Machine)


def flows_of(machines: Iterable[Machine]) -> dict[str, Flow]:
    """The flows that machines name, each read once; raises :class:`SpecError` for one that cannot be used."""
    names = [name for name in dict.fromkeys(machine.flow for machine in machines) if name]
    if not names:
        return {}
    from vmprov.flows.load import load_flow

    return {name: load_flow(name) for name in names}


def suited(machine: M, flow: Flow | None) -> M:
    """The machine with what its flow brings and needs: defaults, serial ports, and its limit where none is given.

    Raises :class:`SpecError` if there are wishes that do not go together then.
    """
    if flow is None:
        return machine
    machine = machine.over(flow.machine) if flow.machine is not None else machine
    consoles = max(machine.consoles, *(console + 1 for console in flow.consoles))
    timeout = flow.limit if machine.timeout is None else machine.timeout
    return machine.model_copy(update={"consoles": consoles, "timeout": timeout})


@dataclass(frozen=True)
class Wanted:
    """A lab as it is wanted, with what flows and orchestrators bring laid under its machines; these by flow."""

    lab: LabSpec
    flows: Mapping[str, Flow]
    orchestrations: Mapping[str, Orchestration]


def wanted(ctx: Context, lab: LabSpec) -> Wanted:
    """The lab with what its flows bring; :class:`SpecError` with everything that does not go together then."""
    flows = flows_of(lab.vms)
    vms = tuple(suited(vm, flows.get(vm.flow)) for vm in lab.vms)
    orchestrations = _orchestrations(ctx, vms, flows)
    vms = tuple(
        vm.model_copy(update=orchestrations[vm.flow].fitted(vm)) if vm.flow in orchestrations else vm for vm in vms
    )
    ours = {network.name for network in lab.networks}
    problems = [f"{vm.name}: {field}: {why}" for vm in vms for field, why in vm.conflicts(ours=ours)]
    if problems:
        raise SpecError("; ".join(problems), problems=problems)
    return Wanted(lab.model_copy(update={"vms": vms}), flows, orchestrations)


def _orchestrations(ctx: Context, vms: Iterable[VMSpec], flows: Mapping[str, Flow]) -> dict[str, Orchestration]:
    """What the machines of each flow have to know of an orchestrator, where they need one."""
    if not flows:
        return {}
    from vmprov.engine.objects.orchestration import find_orchestration

    found = {
        vm.flow: find_orchestration(ctx, vm, flows[vm.flow]) for vm in {vm.flow: vm for vm in vms if vm.flow}.values()
    }
    return {flow: one for flow, one in found.items() if one is not None}


def plan_lab(ctx: Context, lab: Wanted, targets: Sequence[str] = ()) -> Plan:
    """What makes the lab as it is wanted; of all VMs, or of ``targets``. Reads only; a host that is not up has nothing.

    Raises :class:`SpecError` and its kinds, and :class:`vmprov.errors.Failed`, if it cannot be done, as far as that
    shows before it is.
    """
    check_place(ctx, lab.lab.lab)
    records = ctx.store.vms(lab.lab.lab)
    _refuse_others(ctx, lab)
    _refuse_half_renamed(ctx, lab)
    seen = _domains_to_adopt(ctx, lab, records) | observe(ctx, records)
    expired = {vm.name for vm in ctx.store.expired()}
    plan = make_plan(lab.lab.lab, lab.lab.vms, records, seen, expired)
    plan = _targeted(lab.lab, plan, targets) if targets else plan
    refuse_losses(plan)
    if plan:
        from vmprov.engine.feasible import check_plan

        check_plan(ctx, plan, seen, networks=lab.lab.made_networks)
    return plan


def _domains_to_adopt(ctx: Context, lab: Wanted, records: Sequence[VMRecord]) -> dict[str, Seen]:
    """Domains that are to be taken in, by what they will be called; raises :class:`SpecError` if one must not be."""
    recorded = {vm.name: vm for vm in records}
    seen = {}
    for vm in lab.lab.vms:
        record = recorded.get(vm.name)
        if record is not None:
            _refuse_another(vm, record)
        elif vm.domain:
            from vmprov.engine.admit import look_at

            seen[vm.name] = look_at(ctx, vm.domain)
    return seen


def _refuse_another(vm: VMSpec, record: VMRecord) -> None:
    """Whose a VM's domain is stays as it is."""
    if vm.domain and not record.adopted:
        raise SpecError(f"{vm.name} is a VM of ours, and not domain {vm.domain!r}", hint="remove domain, or rename it")
    if record.adopted and vm.domain != record.domain:
        raise SpecError(
            f"{vm.name} is domain {record.domain!r}, which was imported, and not {_meant(vm)}",
            hint=f"write domain: {record.domain}, or forget it first: vmprov delete {vm.name}",
        )


def _meant(vm: VMSpec) -> str:
    return repr(vm.domain) if vm.domain else "one of ours"


def _refuse_half_renamed(ctx: Context, lab: Wanted) -> None:
    """Whoever works on a lab finishes renames before; until then, nothing can be said of it."""
    for name, new in pending(ctx.store, lab.lab.lab).items():
        raise Failed(f"somebody began to rename {name}", hint=f"finish that: vmprov rename {name} {new}")


def _refuse_others(ctx: Context, lab: Wanted) -> None:
    """VMs of other labs keep their names."""
    names = {vm.name for vm in lab.lab.vms}
    for vm in ctx.store.vms():
        if vm.name in names and vm.lab != lab.lab.lab:
            raise SpecError(f"there is a VM called {vm.name!r} already, in lab {vm.lab}", hint="choose another name")


def _targeted(lab: LabSpec, plan: Plan, targets: Sequence[str]) -> Plan:
    """The part of the plan that is about ``targets``.

    Raises :class:`SpecError` if one of them comes after a VM that is not among them, and is not ready.
    """
    part = plan.only(_chosen(lab, plan, targets))
    chosen = {change.name for change in part.changes}
    awaited = {change.name for change in plan.changes if change.makes_ready} - chosen
    for vm in lab.vms:
        if vm.name in chosen and (missing := [name for name in lab.waits_for(vm) if name in awaited]):
            raise SpecError(
                f"{vm.name} comes after {', '.join(missing)}, which is not ready",
                hint=f"add {' '.join(f'--target {name}' for name in missing)}",
            )
    return part


def _chosen(lab: LabSpec, plan: Plan, targets: Sequence[str]) -> list[str]:
    known = {vm.name for vm in lab.vms} | {change.name for change in plan.changes}
    chosen: list[str] = []
    for target in targets:
        if target in lab.groups:
            chosen += [vm.name for vm in lab.groups[target]]
        elif target in known:
            chosen.append(target)
        else:
            raise NotFound(f"lab {lab.lab} has no VM called {target!r}", hint="see: vmprov plan")
    return chosen
