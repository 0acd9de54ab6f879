"""What the NICs of VMs are on: networks of ours, each with a subnet that nobody uses, or what is there already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from itertools import islice

from vmprov import addressing
from vmprov.addressing import PER_VM_PREFIX, SHARED_PREFIX, Subnet, free_subnets
from vmprov.engine.context import Context
from vmprov.engine.objects import adoption
from vmprov.errors import Failed, NameTaken
from vmprov.hypervisor import Mark, Network, foreign
from vmprov.networks import BRIDGE, Boot, NetworkPlan, Reservation
from vmprov.spec.lab import NetworkSpec
from vmprov.spec.machine import HttpBoot, Machine
from vmprov.store import Nic, VMRecord

# How many subnets that look free may turn out to be taken before we give up.
_SUBNET_TRIES = 8


def make_shared_networks(ctx: Context, vms: Sequence[VMRecord]) -> None:
    """Make those networks that VMs share with their lab, unless they are there; the lab's lock must be held."""
    made: set[tuple[str, bool]] = set()
    declared = declared_networks(ctx, vms[0].lab) if vms else {}
    for vm in vms:
        for place, wanted in enumerate(vm.machine.networks):
            network = vm.nics[place].network, place == 0
            if network in made:
                continue
            made.add(network)
            if wanted in ("shared", "isolated"):
                _shared_network(ctx, vm, place, wanted)
            elif wanted in declared:
                mode = "isolated" if declared[wanted].mode == "isolated" else "shared"
                _shared_network(ctx, vm, place, mode, subnet=declared[wanted].subnet, kind=f"n{place}n")


def declared_networks(ctx: Context, lab: str) -> dict[str, NetworkSpec]:
    """The networks that a lab's file declares and that are made for it, by name."""
    record = ctx.store.lab(lab)
    if record is None or not record.spec:
        return {}
    from vmprov.spec.load import parse_lab

    return parse_lab(record.spec, f"lab {lab}", environ={}).made_networks


def lease_own_subnets(ctx: Context, vms: Sequence[VMRecord]) -> None:
    """Hand out subnets for the VMs' own networks, as far as there are any, with one look at what is in use.

    What was handed out for a network that is lost stays, if nobody else uses it by now. The lab's lock must be held.
    """
    wanting = {vm.name: vm.machine.networks.count("per-vm") for vm in vms}
    if not any(wanting.values()):
        return
    there = {network.name: network for network in ctx.hypervisor.networks()}
    taken = _in_use(ctx, there.values())
    own = {subnet for vm in vms for nic in vm.nics if nic.network in there for subnet in there[nic.network].subnets}
    for value, vm in ctx.store.holders(host=ctx.host.name, kind="subnet").items():
        if vm not in wanting:
            continue
        held = IPv4Network(value)
        if held not in own and any(held.overlaps(one) for one in taken):
            ctx.store.release(host=ctx.host.name, kind="subnet", value=value)
        else:
            wanting[vm] -= 1
    ctx.store.lease_subnets(
        host=ctx.host.name, lab=vms[0].lab, vms=[vm for vm, count in wanting.items() for _ in range(count)],
        candidates=lambda used: free_subnets(ctx.settings.subnets, PER_VM_PREFIX, taken | used),
    )  # fmt: skip


def connect(ctx: Context, vm: VMRecord) -> None:
    """Make the VM's own networks, and record what its NICs are on."""
    machine = vm.machine
    for place, (mode, nic) in enumerate(zip(machine.networks, vm.nics, strict=True)):
        if mode == "per-vm":
            _own_network(ctx, vm, place)
        elif not mode.startswith(BRIDGE):
            if machine.adopt and place == 0 and machine.http_boot is not None:
                adoption.adopt(ctx, vm, nic.network, boot_of(machine.http_boot))
            _join_network(ctx, vm, place)


def boot_of(wanted: HttpBoot | None) -> Boot:
    """What a network has to tell for a wish."""
    if wanted is None:
        return Boot()
    return Boot(wanted.url, {name: str(address) for name, address in wanted.dns.items()})


def _own_network(ctx: Context, vm: VMRecord, place: int) -> None:
    """A network for this VM alone, unless it has it; the VM's address is known before it boots."""
    nic = vm.nics[place]
    mark = Mark(installation=ctx.store.installation, lab=vm.lab, vm=vm.name)
    existing = ctx.hypervisor.network(nic.network)
    if existing is not None and existing.mark == mark and nic.bridge:
        _see_active(ctx, existing)
        return
    kind = "v" if place == 0 else chr(ord("a") + place - 1)
    bridge = addressing.bridge_name(ctx.store.installation, kind, vm.id)
    subnet = _create_network(
        ctx, nic, bridge, "per-vm", mark, vm.machine, first=place == 0, prefix=PER_VM_PREFIX, reserve_for=vm.name
    )
    address = str(subnet.first) if vm.machine.dhcp else ""
    ctx.store.update_nic(vm.name, place, bridge=bridge, address=address)


def _shared_network(
    ctx: Context, vm: VMRecord, place: int, mode: str, *, subnet: IPv4Network | None = None, kind: str = ""
) -> None:
    nic = vm.nics[place]
    existing = ctx.hypervisor.network(nic.network)
    mark = Mark(installation=ctx.store.installation, lab=vm.lab)
    if existing is not None and existing.mark == mark:
        _check_alike(ctx, vm, nic.network, first=place == 0)
        _see_active(ctx, existing)
        return
    bridge = addressing.bridge_name(ctx.store.installation, kind or ("l" if mode == "shared" else "i"), vm.id)
    _create_network(ctx, nic, bridge, mode, mark, vm.machine, first=place == 0, prefix=SHARED_PREFIX, subnet=subnet)


def _see_active(ctx: Context, network: Network) -> None:
    """Start a network of ours that somebody stopped."""
    if not network.active:
        ctx.hypervisor.start_network(network.name)


def _check_alike(ctx: Context, vm: VMRecord, network: str, *, first: bool) -> None:
    """Raise :class:`Failed` if a network of the lab tells machines something else than this VM wants."""
    owned = ctx.store.owned(lab=vm.lab, vm="", kind="network", name=network)
    if first and owned and owned[0].detail.get("told", "") != _told(vm.machine, first=True):
        raise Failed(
            f"lab {vm.lab} has a {vm.machine.networks[0]} network already, which boots machines differently",
            hint="choose another --lab, or a network per VM",
        )


def _told(machine: Machine, *, first: bool) -> str:
    """What a network tells, as it is recorded: how one that exists is compared with what is wanted."""
    boot = boot_of(machine.http_boot if first else None)
    return json.dumps([machine.dhcp, boot.url, boot.hosts()])


def _join_network(ctx: Context, vm: VMRecord, place: int) -> None:
    """A network that exists; the VM's address is known once it has asked for one."""
    name = vm.nics[place].network
    network = ctx.hypervisor.network(name)
    if network is None:
        raise Failed(f"network {name!r} is not on {ctx.host.name} any more")
    ctx.store.update_nic(vm.name, place, bridge=network.bridge)


def _create_network(
    ctx: Context,
    nic: Nic,
    bridge: str,
    mode: str,
    mark: Mark,
    machine: Machine,
    *,
    first: bool,
    prefix: int,
    subnet: IPv4Network | None = None,
    reserve_for: str = "",
) -> Subnet:
    """Lease a subnet that nobody uses and make a network of it; other candidates are tried when one is taken.

    ``subnet``: the one that it has to be.
    """
    host, store = ctx.host.name, ctx.store
    existing = ctx.hypervisor.network(nic.network)
    if existing is not None:
        theirs = foreign(existing.mark, store.installation)
        raise NameTaken(
            f"there is a network called {nic.network!r} on {host} already",
            hint="it is not ours to use" if theirs else "run: vmprov delete",
        )
    told = _told(machine, first=first)
    store.own(lab=mark.lab, vm=mark.vm, host=host, kind="network", name=nic.network, told=told)
    refusal: NameTaken | None = None
    refused: set[IPv4Network] = set()
    for leased in islice(_leases(ctx, mark, prefix, subnet, refused), _SUBNET_TRIES):
        ctx.cancel.check()
        chosen = Subnet(leased)
        reservations = [Reservation(nic.mac, reserve_for, str(chosen.first))] if reserve_for else []
        boot = boot_of(machine.http_boot if first else None)
        plan = NetworkPlan(nic.network, bridge, mode, chosen, reservations, mark, dhcp=machine.dhcp, boot=boot)
        try:
            ctx.hypervisor.create_network(plan.to_xml())
        except NameTaken as problem:
            refusal = problem
            refused.add(leased)
            store.release(host=host, kind="subnet", value=str(leased))
        else:
            return chosen
    if subnet is not None:
        raise Failed(f"subnet {subnet} is in use already", hint="choose another one in the lab's file") from refusal
    if refusal is not None:
        raise Failed(f"no network could be made: {refusal}") from refusal
    raise Failed(
        f"no free /{prefix} subnet is left in {ctx.settings.subnets}",
        hint="delete VMs, or give another range in VMPROV_SUBNETS",
    )


def _leases(
    ctx: Context, mark: Mark, prefix: int, wanted: IPv4Network | None, refused: set[IPv4Network]
) -> Iterator[IPv4Network]:
    """Subnets that are handed out for a network, until one can be used; those ``refused`` grow meanwhile."""
    host, store = ctx.host.name, ctx.store
    # What was handed out before, or for a network that is lost: so addresses stay. Those of VMs were looked at already.
    usable = _usable(ctx, mark, prefix, wanted)
    if mark.vm:
        yield from usable
    taken = _in_use(ctx, ctx.hypervisor.networks())
    if not mark.vm:
        yield from (held for held in usable if not any(held.overlaps(one) for one in taken))

    def candidates(used: set[IPv4Network]) -> Iterable[IPv4Network]:
        occupied = taken | refused | used
        if wanted is None:
            return free_subnets(ctx.settings.subnets, prefix, occupied)
        return [] if any(wanted.overlaps(one) for one in occupied) else [wanted]

    while leased := store.lease_subnets(host=host, lab=mark.lab, vms=[mark.vm], candidates=candidates):
        yield leased[0]


def _usable(ctx: Context, mark: Mark, prefix: int, wanted: IPv4Network | None) -> list[IPv4Network]:
    """Subnets that are handed out for a VM's networks, or for those of a lab, and that none of them has."""
    values = ctx.store.leases_of(host=ctx.host.name, kind="subnet", lab=mark.lab, vm=mark.vm)
    held = [one for one in map(IPv4Network, values) if one == wanted or (wanted is None and one.prefixlen == prefix)]
    if not held:
        return []
    owned = (one.name for one in ctx.store.owned(lab=mark.lab, vm=mark.vm, kind="network"))
    used = {subnet for network in filter(None, map(ctx.hypervisor.network, owned)) for subnet in network.subnets}
    if wanted is None and not mark.vm:
        used |= {network.subnet for network in declared_networks(ctx, mark.lab).values() if network.subnet is not None}
    return [one for one in held if one not in used]


def _in_use(ctx: Context, networks: Iterable[Network]) -> set[IPv4Network]:
    """The subnets of the networks on the host, and those to which it has routes."""
    return {*ctx.host.routes(), *(subnet for network in networks for subnet in network.subnets)}
