"""What only a host knows about a VM, put into files while the VM is still there."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from vmprov.addressing import network_name
from vmprov.engine.context import Context
from vmprov.engine.evidence.kept import RECORD, record_json
from vmprov.errors import Failed, NotFound, VmprovError
from vmprov.store import VMRecord

COLLECTED = "collected.json"
# QEMU's log is short, unless something in it goes round in circles; its end is what tells.
_MOST_LOG = 1 << 20


def collect(ctx: Context, vm: VMRecord, directory: Path) -> dict[str, str]:
    """Put what the host knows of a VM into ``directory``, which exists: definitions, leases, QEMU's log, versions.

    Takes a few calls of libvirt and never raises: what cannot be had is returned as file -> why, and written down in
    ``collected.json`` with the versions.
    """
    versions = {
        "vmprov": str(import_module("vmprov").__version__),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "host": ctx.host.name,
    }
    missing: dict[str, str] = {}

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (VmprovError, OSError) as problem:
            missing[name] = reason(problem)

    def ask_versions() -> None:
        node = ctx.hypervisor.node()
        versions.update(libvirt=node.libvirt, qemu=node.qemu)

    attempt("versions", ask_versions)
    if "versions" in missing:
        # Nobody answers: asking four times more would only take time.
        missing |= dict.fromkeys(("domain.xml", "network.xml", "leases.json"), missing["versions"])
    else:
        attempt("domain.xml", lambda: _write(directory / "domain.xml", _domain_xml(ctx, vm)))
        attempt("network.xml", lambda: _write(directory / "network.xml", ctx.hypervisor.network_xml(vm.network)))
        attempt("leases.json", lambda: _write(directory / "leases.json", _leases(ctx, vm)))
    attempt("qemu.log", lambda: _copy_qemu_log(ctx, vm, directory / "qemu.log"))
    attempt(RECORD, lambda: _write_record(ctx, vm, directory))
    vagrantfile = ctx.home.lab(vm.lab) / "Vagrantfile"
    if vm.driver == "vagrant":
        attempt("Vagrantfile", lambda: _write(directory / "Vagrantfile", vagrantfile.read_bytes()))
    collected = {"at": time.time(), "versions": versions, "missing": missing}
    attempt(COLLECTED, lambda: _write(directory / COLLECTED, json.dumps(collected, indent=1)))
    return missing


def reason(problem: Exception) -> str:
    """Why something could not be had, without the path that a file error brings along."""
    if isinstance(problem, OSError):
        return (problem.strerror or str(problem)).lower()
    return str(problem)


def _domain_xml(ctx: Context, vm: VMRecord) -> str:
    if ctx.hypervisor.domain(vm.domain).uuid != vm.uuid:
        raise Failed("its domain is gone, or was never made")
    # Without VIR_DOMAIN_XML_SECURE, libvirt leaves passwords out.
    return ctx.hypervisor.domain_xml(vm.domain)


def _leases(ctx: Context, vm: VMRecord) -> str:
    ours = vm.network.startswith(network_name(ctx.store.installation, ""))
    # Who else is on a network of somebody else's is nobody's business.
    leases = [lease for lease in ctx.hypervisor.network_leases(vm.network) if ours or lease.mac == vm.mac]
    return json.dumps([asdict(lease) for lease in leases], indent=1)


def _copy_qemu_log(ctx: Context, vm: VMRecord, target: Path) -> None:
    source = ctx.host.qemu_log(vm.domain)
    if source is None:
        raise Failed(f"nobody knows where QEMU writes on host {ctx.host.name}")
    with source.open("rb") as file:
        size = source.stat().st_size
        file.seek(max(0, size - _MOST_LOG))
        _write(target, file.read(_MOST_LOG))


def _write_record(ctx: Context, vm: VMRecord, directory: Path) -> None:
    with suppress(NotFound):
        vm = ctx.store.vm(vm.name)
    document = record_json(vm, ctx.store.lab(vm.lab))
    _write(directory / RECORD, json.dumps(document, indent=1))


def _write(path: Path, content: str | bytes) -> None:
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    path.touch(mode=0o600)
    path.write_bytes(data)
