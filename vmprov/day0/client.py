"""The client of an edge orchestrator: registers hosts, tells how far they are, chooses operating systems.

::

    settings = read_settings(home=Path("~/.local/share/vmprov").expanduser())
    with Orchestrator(settings, password_of(settings)) as orchestrator:
        orchestrator.check()
        registered = orchestrator.register_all(["VP3FA1000001", "VP3FA1000002"])
        ...
        for one in registered:
            if one.outcome == "registered":
                orchestrator.unregister(one.serial_number, host_id=one.host_id)
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from pydantic import SecretStr

from vmprov.day0.answers import (
    BAREMETAL,
    Host,
    HostPage,
    Instance,
    InstancePage,
    OSPage,
    OSProfile,
    Provider,
    ProviderPage,
    Token,
    parse,
)
from vmprov.day0.config import OrchestratorSettings
from vmprov.day0.https import REQUEST_LIMIT, Answer, Https, trust
from vmprov.errors import (
    AlreadyRegistered,
    AnswerUnreadable,
    Failed,
    LoginRefused,
    NoSuchProject,
    NotAllowed,
    NotFound,
    NotFullyUndone,
    OrchestratorFailed,
    ServerFailed,
    Unreachable,
    VmprovError,
    WaitTimeout,
)
from vmprov.waiting import Cancel, Deadline

P = TypeVar("P", HostPage, InstancePage, OSPage, ProviderPage)

# The most that orchestrators hand out at once.
_PAGE = 100
_MOST_PAGES = 1000
# Seconds before its end at which a token is renewed.
_EARLY = 10.0
_POLL = 5.0
_PROVIDER = "infra_onboarding"
# Short names of the profiles that are chosen most.
SHORT_NAMES = {
    "microvisor": "microvisor-nonrt",
    "microvisor-standalone": "microvisor-standalone",
    "ubuntu": "ubuntu-22.04-lts-generic-ext",
}
_SCOPE = "openid profile email groups"


@dataclass(frozen=True)
class Registration:
    """What became of a serial number that was to be registered.

    ``outcome``: registered (by this call), existing (there was such a host already, not ours), or failed.
    ``host_id``: the orchestrator's name for the host; "" where it failed.
    """

    serial_number: str
    outcome: Literal["registered", "existing", "failed"]
    host_id: str = ""
    why: str = ""

    def to_json(self) -> dict[str, str]:
        """The object that ``--json`` prints."""
        return asdict(self)


class Orchestrator:
    """A client of one project. Opening it asks nobody. Its methods may be called from any thread.

    ``cancel`` ends what waits, at any moment. ``limit``: seconds that one request may take, repetitions included.
    Every method raises :class:`vmprov.errors.OrchestratorFailed`, of the kind that says what is the matter. Secrets are
    in no message.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        password: SecretStr,
        *,
        cancel: Cancel | None = None,
        limit: float = REQUEST_LIMIT,
    ) -> None:
        self.settings = settings
        self._password = password
        self._cancel = cancel or Cancel()
        self._limit = limit
        self._https = Https(trust(settings.ca_file), connect_to=settings.connect_to)
        self._project = f"{settings.api_url}/v1/projects/{settings.project}"
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._renew_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._https.close()

    def check(self) -> None:
        """See that the user can log in and the project exists; raises what is the matter."""
        answer = self._ask("GET", self._project)
        self._refuse(answer, "the project")
        document = answer.json()
        if not isinstance(document, dict):
            raise AnswerUnreadable(f"{answer.host} answers the project in a shape that is not known: no object")

    # hosts

    def hosts(self) -> list[Host]:
        """All hosts of the project."""
        return self._all("compute/hosts", HostPage, "the hosts")

    def instances(self) -> list[Instance]:
        """All instances of the project."""
        return self._all("compute/instances", InstancePage, "the instances")

    def find(self, serial_number: str) -> Host | None:
        """The host with exactly that serial number, or ``None``."""
        return next((host for host in self.hosts() if host.serial_number == serial_number), None)

    def status(self, serial_number: str) -> Host:
        """The host with exactly that serial number, with how far it is; raises :class:`NotFound`."""
        found = self.find(serial_number)
        if found is None:
            raise NotFound(
                f"{self.settings.project} has no host with the serial number {serial_number}",
                hint=f"register it: vmprov day0 register {serial_number}",
            )
        return found

    def wait(
        self,
        serial_numbers: Sequence[str],
        deadline: Deadline,
        *,
        changed: Callable[[str, str], None] = lambda _number, _stage: None,
        interval: float = _POLL,
    ) -> list[Host]:
        """Wait until all hosts have ended, well or not; ``changed`` is told (serial number, stage) when one moves on.

        A host that is not there yet is waited for, too: with interactive onboarding it comes late. An orchestrator that
        answered once may be away for a while. Raises :class:`WaitTimeout` naming those that have not ended.
        """
        told: dict[str, str] = {}
        known: dict[str, Host] = {}
        while True:
            try:
                known = {host.serial_number: host for host in self.hosts()}
            except (Unreachable, ServerFailed):
                if not told or deadline.expired:
                    raise
            for number in serial_numbers:
                stage = known[number].stage if number in known else "not known"
                if told.get(number) != stage:
                    told[number] = stage
                    changed(number, stage)
            pending = [number for number in serial_numbers if not (number in known and known[number].ended)]
            if not pending:
                return [known[number] for number in serial_numbers]
            if deadline.expired:
                shown = ", ".join(f"{number} ({told[number]})" for number in pending)
                raise WaitTimeout(
                    f"not onboarded within {deadline.seconds:.0f} s: {shown}",
                    hint="see the console of the machine, or give more --timeout",
                )
            self._cancel.sleep(min(interval, deadline.left or interval))

    def register(self, serial_number: str, *, name: str = "") -> Host:
        """Register a host, so that it is onboarded without anybody typing; ``name`` is its serial number where empty.

        Raises :class:`AlreadyRegistered` if there is one with that serial number.
        """
        body = {"name": name or serial_number, "serialNumber": serial_number, "autoOnboard": True}
        answer = self._ask("POST", f"{self._project}/compute/hosts/register", body=body)
        if _exists(answer):
            found = self.find(serial_number)
            # An attempt whose answer was lost may have made it.
            if answer.repeated and found is not None and found.name == body["name"]:
                return found
            raise AlreadyRegistered(
                f"{serial_number} is registered with {answer.host} already" + (f", as {found.id}" if found else ""),
                hint=f"choose another serial number, or remove it: vmprov day0 unregister {serial_number}",
                host_id=found.id if found else "",
            )
        self._refuse(answer, f"the registration of {serial_number}")
        return parse(Host, answer, f"the registration of {serial_number}")

    def register_all(
        self,
        serial_numbers: Sequence[str],
        *,
        names: Sequence[str] = (),
        done: Callable[[Registration], None] = lambda _one: None,
    ) -> list[Registration]:
        """Register hosts one after the other; ``done`` is told of each at once. Never raises for what happens to one.

        After one that failed the others are not tried: what is the matter would be so for them, too.
        """
        found: list[Registration] = []
        failed = ""
        for number, name in zip(serial_numbers, names or [""] * len(serial_numbers), strict=True):
            one = (
                Registration(number, "failed", why=f"not tried: {failed}") if failed else self._registered(number, name)
            )
            failed = failed or (one.why if one.outcome == "failed" else "")
            found.append(one)
            done(one)
        return found

    def _registered(self, serial_number: str, name: str) -> Registration:
        try:
            return Registration(serial_number, "registered", self.register(serial_number, name=name).id)
        except AlreadyRegistered as problem:
            return Registration(serial_number, "existing", problem.host_id, why=str(problem))
        except OrchestratorFailed as problem:
            return Registration(serial_number, "failed", why=str(problem))

    def unregister(self, serial_number: str, *, host_id: str = "", name: str = "") -> bool:
        """Remove a host and its instance; ``False`` if there is none (any more), which is as good.

        With ``host_id`` or ``name``, a host of that serial number which has another id or name is somebody else's: it
        is left alone, and counts as none.
        """
        found = self.find(serial_number)
        if found is None or (host_id and found.id != host_id) or (name and found.name != name):
            return False
        if found.instance and found.instance.id:
            self._remove(f"compute/instances/{found.instance.id}", f"the instance of {serial_number}")
        self._remove(f"compute/hosts/{found.id}", f"the host {serial_number}")
        return True

    # operating systems

    def os_profiles(self) -> list[OSProfile]:
        """All operating systems that can be put on hosts."""
        return self._all("compute/os", OSPage, "the OS profiles")

    def providers(self) -> list[Provider]:
        """All providers."""
        return self._all("providers", ProviderPage, "the providers")

    def default_os(self) -> OSProfile | None:
        """The operating system that new hosts get, if there is one."""
        wanted = {provider.default_os for provider in self.providers()}
        return next((profile for profile in self.os_profiles() if profile.id in wanted), None)

    def os_profile(self, name: str) -> OSProfile:
        """A profile by name, short name or id; raises :class:`NotFound`."""
        profiles = self.os_profiles()
        for wanted in (name, SHORT_NAMES.get(name, "")):
            for profile in profiles:
                if wanted in (profile.name, profile.id):
                    return profile
        known = ", ".join(sorted(profile.name for profile in profiles)) or "none"
        raise NotFound(f"no OS profile called {name!r}", hint=f"known: {known}")

    def set_default_os(self, name: str) -> bool:
        """Let new hosts get another operating system; ``False`` if they get it already.

        A provider cannot be changed, so another takes its place. If that fails, the old one is made again; it cannot be
        interrupted in between. Raises :class:`NotFullyUndone` if that fails, too.
        """
        profile = self.os_profile(name)
        having = [provider for provider in self.providers() if provider.default_os]
        if having and all(provider.default_os == profile.id for provider in having):
            return False
        if len(having) > 1:
            known = ", ".join(sorted(f"{provider.name} ({provider.id})" for provider in having))
            raise Failed(f"several providers have a default OS: {known}", hint="leave only one of them")
        old = having[0] if having else None
        config = {**(old.settings if old else {}), "defaultOs": profile.id, "autoProvision": True}
        base = old or Provider(name=_PROVIDER, providerKind=BAREMETAL)
        new = base.model_copy(update={"config": json.dumps(config)})
        if old is None:
            self._make(new, self._cancel)
        else:
            self._replace(old, new)
        if not any(provider.default_os == profile.id for provider in self.providers()):
            raise Failed(f"the provider {new.name} was replaced, but does not have the new OS", hint="try again")
        return True

    def _make(self, provider: Provider, cancel: Cancel) -> Provider:
        answer = self._ask("POST", f"{self._project}/providers", body=provider.body(), cancel=cancel)
        what = f"the provider {provider.name}"
        self._refuse(answer, what)
        return parse(Provider, answer, what)

    def _replace(self, old: Provider, new: Provider) -> None:
        steady = Cancel()
        try:
            made = self._make(new, steady)
        except _Exists:
            # There cannot be two of that name.
            self._replace_in_place(old, new, steady)
            return
        if made.id != old.id:
            try:
                self._remove_provider(old, steady)
            except VmprovError:
                self._remove_provider(made, steady)
                raise

    def _replace_in_place(self, old: Provider, new: Provider, steady: Cancel) -> None:
        self._remove_provider(old, steady)
        try:
            self._make(new, steady)
        except VmprovError as problem:
            try:
                self._make(old, steady)
            except VmprovError as worse:
                raise NotFullyUndone(
                    f"the provider {old.name} was removed, and can neither be replaced ({problem}) nor made again "
                    f"({worse})",
                    hint=f"make one of that name, of kind {old.kind or BAREMETAL}, with defaultOs {old.default_os}",
                ) from problem
            raise

    def _remove_provider(self, provider: Provider, cancel: Cancel) -> None:
        self._remove(f"providers/{provider.id}", f"the provider {provider.name}", cancel=cancel)

    # asking

    def _all(self, path: str, page_of: type[P], what: str) -> list[Any]:
        """All items of a collection, whether or not the orchestrator hands them out in pages."""
        found: dict[str, Any] = {}
        for _ in range(_MOST_PAGES):
            url = f"{self._project}/{path}?pageSize={_PAGE}&offset={len(found)}"
            answer = self._ask("GET", url)
            self._refuse(answer, what)
            page = parse(page_of, answer, what)
            fresh = {item.id: item for item in page.items if item.id not in found}
            found |= fresh
            more = page.has_next if page.has_next is not None else len(page.items) >= _PAGE
            if not fresh or not more:
                break
        return list(found.values())

    def _remove(self, path: str, what: str, *, cancel: Cancel | None = None) -> None:
        """Delete; gone is success."""
        answer = self._ask("DELETE", f"{self._project}/{path}", cancel=cancel)
        if answer.status not in (404, 410):
            self._refuse(answer, what)

    def _ask(self, method: str, url: str, *, body: object = None, cancel: Cancel | None = None) -> Answer:
        """Ask with a token; one that has become stale is renewed once."""
        cancel = cancel or self._cancel
        deadline = Deadline(self._limit)
        token = self._login(deadline, cancel)
        for fresh in (False, True):
            headers = {"Authorization": f"Bearer {token.access_token}"}
            answer = self._https.ask(method, url, headers=headers, body=body, deadline=deadline, cancel=cancel)
            if answer.status == 401 and not fresh:
                token = self._login(deadline, cancel, stale=token)
                continue
            break
        return answer

    def _login(self, deadline: Deadline, cancel: Cancel, *, stale: Token | None = None) -> Token:
        """A token that holds for a while; ``stale``: one that was refused though it should hold."""
        with self._lock:
            token = self._token
            if token is not None and token is not stale and time.monotonic() < self._renew_at:
                return token
            answer = None
            if token is not None and token is not stale and token.refresh_token:
                form = {"grant_type": "refresh_token", "refresh_token": token.refresh_token}
                answer = self._ask_token(form, deadline, cancel)
            if answer is None or not answer.ok:
                form = {
                    "grant_type": "password", "username": self.settings.username,
                    "password": self._password.get_secret_value(), "scope": _SCOPE,
                }  # fmt: skip
                answer = self._ask_token(form, deadline, cancel)
            if answer.status in (400, 401):
                raise LoginRefused(
                    f"{answer.host} refuses to log in {self.settings.username!r}{self._words(answer)}",
                    hint="see the user name and the password of the orchestrator's API user",
                )
            self._refuse(answer, "the login")
            self._token = parse(Token, answer, "the login")
            self._renew_at = time.monotonic() + max(self._token.expires_in - _EARLY, self._token.expires_in / 2)
            return self._token

    def _ask_token(self, form: dict[str, str], deadline: Deadline, cancel: Cancel) -> Answer:
        form = {"client_id": self.settings.client_id, **form}
        url = self.settings.token_url
        return self._https.ask("POST", url, headers={}, form=form, deadline=deadline, cancel=cancel)

    def _refuse(self, answer: Answer, what: str) -> None:
        """Raise what a status means; nothing where it is a success."""
        host, status = answer.host, answer.status
        if answer.ok:
            return
        said = self._words(answer)
        user, project = self.settings.username, self.settings.project
        if status == 401:
            raise LoginRefused(
                f"{host} does not accept the token of {user!r} for {what} (401){said}",
                hint="see that api_url and token_url belong to one orchestrator",
            )
        if status == 403:
            raise NotAllowed(
                f"{host}: {user!r} may not ask for {what} in project {project!r} (403){said}",
                hint="see the user's groups in Keycloak, and the project's name",
            )
        if status == 404:
            raise NoSuchProject(
                f"{host} has no project {project!r}, or does not know {what} (404){said}",
                hint="see project, and that the address is that of the orchestrator's API",
            )
        if 300 <= status < 400:
            raise AnswerUnreadable(
                f"{host} sends us elsewhere for {what} ({status}), which is not followed",
                hint="give the final address as api_url or token_url",
            )
        if status >= 500:
            raise ServerFailed(
                f"{host} failed with {what} ({status}){said}", hint="see the orchestrator's logs, and try again"
            )
        hint = "it is busy; try again later" if status == 429 else ""
        kind = _Exists if status in (400, 409, 412) else OrchestratorFailed
        raise kind(f"{host} refuses {what} ({status}){said}", hint=hint)

    def _words(self, answer: Answer) -> str:
        """The server's own words, without secrets."""
        said = answer.said
        token = self._token
        secrets = [self._password.get_secret_value(), *((token.access_token, token.refresh_token) if token else ())]
        for secret in secrets:
            if secret:
                said = said.replace(secret, "***")
        return f": {said}" if said else ""


class _Exists(OrchestratorFailed):
    """It was refused, perhaps because there is one of that name."""


def _exists(answer: Answer) -> bool:
    """Whether it was refused because it is there already; 412 is what some versions say for that."""
    return answer.status in (409, 412) or (answer.status == 400 and "already" in answer.said.lower())
