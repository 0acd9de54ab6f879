"""On what terms a VM is kept: protection, time to live, labels. Only its record knows of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vmprov.errors import Failed, SpecError
from vmprov.spec.labels import MOST_LABELS
from vmprov.store import Store, VMRecord, labels_column


def protect(store: Store, name: str, *, on: bool) -> None:
    """Let nobody remove a VM, or make it anew, or take that back; doing so twice is the same as once."""
    with store.transaction():
        vm = _staying(store, name)
        store.update_vm(name, protected=on, spec=_wishing(vm, protect=on))


def renew(store: Store, name: str, ttl: float | None) -> None:
    """Let a VM live for so many seconds from now on; ``None``: as many as before; infinite: for ever."""
    with store.transaction():
        vm = _staying(store, name)
        if ttl is None and vm.machine.ttl is None:
            raise Failed("it has no time to live", hint=f"give it one: vmprov renew {name} --ttl 2h")
        seconds = vm.machine.ttl if ttl is None else None if math.isinf(ttl) else ttl
        expires = store.expiry(seconds)
        store.update_vm(name, expires=expires, spec=_wishing(vm, ttl=seconds))


def label(store: Store, name: str, changes: Mapping[str, str | None]) -> None:
    """Set labels of a VM, and take those away whose value is ``None``; one that it has not is fine."""
    with store.transaction():
        vm = _staying(store, name)
        labels = {**vm.labels, **changes}
        left = {key: value for key, value in labels.items() if value is not None}
        if len(left) > MOST_LABELS:
            raise SpecError(f"{len(left)} labels are too many", hint=f"at most {MOST_LABELS} are allowed")
        store.update_vm(name, labels=labels_column(left), spec=_wishing(vm, labels=left))


def _staying(store: Store, name: str) -> VMRecord:
    """A VM that nobody is removing."""
    vm = store.vm(name)
    if vm.state == "deleting":
        raise Failed("it is being removed")
    return vm


def _wishing(vm: VMRecord, **wishes: object) -> str:
    """What is wished for a VM, with something else wished now; as its column holds it."""
    return vm.machine.model_copy(update=wishes).model_dump_json()
