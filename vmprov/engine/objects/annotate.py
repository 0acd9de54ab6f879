"""What is recorded of a VM is noted in its domain too, so that records can be made again after the database is lost."""

from __future__ import annotations

from contextlib import suppress

from vmprov.engine.context import Context
from vmprov.errors import NotFound, VmprovError


def annotate(ctx: Context, name: str) -> None:
    """Note what is recorded of a VM now. A domain that cannot be annotated is none the worse for it.

    Somebody else's domain, which was only imported or has the name that ours would have, is left as it is: with the
    note in it, records can be made again.
    """
    try:
        vm = ctx.store.vm(name)
    except NotFound:
        return
    if not vm.adopted:
        with suppress(VmprovError):
            if ctx.hypervisor.domain(vm.domain).uuid == vm.uuid:
                ctx.hypervisor.annotate_domain(vm.domain, ctx.store.note(name))
