"""What the orchestrator knows: OS profiles, the provider that names the default one, hosts and their instances."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .faults import Fault, Faults

T = TypeVar("T")
SERIAL = re.compile(r"[A-Za-z0-9]{5,20}")
# What a node does, in this order, as provisioningStatus tells it.
STEPS = (
    "Verifying Secure Boot settings",
    "Erasing data from all non-removable disks",
    "Streaming OS image",
    "Configuring the system",
    "Setting the disk as the first boot device",
    "Rebooting",
)
REGISTERED, ONBOARDED, RUNNING = "Host is Registered", "Onboarded", "Running"
MISTAKEN = "Host Registration Failed: serial number and UUID belong to different hosts"
IN_PROGRESS, PROVISIONED, FAILED = "Provisioning In Progress", "Provisioned", "Provisioning Failed"


class Refused(Exception):
    """A request that is turned down: an HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(frozen=True)
class Profile:
    """An operating system that can be installed: its image below ``/tink-stack/images``, and its boot entry."""

    profile: str
    resource_id: str
    name: str
    image: str
    size: int
    sha256: str
    entry: str


@dataclass
class Instance:
    """An OS on a host; ``secure_boot``: whether it wants Secure Boot on, or off."""

    resource_id: str
    os: str
    secure_boot: bool = False
    status: str = IN_PROGRESS
    indicator: str = "STATUS_INDICATION_IN_PROGRESS"


@dataclass
class Host:
    """A host that was registered, or that onboarded itself."""

    resource_id: str
    name: str
    serial: str
    uuid: str = ""
    mac: str = ""
    registration: str = REGISTERED
    onboarding: str = ""
    status: str = ""
    instance: Instance | None = None


@dataclass
class Provider:
    """Holds, as JSON within JSON, which OS is installed by default."""

    resource_id: str
    kind: str
    name: str
    endpoint: str
    credentials: list[str]
    config: str

    @property
    def default_os(self) -> str:
        """The resource id of the default OS; empty where the configuration names none."""
        return str(self._settings.get("defaultOs", ""))

    @property
    def secure_boot(self) -> bool:
        """Whether nodes have to have Secure Boot on; otherwise they have to have it off."""
        return self._settings.get("osSecurityFeatureEnable") is True

    @property
    def _settings(self) -> dict[str, Any]:
        try:
            settings = json.loads(self.config or "{}")
        except ValueError:
            return {}
        return settings if isinstance(settings, dict) else {}


@dataclass
class Inventory:
    """All of it, kept in a file."""

    file: Path
    profiles: list[Profile]
    hosts: list[Host] = field(default_factory=list)
    providers: list[Provider] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    @classmethod
    def load(cls, file: Path, profiles: list[Profile]) -> Inventory:
        """What the file holds; an inventory with one provider where there is none."""
        inventory = cls(file, profiles)
        if not file.exists():
            inventory.reset()
            return inventory
        kept = json.loads(file.read_text())
        inventory.providers = [Provider(**one) for one in kept["providers"]]
        inventory.faults = Faults([Fault(**one) for one in kept["faults"]])
        for one in kept["hosts"]:
            instance = one.pop("instance")
            inventory.hosts.append(Host(**one, instance=Instance(**instance) if instance else None))
        return inventory

    def save(self) -> None:
        """Write the file; what was there stays whole if that is cut short."""
        document = {
            "hosts": [asdict(host) for host in self.hosts],
            "providers": [asdict(provider) for provider in self.providers],
            "faults": self.faults.to_json(),
        }
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(document, indent=1))
        new.replace(self.file)

    def reset(self) -> None:
        """Forget hosts and faults; the provider names the first profile again."""
        self.hosts, self.faults = [], Faults()
        config = json.dumps({"defaultOs": self.profiles[0].resource_id, "autoProvision": True})
        self.providers = []
        self.add_provider("PROVIDER_KIND_BAREMETAL", "infra_onboarding", "xyz123", ["abc123"], config)

    # hosts

    def register(self, name: str, serial: str, uuid: str = "") -> Host:
        """A new host; raises :class:`Refused` for a serial number that is taken or cannot be one."""
        if not SERIAL.fullmatch(serial):
            raise Refused(400, f"invalid serialNumber {serial!r}: it has to match ^[A-Za-z0-9]{{5,20}}$")
        if self.by_serial(serial) is not None:
            raise Refused(409, f"a host with serialNumber {serial} exists already")
        host = Host(new_id("host"), name or serial, serial, uuid)
        self.hosts.append(host)
        self.save()
        return host

    def by_serial(self, serial: str) -> Host | None:
        """The host with a serial number."""
        return next((host for host in self.hosts if host.serial == serial), None)

    def host(self, resource_id: str) -> Host:
        """The host with an id; raises :class:`Refused`."""
        return _found(next((host for host in self.hosts if host.resource_id == resource_id), None), "host", resource_id)

    def remove_host(self, resource_id: str) -> None:
        """Forget a host; raises :class:`Refused` while an OS is installed on it."""
        host = self.host(resource_id)
        if host.instance is not None:
            raise Refused(400, f"host {resource_id} has an instance: delete {host.instance.resource_id} first")
        self.hosts.remove(host)
        self.save()

    def remove_instance(self, resource_id: str) -> None:
        """Forget what was installed on a host."""
        host = next((host for host in self.hosts if host.instance and host.instance.resource_id == resource_id), None)
        _found(host, "instance", resource_id).instance = None
        self.save()

    # what nodes do

    def onboard(self, serial: str, uuid: str, mac: str) -> Host:
        """A node has proved who it is: it is a host now, with an instance of the default OS."""
        host = self.by_serial(serial) or self.register(serial, serial)
        host.uuid, host.mac, host.onboarding, host.status = uuid, mac, ONBOARDED, ""
        provider = self.default_provider()
        host.instance = Instance(new_id("inst"), self.profile(provider.default_os).resource_id, provider.secure_boot)
        self.progress(host, 1)
        return host

    def mistaken(self, host: Host) -> None:
        """Another machine came with the host's serial number."""
        host.registration = MISTAKEN
        self.save()

    def progress(self, host: Host, step: int) -> None:
        """A node has come to a step; the last one is the end of provisioning."""
        self._set(host, f"{IN_PROGRESS}: {step}/{len(STEPS)}: {STEPS[step - 1]}", "STATUS_INDICATION_IN_PROGRESS")
        if step == len(STEPS):
            self._set(host, PROVISIONED, "STATUS_INDICATION_IDLE")

    def failed(self, host: Host, why: str) -> None:
        """A node could not be provisioned."""
        self._set(host, f"{FAILED}: {why}", "STATUS_INDICATION_ERROR")

    def running(self, host: Host) -> None:
        """The installed OS is up."""
        host.status = RUNNING
        self.save()

    def _set(self, host: Host, status: str, indicator: str) -> None:
        if host.instance is not None:
            host.instance.status, host.instance.indicator = status, indicator
        self.save()

    # profiles and providers

    def profile(self, resource_id: str) -> Profile:
        """The profile with an id; raises :class:`Refused`."""
        found = next((profile for profile in self.profiles if profile.resource_id == resource_id), None)
        return _found(found, "os", resource_id)

    def default_provider(self) -> Provider:
        """Names what is installed on a node that just onboarded; raises :class:`Refused` where none does."""
        for provider in self.providers:
            if provider.default_os:
                return provider
        raise Refused(400, "no provider names a default OS")

    def add_provider(self, kind: str, name: str, endpoint: str, credentials: list[str], config: str) -> Provider:
        """A new provider; raises :class:`Refused` for a name that is taken or an OS that is not there."""
        if any(provider.name == name for provider in self.providers):
            raise Refused(409, f"a provider called {name} exists already")
        provider = Provider(new_id("provider"), kind, name, endpoint, credentials, config)
        if provider.default_os:
            self.profile(provider.default_os)
        self.providers.append(provider)
        self.save()
        return provider

    def remove_provider(self, resource_id: str) -> None:
        """Forget a provider; raises :class:`Refused` if there is none."""
        found = next((one for one in self.providers if one.resource_id == resource_id), None)
        self.providers.remove(_found(found, "provider", resource_id))
        self.save()


def new_id(kind: str) -> str:
    """An id as the orchestrator makes them."""
    return f"{kind}-{secrets.token_hex(4)}"


def _found(thing: T | None, kind: str, resource_id: str) -> T:
    if thing is None:
        raise Refused(404, f"no {kind} {resource_id}")
    return thing


def state_document(inventory: Inventory) -> dict[str, Any]:
    """Everything that can be seen of the orchestrator from outside; no secrets."""
    profiles = {profile.resource_id: profile for profile in inventory.profiles}
    return {
        "hosts": [
            {
                "id": host.resource_id,
                "name": host.name,
                "serial_number": host.serial,
                "uuid": host.uuid,
                "mac": host.mac,
                "registration": host.registration,
                "onboarding": host.onboarding,
                "status": host.status,
                "os": profiles[host.instance.os].profile if host.instance else "",
                "provisioning": host.instance.status if host.instance else "",
            }
            for host in inventory.hosts
        ],
        "os_profiles": [profile.profile for profile in inventory.profiles],
        "default_os": next((profiles[one.default_os].profile for one in inventory.providers if one.default_os), ""),
        "faults": inventory.faults.to_json(),
    }
