"""Labs from files as they are wanted, and what makes them so; nothing of what would be needed to do it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vmprov.engine.context import Context, check_place
from vmprov.engine.observe import Seen, observe
from vmprov.engine.plan import Plan, make_plan
from vmprov.errors import SpecError
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


def plan_lab(ctx: Context, lab: Wanted) -> Plan:
    """What makes the lab as it is wanted. Reads only; a host that is not up has nothing."""
    check_place(ctx, lab.lab.lab)
    records = ctx.store.vms(lab.lab.lab)
    _refuse_others(ctx, lab)
    seen = _domains_to_adopt(ctx, lab, records) | observe(ctx, records)
    expired = {vm.name for vm in ctx.store.expired()}
    plan = make_plan(lab.lab.lab, lab.lab.vms, records, seen, expired)
    if plan:
        from vmprov.engine.feasible import check_plan

        check_plan(ctx, plan, networks=lab.lab.made_networks)
    return plan


def _domains_to_adopt(ctx: Context, lab: Wanted, records: Sequence[VMRecord]) -> dict[str, Seen]:
    """Domains that are to be taken in, by what they will be called; raises :class:`SpecError` if one must not be."""
    recorded = {vm.name: vm for vm in records}
    seen = {}
    for vm in lab.lab.vms:
        if not vm.domain:
            continue
        if vm.name not in recorded:
            from vmprov.engine.admit import check_domain

            seen[vm.name] = Seen(check_domain(ctx, vm.domain).state)
        elif not recorded[vm.name].adopted:
            raise SpecError(
                f"{vm.name} is a VM of ours, and not domain {vm.domain!r}", hint="remove domain, or rename it"
            )
    return seen


def _refuse_others(ctx: Context, lab: Wanted) -> None:
    """VMs of other labs keep their names."""
    names = {vm.name for vm in lab.lab.vms}
    for vm in ctx.store.vms():
        if vm.name in names and vm.lab != lab.lab.lab:
            raise SpecError(f"there is a VM called {vm.name!r} already, in lab {vm.lab}", hint="choose another name")
