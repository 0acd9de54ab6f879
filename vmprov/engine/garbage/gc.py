"""Collecting garbage: what was being made or removed when its process died, what expired, and what nobody owns.

Nothing without our mark, our name or our label is ever touched, and nothing of a lab at which another process is at
work. What fails, is told, and found again the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime

from vmprov.containers.engine import Engine
from vmprov.engine.at_work import at_work, holder, lab_turn
from vmprov.engine.context import Context
from vmprov.engine.garbage.leftovers import Find, on_host
from vmprov.engine.garbage.remains import in_containers, in_state_directory
from vmprov.engine.renames import pending
from vmprov.engine.work import Work
from vmprov.errors import HostNotReady, VmprovError
from vmprov.hosts import Host
from vmprov.locks import Turn, remove_unheld
from vmprov.paths import Home
from vmprov.store import LabRecord, Store, VMRecord
from vmprov.views import Failure, GcResult, Leftover

# At most so many VMs of one lab are removed at once.
_VMS = 16
# States of records that stand for work in progress; without anybody at work, it was cut short.
_CUT_SHORT = {
    "creating": "it was being made, and nobody is at work on it",
    "deleting": "it was being removed, and nobody is at work on it",
    "broken": "it could not be removed fully",
}
_EMPTY = "no machine of it is left"
_ANEW = "it was being made anew, and whoever did that was killed; its data disks are there"


@dataclass
class Collector:
    """One round through a state directory. ``hosts``: those to look at; ``context``: for a lab's host and driver."""

    home: Home
    store: Store
    engine: Engine
    hosts: Sequence[Host]
    context: Callable[[LabRecord], Context]
    dry_run: bool
    _leftovers: list[Leftover] = field(default_factory=list)
    _skipped: list[Failure] = field(default_factory=list)

    def collect(self) -> GcResult:
        """Find everything, and remove it unless this is only to look. Never raises for one thing."""
        self._collect_records(self._unfinished, empty_too=True)
        self._collect_records(self._expired)
        self._collect(self._containers())
        all_seen = True
        for host in self.hosts:
            if not host.is_up():
                all_seen = False
                self._skipped.append(Failure(host.name, "it is not up; what is there was not looked at"))
                continue
            try:
                self._collect(on_host(host, self.home, self.store))
            except VmprovError as problem:
                all_seen = False
                self._skipped.append(Failure(host.name, str(problem)))
        self._collect(in_state_directory(self.home, self.store, all_seen=all_seen))
        return GcResult(self._leftovers, self._skipped)

    def expire(self, *, but: str = "") -> GcResult:
        """Only remove VMs whose time is up, but for those of one lab."""
        self._collect_records(lambda lab: {} if lab.name == but else self._expired(lab))
        return GcResult(self._leftovers, self._skipped)

    # what is recorded

    def _collect_records(self, doomed: Callable[[LabRecord], dict[str, str]], *, empty_too: bool = False) -> None:
        """Remove VMs of labs at which nobody is at work; ``doomed``: names and reasons, asked again in our turn."""
        for lab in self.store.labs():
            unfinished = empty_too and (pending(self.store, lab.name) or not self.store.vms(lab.name))
            if not doomed(lab) and not unfinished:
                continue
            with ExitStack() as stack:
                ctx = self.context(lab)
                turn = lab_turn(ctx, lab.name)
                stack.callback(turn.close)
                if not turn.take():
                    self._skipped.append(Failure(lab.name, f"{holder(turn)} is at work on it"))
                    continue
                wanted = {name: why for name, why in doomed(lab).items() if self._unwatched(stack, name)}
                try:
                    self._remove(ctx, lab, turn, wanted)
                except VmprovError as problem:
                    self._told("lab", lab.name, lab.host, "machines of it are to be removed", str(problem))

    def _unfinished(self, lab: LabRecord) -> dict[str, str]:
        states = {vm.name: vm.state for vm in self.store.vms(lab.name)}
        return {name: _CUT_SHORT[state] for name, state in states.items() if state in _CUT_SHORT} | {
            name: _ANEW for name, state in states.items() if state == "rebuilding"
        }

    def _expired(self, lab: LabRecord) -> dict[str, str]:
        return {
            vm.name: f"it expired at {datetime.fromtimestamp(vm.expires).astimezone():%Y-%m-%d %H:%M:%S}"
            for vm in self.store.expired()
            if vm.lab == lab.name
        }

    def _unwatched(self, stack: ExitStack, name: str) -> bool:
        """Whether nobody watches a VM, to go on in the place of who made it; until the stack ends, nobody will."""
        lock = self.home.lock(f"watch-{name}")
        watch = Turn(lock)
        stack.callback(remove_unheld, lock)
        stack.callback(watch.close)
        if watch.take():
            return True
        self._skipped.append(Failure(name, "somebody watches it: vmprov watch"))
        return False

    def _remove(self, ctx: Context, lab: LabRecord, turn: Turn, doomed: dict[str, str]) -> None:
        empty = not self.store.vms(lab.name)
        renamed = pending(self.store, lab.name)
        for name, new in renamed.items():
            why = f"it was being renamed to {new}, and whoever did that was killed; it gets that name"
            self._told("vm", name, lab.host, why, "", state="found" if self.dry_run else "kept")
        if self.dry_run:
            for name, why in doomed.items():
                self._told("vm", name, lab.host, why, "", state="found")
            if empty:
                self._told("lab", lab.name, lab.host, _EMPTY, "", state="found")
        elif doomed or empty or renamed:
            left = self._work(ctx, lab, turn, doomed)
            if empty or left:
                self._told("lab", lab.name, lab.host, _EMPTY, left)

    def _work(self, ctx: Context, lab: LabRecord, turn: Turn, doomed: dict[str, str]) -> str:
        """Remove VMs, and their lab with the last of them; returns what is left of that."""
        with at_work(ctx, lab.name, "gc", turn) as operation:
            ctx.host.up(ctx.events)
            work = Work(ctx, operation, lab.name, parallel=_VMS)
            for vm in self.store.vms(lab.name):
                if doomed.get(vm.name) == _ANEW:
                    self._keep(vm)
                elif vm.name in doomed and vm.state in _CUT_SHORT:
                    work.discard(vm)
                elif vm.name in doomed:
                    work.remove(vm)
            for outcome in work.do():
                problem = "" if outcome.state == "removed" else outcome.why or outcome.state
                self._told("vm", outcome.vm.name, lab.host, doomed[outcome.vm.name], problem)
        return work.left

    def _keep(self, vm: VMRecord) -> None:
        """A VM that was being made anew has data to lose; it is only said to have failed."""
        self.store.update_vm(vm.name, state="failed", verdict="failed", why=_ANEW)
        self._told("vm", vm.name, vm.host, f"{_ANEW}; go on with: vmprov rebuild {vm.name}", "", state="kept")

    # what is not

    def _containers(self) -> Iterator[Find]:
        try:
            yield from in_containers(self.engine, self.home, self.store)
        except HostNotReady:
            # Without Docker, there are no containers of ours.
            return

    def _collect(self, finds: Iterable[Find]) -> None:
        for find in finds:
            told = find.told
            if self.dry_run:
                self._leftovers.append(told)
                continue
            try:
                # Under the database's lock nobody can begin to own it.
                with self.store.transaction():
                    if not find.still():
                        continue
                    find.remove()
            except (VmprovError, OSError) as problem:
                self._leftovers.append(replace(told, state="failed", problem=str(problem)))
            else:
                self._leftovers.append(replace(told, state="removed"))

    def _told(self, kind: str, name: str, host: str, why: str, problem: str, *, state: str = "removed") -> None:
        self._leftovers.append(Leftover(kind, name, host, why, "failed" if problem else state, problem))
