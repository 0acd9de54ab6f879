"""What exists of VMs now: domains, networks and volumes as the host shows them, compared with nothing yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmprov.engine.context import Context
from vmprov.engine.objects import base_volume, volumes
from vmprov.hypervisor import DomainState, foreign
from vmprov.hypervisor.definitions import parse_definition
from vmprov.hypervisor.hardware import Hardware, read_hardware
from vmprov.store import Owned, VMRecord


@dataclass(frozen=True)
class Lost:
    """What a VM has lost.

    ``disks``: data disks, by name. ``nvram``, ``seed``: the volumes of its firmware's variables, and of its seed.
    ``volumes``: all others, without which it is nothing.
    """

    volumes: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    nvram: bool = False
    seed: bool = False
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """One VM as it is.

    ``hardware``: of its definition, as its next start will have it; ``None`` where there is no domain of ours.
    ``lost``: what is recorded, and not there (any more). ``idle``: networks that are there and stopped.
    ``half_made``: the domain lacks our mark, which is among the last things that it gets.
    """

    state: DomainState
    hardware: Hardware | None = None
    half_made: bool = False
    lost: Lost = Lost()
    idle: tuple[str, ...] = ()


def observe(ctx: Context, vms: Sequence[VMRecord]) -> dict[str, Seen]:
    """Each VM by name, as its host shows it now. Reads only."""
    if not vms:
        return {}
    domains = {domain.uuid: domain for domain in ctx.hypervisor.domains()}
    networks = {network.name: network for network in ctx.hypervisor.networks()}
    existing = {volume.name for volume in ctx.hypervisor.volumes(ctx.host.pool)}
    owned: dict[str, list[Owned]] = {}
    for thing in ctx.store.owned():
        owned.setdefault(thing.vm, []).append(thing)

    def lost_of(vm: VMRecord) -> Lost:
        things = owned.get(vm.name, [])
        gone = [thing.name for thing in things if thing.kind in _VOLUMES and thing.name not in existing]
        named = {nic.network for nic in vm.nics if nic.network}
        return _lost(ctx, vm, gone, tuple(sorted(named - networks.keys())))

    seen = {}
    for vm in vms:
        domain = domains.get(vm.uuid)
        idle = tuple(nic.network for nic in vm.nics if nic.network in networks and not networks[nic.network].active)
        if domain is None:
            seen[vm.name] = Seen(DomainState.MISSING, lost=lost_of(vm), idle=idle)
            continue
        seen[vm.name] = Seen(
            domain.state,
            hardware=read_hardware(parse_definition(ctx.hypervisor.domain_definition(domain.name), "domain")),
            half_made=not vm.adopted and foreign(domain.mark, ctx.store.installation),
            lost=lost_of(vm),
            idle=idle,
        )
    return seen


def _lost(ctx: Context, vm: VMRecord, gone: Sequence[str], networks: tuple[str, ...]) -> Lost:
    if not gone:
        return Lost(networks=networks)
    disks = {volumes.of_disk(ctx, vm, disk.name): disk.name for disk in vm.machine.disks}
    nvram, seed = volumes.of_nvram(ctx, vm), volumes.of_seed(ctx, vm)
    return Lost(
        volumes=tuple(name for name in gone if name not in {*disks, nvram, seed}),
        disks=tuple(disk for name, disk in disks.items() if name in gone),
        nvram=nvram in gone,
        seed=seed in gone,
        networks=networks,
    )


_VOLUMES = ("volume", base_volume.KIND)
