"""Labs from files: what would have to be done, doing it, and how what exists differs from what was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmprov.collection import Collection
from vmprov.errors import Failed, Interrupted
from vmprov.views import ApplyResult, Drift

if TYPE_CHECKING:
    from vmprov.engine.context import Context
    from vmprov.engine.outcome import Outcome
    from vmprov.engine.plan import Plan
    from vmprov.spec.lab import LabSpec


class LabFiles(Collection):
    """What :class:`vmprov.lab.Vmprov` can do with labs that are described in files."""

    def plan(self, lab: LabSpec, *, targets: Sequence[str] = ()) -> Plan:
        """What makes the lab as it is wanted; of all VMs, or of ``targets`` (names of VMs or groups). Reads only.

        Raises :class:`SpecError` for what cannot be meant, :class:`vmprov.errors.HostNotReady` if VMs exist and their
        host does not answer, and :class:`Failed` if a protected VM would lose its data.
        """
        from vmprov.engine.wanted import plan_lab, wanted

        ctx = self.context(lab.host, lab.driver)
        return plan_lab(ctx, wanted(ctx, lab), targets)

    def apply(
        self,
        lab: LabSpec,
        *,
        expected: Plan | None = None,
        targets: Sequence[str] = (),
        on_failure: str = "rollback-vm",
        parallel: int = 0,
    ) -> ApplyResult:
        """Make the lab as it is wanted; where it is, nothing is done.

        ``expected``: the plan that was agreed to; raises :class:`Failed` if by now another one is needed. Other
        arguments as for :meth:`plan` and :class:`vmprov.spec.request.CreateRequest`. Never raises for what happens
        to one VM. While another process works on the lab, this waits.
        """
        from vmprov.engine.at_work import at_work
        from vmprov.engine.outcome import exit_code
        from vmprov.engine.scheduling.turns import check_parallel
        from vmprov.engine.wanted import plan_lab, wanted

        check_parallel(parallel)
        self.expire(but=lab.lab)
        ctx = self.context(lab.host, lab.driver)
        whole = wanted(ctx, lab)
        ctx.host.up(self.events)
        with at_work(ctx, lab.lab, "apply") as operation:
            plan = plan_lab(ctx, whole, targets)
            if expected is not None and plan.to_json() != expected.to_json():
                raise Failed(f"lab {lab.lab} changed since the plan was shown", hint="look at the new plan")
            outcomes: list[Outcome] = []
            if plan:
                from vmprov.engine.apply import apply_plan
                from vmprov.engine.scheduling.steps import OnFailure

                outcomes = apply_plan(
                    ctx, operation, whole, plan, on_failure=OnFailure(on_failure), parallel=parallel, ask=self.ask
                )
        code = exit_code(outcomes)
        return ApplyResult(
            lab=lab.lab,
            plan=plan.to_json(),
            vms=[self._outcome_view(outcome) for outcome in outcomes],
            exit_code=Interrupted.exit_code if self.cancel.is_set and code == 1 else code,
        )

    def drift(self, targets: Sequence[str] = ()) -> list[Drift]:
        """How VMs differ from what is recorded of them: of labs and VMs that are named, or of all. Reads only."""
        from vmprov.engine.at_work import is_at_work
        from vmprov.engine.observe import observe
        from vmprov.engine.plan import drift_of
        from vmprov.engine.renames import pending

        vms = self.select(targets) if targets else self.store.vms()
        found: dict[str, Drift] = {}
        places = dict.fromkeys((vm.host, vm.driver) for vm in vms)
        for host, driver in places:
            ctx: Context = self.context(host, driver)
            members = [vm for vm in vms if (vm.host, vm.driver) == (host, driver)]
            seen = observe(ctx, members)
            names = {lab: pending(self.store, lab) for lab in {vm.lab for vm in members} if not is_at_work(ctx, lab)}
            for vm in members:
                reasons = [str(reason) for reason in drift_of(vm, seen[vm.name])]
                if new := names.get(vm.lab, {}).get(vm.name):
                    reasons.insert(0, f"name: {vm.name} -> {new}")
                found[vm.name] = Drift(vm=vm.name, lab=vm.lab, state=str(seen[vm.name].state), drift=reasons)
        return [found[vm.name] for vm in vms]
