"""From a request to records: names, numbers and addresses are handed out before anything is made."""

from __future__ import annotations

import uuid
from collections.abc import Container, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

from vmprov import addressing
from vmprov.capacity import shortage
from vmprov.engine.context import Context, check_place
from vmprov.engine.plan import wishes_of
from vmprov.engine.renames import FORMER_NAME, NEW_NAME
from vmprov.errors import NameTaken, SpecError
from vmprov.firmware import choose_loader, read_certificates
from vmprov.images import Image
from vmprov.networks import BRIDGE, MODES
from vmprov.spec.lab import VMSpec, lab_of
from vmprov.spec.machine import Machine
from vmprov.spec.quantities import format_size
from vmprov.spec.request import CreateRequest
from vmprov.store import Nic, VMRecord, labels_column, nics_column

BLANK_DISK = 10 * 1024**3


def record_request(ctx: Context, request: CreateRequest, *, ask_host: bool = True) -> list[VMRecord]:
    """Choose names for what was asked for, and record it; see :func:`record`. The lab is not told to anybody before."""
    with ctx.store.transaction():
        lab = _choose_lab(ctx, request)
        taken = {vm.name for vm in ctx.store.vms()}
        names = request.vm_names(taken)
        return record(ctx, lab, lab_of(request, lab=lab, names=names).vms, ask_host=ask_host)


def record(
    ctx: Context, lab: str, wanted: Sequence[VMSpec], *, ask_host: bool = True, networks: Container[str] = ()
) -> list[VMRecord]:
    """Check VMs against what exists, then write all records in one transaction.

    ``networks``: names of those that are going to be made for the lab.
    Without ``ask_host``, what only the host knows (its networks, its room) is left unchecked.
    Raises :class:`SpecError` (or its kinds) before anything is written.
    """
    images = {name: ctx.images.get(name) for name in {spec.image for spec in wanted} if name}
    disks = {spec.name: _disk_size(spec, images.get(spec.image)) for spec in wanted}
    _check_certificates(wanted)
    if ask_host:
        _check_networks(ctx, wanted, networks)
        for secure in {spec.firmware == "secure-boot" for spec in wanted if spec.firmware != "bios"}:
            choose_loader(ctx.hypervisor.loaders(), secure=secure, host=ctx.host.name)
    with ctx.store.transaction():
        if ask_host:
            check_room(ctx, [spec.memory for spec in wanted])
            _check_domains(ctx, [spec.name for spec in wanted])
        _check_names(ctx, lab, [spec.name for spec in wanted])
        ctx.store.add_lab(lab, host=ctx.host.name, driver=ctx.driver.name)
        former = ctx.store.leased(host="", kind=FORMER_NAME)
        for spec in wanted:
            _record_vm(
                ctx, lab, spec, images.get(spec.image), disks[spec.name], networks=networks, met=spec.name in former
            )
        return [ctx.store.vm(spec.name) for spec in wanted]


def _check_names(ctx: Context, lab: str, names: Sequence[str]) -> None:
    taken = {vm.name for vm in ctx.store.vms()} | ctx.store.leased(host="", kind=NEW_NAME)
    if clashes := sorted(set(names) & taken):
        raise NameTaken(
            f"there is a VM called {clashes[0]!r} already", hint="choose another --name, or delete it first"
        )
    if lab in taken | set(names) or set(names) & {other.name for other in ctx.store.labs()}:
        raise NameTaken("a VM and a lab cannot have the same name", hint="choose another --name or --lab")


def _check_domains(ctx: Context, names: Sequence[str]) -> None:
    """Raise :class:`NameTaken` for a domain of ours that is not recorded: it and its files would be lost."""
    recorded = {vm.domain for vm in ctx.store.vms() if vm.host == ctx.host.name}
    wanted = {addressing.domain_name(ctx.store.installation, name) for name in names} - recorded
    for domain in sorted(ctx.hypervisor.domains(), key=lambda domain: domain.name):
        if domain.name in wanted and domain.mark is not None and domain.mark.installation == ctx.store.installation:
            raise NameTaken(
                f"{ctx.host.name} has a domain called {domain.name!r} already, and nothing is recorded of it",
                hint="record it again: vmprov gc --rebuild",
            )


def _disk_size(spec: Machine, image: Image | None) -> int:
    if image is None:
        return spec.disk or BLANK_DISK
    if spec.disk is not None and spec.disk < image.virtual_size:
        raise SpecError(
            f"--disk {format_size(spec.disk)} is smaller than image {image.name}",
            hint=f"at least {format_size(image.virtual_size)}",
        )
    return spec.disk or image.virtual_size


def _check_certificates(wanted: Sequence[Machine]) -> None:
    """Raise :class:`SpecError` for the first file without a certificate that firmware will take."""
    for path in dict.fromkeys(path for spec in wanted if spec.http_boot for path in spec.http_boot.ca):
        read_certificates(path, now=datetime.now(UTC))
    for path in dict.fromkeys(path for spec in wanted for path in spec.boot_certificates):
        # Firmware does not look at the dates of what is signed.
        read_certificates(path)


def _check_networks(ctx: Context, wanted: Sequence[VMSpec], ours: Container[str]) -> None:
    named = {name for spec in wanted for name in spec.networks if name not in ours}
    existing = sorted(name for name in named if name not in MODES and not name.startswith(BRIDGE))
    networks = {network.name: network for network in ctx.hypervisor.networks()} if existing else {}
    for name in existing:
        if name not in networks:
            known = ", ".join(sorted(networks)) or "none"
            raise SpecError(
                f"no network called {name!r} on {ctx.host.name}",
                hint=f"use per-vm, shared, isolated, bridge:NAME, or one that exists ({known})",
            )
        if not networks[name].active:
            raise SpecError(f"network {name!r} is not active", hint=f"run: virsh net-start {name}")


def check_room(ctx: Context, memory: Sequence[int]) -> None:
    """Raise :class:`SpecError` if VMs with so many bytes of memory do not all fit beside those that are there."""
    ours = sum(vm.memory for vm in ctx.store.vms() if vm.host == ctx.host.name)
    lacking = shortage(ctx.hypervisor.node(), ctx.hypervisor.pool(ctx.host.pool), wanted=memory, committed=ours)
    if lacking:
        raise SpecError(
            f"{len(memory)} VMs do not fit on {ctx.host.name}: {lacking}", hint="ask for fewer or smaller ones"
        )


def _choose_lab(ctx: Context, request: CreateRequest) -> str:
    if not request.lab:
        return new_lab(ctx)
    check_place(ctx, request.lab)
    return request.lab


def new_lab(ctx: Context) -> str:
    """A name for a lab that nobody asked a name for."""
    labs = {lab.name for lab in ctx.store.labs()}
    return next(name for number in range(1, 10**6) if (name := f"lab-{number}") not in labs)


def _record_vm(
    ctx: Context, lab: str, spec: VMSpec, image: Image | None, disk: int, *, met: bool, networks: Container[str]
) -> None:
    """``met``: another VM, which once had the name, has things that are called so."""
    installation = ctx.store.installation
    vm_id = ctx.store.add_vm(
        lab=lab, name=spec.name, state="creating", host=ctx.host.name, driver=ctx.driver.name,
        domain="", uuid=str(uuid.uuid4()), image=spec.image, login=image.login if image else "none", network="",
        bridge="", address="", mac="", serial_number="", cpus=spec.cpus, memory=spec.memory, disk=disk,
        consoles=spec.consoles, spec=wishes_of(spec).model_dump_json(), labels=labels_column(spec.labels),
        protected=spec.protect, expires=ctx.store.expiry(spec.ttl),
    )  # fmt: skip
    domain = addressing.domain_name(installation, spec.name, vm_id if met else 0)
    owner = addressing.owner_of(installation, domain)
    nics = [_nic(installation, lab, owner, place, wanted, networks) for place, wanted in enumerate(spec.networks)]
    nics = [replace(nic, mac=addressing.mac_address(installation, vm_id, place)) for place, nic in enumerate(nics)]
    generated = (addressing.serial_number(installation, number) for number in count(vm_id))
    candidates = [spec.serial_number] if spec.serial_number else generated
    number = ctx.store.lease(host="", kind="serial number", lab=lab, vm=spec.name, candidates=candidates)
    if number is None:
        raise NameTaken(f"another VM has the serial number {spec.serial_number} already")
    ctx.store.update_vm(
        spec.name, domain=domain, network=nics[0].network, bridge=nics[0].bridge, mac=nics[0].mac,
        serial_number=number, nics=nics_column(nics),
    )  # fmt: skip


def record_again(ctx: Context, spec: VMSpec, *, networks: Container[str] = ()) -> None:
    """Record what a VM is made anew with; its numbers, addresses and names stay."""
    vm = ctx.store.vm(spec.name)
    image = ctx.images.get(spec.image) if spec.image else None
    installation = ctx.store.installation
    owner = addressing.owner_of(installation, vm.domain)
    before = dict(enumerate(zip(vm.machine.networks, vm.nics, strict=True)))
    nics = []
    for place, wanted in enumerate(spec.networks):
        mode, nic = before.get(place, ("", None))
        if nic is None or mode != wanted:
            nic = _nic(installation, vm.lab, owner, place, wanted, networks)
            nic = replace(nic, mac=addressing.mac_address(installation, vm.id, place))
        nics.append(nic)
    ctx.store.update_vm(
        vm.name, state="rebuilding", verdict="", why="", judgement="", image=spec.image,
        login=image.login if image else "none", network=nics[0].network, bridge=nics[0].bridge, mac=nics[0].mac,
        address=nics[0].address, nics=nics_column(nics), cpus=spec.cpus, memory=spec.memory,
        disk=_disk_size(spec, image), consoles=spec.consoles, spec=wishes_of(spec).model_dump_json(),
        labels=labels_column(spec.labels), protected=spec.protect,
        expires=ctx.store.expiry(spec.ttl) or vm.expires,
    )  # fmt: skip


def _nic(installation: str, lab: str, owner: str, place: int, wanted: str, ours: Container[str]) -> Nic:
    """What a NIC is going to be on; its MAC address, and bridges of ours, are known later."""
    if wanted.startswith(BRIDGE):
        return Nic(network="", bridge=wanted.removeprefix(BRIDGE), mac="")
    # A VM's name has no dot, so that these never meet.
    owners = {
        "per-vm": f"{owner}.{place}" if place else owner,
        "shared": f"shared.{lab}",
        "isolated": f"isolated.{lab}",
    }
    if wanted in ours:
        owners[wanted] = f"{wanted}.{lab}"
    network = addressing.network_name(installation, owners[wanted]) if wanted in owners else wanted
    return Nic(network=network, bridge="", mac="")
