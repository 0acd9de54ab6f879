"""Checks of this machine and host: each says ok, warning or problem, why, and the command that mends it.

Nothing is changed, and a host that is down is not started.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmprov.addressing import PER_VM_PREFIX, free_subnets, parse_routes
from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine
from vmprov.errors import VmprovError
from vmprov.hosts import Host
from vmprov.lab import Vmprov
from vmprov.spec.quantities import format_size
from vmprov.waiting import Deadline

OK, WARNING, PROBLEM = "ok", "warning", "problem"
_DEFAULT_IMAGE = "debian-12"
_LOW_MEMORY = 2 * 1024**3
_LOW_DISK = 5 * 1024**3
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_PROGRAMS = {"ssh": "openssh-client", "ssh-keygen": "openssh-client"}


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``mend`` is a command, or empty."""

    check: str
    level: str
    text: str
    mend: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)


def examine(vmprov: Vmprov, host_uri: str = "") -> Iterator[Finding]:
    """Run every check, cheapest first; a check that breaks is itself a finding."""
    engine = vmprov.engine
    host = vmprov.host(host_uri)
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("state directory", lambda: _state_directory(vmprov)),
        ("programs", _programs),
        ("docker", lambda: _docker(engine)),
        ("host", lambda: _host(vmprov, engine, host)),
        ("acceleration", lambda: _acceleration(host)),
        ("images", lambda: _images(vmprov)),
        ("memory", lambda: _memory(host)),
        ("disk", lambda: _disk(vmprov)),
        ("subnets", lambda: _subnets(vmprov, host)),
        ("permissions", lambda: _permissions(host)),
    ]
    for name, check in checks:
        try:
            yield check()
        except VmprovError as problem:
            yield Finding(name, PROBLEM, problem.what, problem.hint)


def _state_directory(vmprov: Vmprov) -> Finding:
    vmprov.home.create()
    return Finding("state directory", OK, f"{vmprov.home.root}, installation {vmprov.store.installation}")


def _programs() -> Finding:
    missing = sorted(program for program in _PROGRAMS if shutil.which(program) is None)
    if missing:
        packages = " ".join(sorted({_PROGRAMS[program] for program in missing}))
        return Finding(
            "programs", PROBLEM, f"not installed: {', '.join(missing)}", f"sudo apt-get install -y {packages}"
        )
    return Finding("programs", OK, f"{', '.join(_PROGRAMS)} are installed")


def _docker(engine: Engine) -> Finding:
    return Finding("docker", OK, f"Docker Engine {engine.version()} answers")


def _host(vmprov: Vmprov, engine: Engine, host: Host) -> Finding:
    if host.is_up():
        node = host.hypervisor().node()
        return Finding("host", OK, f"{host.name} is up: libvirt {node.libvirt}, QEMU {node.qemu}, {node.cpus} CPUs")
    if host.name != vmprov.settings.host or host.dialer is None:
        host.hypervisor()
    image = recipes.image_name("host")
    if not engine.has_image(image):
        return Finding("host", WARNING, f"{host.name} was never started; its image is not built yet", "vmprov host up")
    trial = ContainerSpec(
        name=f"vmprov-trial-{uuid.uuid4().hex[:8]}",
        image=image,
        labels={"vmprov.role": "trial"},
        command=["true"],
        privileged_like=True,
    )
    code = engine.run_to_end(trial, on_line=lambda _line: None, deadline=Deadline(30), cancel=vmprov.cancel)
    if code != 0:
        return Finding("host", PROBLEM, f"Docker cannot run the host container: it exits with {code}", "docker info")
    return Finding("host", OK, f"{host.name} is down, and Docker can run it; create starts it by itself")


def _acceleration(host: Host) -> Finding:
    found = host.acceleration()
    if found.kind == "kvm":
        return Finding("acceleration", OK, f"KVM works: {found.why}")
    return Finding(
        "acceleration", WARNING, f"guests run under TCG, some ten times slower than on KVM: {found.why}",
        "turn on virtualisation (or nested virtualisation) for this machine",
    )  # fmt: skip


def _images(vmprov: Vmprov) -> Finding:
    names = [image.name for image in vmprov.images.all()]
    if _DEFAULT_IMAGE not in names:
        return Finding(
            "images",
            WARNING,
            f"the default image {_DEFAULT_IMAGE} is not built",
            f"vmprov image build {_DEFAULT_IMAGE}",
        )
    return Finding("images", OK, ", ".join(names))


def _memory(host: Host) -> Finding:
    if host.is_up():
        free = host.hypervisor().node().free_memory
    else:
        figures = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(figures["MemAvailable"].split()[0]) * 1024
    level = WARNING if free < _LOW_MEMORY else OK
    return Finding("memory", level, f"{format_size(free)} available", "" if level == OK else "stop what uses memory")


def _disk(vmprov: Vmprov) -> Finding:
    free = shutil.disk_usage(vmprov.home.root).free
    level = WARNING if free < _LOW_DISK else OK
    return Finding(
        "disk",
        level,
        f"{format_size(free)} free under {vmprov.home.root}",
        "" if level == OK else "docker system prune",
    )


def _subnets(vmprov: Vmprov, host: Host) -> Finding:
    wanted = vmprov.settings.subnets
    routes = parse_routes(Path("/proc/net/route").read_text())
    if host.is_up():
        routes += [subnet for network in host.hypervisor().networks() for subnet in network.subnets]
    free = sum(1 for _ in free_subnets(wanted, PER_VM_PREFIX, routes))
    if not free:
        return Finding("subnets", PROBLEM, f"no subnet is free in {wanted}", "export VMPROV_SUBNETS=10.88.0.0/16")
    clash = next((route for route in parse_routes(Path("/proc/net/route").read_text()) if route.overlaps(wanted)), None)
    if clash and host.dialer is not None:
        return Finding(
            "subnets", WARNING, f"guests in {wanted} cannot reach {clash}, which this machine routes",
            "export VMPROV_SUBNETS=10.88.0.0/16",
        )  # fmt: skip
    return Finding("subnets", OK, f"{free} networks fit into {wanted}")


def _permissions(host: Host) -> Finding:
    confined = _APPARMOR.exists() and _APPARMOR.read_text().strip() == "Y"
    if confined and host.dialer is None:
        return Finding(
            "permissions", WARNING, "AppArmor confines this machine's libvirt; disks must lie in one of its pools",
            "virsh pool-list --all",
        )  # fmt: skip
    return Finding("permissions", OK, "nothing confines the host container" if host.dialer else "AppArmor is off")
