"""Labs from files: what has to be done is planned, looked at, and done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from vmprov.engine.admit import admit, check_domain
from vmprov.engine.context import Context
from vmprov.engine.create import boots_at_once, room
from vmprov.engine.nics import made_for
from vmprov.engine.observe import observe
from vmprov.engine.orchestration import Orchestration, environ_of, find_orchestration
from vmprov.engine.outcome import Outcome
from vmprov.engine.plan import Action, Change, Plan, make_plan
from vmprov.engine.records import check_place, flows_of, record, record_again, suited
from vmprov.engine.secrets import Secrets
from vmprov.engine.steps import OnFailure
from vmprov.engine.work import Work
from vmprov.errors import SpecError
from vmprov.flows.grammar import Flow
from vmprov.spec.lab import LabSpec
from vmprov.spec.write import to_yaml
from vmprov.store import Operation, VMRecord


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
    orchestrations = {
        vm.flow: found
        for vm in {vm.flow: vm for vm in vms if vm.flow}.values()
        if (found := find_orchestration(ctx, vm, flows[vm.flow])) is not None
    }
    vms = tuple(
        vm.model_copy(update=orchestrations[vm.flow].fitted(vm)) if vm.flow in orchestrations else vm for vm in vms
    )
    ours = {network.name for network in lab.networks}
    problems = [f"{vm.name}: {field}: {why}" for vm in vms for field, why in vm.conflicts(ours=ours)]
    if problems:
        raise SpecError("; ".join(problems), problems=problems)
    return Wanted(lab.model_copy(update={"vms": vms}), flows, orchestrations)


def plan_lab(ctx: Context, lab: Wanted) -> Plan:
    """What makes the lab as it is wanted. Reads only; a host that is not up has nothing."""
    check_place(ctx, lab.lab.lab)
    records = ctx.store.vms(lab.lab.lab)
    _refuse_others(ctx, lab)
    _check_domains(ctx, lab, records)
    return make_plan(lab.lab.lab, lab.lab.vms, records, observe(ctx, records) if records else {})


def _check_domains(ctx: Context, lab: Wanted, records: Sequence[VMRecord]) -> None:
    """Raise :class:`SpecError` if a domain that is to be taken in is not there, or must not be."""
    recorded = {vm.name: vm for vm in records}
    for vm in lab.lab.vms:
        if not vm.domain:
            continue
        if vm.name not in recorded:
            check_domain(ctx, vm.domain)
        elif not recorded[vm.name].adopted:
            raise SpecError(
                f"{vm.name} is a VM of ours, and not domain {vm.domain!r}", hint="remove domain, or rename it"
            )


def _refuse_others(ctx: Context, lab: Wanted) -> None:
    """VMs of other labs keep their names."""
    names = {vm.name for vm in lab.lab.vms}
    for vm in ctx.store.vms():
        if vm.name in names and vm.lab != lab.lab.lab:
            raise SpecError(f"there is a VM called {vm.name!r} already, in lab {vm.lab}", hint="choose another name")


def apply_plan(
    ctx: Context,
    operation: Operation,
    lab: Wanted,
    plan: Plan,
    *,
    on_failure: OnFailure = OnFailure.ROLLBACK_VM,
    parallel: int = 0,
    ask: Callable[[str], str] | None = None,
) -> list[Outcome]:
    """Do what a plan says; returns an outcome for each VM that it changes, in the plan's order.

    Whoever calls holds the lab. Raises :class:`SpecError` and :class:`vmprov.errors.HostNotReady` before anything is
    made.
    """
    if not plan:
        return []
    by_name = {vm.name: vm for vm in lab.lab.vms}
    made = [change for change in plan.changes if change.action in (Action.CREATE, Action.REPLACE)]
    if made:
        ctx.driver.check(events=ctx.events, cancel=ctx.cancel)
    flows = {by_name[change.name].flow for change in made}
    orchestrations = {
        name: one.unlocked(lab.flows[name], ask) for name, one in lab.orchestrations.items() if name in flows
    }
    secrets = _secrets(lab, orchestrations, made, ask)
    memory = room(ctx)
    largest = max((vm.memory for vm in lab.lab.vms), default=0)
    adopted = _record(ctx, lab, plan)
    work = Work(
        ctx, operation, plan.lab, on_failure=on_failure, parallel=parallel or boots_at_once(ctx, largest),
        memory=memory, flows={name: lab.flows.get(vm.flow) for name, vm in by_name.items()}, secrets=secrets,
        orchestrations={name: orchestrations.get(vm.flow) for name, vm in by_name.items()},
    )  # fmt: skip
    for change in _ordered(plan, lab):
        after = lab.lab.waits_for(by_name[change.name]) if change.name in by_name else ()
        if change.action in (Action.CREATE, Action.REPLACE):
            work.make(ctx.store.vm(change.name), after=after, anew=change.action is Action.REPLACE)
        elif change.action is Action.DELETE:
            work.remove(ctx.store.vm(change.name))
        elif change.action is not Action.ADOPT:
            work.change(change, after=after)
    outcomes = {
        vm.name: Outcome(vm, "success", str(ctx.hypervisor.domain(vm.domain).state), "", ctx.home.vm(vm.name))
        for vm in adopted
    }
    outcomes |= {outcome.vm.name: outcome for outcome in work.do()}
    return [outcomes[change.name] for change in plan.changes]


def _record(ctx: Context, lab: Wanted, plan: Plan) -> list[VMRecord]:
    """Write down what is going to be made, before any of it is; returns the VMs that are taken in, which is all."""
    by_name = {vm.name: vm for vm in lab.lab.vms}
    actions = {change.name: change.action for change in plan.changes}
    networks = made_for(lab.lab)
    with ctx.store.transaction():
        if new := [by_name[name] for name, action in actions.items() if action is Action.CREATE]:
            record(ctx, plan.lab, new, networks=networks)
        for name, action in actions.items():
            if action is Action.REPLACE:
                record_again(ctx, by_name[name], networks=networks)
        adopted = [
            admit(ctx, by_name[name].domain, lab=plan.lab, name=name, wishes=by_name[name])
            for name, action in actions.items()
            if action is Action.ADOPT
        ]
        ctx.store.update_lab(plan.lab, spec=to_yaml(lab.lab))
    return adopted


def _secrets(
    lab: Wanted,
    orchestrations: Mapping[str, Orchestration],
    made: list[Change],
    ask: Callable[[str], str] | None,
) -> dict[str, Mapping[str, SecretStr]]:
    """What flows type for VMs that are made; a person is asked once for each flow's."""
    sources = {
        name: Secrets(flow, ask=ask, environ=environ_of(orchestrations.get(name))) for name, flow in lab.flows.items()
    }
    flows = {vm.name: vm.flow for vm in lab.lab.vms}
    return {change.name: sources[flows[change.name]].of(change.name) for change in made if flows[change.name]}


def _ordered(plan: Plan, lab: Wanted) -> list[Change]:
    """The changes, those first after which others come: a VM's last step is known when others wait for it."""
    by_name = {vm.name: vm for vm in lab.lab.vms}
    changes = {change.name: change for change in plan.changes}
    ordered: dict[str, Change] = {}

    def add(name: str) -> None:
        if name in ordered or name not in changes:
            return
        if name in by_name:
            for other in lab.lab.waits_for(by_name[name]):
                add(other)
        ordered[name] = changes[name]

    for name in changes:
        add(name)
    return list(ordered.values())
