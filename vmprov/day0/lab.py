"""The Day-0 lab: an orchestrator to practise against, in a container of ours on Docker's default network.

Guests of the embedded host reach it by its address, and by its names once their network's DNS is told of them
(:attr:`Practice.addresses`). What it serves, signs and remembers lies in one directory of the state directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine, Mount
from vmprov.day0.orchestrator.faults import BadFault, Fault, parse
from vmprov.errors import CommandFailed, HostNotReady, NotFound, SpecError
from vmprov.events import Events
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.spec.names import check_host_name
from vmprov.waiting import Cancel, Deadline, wait_until

CLUSTER = "day0.internal"
PROJECT = "practice"
ONBOARDING_USER = "edge-operator"
API_USER = "project-operator"
NO_FAULT = "none"
# Host names below the cluster's domain.
_BOOT, _API, _KEYCLOAK, _RELEASE = "tinkerbell-haproxy", "api", "keycloak", "release"
# Seconds for which an access token is good.
_TOKEN_LIFETIME = 3600
_START_LIMIT = 180.0
_ASK_LIMIT = 30.0
_SERVER = Path(__file__).parent / "orchestrator"


@dataclass(frozen=True)
class SecureBootKeys:
    """Certificates (PEM) of the lab's own Secure Boot keys; a machine that has them starts what the lab signed."""

    platform_key: Path
    key_exchange_key: Path
    db: Path


@dataclass(frozen=True)
class Node:
    """A host in the lab's inventory; ``onboarding``, ``status`` and ``provisioning`` in the orchestrator's words."""

    id: str
    name: str
    serial_number: str
    uuid: str
    mac: str
    registration: str
    onboarding: str
    status: str
    os: str
    provisioning: str


@dataclass(frozen=True)
class Practice:
    """The lab as it is, and all that machines and clients need to know of it.

    ``address`` -- of its container, empty while it is down. ``ca_file`` -- what its TLS is verified with.
    ``credentials_file`` -- a file for shells that sets the users' names and passwords, and where the orchestrator is.
    ``default_os`` -- the profile that is installed. ``faults`` -- those that are on, as they are asked for, with their
    serial number, if any.
    """

    up: bool
    cluster: str
    project: str
    container: str
    address: str
    ca_file: Path
    secure_boot: SecureBootKeys
    credentials_file: Path
    onboarding_user: str
    onboarding_password: SecretStr
    api_user: str
    api_password: SecretStr
    default_os: str = ""
    os_profiles: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def boot_url(self) -> str:
        """What DHCP tells firmware to load."""
        return f"https://{_BOOT}.{self.cluster}/tink-stack/signed_ipxe.efi"

    @property
    def api_url(self) -> str:
        """The API."""
        return f"https://{_API}.{self.cluster}"

    @property
    def token_url(self) -> str:
        """Where tokens come from."""
        return f"https://{_KEYCLOAK}.{self.cluster}/realms/master/protocol/openid-connect/token"

    @property
    def addresses(self) -> Mapping[str, str]:
        """The lab's host names and their address, for the DNS of a boot network; nothing while it is down."""
        names = (_BOOT, _API, _KEYCLOAK, _RELEASE) if self.address else ()
        return {f"{name}.{self.cluster}": self.address for name in names}

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints; no passwords."""
        return {
            "up": self.up,
            "cluster": self.cluster,
            "project": self.project,
            "container": self.container,
            "address": self.address,
            "addresses": dict(self.addresses),
            "boot_url": self.boot_url,
            "api_url": self.api_url,
            "token_url": self.token_url,
            "ca_file": str(self.ca_file),
            "boot_certificate": str(self.secure_boot.db),
            "credentials_file": str(self.credentials_file),
            "onboarding_user": self.onboarding_user,
            "api_user": self.api_user,
            "default_os": self.default_os,
            "os_profiles": list(self.os_profiles),
            "nodes": [asdict(node) for node in self.nodes],
            "faults": [asdict(fault) for fault in self.faults],
        }


class Day0Lab:
    """The Day-0 lab of a state directory; at most one."""

    def __init__(self, home: Home, installation: str, engine: Engine) -> None:
        self._home = home
        self._engine = engine
        self._directory = home.day0
        self._labels = {"vmprov.installation": installation, "vmprov.role": "day0"}
        self.container = f"vmprov-day0-{installation}"

    def up(self, events: Events, cancel: Cancel, *, cluster: str = "", faults: Sequence[str] = ()) -> Practice:
        """Start it unless it runs; its certificates, keys and images are made the first time.

        Faults are added to those that are on. Raises :class:`SpecError` for a fault that there is not, and where it
        runs already for another cluster.
        """
        for fault in faults:
            _parse(fault, "")
        with exclusive(self._home.lock("day0-lab"), Deadline(_START_LIMIT * 10), "the Day-0 lab", cancel=cancel):
            known = self._config()
            wanted = _cluster(cluster or (known["cluster"] if known else CLUSTER))
            if known and known["cluster"] != wanted:
                raise SpecError(
                    f"the Day-0 lab is that of {known['cluster']}, not of {wanted}", hint="run: vmprov day0 lab down"
                )
            image = recipes.ensure(self._engine, "day0", self._home, events)
            if not known:
                self._make_directory(wanted)
            self._start(image, wanted, events, cancel)
            self._write_credentials()
        for fault in faults:
            self.fault(fault)
        return self.status()

    def down(self) -> bool:
        """Remove its container and its directory; ``False`` if there was neither. Machines are left as they are."""
        with exclusive(self._home.lock("day0-lab"), Deadline(_START_LIMIT), "the Day-0 lab"):
            found = self._engine.find(self._labels)
            for container in found:
                self._engine.remove(container.id)
            try:
                shutil.rmtree(self._directory)
            except FileNotFoundError:
                return bool(found)
        return True

    def status(self) -> Practice:
        """How it is; raises :class:`NotFound` if it was never started."""
        config = self._config()
        if config is None:
            raise NotFound("there is no Day-0 lab", hint="run: vmprov day0 lab up")
        up = self._engine.status(self.container) == "running"
        state = self._ask("state") if up else {}
        onboarding, api = (one for one in config["users"])
        keys = self._directory / "secure-boot"
        return Practice(
            up=up,
            cluster=config["cluster"],
            project=config["project"],
            container=self.container,
            address=self._engine.address(self.container) if up else "",
            ca_file=self._directory / "ca.pem",
            secure_boot=SecureBootKeys(keys / "PK.pem", keys / "KEK.pem", keys / "db.pem"),
            credentials_file=self._directory / "credentials.env",
            onboarding_user=onboarding["name"],
            onboarding_password=SecretStr(onboarding["password"]),
            api_user=api["name"],
            api_password=SecretStr(api["password"]),
            default_os=state.get("default_os", ""),
            os_profiles=tuple(state.get("os_profiles", ())),
            nodes=tuple(Node(**one) for one in state.get("hosts", ())),
            faults=tuple(Fault(**one) for one in state.get("faults", ())),
        )

    def fault(self, name: str, *, serial_number: str = "", off: bool = False) -> None:
        """Switch a fault on (or ``off``), for all nodes or one; ``none`` switches all off, or those of one node.

        Raises :class:`SpecError` for a fault that there is not, or not for one node.
        """
        if name != NO_FAULT:
            _parse(name, serial_number)
        self._ask("fault", json.dumps({"fault": name, "serial": serial_number, "off": off}))

    def reset(self) -> None:
        """Forget all hosts and faults; the first OS profile is the default again."""
        self._ask("reset")

    def _config(self) -> dict[str, Any] | None:
        try:
            config: dict[str, Any] = json.loads((self._directory / "config.json").read_text())
        except FileNotFoundError:
            return None
        return config

    def _make_directory(self, cluster: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Typed on serial lines: nothing that a keyboard or a shell could take for something else.
        users = [
            {"name": ONBOARDING_USER, "password": secrets.token_hex(8), "roles": ["onboarding"]},
            {"name": API_USER, "password": secrets.token_hex(8), "roles": ["project"]},
        ]
        config = {
            "cluster": cluster,
            "project": PROJECT,
            "token_lifetime": _TOKEN_LIFETIME,
            "token_key": secrets.token_hex(32),
            "users": users,
        }
        _write_private(self._directory / "config.json", json.dumps(config, indent=1))

    def _start(self, image: str, cluster: str, events: Events, cancel: Cancel) -> None:
        digest = _digest(image)
        for running in self._engine.find(self._labels):
            if running.status == "running" and running.labels.get("vmprov.digest") == digest and self._answers():
                return
        server = self._directory / "server"
        shutil.rmtree(server, ignore_errors=True)
        shutil.copytree(_SERVER, server / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
        with events.step("start the Day-0 lab"):
            self._engine.start(
                ContainerSpec(
                    name=self.container,
                    image=image,
                    labels={**self._labels, "vmprov.digest": digest},
                    mounts=[Mount(self._directory, "/lab")],
                    hostname="day0",
                    env={"CLUSTER": cluster},
                )
            )
            wait_until(
                self._answers, Deadline(_START_LIMIT), "answer from the Day-0 lab",
                cancel=cancel, interval=0.3, hint=f"see: docker logs {self.container}",
            )  # fmt: skip

    def _answers(self) -> bool:
        if self._engine.status(self.container) != "running":
            said = self._engine.logs(self.container).strip().splitlines()
            raise HostNotReady(
                f"the Day-0 lab's container stopped: {said[-1] if said else 'it said nothing'}",
                hint=f"see: docker logs {self.container}",
            )
        try:
            self._ask("state")
        except CommandFailed:
            return False
        return True

    def _write_credentials(self) -> None:
        lab = self.status()
        values = {
            "EDGE_USERNAME": lab.onboarding_user,
            "EDGE_PASSWORD": lab.onboarding_password.get_secret_value(),
            "EDGE_CLUSTER": lab.cluster,
            "EDGE_PROJECT": lab.project,
            "EDGE_API_USERNAME": lab.api_user,
            "EDGE_API_PASSWORD": lab.api_password.get_secret_value(),
            "EDGE_CA_FILE": str(lab.ca_file),
            "EDGE_CONNECT_TO": lab.address,
            "EDGE_BOOT_URL": lab.boot_url,
        }
        lines = (f"export {name}='{value}'\n" for name, value in values.items())
        _write_private(lab.credentials_file, "".join(lines))

    def _ask(self, *words: str) -> dict[str, Any]:
        """What the container answers; raises :class:`SpecError` for what it refuses."""
        lines: list[str] = []
        try:
            code = self._engine.exec(
                self.container, ["day0-lab", *words], on_line=lines.append, deadline=Deadline(_ASK_LIMIT)
            )
        except HostNotReady as problem:
            raise HostNotReady("the Day-0 lab does not run", hint="run: vmprov day0 lab up") from problem
        said = "\n".join(lines)
        if code == 0:
            document: dict[str, Any] = json.loads(said)
            return document
        if code == 2:
            raise SpecError(f"the Day-0 lab refuses: {json.loads(said)['message']}")
        raise CommandFailed(f"the Day-0 lab does not answer: {said}", hint="run: vmprov day0 lab up", output=said)


def _parse(text: str, serial_number: str) -> Fault:
    try:
        return parse(text, serial_number)
    except BadFault as problem:
        raise SpecError(str(problem), hint="see: vmprov day0 lab faults") from problem


def _cluster(name: str) -> str:
    try:
        return check_host_name(name)
    except ValueError as problem:
        raise SpecError(f"--cluster: {problem}") from problem


def _digest(image: str) -> str:
    """Changes with whatever the container runs."""
    digest = hashlib.sha256(image.encode())
    for path in sorted(_SERVER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _write_private(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
