"""The orchestrator that edge nodes onboard to: where they boot from, what is typed, and their records in its inventory.

It is the one that settings name, or else the Day-0 lab of this state directory, if that runs.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from vmprov.day0.config import VARIABLES, OrchestratorSettings, password_of, read_settings
from vmprov.engine.context import Context
from vmprov.errors import AlreadyRegistered, HostNotReady, Interrupted, OrchestratorFailed, SpecError
from vmprov.flows.grammar import Flow
from vmprov.settings import variable
from vmprov.spec.machine import HttpBoot, Machine
from vmprov.store import Owned, VMRecord
from vmprov.waiting import Cancel

if TYPE_CHECKING:
    from vmprov.day0.client import Orchestrator
    from vmprov.day0.lab import Practice

KIND = "orchestrator host"
BOOT_URL = "EDGE_BOOT_URL"
_BOOT_HOST = "tinkerbell-haproxy"
_HOSTS = (_BOOT_HOST, "api", "keycloak", "release")
_BOOT_PATH = "tink-stack/signed_ipxe.efi"
# Seconds between two questions to the orchestrator while nodes are onboarded.
_INTERVAL = 2.0


@dataclass(frozen=True)
class Orchestration:
    """What machines need of an orchestrator.

    ``boot`` -- where they boot from. ``certificates`` -- whose signatures its boot file bears, for Secure Boot.
    ``secrets`` -- what is typed, by the variable that would say so. ``settings``, ``password`` -- of its API; ``None``
    where nobody says how to ask it, and then no record there is made or removed.
    """

    boot: HttpBoot
    certificates: tuple[Path, ...] = ()
    secrets: Mapping[str, SecretStr] = field(default_factory=dict)
    settings: OrchestratorSettings | None = None
    password: SecretStr | None = None

    def fitted(self, machine: Machine) -> dict[str, object]:
        """What a machine gets in addition, where it has no wishes of its own."""
        fitted: dict[str, object] = {}
        if machine.http_boot is None and machine.dhcp:
            fitted["http_boot"] = self.boot
        if machine.firmware == "secure-boot" and not machine.boot_certificates:
            fitted["boot_certificates"] = self.certificates
        return fitted

    def unlocked(self, flow: Flow, ask: Callable[[str], str] | None) -> Orchestration:
        """With the API's password; whoever is to be asked for it is asked now, and only if it cannot do without.

        Raises :class:`SpecError` where it is needed and there is none.
        """
        if self.settings is None or self.password is not None:
            return self
        needed = flow.onboarding == "non-interactive"
        try:
            return replace(self, password=password_of(self.settings, ask=ask if needed else None))
        except SpecError:
            if needed:
                raise
            return self

    def client(self, ctx: Context) -> Orchestrator | None:
        """Its API, to be closed; ``None`` where nobody says how to ask it."""
        if self.settings is None or self.password is None:
            return None
        # What speaks HTTP is slow to import, and most machines have no orchestrator.
        from vmprov.day0.client import Orchestrator

        return Orchestrator(self.settings, self.password, cancel=ctx.cancel)


def environ_of(orchestration: Orchestration | None) -> dict[str, str]:
    """The environment, with what an orchestrator has to be typed where that says nothing, for flows' secrets."""
    known = orchestration.secrets if orchestration is not None else {}
    said = {name: value for name, value in os.environ.items() if value}
    return {name: value.get_secret_value() for name, value in known.items()} | said


def find_orchestration(ctx: Context, machine: Machine, flow: Flow | None) -> Orchestration | None:
    """The orchestrator for a machine of a flow; ``None`` if the flow needs none. Nobody is asked for a password yet.

    Raises :class:`SpecError` where none is known; and, for non-interactive onboarding, where its API cannot be asked,
    unless the machine says where it boots from: then it may be registered already.
    """
    if flow is None or flow.onboarding is None:
        return None
    if machine.http_boot is None and not _is_set(ctx.home.root):
        if (lab := practised(ctx.home.root, ctx.practice)) is not None:
            return lab
        raise SpecError(
            f"flow {flow.flow} boots machines from an edge orchestrator, and none is known",
            hint="set EDGE_CLUSTER, give --boot-url, or start one to practise with: vmprov day0 lab up",
        )
    # Whoever says where machines boot from may have registered them as well.
    settings = _settings(ctx.home.root, needed=flow.onboarding == "non-interactive" and machine.http_boot is None)
    return Orchestration(boot=machine.http_boot or _boot(settings), settings=settings)


def practised(home: Path, practice: Callable[[], Practice | None]) -> Orchestration | None:
    """The Day-0 lab, where it runs and nobody names another orchestrator."""
    found = None if _is_set(home) else practice()
    return _of_lab(found) if found is not None and found.up else None


def found_again(ctx: Context, vm: VMRecord) -> Orchestration | None:
    """The orchestrator of a VM that was made before, if it is the Day-0 lab, and runs."""
    boot = vm.machine.http_boot
    practice = ctx.practice() if boot is not None else None
    if practice is None or not practice.up or boot is None or boot.url != practice.boot_url:
        return None
    return _of_lab(practice)


def _is_set(home: Path) -> bool:
    """Whether a variable, or a settings file that says all, names an orchestrator."""
    named = any(variable(name)[0] for name in (BOOT_URL, VARIABLES["cluster"], VARIABLES["api_url"]))
    return named or _settings(home, needed=False) is not None


def _settings(home: Path, *, needed: bool) -> OrchestratorSettings | None:
    try:
        return read_settings(home=home)
    except SpecError:
        if needed:
            raise
        return None


def _boot(settings: OrchestratorSettings | None) -> HttpBoot:
    """Where machines boot from, as the settings have it."""
    cluster = variable(VARIABLES["cluster"])[0] or (settings.cluster if settings else "")
    url = variable(BOOT_URL)[0] or f"https://{_BOOT_HOST}.{cluster}/{_BOOT_PATH}"
    ca_file = variable(VARIABLES["ca_file"])[0] or (settings.ca_file if settings else None)
    address = (variable(VARIABLES["connect_to"])[0] or (settings.connect_to if settings else "")).partition(":")[0]
    # What DNS does not know here, it does not know there.
    known = _HOSTS if cluster and re.fullmatch(r"[0-9.]+", address) else ()
    names = {f"{name}.{cluster}": address for name in known}
    return HttpBoot.model_validate({"url": url, "ca": [ca_file] if ca_file else [], "dns": names})


def _of_lab(practice: Practice) -> Orchestration:
    return Orchestration(
        boot=HttpBoot.model_validate(
            {"url": practice.boot_url, "ca": [practice.ca_file], "dns": dict(practice.addresses)}
        ),
        certificates=(practice.secure_boot.db,),
        secrets={
            "EDGE_USERNAME": SecretStr(practice.onboarding_user),
            "EDGE_PASSWORD": practice.onboarding_password,
        },
        settings=OrchestratorSettings(
            api_url=practice.api_url, token_url=practice.token_url, project=practice.project,
            username=practice.api_user, cluster=practice.cluster, ca_file=practice.ca_file,
            connect_to=practice.address,
        ),
        password=practice.api_password,
    )  # fmt: skip


# the inventory


def enrol(ctx: Context, vm: VMRecord, flow: Flow, orchestration: Orchestration) -> None:
    """Record that the VM is going to have a record in the inventory; and make it, if nobody types credentials.

    A serial number that somebody else registered is taken as it is, and left there when the VM goes.
    """
    client = orchestration.client(ctx)
    if client is None or orchestration.settings is None:
        return
    with client:
        if client.find(vm.serial_number) is None:
            written = json.dumps(orchestration.settings.to_json())
            ctx.store.own(
                lab=vm.lab, vm=vm.name, host=ctx.host.name, kind=KIND, name=vm.serial_number, settings=written
            )  # fmt: skip
        if flow.onboarding == "non-interactive":
            with suppress(AlreadyRegistered):
                client.register(vm.serial_number)


def withdraw(ctx: Context, owned: Owned) -> None:
    """Remove a VM's record from the inventory; gone is success. Raises :class:`SpecError` where nobody may ask."""
    settings = OrchestratorSettings.from_json(json.loads(owned.detail["settings"]))
    if settings.ca_file is not None and settings.ca_file.is_relative_to(ctx.home.day0):
        practice = ctx.practice()
        if practice is not None:
            if not practice.up:
                raise HostNotReady("the Day-0 lab does not run", hint="run: vmprov day0 lab up")
            _unregister(ctx, _of_lab(practice), owned.name)
    else:
        _unregister(
            ctx,
            Orchestration(HttpBoot(url=settings.api_url), settings=settings, password=password_of(settings)),
            owned.name,
        )
    ctx.store.disown(owned.id)


def _unregister(ctx: Context, orchestration: Orchestration, serial_number: str) -> None:
    client = orchestration.client(ctx)
    assert client is not None
    with client:
        client.unregister(serial_number)


class Inventory:
    """What the orchestrator says of nodes while they are onboarded; asked in a thread of its own, once for all."""

    def __init__(self, ctx: Context, orchestration: Orchestration) -> None:
        self._cancel = Cancel()
        self._client = orchestration.client(replace(ctx, cancel=self._cancel))
        self._failures: dict[str, str] = {}
        self._thread = threading.Thread(target=self._watch, name="inventory", daemon=True)
        if self._client is not None:
            self._thread.start()

    def failure(self, serial_number: str) -> str:
        """Why a node's provisioning failed, in the orchestrator's words; empty as long as it did not."""
        return self._failures.get(serial_number, "")

    def close(self) -> None:
        """Ask no more."""
        self._cancel.set()
        if self._client is not None:
            self._thread.join()
            self._client.close()

    def _watch(self) -> None:
        assert self._client is not None
        with suppress(Interrupted):
            while True:
                self._cancel.sleep(_INTERVAL)
                # An orchestrator that does not answer now is no failure of a node.
                with suppress(OrchestratorFailed):
                    for host in self._client.hosts():
                        if host.ended == "failed":
                            said = host.provisioning.text or host.provisioning.state or host.status
                            self._failures[host.serial_number] = said
