"""Domains that others made, taken into a lab as they are: recorded, and never touched but for their power."""

from __future__ import annotations

import os
from pathlib import Path

from vmprov.engine.context import Context
from vmprov.engine.observe import Seen
from vmprov.engine.renames import NEW_NAME
from vmprov.errors import Failed, NameTaken, NotFound, SpecError
from vmprov.hypervisor import Domain, DomainState
from vmprov.hypervisor.definitions import parse_definition
from vmprov.hypervisor.hardware import Hardware, read_hardware
from vmprov.paths import make_private
from vmprov.spec.names import check_name
from vmprov.spec.wishes import Wishes
from vmprov.store import Nic, VMRecord, labels_column, nics_column

_BRIDGE = "bridge:"


def name_of(domain: str) -> str:
    """What a VM is called after its domain; raises :class:`SpecError` if that is no name for one."""
    try:
        return check_name(domain)
    except ValueError as problem:
        raise SpecError(str(problem), hint="give it another one with --name") from problem


def check_domain(ctx: Context, name: str) -> Domain:
    """A domain that may be taken in; raises :class:`SpecError` (or its kinds) saying why another one must not."""
    found = ctx.hypervisor.domain(name)
    if found.state is DomainState.MISSING:
        others = [domain.name for domain in ctx.hypervisor.domains() if domain.mark is None]
        told = ", ".join(sorted(others)[:8]) or "none"
        raise NotFound(f"no domain called {name!r} on {ctx.host.name}", hint=f"there are: {told}")
    if found.mark is not None and found.mark.installation == ctx.store.installation:
        raise SpecError(f"domain {name!r} is ours already: VM {found.mark.vm} of lab {found.mark.lab}")
    if found.mark is not None:
        raise SpecError(f"domain {name!r} belongs to another vmprov (installation {found.mark.installation})")
    for vm in ctx.store.vms():
        if (vm.uuid, vm.host) == (found.uuid, ctx.host.name):
            raise NameTaken(f"domain {name!r} is imported already: it is VM {vm.name} of lab {vm.lab}")
    return found


def look_at(ctx: Context, name: str) -> Seen:
    """A domain that may be taken in, as it is; raises as :func:`check_domain`."""
    found = check_domain(ctx, name)
    definition = parse_definition(ctx.hypervisor.domain_definition(name), "domain")
    return Seen(found.state, hardware=read_hardware(definition))


def admit(ctx: Context, domain: str, *, lab: str, name: str, wishes: Wishes | None = None) -> VMRecord:
    """Record a domain as a VM of a lab; of ``wishes``, labels, protection and time to live count.

    Nothing is written into the domain, and no file is made. Raises :class:`SpecError` (or its kinds) before anything
    is recorded.
    """
    found = check_domain(ctx, domain)
    definition = parse_definition(ctx.hypervisor.domain_definition(domain), "domain")
    hardware = read_hardware(definition)
    kept = Wishes(image="") if wishes is None else Wishes(
        image="", labels=dict(wishes.labels), protect=wishes.protect, ttl=wishes.ttl
    )  # fmt: skip
    nics = _nics(ctx, found, hardware)
    serial = definition.findtext("sysinfo[@type='smbios']/system/entry[@name='serial']", "").strip()
    with ctx.store.transaction():
        labs = {other.name for other in ctx.store.labs()}
        taken = {vm.name for vm in ctx.store.vms()} | ctx.store.leased(host="", kind=NEW_NAME)
        if name in taken:
            raise NameTaken(f"there is a VM called {name!r} already", hint="choose another --name")
        if name in labs | {lab} or lab in taken:
            raise NameTaken("a VM and a lab cannot have the same name", hint="choose another --name or --lab")
        ctx.store.add_lab(lab, host=ctx.host.name, driver=ctx.driver.name)
        ctx.store.add_vm(
            lab=lab, name=name, state="ready", host=ctx.host.name, driver=ctx.driver.name, domain=domain,
            uuid=found.uuid, image="", login="none", network=nics[0].network, bridge=nics[0].bridge,
            address=nics[0].address, mac=nics[0].mac, serial_number=serial, cpus=hardware.cpus, memory=hardware.memory,
            disk=_disk(ctx, hardware), consoles=0, spec=kept.model_dump_json(), labels=labels_column(kept.labels),
            protected=kept.protect, expires=ctx.store.expiry(kept.ttl), nics=nics_column(nics),
            adopted=1,
        )  # fmt: skip
        return ctx.store.vm(name)


def _nics(ctx: Context, domain: Domain, hardware: Hardware) -> list[Nic]:
    """What its NICs are on, and the addresses that are known; without any, one that is on nothing."""
    bridges = {network.name: network.bridge for network in ctx.hypervisor.networks()}
    nics = []
    for mac, network in hardware.nics:
        known = ctx.hypervisor.domain_addresses(domain.name, mac) if domain.state is DomainState.RUNNING else []
        address = known[0] if known else ""
        if network.startswith(_BRIDGE):
            nics.append(Nic("", network.removeprefix(_BRIDGE), mac, address))
        else:
            nics.append(Nic(network, bridges.get(network, ""), mac, address))
    return nics or [Nic("", "", "")]


def _disk(ctx: Context, hardware: Hardware) -> int:
    """The size of its first disk in bytes, if that is in our pool; else 0."""
    sizes = {volume.path: volume.capacity for volume in ctx.hypervisor.volumes(ctx.host.pool)}
    return next((sizes[path] for path in hardware.disks[:1] if path in sizes), 0)


def address_of(ctx: Context, vm: VMRecord) -> str:
    """The address of a VM whose domain is not ours, as far as anybody knows it now."""
    known = ctx.hypervisor.domain_addresses(vm.domain, vm.mac) if vm.mac else []
    return known[0] if known else vm.address


def log_of(ctx: Context, vm: VMRecord, port: int) -> Path:
    """The log that a domain of others has of a serial port; raises :class:`Failed` if it has none that we can read."""
    definition = parse_definition(ctx.hypervisor.domain_definition(vm.domain), "domain")
    serials = definition.findall("devices/serial")
    if port >= len(serials):
        raise Failed(f"{vm.name} has no serial port {port}", hint=f"it has {len(serials)}, counted from 0")
    log = serials[port].find("log")
    source = Path(log.get("file", "")) if log is not None else None
    if source is None or not os.access(source, os.R_OK):
        kind = serials[port].get("type", "")
        why = "is not logged" if source is None else f"is logged to {source} on its host, which cannot be read here"
        raise Failed(f"serial port {port} of {vm.name} ({kind}) {why}", hint=elsewhere(ctx, vm))
    # Under a name that the keeper does not look after: it is not ours to shorten.
    make_private(ctx.home.vm(vm.name))
    link = ctx.home.vm(vm.name) / f"adopted-{port}.log"
    if not link.is_symlink() or link.readlink() != source:
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return link


def elsewhere(ctx: Context, vm: VMRecord) -> str:
    """How to reach a console that is not ours."""
    return f"its console is not ours; try: virsh -c {ctx.host.uri} console {vm.domain}"
