"""What exists of VMs now: domains, networks and volumes as the host shows them, compared with nothing yet."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmprov.engine.context import Context
from vmprov.engine.objects import base_volume
from vmprov.engine.objects.volumes import KIND, Volumes
from vmprov.hypervisor import DomainState, Network, foreign
from vmprov.hypervisor.definitions import parse_definition
from vmprov.hypervisor.hardware import Hardware, read_hardware
from vmprov.store import Owned, VMRecord


@dataclass(frozen=True)
class Lost:
    """What a VM has lost.

    ``volumes``: its system disk, and what that lies over. ``disks``: data disks, by name. ``nvram``, ``seed``: the
    volumes of its firmware's variables, and of its seed. ``networks``: what its NICs are on.
    """

    volumes: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    nvram: bool = False
    seed: bool = False
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """One VM as it is.

    ``domain``: what its domain is called; empty where there is none. ``robbed``: another domain has the name that it
    would have. ``hardware``: of its definition, as its next start will have it.
    ``lost``: what is recorded, and not there (any more). ``idle``: networks that are there and stopped. ``detached``:
    data disks, by name, that are there, and that its domain does not have. ``strays``: volumes that are recorded, and
    are for nothing.
    ``half_made``: the domain lacks our mark, which is among the last things that it gets.
    """

    state: DomainState
    domain: str = ""
    robbed: bool = False
    hardware: Hardware | None = None
    half_made: bool = False
    lost: Lost = Lost()
    idle: tuple[str, ...] = ()
    detached: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Surroundings:
    """What a host has, beside domains, and what is recorded of it by VM."""

    networks: Mapping[str, Network]
    volumes: Container[str]
    owned: Mapping[str, Sequence[Owned]]

    def of(self, vm: VMRecord, hardware: Hardware | None) -> dict[str, Any]:
        """Fields of :class:`Seen`."""
        owned = self.owned.get(vm.name, [])
        volumes = Volumes(vm, owned)
        gone = {thing.name for thing in owned if thing.kind in _VOLUMES and thing.name not in self.volumes}
        named = {nic.network for nic in vm.nics if nic.network}
        lost = Lost(
            volumes=tuple(
                thing.name
                for thing in owned
                if thing.name in gone and (thing.kind == base_volume.KIND or thing.name == volumes.disk(""))
            ),
            disks=tuple(disk for name, disk in volumes.data.items() if name in gone),
            nvram=volumes.nvram in gone,
            seed=volumes.seed in gone,
            networks=tuple(sorted(named - self.networks.keys())),
        )
        idle = tuple(
            name for nic in vm.nics if (name := nic.network) in self.networks and not self.networks[name].active
        )
        strays = tuple(stray.name for stray in volumes.strays)
        has = hardware.has if hardware is not None else lambda _: True
        detached = tuple(disk for name, disk in volumes.data.items() if name not in gone and not has(name))
        return {"lost": lost, "idle": idle, "detached": detached, "strays": strays}


def observe(ctx: Context, vms: Sequence[VMRecord]) -> dict[str, Seen]:
    """Each VM by name, as its host shows it now. Reads only."""
    if not vms:
        return {}
    domains = {domain.uuid: domain for domain in ctx.hypervisor.domains()}
    names = {domain.name for domain in domains.values()}
    owned: dict[str, list[Owned]] = {}
    for thing in ctx.store.owned():
        owned.setdefault(thing.vm, []).append(thing)
    around = _Surroundings(
        {network.name: network for network in ctx.hypervisor.networks()},
        {volume.name for volume in ctx.hypervisor.volumes(ctx.host.pool)},
        owned,
    )
    seen = {}
    for vm in vms:
        domain = domains.get(vm.uuid)
        if domain is None:
            seen[vm.name] = Seen(DomainState.MISSING, robbed=vm.domain in names, **around.of(vm, None))
            continue
        hardware = read_hardware(parse_definition(ctx.hypervisor.domain_definition(domain.name), "domain"))
        seen[vm.name] = Seen(
            domain.state,
            domain=domain.name,
            hardware=hardware,
            half_made=not vm.adopted and foreign(domain.mark, ctx.store.installation),
            **around.of(vm, hardware),
        )
    return seen


_VOLUMES = (KIND, base_volume.KIND)
