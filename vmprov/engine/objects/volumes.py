"""What a VM's volumes are called, and whose they are."""

from __future__ import annotations

from vmprov.engine.context import Context
from vmprov.errors import NameTaken
from vmprov.store import VMRecord

_NVRAM = ".nvram"
_SEED = "-seed.iso"


def of_disk(ctx: Context, vm: VMRecord, disk: str) -> str:
    """The volume of a VM's disk, by the disk's name; empty: the system disk.

    A volume keeps its name when its VM gets another one.
    """
    for owned in ctx.store.owned(vm=vm.name, kind="volume"):
        if owned.detail.get("disk") == disk:
            return owned.name
    # A VM's name has no dot, so that these are not those of another VM.
    return f"{vm.domain}.{disk}.img" if disk else f"{vm.domain}.img"


def of_nvram(ctx: Context, vm: VMRecord) -> str:
    """The volume of the variables of a VM's firmware; it keeps its name, too."""
    return _ending(ctx, vm, _NVRAM)


def of_seed(ctx: Context, vm: VMRecord) -> str:
    """The volume of a VM's seed; it keeps its name, too."""
    return _ending(ctx, vm, _SEED)


def _ending(ctx: Context, vm: VMRecord, ending: str) -> str:
    owned = (owned.name for owned in ctx.store.owned(vm=vm.name, kind="volume"))
    return next((name for name in owned if name.endswith(ending)), f"{vm.domain}{ending}")


def claim(ctx: Context, vm: VMRecord, name: str) -> None:
    """Record a volume that is about to be made; one that exists already and is not recorded is somebody else's."""
    if ctx.store.owned(vm=vm.name, kind="volume", name=name):
        return
    if ctx.hypervisor.volume(ctx.host.pool, name) is not None:
        raise NameTaken(
            f"there is a volume called {name!r} in pool {ctx.host.pool} already",
            hint="it is not ours; remove or rename it",
        )
    ctx.store.own(lab=vm.lab, vm=vm.name, host=ctx.host.name, kind="volume", name=name, pool=ctx.host.pool)
