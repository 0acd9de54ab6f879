"""What becomes of VMs once they are made: how long and on what terms they are kept, and what they are changed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmprov.errors import SpecError, VmprovError
from vmprov.events import Note
from vmprov.views import Failure, VMView, WorkResult
from vmprov.waiting import Deadline
from vmprov.workspace import Workspace

if TYPE_CHECKING:
    from vmprov.engine.plan import Plan
    from vmprov.engine.resize import Sizes
    from vmprov.store import VMRecord


class Upkeep(Workspace):
    """What :class:`vmprov.lab.Vmprov` can do with VMs that exist."""

    # on what terms they are kept

    def protect(self, names: Sequence[str], *, on: bool = True) -> list[Failure]:
        """Let nobody delete VMs, rebuild or replace them, or take that back; power and consoles are as before."""
        from vmprov.engine import terms

        return self._one_by_one(names, lambda vm: terms.protect(self.store, vm.name, on=on))

    def renew(self, names: Sequence[str], *, ttl: float | None = None) -> list[Failure]:
        """Let VMs live for ``ttl`` seconds from now on; ``None``: as long as before; infinite: for ever."""
        from vmprov.engine import terms

        return self._one_by_one(names, lambda vm: terms.renew(self.store, vm.name, ttl))

    def label(self, names: Sequence[str], changes: Mapping[str, str | None]) -> list[Failure]:
        """Set labels of VMs; those with the value ``None`` are taken away.

        Raises :class:`SpecError` for one that is not allowed.
        """
        from vmprov.engine import terms

        return self._one_by_one(names, lambda vm: terms.label(self.store, vm.name, changes))

    # what they are changed to

    def rebuild(self, names: Sequence[str], *, image: str | None = None, parallel: int = 0) -> WorkResult:
        """Make VMs anew, from their image or another one: new system disks, and data disks with what is on them.

        Names, addresses and serial numbers stay, too. Raises :class:`SpecError` and
        :class:`vmprov.errors.HostNotReady` before anything is changed; never for what happens to one VM. One that is
        protected stays as it is; one that fails keeps its data disks, and can be rebuilt again.
        """
        from vmprov.engine.at_work import at_work
        from vmprov.engine.outcome import exit_code
        from vmprov.engine.rebuild import rebuild
        from vmprov.engine.scheduling.turns import check_parallel

        check_parallel(parallel)
        vms = self.select(names)
        outcomes = []
        for lab in dict.fromkeys(vm.lab for vm in vms):
            members = [vm for vm in vms if vm.lab == lab]
            ctx = self.context(members[0].host, members[0].driver)
            ctx.host.up(self.events)
            with at_work(ctx, lab, "rebuild") as operation:
                meant = {vm.name for vm in members}
                outcomes += rebuild(ctx, operation, lab, meant, image=image, parallel=parallel, ask=self.ask)
        if image is not None:
            self._remind(vms)
        return WorkResult([self._outcome_view(outcome) for outcome in outcomes], exit_code(outcomes))

    def plan_resize(self, name: str, **sizes: Any) -> Plan:
        """What :meth:`resize` would do, and whether the VM has to be off meanwhile. Reads only."""
        from vmprov.engine.resize import plan_resize

        vm = self.store.vm(name)
        return plan_resize(self.context(vm.host, vm.driver), name, _sizes(**sizes))

    def resize(
        self,
        name: str,
        *,
        cpus: int | None = None,
        memory: int | str | None = None,
        disk: int | str | None = None,
        disks: Mapping[str, int | str] | None = None,
    ) -> WorkResult:
        """Give a VM other sizes (bytes, or text such as ``2GiB``); ``disk`` is its system disk, disks only grow.

        One that runs is rebooted for it. If that fails, it gets back what it had. Raises :class:`SpecError` for what
        cannot be, and :class:`Failed` if there is nothing to resize, before anything is changed.
        """
        from vmprov.engine.at_work import at_work
        from vmprov.engine.outcome import exit_code
        from vmprov.engine.resize import plan_resize, resize

        sizes = _sizes(cpus=cpus, memory=memory, disk=disk, disks=disks)
        vm = self.store.vm(name)
        ctx = self.context(vm.host, vm.driver)
        ctx.host.up(self.events)
        with at_work(ctx, vm.lab, "resize") as operation:
            plan = plan_resize(ctx, name, sizes)
            if not plan:
                return WorkResult([self._view_of(vm, "unchanged")], 0)
            outcome = resize(ctx, operation, plan.changes[0])
            view = self._outcome_view(outcome)
            if outcome.state == "ready":  # one that was off still is
                view = replace(view, state=ctx.hypervisor.domain(vm.domain).state.value)
        self._remind([vm])
        return WorkResult([view], exit_code([outcome]))

    def rename(self, name: str, new: str, *, restart: bool = False, timeout: float = 600.0) -> VMView:
        """Give a VM another name, under which it runs on once it is started; its guest learns of it when rebuilt.

        The VM must be off; with ``restart``, it is shut down before, and started and waited for afterwards. Where an
        earlier call was killed, this finishes it. Raises :class:`SpecError`, :class:`vmprov.errors.NameTaken`,
        :class:`Failed`.
        """
        from vmprov.engine import power
        from vmprov.engine.at_work import at_work
        from vmprov.engine.rename import check_free, rename
        from vmprov.engine.renames import is_done
        from vmprov.spec.names import check_name

        try:
            check_name(new)
        except ValueError as problem:
            raise SpecError(str(problem)) from problem
        vm = self.store.vm(new if is_done(self.store, name, new) else name)
        ctx, deadline = self.context(vm.host, vm.driver), Deadline(timeout)
        ctx.host.up(self.events)
        with at_work(ctx, vm.lab, "rename") as operation:
            if not is_done(self.store, name, new):
                check_free(ctx, new)
                if restart and not vm.adopted:
                    power.stop(ctx, self.store.vm(name), deadline, force=False)
                rename(ctx, operation, name, new)
        self._remind([vm])
        vm = self.store.vm(new)
        if restart:
            power.start(ctx, vm, self.images.get(vm.image) if vm.image else None, deadline, wait=True)
        return self._view_of(self.store.vm(new), ctx.hypervisor.domain(vm.domain).state.value)

    # domains of others

    def import_domain(self, domain: str, *, lab: str = "", name: str = "", host: str = "") -> VMView:
        """Take a domain that somebody made into a lab, without touching it, by its own ``name`` or another one.

        ``lab``: one that is there, or a new one. Power, addresses and status are as of any VM; it is never changed,
        and ``delete`` forgets it. Raises :class:`SpecError` (or its kinds) for a domain that must not be taken in.
        """
        from vmprov.engine.admit import admit, name_of
        from vmprov.engine.at_work import at_work
        from vmprov.engine.context import check_place
        from vmprov.engine.records import new_lab
        from vmprov.spec.names import check_name

        try:
            lab = check_name(lab, "lab name") if lab else lab
        except ValueError as problem:
            raise SpecError(str(problem)) from problem
        name = name_of(name or domain)
        ctx = self.context(host, "")
        ctx.host.up(self.events)
        lab = lab or new_lab(ctx)
        check_place(ctx, lab)
        with at_work(ctx, lab, "import"):
            vm = admit(ctx, domain, lab=lab, name=name)
        self._remind([vm])
        return self._view_of(vm, ctx.hypervisor.domain(domain).state.value)

    def _one_by_one(self, names: Sequence[str], action: Callable[[VMRecord], None]) -> list[Failure]:
        """Do something to the records of VMs; returns what failed."""
        failures = []
        vms = self.select(names)
        for vm in vms:
            try:
                action(vm)
            except VmprovError as problem:
                failures.append(Failure(vm.name, str(problem)))
            else:
                self._note(vm)
        self._remind(vms)
        return failures

    def _note(self, vm: VMRecord) -> None:
        """Note it in the VM's domain, too, if its host is up: records can be lost."""
        from vmprov.engine.objects.annotate import annotate

        annotate(self.context(vm.host, vm.driver), vm.name)

    def _remind(self, vms: Sequence[VMRecord]) -> None:
        """Say so where a lab's file says something else now than was done to its VMs."""
        for name in dict.fromkeys(vm.lab for vm in vms):
            lab = self.store.lab(name)
            if lab is not None and lab.spec:
                self.events.emit(Note(text=f"the file of lab {name} still says otherwise, and apply would go by it"))


def _sizes(
    *,
    cpus: int | None = None,
    memory: int | str | None = None,
    disk: int | str | None = None,
    disks: Mapping[str, int | str] | None = None,
) -> Sizes:
    """Sizes as they are given; :class:`SpecError` for those that cannot be meant."""
    from vmprov.engine.resize import Sizes
    from vmprov.spec.request import CreateRequest

    given = {name: value for name, value in (("cpus", cpus), ("memory", memory), ("disk", disk)) if value is not None}
    data = tuple({"name": name, "size": size} for name, size in (disks or {}).items())
    try:
        request = CreateRequest.parse(**given, disks=data)
    except SpecError as problem:
        raise SpecError(str(problem).replace("--extra-disk", "--disk")) from problem
    return Sizes(
        cpus=cpus,
        memory=None if memory is None else request.memory,
        disk=request.disk,
        disks={one.name: one.size for one in request.disks},
    )
