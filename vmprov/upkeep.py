"""What becomes of VMs once they are made: how long and on what terms they are kept, and what they are changed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from vmprov.errors import VmprovError
from vmprov.events import Note
from vmprov.views import Failure
from vmprov.workspace import Workspace

if TYPE_CHECKING:
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

    def _one_by_one(self, names: Sequence[str], action: Callable[[VMRecord], None]) -> list[Failure]:
        """Do something to the records of VMs; returns what failed."""
        failures = []
        vms = self.select(names)
        for vm in vms:
            try:
                action(vm)
            except VmprovError as problem:
                failures.append(Failure(vm.name, str(problem)))
        self._remind(vms)
        return failures

    def _remind(self, vms: Sequence[VMRecord]) -> None:
        """Say so where a lab's file says something else now than was done to its VMs."""
        for name in dict.fromkeys(vm.lab for vm in vms):
            lab = self.store.lab(name)
            if lab is not None and lab.spec:
                self.events.emit(Note(text=f"the file of lab {name} still says otherwise, and apply would go by it"))
