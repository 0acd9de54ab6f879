"""A VM's definition as it was last known to be right, kept beside its captures, so that it can be had again."""

from __future__ import annotations

import os
from contextlib import suppress

from vmprov.engine.context import Context
from vmprov.errors import Failed
from vmprov.hypervisor.hardware import with_screen_password, without_passwords
from vmprov.store import VMRecord


def keep_definition(ctx: Context, vm: VMRecord, definition: str = "") -> None:
    """Keep a definition, or what the VM's domain will be at its next start; its password has a file of its own."""
    path = ctx.home.definition(vm.name)
    draft = path.with_name(f".{path.name}.part")
    with open(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:  # noqa: PTH123
        file.write(without_passwords(definition or ctx.hypervisor.domain_definition(vm.domain)))
    draft.replace(path)


def kept_definition(ctx: Context, vm: VMRecord) -> str:
    """What was kept, complete; raises :class:`Failed` if there is none."""
    try:
        definition = ctx.home.definition(vm.name).read_text()
    except OSError as problem:
        raise Failed(
            f"the definition of {vm.name} was not kept: {problem.strerror}",
            hint=f"make it anew: vmprov rebuild {vm.name}",
        ) from problem
    with suppress(OSError):
        definition = with_screen_password(definition, ctx.home.screen_password(vm.name).read_text().strip())
    return definition
