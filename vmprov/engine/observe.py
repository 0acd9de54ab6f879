"""What exists of VMs now: domains, networks and volumes as the host shows them, compared with nothing yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmprov.engine.context import Context
from vmprov.engine.objects import base_volume
from vmprov.hypervisor import DomainState, foreign
from vmprov.hypervisor.definitions import parse_definition
from vmprov.hypervisor.hardware import Hardware, read_hardware
from vmprov.store import Owned, VMRecord


@dataclass(frozen=True)
class Seen:
    """One VM as it is.

    ``hardware``: of its definition, as its next start will have it; ``None`` where there is no domain of ours.
    ``lost``: recorded objects that are not there (any more), in words. ``idle``: networks that are there and stopped.
    ``half_made``: the domain lacks our mark, which is among the last things that it gets.
    """

    state: DomainState
    hardware: Hardware | None = None
    half_made: bool = False
    lost: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


def observe(ctx: Context, vms: Sequence[VMRecord]) -> dict[str, Seen]:
    """Each VM by name, as its host shows it now. Reads only."""
    if not vms:
        return {}
    domains = {domain.uuid: domain for domain in ctx.hypervisor.domains()}
    networks = {network.name: network for network in ctx.hypervisor.networks()}
    volumes = {volume.name for volume in ctx.hypervisor.volumes(ctx.host.pool)}
    owned: dict[str, list[Owned]] = {}
    for thing in ctx.store.owned():
        owned.setdefault(thing.vm, []).append(thing)

    def lost_of(vm: VMRecord) -> list[str]:
        things = owned.get(vm.name, [])
        lost = [f"volume {thing.name}" for thing in things if thing.kind in _VOLUMES and thing.name not in volumes]
        named = {nic.network for nic in vm.nics if nic.network}
        return lost + [f"network {name}" for name in sorted(named - networks.keys())]

    seen = {}
    for vm in vms:
        domain = domains.get(vm.uuid)
        idle = tuple(nic.network for nic in vm.nics if nic.network in networks and not networks[nic.network].active)
        if domain is None:
            seen[vm.name] = Seen(DomainState.MISSING, lost=tuple(lost_of(vm)), idle=idle)
            continue
        seen[vm.name] = Seen(
            domain.state,
            hardware=read_hardware(parse_definition(ctx.hypervisor.domain_definition(domain.name), "domain")),
            half_made=not vm.adopted and foreign(domain.mark, ctx.store.installation),
            lost=tuple(lost_of(vm)),
            idle=idle,
        )
    return seen


_VOLUMES = ("volume", base_volume.KIND)
