"""An open state directory: its records, images and hosts, each opened at first use."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmprov.containers.engine import Engine
from vmprov.errors import NotFound, SpecError
from vmprov.events import Events, Listener, Note
from vmprov.hosts import Host, open_host
from vmprov.paths import Home
from vmprov.runner import LocalRunner, Runner
from vmprov.settings import Settings
from vmprov.store import Store, VMRecord
from vmprov.views import VMView
from vmprov.waiting import Cancel

if TYPE_CHECKING:
    from vmprov.day0.client import Orchestrator
    from vmprov.day0.lab import Practice
    from vmprov.engine.context import Context
    from vmprov.engine.outcome import Outcome
    from vmprov.images import Images


_LOST = "the database is lost, and this is a new one; make the records anew from what hosts know: vmprov gc --rebuild"


class Workspace:
    """See the module, and :class:`vmprov.lab.Vmprov` for the arguments."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        listeners: Sequence[Listener] = (),
        cancel: Cancel | None = None,
        runner: Runner | None = None,
        ask: Callable[[str], str] | None = None,
    ) -> None:
        self.settings = settings or Settings.from_environ()
        self.home = Home(self.settings.home)
        self.events = Events(*listeners)
        self.cancel = cancel or Cancel()
        self.ask = ask
        self.runner = runner or LocalRunner()
        self.engine = Engine()
        self._hosts: dict[str, Host] = {}
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._images: Images | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back connections and the database; machines run on."""
        for host in self._hosts.values():
            host.close()
        self.engine.close()
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> Store:
        """The records."""
        with self._lock:
            if self._store is None:
                self.home.create()
                self._store = Store(self.home.database, events=self.events)
                if self._store.anew:
                    self.events.emit(Note(text=_LOST))
            return self._store

    def _forget_store(self) -> None:
        """Close the database, so that it is opened anew at its next use."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    @property
    def images(self) -> Images:
        """The images; deleting goes through :meth:`delete_image`."""
        from vmprov.images import Images

        with self._lock:
            if self._images is None:
                self.home.create()
                self._images = Images(self.home, self.engine, lambda: self.store.installation)
            return self._images

    def host(self, uri: str = "") -> Host:
        """A host by URI (default: the one that the settings name)."""
        name = uri or self.settings.host
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = open_host(name, self.home, self.settings, self.store.installation, self.engine)
            return self._hosts[name]

    def orchestrator(self, options: Mapping[str, str] | None = None) -> Orchestrator:
        """A client of the orchestrator that the settings name; ``options`` win over them, by field. Close it after use.

        Where nothing names one, it is that of the Day-0 lab, if that runs. Whoever is to be asked for the password is
        asked last. Raises :class:`vmprov.errors.SpecError` with all that is wrong or missing.
        """
        from vmprov.day0.client import Orchestrator
        from vmprov.day0.config import password_of, read_settings, settings_file
        from vmprov.engine.objects.orchestration import practised

        if (
            not options
            and settings_file(self.home.root) is None
            and (lab := practised(self.home.root, self._practice)) is not None
        ):
            assert lab.settings is not None and lab.password is not None
            return Orchestrator(lab.settings, lab.password, cancel=self.cancel)
        settings = read_settings(options, home=self.home.root)
        return Orchestrator(settings, password_of(settings, ask=self.ask), cancel=self.cancel)

    def context(self, host: str, driver: str) -> Context:
        """What an operation on a host needs; ``""`` stands for the default host, and the host's default driver."""
        from vmprov.drivers import default_driver, open_driver
        from vmprov.engine.context import Context

        place = self.host(host)
        driver = driver or default_driver(place)
        return Context(
            home=self.home,
            settings=self.settings,
            store=self.store,
            host=place,
            driver=open_driver(driver, place, self.home, self.settings, self.store.installation, self.engine),
            images=self.images,
            runner=self.runner,
            events=self.events,
            cancel=self.cancel,
            practice=self._practice,
        )

    def _practice(self) -> Practice | None:
        """The Day-0 lab, if there is one."""
        from vmprov.day0.lab import Day0Lab

        try:
            return Day0Lab(self.home, self.store.installation, self.engine).status()
        except NotFound:
            return None

    # VMs

    def select(self, targets: Sequence[str]) -> list[VMRecord]:
        """The VMs that names of VMs and labs stand for, without repetition; raises :class:`NotFound`."""
        labs = {lab.name for lab in self.store.labs()}
        chosen: dict[str, VMRecord] = {}
        for target in targets:
            if target in labs:
                chosen.update({vm.name: vm for vm in self.store.vms(target)})
            try:
                chosen[target] = self.store.vm(target)
            except NotFound:
                if target not in labs:
                    raise NotFound(f"no VM or lab called {target!r}", hint="see: vmprov list") from None
        return list(chosen.values())

    def matching(self, selector: str, targets: Sequence[str] = ()) -> list[str]:
        """Names of the VMs whose labels a selector means: of all, or of those that ``targets`` stand for.

        A selector is such as ``role=edge,env!=test``; see :class:`vmprov.spec.labels.Selector`. Raises
        :class:`SpecError` for one that cannot be meant, :class:`NotFound`.
        """
        from vmprov.spec.labels import Selector

        try:
            chosen = Selector.parse(selector)
        except ValueError as problem:
            raise SpecError(f"selector: {problem}") from problem
        vms = self.select(targets) if targets else self.store.vms()
        return [vm.name for vm in vms if chosen.matches(vm.labels)]

    def select_known(self, targets: Sequence[str]) -> tuple[list[VMRecord], list[str]]:
        """Like :meth:`select`, with the names that stand for nothing apart."""
        known = {vm.name for vm in self.store.vms()} | {lab.name for lab in self.store.labs()}
        return self.select([name for name in targets if name in known]), [name for name in targets if name not in known]

    def _view_of(self, vm: VMRecord, state: str, console_log: Path | None = None) -> VMView:
        """What is told of a VM."""
        columns = asdict(vm)
        for internal in ("id", "uuid", "login", "consoles", "created", "spec"):
            del columns[internal]
        log = console_log or ("" if vm.adopted else self.home.console_log(vm.name, 0))
        judgement = json.loads(vm.judgement) if vm.judgement else None
        return VMView(**{**columns, "state": state, "console_log": str(log), "judgement": judgement})

    def _outcome_view(self, outcome: Outcome) -> VMView:
        """What is told of a VM that was worked on."""
        state = {"ready": "running", "refused": "unchanged"}.get(outcome.state, outcome.state)
        log = None if outcome.vm.adopted else outcome.logs / self.home.console_log(outcome.vm.name, 0).name
        return replace(self._view_of(outcome.vm, state, log), verdict=outcome.verdict, why=outcome.why)
