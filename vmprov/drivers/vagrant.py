"""Domains made by vagrant-libvirt, in a container, from a Vagrantfile of ours per lab.

vagrant makes disks and domains and powers them on; a plugin beside the Vagrantfile completes the definitions
and ends its work there. Removing a domain takes no vagrant.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from vmprov.containers.engine import Engine
from vmprov.drivers import Order
from vmprov.drivers.box import ensure_box
from vmprov.drivers.definition import FRAGMENT, chipset, fragment_xml
from vmprov.drivers.runner_container import RunnerContainer
from vmprov.drivers.vagrant_output import Transcript
from vmprov.errors import CommandFailed, Failed, VmprovError
from vmprov.events import Events, Output
from vmprov.hosts import Host
from vmprov.hypervisor import Domain, DomainState
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.render import render, template_file
from vmprov.settings import Settings
from vmprov.waiting import Cancel, Deadline

_VAGRANTFILE = "vagrantfiles/Vagrantfile.j2"
_PLUGIN = "vagrantfiles/vmprov.rb"
_LOCK_LIMIT = 60.0
# A start goes on inside libvirt when the vagrant that asked for it is gone.
_START_GRACE = 10.0
# So long may libvirt take for the last call of a vagrant that was killed.
_SETTLING = 1.0
_MIB = 1024**2
_DRIVERS = {"kvm": "kvm", "tcg": "qemu"}
_CPU_MODES = {"kvm": "host-passthrough", "tcg": "maximum"}


class VagrantDriver:
    """See the module."""

    name = "vagrant"

    def __init__(self, host: Host, home: Home, settings: Settings, installation: str, engine: Engine) -> None:
        self._host = host
        self._home = home
        self._runner = RunnerContainer(engine, host, home, settings, installation)

    def check(self, *, events: Events, cancel: Cancel) -> None:
        """The templates have to be there, and the runner container has to run."""
        for name in (_VAGRANTFILE, _PLUGIN, FRAGMENT):
            template_file(name)
        self._runner.ensure(events, cancel=cancel)

    def create(
        self, orders: Sequence[Order], *, events: Events, cancel: Cancel, deadline: Deadline
    ) -> Mapping[str, VmprovError]:
        """One ``vagrant up`` for all of them; what counts is what libvirt shows afterwards."""
        if not orders:
            return {}
        for order in orders:
            self._prepare(order)
        lab = orders[0].lab
        with self._locked(lab):
            self._write_vagrantfile(lab)
        self._runner.ensure(events, cancel=cancel)
        transcript = Transcript([order.vm for order in orders])
        self._up(orders, transcript, events, cancel, deadline)
        problems = {order.vm: self._problem(order, transcript) for order in orders}
        return {vm: problem for vm, problem in problems.items() if problem is not None}

    def destroy(self, *, lab: str, vm: str, domain: str) -> None:
        """Remove the domain, and what Vagrant and we keep about the machine; works without the runner."""
        self._host.hypervisor().remove_domain(domain)
        with self._locked(lab):
            self._described(vm).unlink(missing_ok=True)
            self._fragment(vm).unlink(missing_ok=True)
            directory = self._home.lab(lab)
            shutil.rmtree(directory / ".vagrant" / "machines" / vm, ignore_errors=True)
            self._machine_lock(lab, vm).unlink(missing_ok=True)
            if not directory.is_dir():
                return
            if self._machines(lab):
                self._write_vagrantfile(lab)
                return
            for name in (Path(_VAGRANTFILE).stem, Path(_PLUGIN).name):
                (directory / name).unlink(missing_ok=True)
            shutil.rmtree(directory / ".vagrant", ignore_errors=True)

    def halt(self, lab: str) -> None:
        """Kill what runs in the runner container for the lab: it goes on without the process that asked for it."""
        if self._runner.kill_all(self._home.lab(lab)):
            # What libvirt was asked for, it does to the end.
            Cancel().sleep(_SETTLING)

    # files

    def _described(self, vm: str) -> Path:
        """The VM's part of the Vagrantfile, as values."""
        return self._home.vm(vm) / "vagrant.json"

    def _fragment(self, vm: str) -> Path:
        return self._home.vm(vm) / "domain-fragment.xml"

    def _machine_lock(self, lab: str, vm: str) -> Path:
        """The lock file that Vagrant leaves behind where an action on the machine failed."""
        root = self._home.lab(lab)
        digest = hashlib.md5(f"{root}{root}/.vagrant{vm}".encode(), usedforsecurity=False).hexdigest()
        return self._home.vagrant_home(self._host.slug) / "data" / f"lock.machine-action-{digest}.lock"

    def _locked(self, lab: str) -> contextlib.AbstractContextManager[None]:
        return exclusive(self._home.lock(f"vagrantfile-{lab}"), Deadline(_LOCK_LIMIT), f"the Vagrantfile of lab {lab}")

    def _prepare(self, order: Order) -> None:
        """Everything of one VM that has to lie on the disk before vagrant starts."""
        self._home.vm(order.vm).mkdir(parents=True, exist_ok=True, mode=0o700)
        if order.image is not None:
            ensure_box(self._home.vagrant_home(self._host.slug), order.image)
        _write(self._fragment(order.vm), fragment_xml(order))
        described = machine_values(
            order, acceleration=self._host.acceleration().kind, fragment=self._fragment(order.vm)
        )
        _write(self._described(order.vm), json.dumps({"lab": order.lab, "machine": described}))

    def _machines(self, lab: str) -> list[dict[str, Any]]:
        """The values of all machines that the lab has now, by name."""
        machines = []
        for path in sorted(self._home.root.glob("vms/*/vagrant.json")):
            # One that vanishes meanwhile belongs to a VM that is being removed.
            with contextlib.suppress(FileNotFoundError):
                described = json.loads(path.read_text())
                if described["lab"] == lab:
                    machines.append(described["machine"])
        return machines

    def _write_vagrantfile(self, lab: str) -> None:
        directory = self._home.lab(lab)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(directory / Path(_PLUGIN).name, template_file(_PLUGIN).read_text())
        _write(directory / Path(_VAGRANTFILE).stem, render(_VAGRANTFILE, machines=self._machines(lab)))

    # the run

    def _up(
        self, orders: Sequence[Order], transcript: Transcript, events: Events, cancel: Cancel, deadline: Deadline
    ) -> None:
        """Run vagrant; an exit with an error is for the caller to explain."""
        # python-vagrant is slow to import, and only needed here.
        from vmprov.drivers.vagrant_cli import ContainerVagrant

        with self._logs(orders) as logs:

            def take(line: str) -> None:
                vm, text = transcript.take(line)
                for name in [vm] if vm else list(logs):
                    logs[name].write(text + "\n")
                events.emit(Output(vm=vm, source="vagrant", line=text))

            vagrant = ContainerVagrant(
                self._home.lab(orders[0].lab), self._runner, on_line=take, deadline=deadline, cancel=cancel
            )
            with contextlib.suppress(CommandFailed):
                vagrant.up_all([order.vm for order in orders])

    @contextmanager
    def _logs(self, orders: Sequence[Order]) -> Iterator[dict[str, TextIO]]:
        with ExitStack() as stack:
            yield {
                order.vm: stack.enter_context(self._home.vagrant_log(order.vm).open("a", buffering=1))
                for order in orders
            }

    def _settled(self, domain: str) -> Domain:
        """The domain once libvirt is through with starting it (until then, it shows as paused)."""
        grace = Deadline(_START_GRACE)
        while (found := self._host.hypervisor().domain(domain)).state is DomainState.PAUSED and not grace.expired:
            Cancel().sleep(0.05)
        return found

    def _problem(self, order: Order, transcript: Transcript) -> VmprovError | None:
        """Why the VM does not run as ordered, or nothing."""
        log = self._home.vagrant_log(order.vm)
        hypervisor = self._host.hypervisor()
        found = self._settled(order.domain)
        why = transcript.why(order.vm)
        if found.state is DomainState.MISSING or (why and found.state is not DomainState.RUNNING):
            said = why or transcript.general or "vagrant made no domain and did not say why"
            return CommandFailed(f"{order.vm} could not be made: {said}", hint=f"see {log}", output=transcript.general)
        if found.uuid != order.uuid:
            return Failed(f"{order.vm}: domain {order.domain} is not the one that was ordered")
        if found.state is not DomainState.RUNNING:
            return Failed(f"{order.vm} was powered on and is {found.state} now", hint=f"see {order.consoles[0].log}")
        missing = _missing(order, hypervisor.domain_xml(order.domain))
        if found.mark != order.mark:
            missing.append("our mark")
        if missing:
            return Failed(f"{order.vm} was made without {' and '.join(missing)}", hint=f"see {log}")
        return None


def machine_values(order: Order, *, acceleration: str, fragment: Path) -> dict[str, Any]:
    """One entry of the Vagrantfile's ``machines``."""
    return {
        "vm": order.vm,
        "prefix": order.domain.removesuffix(order.vm),
        "uuid": order.uuid,
        "cpus": order.cpus,
        "memory": -(-order.memory // _MIB),
        "driver": _DRIVERS[acceleration],
        "cpu_mode": _CPU_MODES[acceleration],
        "pool": order.pool,
        "disk_volume": order.disk_volume,
        "disk_size": order.disk_size,
        "box": order.image.box if order.image is not None else "",
        "box_version": order.image.version if order.image is not None else "",
        "machine_type": chipset(order),
        "fragment": str(fragment),
        "screen_password": str(order.screen_password or ""),
    }


def _missing(order: Order, definition: str) -> list[str]:
    """Which consoles of the order a domain lacks."""
    logs = {log.get("file") for log in ET.fromstring(definition).iterfind("devices/serial/log")}
    return [f"console {port}" for port, uart in enumerate(order.consoles) if str(uart.log) not in logs]


def _write(path: Path, text: str) -> None:
    """Write a file of ours all at once; nobody ever reads half of it."""
    unfinished = path.with_name(f".{path.name}.part")
    with open(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
    unfinished.replace(path)
