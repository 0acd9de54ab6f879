"""Names that VMs are getting, and names that they had: what is written down of a rename (see ``rename.py``)."""

from __future__ import annotations

from vmprov.store import Store

# Leases: a name that a VM is getting, and one that it had and whose things it still has.
NEW_NAME = "new name"
FORMER_NAME = "former name"


def pending(store: Store, lab: str) -> dict[str, str]:
    """VMs of a lab that are being renamed, or were when somebody was killed, and their new names."""
    names = {vm.name for vm in store.vms(lab)}
    return {vm: new for new, vm in store.holders(host="", kind=NEW_NAME).items() if vm in names}


def is_done(store: Store, name: str, new: str) -> bool:
    """Whether a VM has the new name already."""
    return not store.has_vm(name) and store.holders(host="", kind=FORMER_NAME).get(name) == new
