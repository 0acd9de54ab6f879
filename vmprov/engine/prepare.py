"""Everything that a VM needs before it is powered on: its network, its seed, its files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmprov import addressing
from vmprov.addressing import PER_VM_PREFIX, SHARED_PREFIX, Subnet, free_subnets
from vmprov.console import ports
from vmprov.console.relay import daemon_log
from vmprov.drivers import Order, Uart
from vmprov.engine import base_volume
from vmprov.engine.context import Context
from vmprov.engine.records import Batch
from vmprov.errors import Failed, NameTaken, SpecError
from vmprov.hypervisor import Mark, foreign
from vmprov.images import Image
from vmprov.locks import exclusive
from vmprov.networks import NetworkPlan, Reservation
from vmprov.paths import make_private
from vmprov.seeds import write_seed
from vmprov.ssh import make_key
from vmprov.store import VMRecord
from vmprov.waiting import Deadline

# How many subnets that look free may turn out to be taken before we give up.
_SUBNET_TRIES = 8
_LOCK_LIMIT = 300.0


@contextmanager
def _needing_files() -> Iterator[None]:
    """Files that cannot be written fail the VM that needs them, like anything else that can go wrong."""
    try:
        yield
    except OSError as problem:
        raise Failed(
            f"cannot write {problem.filename or 'a file'}: {problem.strerror or problem}",
            hint="see that the disk is not full, and what is at that place",
        ) from problem


@_needing_files()
def prepare_lab(ctx: Context, batch: Batch, mode: str) -> None:
    """What the VMs of a lab share: the key pair, the base volume, and a shared network if asked for."""
    directory = ctx.home.lab(batch.lab)
    with exclusive(ctx.home.lock(f"lab-{batch.lab}"), Deadline(_LOCK_LIMIT), f"lab {batch.lab}", cancel=ctx.cancel):
        make_private(directory)
        make_key(ctx.home.key(batch.lab), ctx.runner, comment=f"vmprov lab {batch.lab}")
        if mode in ("shared", "isolated"):
            _shared_network(ctx, batch, mode)
    if batch.image is not None:
        base_volume.ensure(ctx, batch.image, lab=batch.lab, vms=[vm.name for vm in batch.vms])


@_needing_files()
def prepare_vm(ctx: Context, vm: VMRecord, image: Image | None, mode: str) -> Order:
    """Make the VM's own network and seed; returns the order for the driver."""
    directory = ctx.home.vm(vm.name)
    make_private(directory)
    ctx.stage(vm.name, "network")
    if mode == "per-vm":
        _own_network(ctx, vm)
    else:
        _join_network(ctx, vm)
    ctx.stage(vm.name, "disk")
    pool = ctx.host.pool
    disk_volume = f"{vm.domain}.img"
    _claim_volume(ctx, vm, disk_volume)
    seed = _make_seed(ctx, vm) if image is not None else ""
    consoles = make_consoles(ctx, vm)
    base = base_volume.base_image(ctx.images, image, ctx.store.installation) if image else None
    return Order(
        vm=vm.name, lab=vm.lab, domain=vm.domain, uuid=vm.uuid, mark=_mark(ctx, vm), cpus=vm.cpus, memory=vm.memory,
        disk_volume=disk_volume, disk_size=vm.disk, pool=pool, image=base, seed=seed, network=vm.network,
        mac=vm.mac, serial_number=vm.serial_number, consoles=consoles,
    )  # fmt: skip


def make_consoles(ctx: Context, vm: VMRecord) -> tuple[Uart, ...]:
    """Make what is missing of the files of the VM's UARTs."""
    uarts = []
    for port in range(vm.consoles):
        base, log = ctx.home.console_port(vm.id, port), ctx.home.console_log(vm.name, port)
        if ctx.host.console_kind == "pipe":
            ports.make_port(base, log)
            uarts.append(Uart("pipe", base, log))
        else:
            if not ctx.settings.keeper:
                raise SpecError(f"consoles on {ctx.host.name} need the keeper", hint="do not set VMPROV_KEEPER to off")
            ports.make_port(base, log, relayed=True)
            daemon = daemon_log(log)
            os.close(os.open(daemon, os.O_CREAT | os.O_WRONLY, 0o600))
            uarts.append(Uart("unix", ports.socket_path(base), daemon))
    return tuple(uarts)


def _mark(ctx: Context, vm: VMRecord) -> Mark:
    return Mark(installation=ctx.store.installation, lab=vm.lab, vm=vm.name)


# networks


def _own_network(ctx: Context, vm: VMRecord) -> None:
    """A network for this VM alone; the VM's address is known before it boots."""
    bridge = addressing.bridge_name(ctx.store.installation, "v", vm.id)
    subnet = _create_network(
        ctx,
        name=vm.network,
        bridge=bridge,
        mode="per-vm",
        prefix=PER_VM_PREFIX,
        mark=_mark(ctx, vm),
        reserve_for=vm,
    )
    ctx.store.update_vm(vm.name, bridge=bridge, address=str(subnet.first))


def _shared_network(ctx: Context, batch: Batch, mode: str) -> None:
    first = batch.vms[0]
    existing = {network.name: network for network in ctx.hypervisor.networks()}.get(first.network)
    mark = Mark(installation=ctx.store.installation, lab=batch.lab)
    if existing is not None and existing.mark == mark:
        bridge = existing.bridge
    else:
        bridge = addressing.bridge_name(ctx.store.installation, "l", first.id)
        _create_network(ctx, name=first.network, bridge=bridge, mode=mode, prefix=SHARED_PREFIX, mark=mark)
    for vm in batch.vms:
        ctx.store.update_vm(vm.name, bridge=bridge)


def _join_network(ctx: Context, vm: VMRecord) -> None:
    """A network that exists; the VM's address is known once it has asked for one."""
    network = next((network for network in ctx.hypervisor.networks() if network.name == vm.network), None)
    if network is None:
        raise Failed(f"network {vm.network!r} is not on {ctx.host.name} any more")
    ctx.store.update_vm(vm.name, bridge=network.bridge)


def _create_network(
    ctx: Context,
    *,
    name: str,
    bridge: str,
    mode: str,
    prefix: int,
    mark: Mark,
    reserve_for: VMRecord | None = None,
) -> Subnet:
    """Lease a subnet that nobody uses and make a network of it; other candidates are tried when one is taken."""
    host, store = ctx.host.name, ctx.store
    existing = {network.name: network for network in ctx.hypervisor.networks()}
    if name in existing:
        raise NameTaken(
            f"there is a network called {name!r} on {host} already",
            hint="it is not ours to use" if foreign(existing[name].mark, store.installation) else "run: vmprov delete",
        )
    taken = {*ctx.host.routes(), *(subnet for network in existing.values() for subnet in network.subnets)}
    store.own(lab=mark.lab, vm=mark.vm, host=host, kind="network", name=name)
    refusal: NameTaken | None = None
    for _ in range(_SUBNET_TRIES):
        ctx.cancel.check()
        leased = store.lease_subnet(
            host=host,
            lab=mark.lab,
            vm=mark.vm,
            candidates=lambda used: free_subnets(ctx.settings.subnets, prefix, taken | used),
        )
        if leased is None:
            break
        subnet = Subnet(leased)
        reservations = [Reservation(reserve_for.mac, reserve_for.name, str(subnet.first))] if reserve_for else []
        plan = NetworkPlan(name, bridge, mode, subnet, reservations, mark)
        try:
            ctx.hypervisor.create_network(plan.to_xml())
        except NameTaken as problem:
            refusal = problem
            taken.add(leased)
            store.release(host=host, kind="subnet", value=str(leased))
        else:
            return subnet
    if refusal is not None:
        raise Failed(f"no network could be made: {refusal}") from refusal
    raise Failed(
        f"no free /{prefix} subnet is left in {ctx.settings.subnets}",
        hint="delete VMs, or give another range in VMPROV_SUBNETS",
    )


# volumes


def _claim_volume(ctx: Context, vm: VMRecord, name: str) -> None:
    """Record a volume that is about to be made; one that exists already is somebody else's."""
    if ctx.hypervisor.volume(ctx.host.pool, name) is not None:
        raise NameTaken(
            f"there is a volume called {name!r} in pool {ctx.host.pool} already",
            hint="it is not ours; remove or rename it",
        )
    ctx.store.own(lab=vm.lab, vm=vm.name, host=ctx.host.name, kind="volume", name=name, pool=ctx.host.pool)


def _make_seed(ctx: Context, vm: VMRecord) -> str:
    name = f"{vm.domain}-seed.iso"
    _claim_volume(ctx, vm, name)
    public_key = ctx.home.key(vm.lab).with_suffix(".pub").read_text().strip()
    with tempfile.TemporaryDirectory(prefix="vmprov-seed-") as scratch:
        path = Path(scratch) / "seed.iso"
        size = write_seed(path, hostname=vm.name, instance_id=vm.uuid, public_key=public_key)
        volume = ctx.hypervisor.upload_volume(ctx.host.pool, name, path, format="raw", capacity=size)
    return volume.path
