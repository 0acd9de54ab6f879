"""From a request to records: names, numbers and addresses are handed out before anything is made."""

from __future__ import annotations

import uuid
from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import count

from vmprov import addressing
from vmprov.engine.context import Context, check_place
from vmprov.engine.feasible import check_machines, check_names, check_room, check_unrecorded, system_disk_size
from vmprov.engine.plan import wishes_of
from vmprov.engine.renames import FORMER_NAME
from vmprov.errors import NameTaken
from vmprov.images import Image
from vmprov.networks import BRIDGE
from vmprov.spec.lab import VMSpec, lab_of
from vmprov.spec.request import CreateRequest
from vmprov.store import Nic, VMRecord, labels_column, nics_column


def record_request(ctx: Context, request: CreateRequest, *, ask_host: bool = True) -> list[VMRecord]:
    """Choose names for what was asked for, check it, and record it; the lab is not told to anybody before.

    Without ``ask_host``, what only the host knows (its networks, its room) is left unchecked. Raises as :func:`record`.
    """
    with ctx.store.transaction():
        lab = _choose_lab(ctx, request)
        taken = {vm.name for vm in ctx.store.vms()}
        names = request.vm_names(taken)
        wanted = lab_of(request, lab=lab, names=names).vms
        check_machines(ctx, wanted, ask_host=ask_host)
        return record(ctx, lab, wanted, ask_host=ask_host)


def record(
    ctx: Context, lab: str, wanted: Sequence[VMSpec], *, ask_host: bool = True, networks: Container[str] = ()
) -> list[VMRecord]:
    """Write the records of VMs that can be made, in one transaction, if their names are free and they fit.

    ``networks``: names of those that are going to be made for the lab. Raises :class:`SpecError` (or its kinds) before
    anything is written.
    """
    images = {name: ctx.images.get(name) for name in {spec.image for spec in wanted} if name}
    with ctx.store.transaction():
        if ask_host:
            check_room(ctx, [spec.memory for spec in wanted])
            check_unrecorded(ctx, [spec.name for spec in wanted])
        check_names(ctx, lab, [spec.name for spec in wanted])
        ctx.store.add_lab(lab, host=ctx.host.name, driver=ctx.driver.name)
        former = ctx.store.leased(host="", kind=FORMER_NAME)
        for spec in wanted:
            _record_vm(ctx, lab, spec, images.get(spec.image), networks=networks, met=spec.name in former)
        return [ctx.store.vm(spec.name) for spec in wanted]


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
    ctx: Context, lab: str, spec: VMSpec, image: Image | None, *, met: bool, networks: Container[str]
) -> None:
    """``met``: another VM, which once had the name, has things that are called so."""
    installation = ctx.store.installation
    vm_id = ctx.store.add_vm(
        lab=lab, name=spec.name, state="creating", host=ctx.host.name, driver=ctx.driver.name,
        domain="", uuid=str(uuid.uuid4()), image=spec.image, login=image.login if image else "none", network="",
        bridge="", address="", mac="", serial_number="", cpus=spec.cpus, memory=spec.memory,
        disk=system_disk_size(spec, image),
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
        disk=system_disk_size(spec, image), consoles=spec.consoles, spec=wishes_of(spec).model_dump_json(),
        labels=labels_column(spec.labels), protected=spec.protect,
        expires=ctx.store.expiry(spec.ttl),
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
