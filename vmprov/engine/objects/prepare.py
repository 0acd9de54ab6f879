"""Everything that a VM needs before it is powered on: its network, its seed, its files."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from vmprov.console import ports
from vmprov.console.relay import daemon_log
from vmprov.drivers import DataDisk, Firmware, Order, Uart
from vmprov.engine.context import Context
from vmprov.engine.objects import base_volume, nics
from vmprov.engine.objects.volumes import claim, volumes_of
from vmprov.errors import SpecError
from vmprov.firmware import choose_loader, read_certificates, variable_store
from vmprov.hypervisor import Mark
from vmprov.locks import exclusive
from vmprov.paths import make_private
from vmprov.seeds import write_seed
from vmprov.spec.machine import Disk, Machine
from vmprov.ssh import make_key
from vmprov.store import VMRecord
from vmprov.waiting import Deadline

_LOCK_LIMIT = 300.0


def prepare_lab(ctx: Context, lab: str, vms: Sequence[VMRecord]) -> None:
    """What VMs of a lab share: the key pair, base volumes, and shared networks. What is there already stays."""
    prepare_key(ctx, lab)
    prepare_networks(ctx, vms)
    for name in sorted({vm.image for vm in vms if vm.image}):
        base_volume.ensure(ctx, ctx.images.get(name), lab=lab, vms=[vm.name for vm in vms if vm.image == name])


def prepare_key(ctx: Context, lab: str) -> None:
    """The lab's key pair; one that is there stays."""
    with _lab_locked(ctx, lab):
        make_private(ctx.home.lab(lab))
        make_key(ctx.home.key(lab), ctx.runner, comment=f"vmprov lab {lab}")


def prepare_networks(ctx: Context, vms: Sequence[VMRecord]) -> None:
    """What VMs of one lab need before their NICs can be connected: shared networks, and subnets for their own."""
    if vms:
        with _lab_locked(ctx, vms[0].lab):
            nics.make_shared_networks(ctx, vms)
            nics.lease_own_subnets(ctx, vms)


def _lab_locked(ctx: Context, lab: str) -> AbstractContextManager[None]:
    """Nobody else makes or removes what the lab's VMs share."""
    return exclusive(ctx.home.lock(f"lab-{lab}"), Deadline(_LOCK_LIMIT), f"lab {lab}", cancel=ctx.cancel)


def prepare_vm(ctx: Context, vm: VMRecord) -> Order:
    """Make the VM's own networks, disks, firmware and seed, if they are not there; returns the order for the driver."""
    image = ctx.images.get(vm.image) if vm.image else None
    machine = vm.machine
    directory = ctx.home.vm(vm.name)
    make_private(directory)
    ctx.stage(vm.name, "network")
    nics.connect(ctx, vm)
    vm = ctx.store.vm(vm.name)
    ctx.stage(vm.name, "disk")
    system_disk = volumes_of(ctx, vm).disk("")
    claim(ctx, vm, system_disk)
    return Order(
        vm=vm.name, lab=vm.lab, domain=vm.domain, uuid=vm.uuid, mark=_mark(ctx, vm), cpus=vm.cpus, memory=vm.memory,
        disk_volume=system_disk, disk_size=vm.disk, pool=ctx.host.pool,
        image=base_volume.base_image(ctx.images, image, ctx.store.installation) if image else None,
        seed=make_seed(ctx, vm) if image is not None else "",
        nics=vm.nics, serial_number=vm.serial_number, consoles=make_consoles(ctx, vm), boot=machine.boot_order,
        disks=tuple(make_disk(ctx, vm, disk) for disk in machine.disks), firmware=make_firmware(ctx, vm, machine),
        pxe=machine.pxe, tpm=machine.tpm, manufacturer=machine.smbios.manufacturer, product=machine.smbios.product,
        screen_password=_make_screen_password(ctx, vm) if machine.graphics == "vnc" else None,
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


# files and volumes


def _make_screen_password(ctx: Context, vm: VMRecord) -> Path:
    """The file with the password of the VM's screen, made up; VNC looks at eight characters."""
    path = ctx.home.screen_password(vm.name)
    with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:  # noqa: PTH123
        file.write(secrets.token_urlsafe(6))
    return path


def make_firmware(ctx: Context, vm: VMRecord, machine: Machine) -> Firmware | None:
    """The machine's variable store, with the certificates that it trusts; nothing for a BIOS."""
    if machine.firmware == "bios":
        return None
    secure = machine.firmware == "secure-boot"
    authorities = machine.http_boot.ca if machine.http_boot else ()
    store = variable_store(
        tls=[certificate for path in authorities for certificate in read_certificates(path)],
        secure_boot=secure,
        boot=[certificate for path in machine.boot_certificates for certificate in read_certificates(path)],
    )
    loader = choose_loader(ctx.hypervisor.loaders(), secure=secure, host=ctx.host.name)
    name = volumes_of(ctx, vm).nvram
    claim(ctx, vm, name)
    ctx.hypervisor.remove_volume(ctx.host.pool, name)
    with tempfile.NamedTemporaryFile(prefix=".nvram-", dir=ctx.home.vm(vm.name)) as file:
        file.write(store)
        file.flush()
        volume = ctx.hypervisor.upload_volume(ctx.host.pool, name, Path(file.name), format="raw", capacity=len(store))
    return Firmware(loader=loader, nvram=volume.path, secure=secure)


def make_disk(ctx: Context, vm: VMRecord, disk: Disk) -> DataDisk:
    """The data disk; one that is there has somebody's data, and at most grows."""
    name = volumes_of(ctx, vm).disk(disk.name)
    claim(ctx, vm, name)
    if ctx.hypervisor.volume(ctx.host.pool, name) is None:
        ctx.hypervisor.create_volume(ctx.host.pool, name, size=disk.size)
    return DataDisk(ctx.hypervisor.grow_volume(ctx.host.pool, name, disk.size).path, disk.name)


def make_seed(ctx: Context, vm: VMRecord) -> str:
    """The volume with what the VM's first boot does; returns its path on the host."""
    name = volumes_of(ctx, vm).seed
    claim(ctx, vm, name)
    public_key = ctx.home.key(vm.lab).with_suffix(".pub").read_text().strip()
    with tempfile.TemporaryDirectory(prefix=".seed-", dir=ctx.home.vm(vm.name)) as scratch:
        path = Path(scratch) / "seed.iso"
        size = write_seed(path, hostname=vm.name, instance_id=vm.uuid, public_key=public_key, extras=vm.machine.seed)
        ctx.hypervisor.remove_volume(ctx.host.pool, name)
        volume = ctx.hypervisor.upload_volume(ctx.host.pool, name, path, format="raw", capacity=size)
    return volume.path
