"""The facade: everything that vmprov can do, for the command line, tests and other programs.

::

    from vmprov import CreateRequest, Vmprov

    with Vmprov() as vmprov:
        result = vmprov.create(CreateRequest.parse(count=3))
        print([vm.address for vm in result.vms])
        vmprov.delete([result.lab])
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmprov.errors import Failed, HostNotReady, Interrupted, InUse, NotFound, VmprovError
from vmprov.events import Note, StageChanged
from vmprov.hosts import Acceleration
from vmprov.hypervisor import DomainState
from vmprov.labfiles import LabFiles
from vmprov.store import VMRecord
from vmprov.upkeep import Upkeep
from vmprov.views import (
    CreateResult,
    DeleteResult,
    Failure,
    HostView,
    Onboarding,
    PortVerdict,
    StageStatistics,
    Timeline,
    Usual,
    VMView,
)
from vmprov.waiting import Deadline

if TYPE_CHECKING:
    from vmprov.day0.lab import Day0Lab
    from vmprov.forward import Forward
    from vmprov.images import Image
    from vmprov.spec.request import CreateRequest
    from vmprov.vm import VM

# Seconds between two looks at the verdicts of VMs that run.
_WATCH_INTERVAL = 0.2
# Seconds after which what is nice to know is left out.
_ASIDE_LIMIT = 3.0
# At most this many VMs are removed, started or stopped at once.
_WORKERS = 8


class Vmprov(Upkeep, LabFiles):
    """One state directory with its hosts. Opening it changes nothing but making the directory.

    ``cancel`` stops running operations from another thread (or a signal handler); ``listeners`` get every event.
    ``ask`` puts a question about a secret to a person and returns the answer; without, nobody is asked.
    """

    # creating

    def create(self, request: CreateRequest, *, host: str = "") -> CreateResult:
        """Make VMs and wait until each has proven that it is ready, or has failed.

        A VM that fails does not stop its siblings; it is undone unless ``request.keep_on_failure``. Raises
        :class:`vmprov.errors.SpecError` and :class:`vmprov.errors.HostNotReady` before anything is made.
        """
        from vmprov.engine.create import create
        from vmprov.engine.outcome import exit_code

        self.expire()
        lab, outcomes = create(self.context(host, request.driver), request, ask=self.ask)
        views = [self._outcome_view(outcome) for outcome in outcomes]
        return CreateResult(lab=lab, vms=views, exit_code=exit_code(outcomes))

    def plan_create(self, request: CreateRequest, *, host: str = "") -> CreateResult:
        """What :meth:`create` would make; nothing is changed, and no host is started for it."""
        from vmprov.engine.create import planned

        vms = planned(self.context(host, request.driver), request)
        views = [replace(self._view_of(vm, ""), state="planned") for vm in vms]
        return CreateResult(lab=vms[0].lab, vms=views, exit_code=0)

    # watching

    def watch(self, targets: Sequence[str] = (), *, on_after: bool = False) -> list[VMView]:
        """Watch VMs until each has a verdict; all VMs where none is named. Returns them as they are then.

        ``on_after``: go on, until cancelled or until each has failed: a machine that was ready may still break.

        Where the process that made them was killed, this goes on in its place. VMs that have a verdict are returned
        as they are. Never raises for what happens to one VM: see its verdict, and ``why``.
        """
        from vmprov.engine.attend import attend

        vms = self.select(targets) if targets else self.store.vms()
        self.keep_consoles()
        told: dict[str, str] = {}

        def action(vm: VMRecord) -> None:
            attend(self.context(vm.host, vm.driver), vm, self._image_of(vm), ask=self.ask)

        for failure in self._each(vms, action, workers=len(vms)):
            told[failure.name] = failure.why
        well = list(vms)
        while on_after and not self.cancel.is_set and (well := [vm for vm in well if self._well(vm.name)]):
            with suppress(Interrupted):
                self.cancel.sleep(_WATCH_INTERVAL)
        known = {vm.name: vm for vm in self.vms()}
        views = [known.get(vm.name) or self._view_of(vm, "removed") for vm in vms]
        return [replace(view, why=told.get(view.name, view.why)) for view in views]

    def watch_port(self, url: str, *, flow: str, baud: int = 115200, limit: float | None = None) -> PortVerdict:
        """Run a flow on a real board's serial port, and judge it.

        ``url``: a device file, or what pyserial takes, such as ``rfc2217://host:port``; ``baud`` in bit/s; ``limit`` in
        seconds. Raises :class:`InUse` if another program has the port, :class:`HostNotReady` if it cannot be opened,
        :class:`SpecError` for a flow or URL that cannot be meant.
        """
        from vmprov.engine.judging.device import watch_port
        from vmprov.engine.secrets import Secrets
        from vmprov.flows.load import load_flow

        wanted = load_flow(flow)
        self.home.create()
        secrets = Secrets(wanted, ask=self.ask).of(url)
        verdict, timeline, log = watch_port(
            self.home, url, baud, wanted, secrets=secrets, cancel=self.cancel, limit=limit,
            entered=lambda stage, at: self.events.emit(StageChanged(vm=url, stage=stage, started=at)),
        )  # fmt: skip
        self.events.emit(StageChanged(vm=url, stage=str(verdict), why=verdict.why))
        return PortVerdict(
            port=url, flow=wanted.flow, kind=verdict.kind, verdict=str(verdict), why=verdict.why,
            evidence=verdict.evidence, log=str(log), judgement=verdict.to_json(),
            stages=[stay.to_json() for stay in timeline],
        )  # fmt: skip

    def _well(self, name: str) -> bool:
        """Whether a VM is there and its verdict is success; tells listeners where it no longer is."""
        try:
            vm = self.store.vm(name)
        except NotFound:
            return False
        if vm.verdict != "success":
            self.events.emit(StageChanged(vm=name, stage=vm.verdict, why=vm.why))
        return vm.verdict == "success"

    # looking

    def vms(self, lab: str | None = None) -> list[VMView]:
        """All VMs, or those of one lab, as they are now; hosts that do not answer are not started."""
        if lab is not None and self.store.lab(lab) is None:
            raise NotFound(f"no lab called {lab!r}", hint="see: vmprov list")
        records = self.store.vms(lab)
        states: dict[str, dict[str, DomainState] | None] = {}
        for host in {vm.host for vm in records}:
            try:
                # By uuid: a domain of the same name may be somebody else's.
                states[host] = {domain.uuid: domain.state for domain in self.host(host).hypervisor().domains()}
            except VmprovError:
                states[host] = None
        return [self._view_of(vm, _state_now(vm, states[vm.host])) for vm in records]

    def show(self, name: str) -> VMView:
        """One VM as it is now; raises :class:`NotFound`."""
        self.store.vm(name)
        return next(vm for vm in self.vms() if vm.name == name)

    def timeline(self, vm_name: str) -> Timeline:
        """Where a VM's time went since power-on, also that of one that failed and was removed.

        Raises :class:`NotFound`.
        """
        from vmprov.engine.evidence.kept import find_vm
        from vmprov.engine.evidence.timeline import read_timeline

        found = find_vm(self.home, self.store, vm_name)
        return read_timeline(found.vm, found.directory)

    def timelines(self, targets: Sequence[str] = ()) -> list[Timeline]:
        """The timelines of VMs and of all VMs of labs, the failed and removed ones included.

        Raises :class:`NotFound`.
        """
        from vmprov.engine.evidence.kept import find_vms
        from vmprov.engine.evidence.timeline import read_timeline

        return [read_timeline(found.vm, found.directory) for found in find_vms(self.home, self.store, targets)]

    def onboardings(self, targets: Sequence[str] = ()) -> list[Onboarding]:
        """How the onboarding of VMs and of all VMs of labs went, the failed and removed ones included.

        Raises :class:`NotFound`.
        """
        from vmprov.engine.evidence.kept import find_vms
        from vmprov.engine.evidence.onboarding import onboarding

        return [onboarding(found) for found in find_vms(self.home, self.store, targets)]

    def stats(self, image: str | None = None, flow: str | None = None) -> list[StageStatistics]:
        """How long each stage took in past runs, of one image and flow or of all; see :class:`StageStatistics`."""
        from vmprov.engine.evidence.statistics import stage_statistics

        return stage_statistics(self.store.runs(image=image, flow=flow))

    def usual_stages(self, vm_name: str) -> dict[str, Usual]:
        """What earlier runs of a VM's image and flow took for each stage, and the limits of the stages."""
        try:
            now = self.timeline(vm_name)
            image = self.store.vm(vm_name).image
        except NotFound:
            return {}
        past = {row.stage: row for row in self.stats(image, now.flow) if row.stage}
        return {
            stage: Usual(
                median=past[stage].median if stage in past else None,
                p95=past[stage].p95 if stage in past else None,
                limit=now.limits.get(stage),
            )
            for stage in {*past, *now.limits}
        }

    def report(
        self,
        name: str,
        path: Path,
        *,
        force: bool = False,
        secrets: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> Path:
        """Write all that tells why a VM, which may be gone, is as it is: an archive (``.tar.gz``) or a directory.

        ``secrets``: values that must not be in it. ``more``: further files, name -> text. What cannot be had is told in
        its README.txt. Returns the absolute path. Raises :class:`NotFound`; :class:`vmprov.errors.NameTaken` if
        something is there (with ``force``, an earlier report is overwritten); :class:`Failed` if it cannot be written.
        """
        from vmprov.engine.evidence.kept import find_vm
        from vmprov.engine.evidence.report import known_secrets, subject_of, within, write_report

        found = find_vm(self.home, self.store, name)
        for why in known_secrets(found.directory, found.vm.name)[1].values():
            self.events.emit(Note(text=f"{why}: so look for it before you hand the report on"))
        subject = subject_of(found, self.store.installation, lambda vm: self.context(vm.host, vm.driver))
        versions = {}
        if found.vm.driver == "vagrant":
            versions["docker"] = within(_ASIDE_LIMIT, self.engine.version) or "does not answer"
        return write_report(subject, path, secrets, more=more or {}, versions=versions, force=force)

    # removing

    def delete(self, targets: Sequence[str] = (), *, everything: bool = False) -> DeleteResult:
        """Remove VMs, or whole labs, with all that was made for them; what is gone already counts as removed.

        Works from records alone; a name that stands for nothing (any more) is passed over. Never raises for what
        happens to one VM: see ``failed`` of the result.
        """
        from vmprov.engine.delete import delete

        self.expire()
        vms = self.store.vms() if everything else self.select_known(targets)[0]
        whole = {lab.name for lab in self.store.labs() if everything or lab.name in targets}
        labs = [lab for lab in self.store.labs() if lab.name in whole | {vm.lab for vm in vms}]
        named = None if everything else {vm.name for vm in vms}
        deleted, failed = delete(labs, named, lambda lab: self.context(lab.host, lab.driver))
        if everything and not failed:
            shutil.rmtree(self.home.failed, ignore_errors=True)
        order = {vm.name: place for place, vm in enumerate(vms)}
        return DeleteResult(deleted=sorted(deleted, key=lambda name: order.get(name, len(order))), failed=failed)

    def _each(
        self, vms: Sequence[VMRecord], action: Callable[[VMRecord], None], *, workers: int = _WORKERS
    ) -> list[Failure]:
        """Do something to several VMs at once; returns what failed."""
        from concurrent.futures import ThreadPoolExecutor

        def attempt(vm: VMRecord) -> Failure | None:
            try:
                action(vm)
            except VmprovError as problem:
                return Failure(vm.name, str(problem))
            return None

        with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="vm") as pool:
            return [failure for failure in pool.map(attempt, vms) if failure]

    # power

    def start(self, names: Sequence[str], *, timeout: float = 600.0, wait: bool = True) -> list[Failure]:
        """Power VMs on, and wait until they are ready unless told not to."""
        from vmprov.engine import power

        self.expire()

        def action(vm: VMRecord) -> None:
            ctx = self.context(vm.host, vm.driver)
            ctx.host.up(self.events)
            power.start(ctx, vm, self._image_of(vm), Deadline(timeout), wait=wait)

        return self._each(self.select(names), action)

    def stop(self, names: Sequence[str], *, timeout: float = 120.0, force: bool = False) -> list[Failure]:
        """Ask guests to stop and wait until they have, or pull the plug (``force``)."""
        from vmprov.engine import power

        return self._each(
            self.select(names),
            lambda vm: power.stop(self.context(vm.host, vm.driver), vm, Deadline(timeout), force=force),
        )

    def reboot(
        self, names: Sequence[str], *, timeout: float = 600.0, force: bool = False, wait: bool = True
    ) -> list[Failure]:
        """Stop and start VMs, and wait until they are ready unless told not to."""
        from vmprov.engine import power

        self.expire()

        def action(vm: VMRecord) -> None:
            ctx = self.context(vm.host, vm.driver)
            power.reboot(ctx, vm, self._image_of(vm), Deadline(timeout), force=force, wait=wait)

        return self._each(self.select(names), action)

    def _image_of(self, vm: VMRecord) -> Image | None:
        return self.images.get(vm.image) if vm.image else None

    # reaching guests

    def vm(self, name: str) -> VM:
        """One machine with its consoles; raises :class:`NotFound`."""
        from vmprov.vm import VM

        self.store.vm(name)
        self.keep_consoles()
        return VM(self, name)

    def ssh_argv(self, name: str, command: Sequence[str] = ()) -> list[str]:
        """The OpenSSH client's argv for a VM; raises :class:`Failed` if it has no SSH."""
        from vmprov import ssh

        vm = self.store.vm(name)
        if vm.adopted:
            ctx = self.context(vm.host, vm.driver)
            return ssh.own_command_line(ctx.host, self._address_of(vm), command, name=vm.name)
        image = self._image_of(vm)
        if vm.login != "ssh" or image is None or not vm.address:
            raise Failed(f"{name} has no SSH", hint=f"use: vmprov console {name}")
        host = self.host(vm.host)
        login = ssh.Login(
            address=vm.address, user=image.user, key=self.home.key(vm.lab),
            known_hosts=self.home.known_hosts(vm.lab), alias=vm.name,
        )  # fmt: skip
        return ssh.command_line(host, login, command, batch=False)

    def screen(self, name: str, *, port: int = 0) -> Forward:
        """A port of this machine's loopback address on which a VM's screen will be, once ``serve`` is called.

        Raises :class:`Failed` if the VM has no screen, or does not run.
        """
        from vmprov.forward import Forward
        from vmprov.hypervisor.hardware import screen_port

        vm = self.store.vm(name)
        host = self.host(vm.host)
        if vm.machine.graphics == "none":
            raise Failed(f"{name} has no screen", hint="make it with: vmprov create --graphics vnc")
        there = screen_port(host.hypervisor().domain_xml(vm.domain))
        if there is None:
            raise Failed(f"{name} shows nothing: it does not run", hint=f"run: vmprov start {name}")
        return Forward(host, ("127.0.0.1", there), port)

    def _address_of(self, vm: VMRecord) -> str:
        """The address of a VM whose domain is not ours; raises :class:`Failed` if nobody knows it."""
        from vmprov.engine.admit import address_of

        if address := address_of(self.context(vm.host, vm.driver), vm):
            return address
        raise Failed(f"nobody knows an address of {vm.name}", hint="see that it runs, and gets one by DHCP")

    def console_logs(self, targets: Sequence[str] = (), port: int = 0) -> dict[str, Path]:
        """Each VM's console log; all VMs that have such a port where none is named.

        Raises :class:`NotFound` for a VM that is named and has no such port.
        """
        from vmprov.engine.admit import log_of

        logs = {}
        for vm in self.select(targets) if targets else self.store.vms():
            if vm.adopted:
                try:
                    logs[vm.name] = log_of(self.context(vm.host, vm.driver), vm, port)
                except VmprovError:
                    if targets:
                        raise
            elif port < vm.consoles:
                logs[vm.name] = self.home.console_log(vm.name, port)
            elif targets:
                self.console_port(vm.name, port)
        return logs

    def keep_consoles(self) -> None:
        """See that something notes when lines arrive; harmless where it is done already."""
        from vmprov.console.keeper import ensure_keeper

        if self.store.vms():
            ensure_keeper(self.home, self.settings, self.runner)

    def console_port(self, name: str, port: int = 0) -> Path:
        """How the names of the files of a VM's UART begin; raises :class:`NotFound` if it has no such port."""
        from vmprov.engine.admit import elsewhere

        vm = self.store.vm(name)
        if vm.adopted:
            raise Failed(f"{name} was made by others", hint=elsewhere(self.context(vm.host, vm.driver), vm))
        if port >= vm.consoles:
            raise NotFound(f"{name} has no serial port {port}", hint=f"it has {vm.consoles}, counted from 0")
        return self.home.console_port(vm.id, port)

    # hosts and images

    def host_up(self, uri: str = "") -> Acceleration:
        """Make a host ready for :meth:`create`, with all that its default driver needs; says how guests run."""
        ctx = self.context(uri, "")
        ctx.host.up(self.events)
        ctx.driver.check(events=self.events, cancel=self.cancel)
        return ctx.host.acceleration()

    def host_view(self, uri: str = "") -> HostView:
        """A host as it is now; it is not started for this."""
        host = self.host(uri)
        vms = sum(vm.host == host.name for vm in self.store.vms())
        try:
            node, pool = host.hypervisor().node(), host.hypervisor().pool(host.pool)
        except HostNotReady:
            return HostView(name=host.name, uri=host.uri, up=False, vms=vms)
        return HostView(
            name=host.name,
            uri=host.uri,
            up=True,
            vms=vms,
            cpus=node.cpus,
            memory=node.memory,
            free_memory=node.free_memory,
            pool=pool.name,
            pool_available=pool.available,
            libvirt=node.libvirt,
            qemu=node.qemu,
        )

    def host_views(self) -> list[HostView]:
        """The default host, and every host on which we have VMs."""
        names = {self.settings.host: None, **{vm.host: None for vm in self.store.vms()}}
        return [self.host_view(name) for name in names]

    def host_down(self, uri: str = "", *, force: bool = False) -> bool:
        """Stop a host of ours; raises :class:`InUse` while it holds VMs, unless ``force``."""
        host = self.host(uri)
        held = [vm.name for vm in self.store.vms() if vm.host == host.name]
        if held and not force:
            raise InUse(
                f"{host.name} holds {len(held)} VMs ({', '.join(held[:5])}{', ...' if len(held) > 5 else ''})",
                hint="delete them first, or use --force: they will be powered off and stay recorded",
            )
        return host.down()

    # day 0

    @property
    def day0_lab(self) -> Day0Lab:
        """The Day-0 lab: an orchestrator of ours to practise against."""
        from vmprov.day0.lab import Day0Lab

        return Day0Lab(self.home, self.store.installation, self.engine)

    # images

    def write_box(self, name: str, path: Path) -> Path:
        """Make a Vagrant box of the libvirt provider from an image, at ``path``; returns that.

        Raises :class:`vmprov.errors.ImageBroken` if the image is not what it was when it was made.
        """
        from vmprov.drivers.box import write_box
        from vmprov.engine.objects.base_volume import base_image

        image = self.images.get(name)
        self.images.verify(image)
        write_box(base_image(self.images, image, self.store.installation), path)
        return path

    def delete_image(self, name: str) -> bool:
        """Delete an image; ``False`` if there was none. Raises :class:`InUse` while VMs are made from it."""
        users = [vm.name for vm in self.store.vms() if vm.image == name]
        if users:
            raise InUse(
                f"image {name!r} is in use by {', '.join(users[:5])}{', ...' if len(users) > 5 else ''}",
                hint="delete these VMs first",
            )
        return self.images.delete(name)


def _state_now(vm: VMRecord, domains: dict[str, DomainState] | None) -> str:
    if vm.state != "ready":
        return vm.state
    if domains is None:
        return "unknown"
    return domains.get(vm.uuid, DomainState.MISSING).value
