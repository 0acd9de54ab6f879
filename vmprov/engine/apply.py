"""Labs from files: what a plan says is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pydantic import SecretStr

from vmprov.engine.admit import admit
from vmprov.engine.context import Context
from vmprov.engine.create import room
from vmprov.engine.objects.orchestration import Orchestration, environ_of
from vmprov.engine.outcome import Outcome
from vmprov.engine.plan import Action, Change, Plan, refuse_losses
from vmprov.engine.records import record, record_again
from vmprov.engine.scheduling.steps import OnFailure
from vmprov.engine.secrets import Secrets
from vmprov.engine.wanted import Wanted
from vmprov.engine.work import Work
from vmprov.spec.write import to_yaml
from vmprov.store import Operation


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
    _record(ctx, lab, plan)
    work = Work(
        ctx, operation, plan.lab, on_failure=on_failure, parallel=parallel,
        memory=memory, flows={name: lab.flows.get(vm.flow) for name, vm in by_name.items()}, secrets=secrets,
        orchestrations={name: orchestrations.get(vm.flow) for name, vm in by_name.items()},
    )  # fmt: skip
    for change in _ordered(plan, lab):
        after = lab.lab.waits_for(by_name[change.name]) if change.name in by_name else ()
        if change.action in (Action.CREATE, Action.REPLACE):
            work.make(ctx.store.vm(change.name), after=after, anew=change.action is Action.REPLACE)
        elif change.action is Action.ADOPT:
            work.adopt(change, ctx.store.vm(change.name), after=after)
        elif change.action is Action.DELETE:
            vm = ctx.store.vm(change.name)
            work.discard(vm) if vm.state == "creating" else work.remove(vm)
        else:
            work.change(change, after=after)
    outcomes = {outcome.vm.name: outcome for outcome in work.do()}
    return [outcomes[change.name] for change in plan.changes]


def _record(ctx: Context, lab: Wanted, plan: Plan) -> None:
    """Write down what is going to be made or taken in, before anything is done to it."""
    by_name = {vm.name: vm for vm in lab.lab.vms}
    actions = {change.name: change.action for change in plan.changes}
    networks = lab.lab.made_networks
    with ctx.store.transaction():
        # In one go with the records: whoever protects one at the same time is either too late, or heard.
        refuse_losses(replace(plan, changes=tuple(_as_recorded(ctx, change) for change in plan.changes)))
        for name, action in actions.items():
            if action is Action.ADOPT:
                admit(ctx, by_name[name].domain, lab=plan.lab, name=name, wishes=by_name[name])
            elif action is Action.REPLACE:
                record_again(ctx, by_name[name], networks=networks)
        if new := [by_name[name] for name, action in actions.items() if action is Action.CREATE]:
            record(ctx, plan.lab, new, networks=networks)
        ctx.store.update_lab(plan.lab, spec=to_yaml(lab.lab))


def _as_recorded(ctx: Context, change: Change) -> Change:
    return change if change.record is None else replace(change, record=ctx.store.vm(change.name))


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
