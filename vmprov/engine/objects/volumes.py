"""What a VM's volumes are called, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable

from vmprov.engine.context import Context
from vmprov.errors import NameTaken
from vmprov.store import Owned, VMRecord

KIND = "volume"


class Volumes:
    """The volumes of one VM, by what they are for. A volume keeps its name when its VM gets another one."""

    def __init__(self, vm: VMRecord, owned: Iterable[Owned]) -> None:
        """``owned``: what is recorded as the VM's own, volumes among it."""
        self._vm = vm
        self._owned = [thing for thing in owned if thing.kind == KIND]

    def disk(self, name: str) -> str:
        """The volume of a disk, by the disk's name; empty: the system disk."""
        for owned in self._owned:
            if owned.detail.get("disk") == name:
                return owned.name
        # A VM's name has no dot, so that these are not those of another VM.
        return f"{self._vm.domain}.{name}.img" if name else f"{self._vm.domain}.img"

    @property
    def nvram(self) -> str:
        """The volume of the variables of its firmware."""
        return self._ending(".nvram")

    @property
    def seed(self) -> str:
        """The volume of its seed."""
        return self._ending("-seed.iso")

    @property
    def data(self) -> dict[str, str]:
        """The volumes of its data disks -> the names of these."""
        return {self.disk(disk.name): disk.name for disk in self._vm.machine.disks}

    @property
    def strays(self) -> list[Owned]:
        """What is recorded, and is for nothing (any more): a disk that it does not have."""
        known = {self.disk(""), self.nvram, self.seed, *self.data}
        return [owned for owned in self._owned if owned.name not in known]

    def _ending(self, ending: str) -> str:
        return next((owned.name for owned in self._owned if owned.name.endswith(ending)), f"{self._vm.domain}{ending}")


def volumes_of(ctx: Context, vm: VMRecord) -> Volumes:
    """The VM's volumes, as they are recorded now."""
    return Volumes(vm, ctx.store.owned(vm=vm.name, kind=KIND))


def disk_of(volume: str) -> str:
    """The name of the data disk that a volume was made for."""
    return volume.removesuffix(".img").rpartition(".")[2]


def claim(ctx: Context, vm: VMRecord, name: str) -> None:
    """Record a volume that is about to be made; one that exists already and is not recorded is somebody else's."""
    if ctx.store.owned(vm=vm.name, kind=KIND, name=name):
        return
    if ctx.hypervisor.volume(ctx.host.pool, name) is not None:
        raise NameTaken(
            f"there is a volume called {name!r} in pool {ctx.host.pool} already",
            hint="it is not ours; remove or rename it",
        )
    ctx.store.own(lab=vm.lab, vm=vm.name, host=ctx.host.name, kind=KIND, name=name, pool=ctx.host.pool)
