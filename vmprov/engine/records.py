"""From a request to records: names, numbers and addresses are handed out before anything is made."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count

from vmprov import addressing
from vmprov.capacity import room_for
from vmprov.engine.context import Context
from vmprov.errors import NameTaken, SpecError
from vmprov.firmware import choose_loader, read_certificates
from vmprov.flows.grammar import Flow
from vmprov.images import Image
from vmprov.networks import BRIDGE, MODES
from vmprov.spec.quantities import format_size
from vmprov.spec.request import CreateRequest
from vmprov.store import Nic, VMRecord, nics_column

BLANK_DISK = 10 * 1024**3


@dataclass(frozen=True)
class Batch:
    """What one ``create`` makes: the lab, its VMs' records, and the image they start from."""

    lab: str
    vms: list[VMRecord]
    image: Image | None


def suited(request: CreateRequest, flow: Flow | None) -> CreateRequest:
    """The request with what a flow brings and needs: its defaults, serial ports, and its limit where none is given.

    Raises :class:`SpecError` if there are wishes that do not go together then.
    """
    if flow is not None:
        request = request.over(flow.machine) if flow.machine is not None else request
        request = _with_needs(request, flow)
    request.refuse_conflicts()
    return request


def _with_needs(request: CreateRequest, flow: Flow) -> CreateRequest:
    consoles = max(request.consoles, *(console + 1 for console in flow.consoles))
    timeout = flow.limit if request.timeout is None else request.timeout
    return request.model_copy(update={"consoles": consoles, "timeout": timeout})


def record(ctx: Context, request: CreateRequest, *, ask_host: bool = True) -> Batch:
    """Check the request against what exists, then write all records in one transaction.

    Without ``ask_host``, what only the host knows (its networks, its room) is left unchecked.
    Raises :class:`SpecError` (or its kinds) before anything is written.
    """
    image = ctx.images.get(request.image) if request.image else None
    disk = _disk_size(request, image)
    _check_certificates(request)
    if ask_host:
        _check_network(ctx, request)
        if request.firmware != "bios":
            choose_loader(ctx.hypervisor.loaders(), secure=request.firmware == "secure-boot", host=ctx.host.name)
    with ctx.store.transaction():
        if ask_host:
            _check_room(ctx, request)
        lab = _choose_lab(ctx, request)
        taken = {vm.name for vm in ctx.store.vms()}
        names = request.vm_names(taken)
        clashes = sorted(set(names) & taken)
        if clashes:
            raise NameTaken(
                f"there is a VM called {clashes[0]!r} already",
                hint="choose another --name, or delete it first",
            )
        if lab in taken | set(names) or set(names) & {other.name for other in ctx.store.labs()}:
            raise NameTaken("a VM and a lab cannot have the same name", hint="choose another --name or --lab")
        ctx.store.add_lab(lab, host=ctx.host.name, driver=ctx.driver.name)
        for position, name in enumerate(names):
            _record_vm(ctx, request, image, disk, lab=lab, name=name, position=position)
        vms = [ctx.store.vm(name) for name in names]
    return Batch(lab=lab, vms=vms, image=image)


def _disk_size(request: CreateRequest, image: Image | None) -> int:
    if image is None:
        return request.disk or BLANK_DISK
    if request.disk is not None and request.disk < image.virtual_size:
        raise SpecError(
            f"--disk {format_size(request.disk)} is smaller than image {image.name}",
            hint=f"at least {format_size(image.virtual_size)}",
        )
    return request.disk or image.virtual_size


def _check_certificates(request: CreateRequest) -> None:
    """Raise :class:`SpecError` for the first file without a certificate that firmware will take."""
    for path in request.http_boot.ca if request.http_boot else ():
        read_certificates(path, now=datetime.now(UTC))
    for path in request.boot_certificates:
        # Firmware does not look at the dates of what is signed.
        read_certificates(path)


def _check_network(ctx: Context, request: CreateRequest) -> None:
    existing = [name for name in request.networks if name not in MODES and not name.startswith(BRIDGE)]
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


def _check_room(ctx: Context, request: CreateRequest) -> None:
    count = request.count or 1
    ours = sum(vm.memory for vm in ctx.store.vms() if vm.host == ctx.host.name)
    room = room_for(ctx.hypervisor.node(), ctx.hypervisor.pool(ctx.host.pool), memory=request.memory, committed=ours)
    if room.vms < count:
        fit = f"{room.vms} would fit" if room.vms else "not one would fit"
        raise SpecError(
            f"{count} VMs do not fit on {ctx.host.name}: {fit} ({room.limit})",
            hint="ask for fewer or smaller ones",
        )


def _choose_lab(ctx: Context, request: CreateRequest) -> str:
    labs = {lab.name: lab for lab in ctx.store.labs()}
    if not request.lab:
        return next(name for number in range(1, 10**6) if (name := f"lab-{number}") not in labs)
    existing = labs.get(request.lab)
    if existing and (existing.host, existing.driver) != (ctx.host.name, ctx.driver.name):
        raise SpecError(
            f"lab {request.lab!r} is on {existing.host} with driver {existing.driver}",
            hint="a lab has one host and one driver; choose another --lab",
        )
    return request.lab


def _record_vm(
    ctx: Context,
    request: CreateRequest,
    image: Image | None,
    disk: int,
    *,
    lab: str,
    name: str,
    position: int,
) -> None:
    installation = ctx.store.installation
    nics = [_nic(installation, lab, name, place, wanted) for place, wanted in enumerate(request.networks)]
    vm_id = ctx.store.add_vm(
        lab=lab, name=name, state="creating", host=ctx.host.name, driver=ctx.driver.name,
        domain=addressing.domain_name(installation, name), uuid=str(uuid.uuid4()),
        image=request.image, login=image.login if image else "none", network=nics[0].network, bridge=nics[0].bridge,
        address="", mac="", serial_number="", cpus=request.cpus, memory=request.memory, disk=disk,
        consoles=request.consoles, spec=request.machine.model_dump_json(),
    )  # fmt: skip
    nics = [replace(nic, mac=addressing.mac_address(installation, vm_id, place)) for place, nic in enumerate(nics)]
    generated = (addressing.serial_number(installation, number) for number in count(vm_id))
    candidates = [request.serial_numbers[position]] if request.serial_numbers else generated
    number = ctx.store.lease(host="", kind="serial number", lab=lab, vm=name, candidates=candidates)
    if number is None:
        raise NameTaken(f"another VM has the serial number {request.serial_numbers[position]} already")
    ctx.store.update_vm(name, mac=nics[0].mac, serial_number=number, nics=nics_column(nics))


def _nic(installation: str, lab: str, vm: str, place: int, wanted: str) -> Nic:
    """What a NIC is going to be on; its MAC address, and bridges of ours, are known later."""
    if wanted.startswith(BRIDGE):
        return Nic(network="", bridge=wanted.removeprefix(BRIDGE), mac="")
    # A VM's name has no dot, so that these never meet.
    owners = {"per-vm": f"{vm}.{place}" if place else vm, "shared": f"shared.{lab}", "isolated": f"isolated.{lab}"}
    network = addressing.network_name(installation, owners[wanted]) if wanted in owners else wanted
    return Nic(network=network, bridge="", mac="")
