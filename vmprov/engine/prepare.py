"""Everything that a VM needs before it is powered on: its network, its seed, its files."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmprov.console import ports
from vmprov.console.relay import daemon_log
from vmprov.drivers import DataDisk, Firmware, Order, Uart
from vmprov.engine import base_volume, nics
from vmprov.engine.context import Context
from vmprov.engine.records import Batch
from vmprov.errors import Failed, NameTaken, SpecError
from vmprov.firmware import choose_loader, read_certificates, variable_store
from vmprov.hypervisor import Mark
from vmprov.images import Image
from vmprov.locks import exclusive
from vmprov.seeds import write_seed
from vmprov.spec.machine import Disk, Machine
from vmprov.ssh import make_key
from vmprov.store import VMRecord
from vmprov.waiting import Deadline

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
def prepare_lab(ctx: Context, batch: Batch) -> None:
    """What the VMs of a lab share: the key pair, the base volume, and shared networks if asked for."""
    directory = ctx.home.lab(batch.lab)
    with exclusive(ctx.home.lock(f"lab-{batch.lab}"), Deadline(_LOCK_LIMIT), f"lab {batch.lab}", cancel=ctx.cancel):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_key(ctx.home.key(batch.lab), ctx.runner, comment=f"vmprov lab {batch.lab}")
        nics.make_shared_networks(ctx, batch.vms[0])
    if batch.image is not None:
        base_volume.ensure(ctx, batch.image, lab=batch.lab, vms=[vm.name for vm in batch.vms])


@_needing_files()
def prepare_vm(ctx: Context, vm: VMRecord, image: Image | None) -> Order:
    """Make the VM's own networks, disks, firmware and seed; returns the order for the driver."""
    machine = vm.machine
    directory = ctx.home.vm(vm.name)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ctx.stage(vm.name, "network")
    nics.connect(ctx, vm)
    vm = ctx.store.vm(vm.name)
    ctx.stage(vm.name, "disk")
    disk_volume = f"{vm.domain}.img"
    _claim_volume(ctx, vm, disk_volume)
    return Order(
        vm=vm.name, lab=vm.lab, domain=vm.domain, uuid=vm.uuid, mark=_mark(ctx, vm), cpus=vm.cpus, memory=vm.memory,
        disk_volume=disk_volume, disk_size=vm.disk, pool=ctx.host.pool,
        image=base_volume.base_image(ctx.images, image, ctx.store.installation) if image else None,
        seed=_make_seed(ctx, vm) if image is not None else "",
        nics=vm.nics, serial_number=vm.serial_number, consoles=make_consoles(ctx, vm), boot=machine.boot_order,
        disks=tuple(_make_disk(ctx, vm, disk) for disk in machine.disks), firmware=_make_firmware(ctx, vm, machine),
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


def _make_firmware(ctx: Context, vm: VMRecord, machine: Machine) -> Firmware | None:
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
    name = f"{vm.domain}.nvram"
    _claim_volume(ctx, vm, name)
    with tempfile.NamedTemporaryFile(prefix="vmprov-nvram-") as file:
        file.write(store)
        file.flush()
        volume = ctx.hypervisor.upload_volume(ctx.host.pool, name, Path(file.name), format="raw", capacity=len(store))
    return Firmware(loader=loader, nvram=volume.path, secure=secure)


def _make_disk(ctx: Context, vm: VMRecord, disk: Disk) -> DataDisk:
    # A VM's name has no dot, so that these are not those of another VM.
    name = f"{vm.domain}.{disk.name}.img"
    _claim_volume(ctx, vm, name)
    return DataDisk(ctx.hypervisor.create_volume(ctx.host.pool, name, size=disk.size).path, disk.name)


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
