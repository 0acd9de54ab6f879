"""What an orchestrator answers, parsed once into frozen values: what is left out is empty, what is null is refused."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vmprov.day0.https import Answer
from vmprov.errors import AnswerUnreadable

BAREMETAL = "PROVIDER_KIND_BAREMETAL"
_ERROR = "STATUS_INDICATION_ERROR"
_MOST_PROBLEMS = 3
_PROVISIONING = re.compile(
    r"(?P<state>[^:]*)(?::\s*(?:(?P<step>\d{1,4})/(?P<steps>\d{1,4})\s*:?\s*)?(?P<text>.*))?", re.S
)
_FAILED = re.compile(r"\b(failed|error|invalidated)\b", re.I)

M = TypeVar("M", bound=BaseModel)


class _Model(BaseModel):
    # What comes after this version of ours is passed over.
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


def _empty(value: object) -> object:
    """An empty list: the usual encoders of Go write null for one."""
    return () if value is None else tuple(value) if isinstance(value, list) else value


def _absent(value: object) -> object:
    return None if value == {} else value


class Token(_Model):
    """What logging in gives; lifetimes in seconds."""

    access_token: str = Field(min_length=1, repr=False)
    refresh_token: str = Field(default="", repr=False)
    expires_in: float = 60.0


class System(_Model):
    """An operating system on an instance."""

    name: str = ""
    profile_name: str = Field(default="", alias="profileName")
    id: str = Field(default="", validation_alias=AliasChoices("osResourceID", "resourceId"))
    image_url: str = Field(default="", alias="imageUrl")


class OSProfile(_Model):
    """An operating system that can be put on hosts."""

    name: str = Field(alias="profileName")
    id: str = Field(validation_alias=AliasChoices("osResourceID", "resourceId"))
    title: str = Field(default="", alias="name")
    image_url: str = Field(default="", alias="imageUrl")

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"name": self.name, "id": self.id, "title": self.title, "image_url": self.image_url}


class Provisioning(BaseModel):
    """How far an operating system is on its way to a disk.

    ``state``: the orchestrator's words, such as ``Provisioning In Progress`` or ``Provisioned``; "" while there is no
    instance. ``step`` of ``steps`` with its ``text``, where these are told.

    >>> Provisioning.parse("Provisioning In Progress: 3/9: Streaming OS image")
    Provisioning(state='Provisioning In Progress', step=3, steps=9, text='Streaming OS image')
    >>> Provisioning.parse("Provisioned")
    Provisioning(state='Provisioned', step=0, steps=0, text='')
    """

    model_config = ConfigDict(frozen=True)

    state: str = ""
    step: int = 0
    steps: int = 0
    text: str = ""

    @classmethod
    def parse(cls, status: str) -> Provisioning:
        """Read an instance's ``provisioningStatus``."""
        found = _PROVISIONING.fullmatch(status.strip())
        if not found:
            return cls(state=status.strip())
        return cls(
            state=found["state"].strip(), step=int(found["step"] or 0), steps=int(found["steps"] or 0),
            text=(found["text"] or "").strip(),
        )  # fmt: skip

    def __str__(self) -> str:
        """In one line: ``Provisioning In Progress 3/9: Streaming OS image``."""
        count = f" {self.step}/{self.steps}" if self.steps else ""
        return f"{self.state}{count}" + (f": {self.text}" if self.text else "")


class Instance(_Model):
    """An operating system on a host, as it is or is becoming."""

    id: str = Field(default="", validation_alias=AliasChoices("instanceID", "resourceId"))
    name: str = ""
    os: Annotated[System | None, BeforeValidator(_absent)] = None
    desired_os: Annotated[System | None, BeforeValidator(_absent)] = Field(default=None, alias="desiredOs")
    status: str = Field(default="", alias="provisioningStatus")
    indicator: str = Field(default="", alias="provisioningStatusIndicator")

    @property
    def provisioning(self) -> Provisioning:
        """How far it is."""
        return Provisioning.parse(self.status)

    @property
    def os_name(self) -> str:
        """The operating system's name, as far as it is known."""
        system = self.os or self.desired_os
        return (system.name or system.profile_name) if system else ""


class Host(_Model):
    """A machine that the orchestrator knows."""

    id: str = Field(alias="resourceId", min_length=1)
    name: str = ""
    serial_number: str = Field(default="", alias="serialNumber")
    uuid: str = ""
    status: str = Field(default="", alias="hostStatus")
    status_indicator: str = Field(default="", alias="hostStatusIndicator")
    onboarding: str = Field(default="", alias="onboardingStatus")
    onboarding_indicator: str = Field(default="", alias="onboardingStatusIndicator")
    registration: str = Field(default="", alias="registrationStatus")
    registration_indicator: str = Field(default="", alias="registrationStatusIndicator")
    instance: Annotated[Instance | None, BeforeValidator(_absent)] = None

    @property
    def provisioning(self) -> Provisioning:
        """How far its operating system is."""
        return self.instance.provisioning if self.instance else Provisioning()

    @property
    def stage(self) -> str:
        """The last thing that was said of it, in one line."""
        return str(self.provisioning) or self.status or self.onboarding or self.registration or "registered"

    @property
    def ended(self) -> Literal["", "success", "failed"]:
        """How its onboarding ended; "" while it has not. A failure counts whatever else is said."""
        said = [
            (self.registration, self.registration_indicator), (self.onboarding, self.onboarding_indicator),
            (self.status, self.status_indicator),
        ]  # fmt: skip
        if self.instance:
            said.append((self.provisioning.state, self.instance.indicator))
        if any(indicator == _ERROR or _FAILED.search(words) for words, indicator in said):
            return "failed"
        return "success" if self.provisioning.state == "Provisioned" or self.status == "Running" else ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "serial_number": self.serial_number,
            "host_id": self.id,
            "name": self.name,
            "uuid": self.uuid,
            "os": self.instance.os_name if self.instance else "",
            "instance_id": self.instance.id if self.instance else "",
            "registration": self.registration,
            "onboarding": self.onboarding,
            "status": self.status,
            "provisioning": self.provisioning.model_dump(),
            "ended": self.ended,
        }


class Provider(_Model):
    """What decides, among others, which operating system new hosts get. ``config`` is JSON in a text."""

    id: str = Field(default="", validation_alias=AliasChoices("providerID", "resourceId"))
    name: str
    kind: str = Field(default="", alias="providerKind")
    vendor: str = Field(default="", alias="providerVendor")
    api_endpoint: str = Field(default="", alias="apiEndpoint")
    api_credentials: Annotated[tuple[str, ...], BeforeValidator(_empty)] = Field(
        default=(), alias="apiCredentials", repr=False
    )
    config: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What ``config`` says; empty where that is no JSON object."""
        try:
            found = json.loads(self.config)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def default_os(self) -> str:
        """The id of the operating system that new hosts get, or ""."""
        found = self.settings.get("defaultOs", "")
        return found if isinstance(found, str) else ""

    def body(self) -> dict[str, Any]:
        """What makes such a provider."""
        document: dict[str, Any] = {
            "name": self.name,
            "providerKind": self.kind or BAREMETAL,
            "providerVendor": self.vendor,
            # Nobody calls it, but it must be there.
            "apiEndpoint": self.api_endpoint or "none",
            "apiCredentials": list(self.api_credentials),
            "config": self.config,
        }
        return {key: value for key, value in document.items() if value}


class _Page(_Model):
    has_next: bool | None = Field(default=None, alias="hasNext")


class HostPage(_Page):
    """Some of the hosts."""

    items: Annotated[tuple[Host, ...], BeforeValidator(_empty)] = Field(default=(), alias="hosts")


class InstancePage(_Page):
    """Some of the instances."""

    items: Annotated[tuple[Instance, ...], BeforeValidator(_empty)] = Field(default=(), alias="instances")


class OSPage(_Page):
    """Some of the OS profiles."""

    items: Annotated[tuple[OSProfile, ...], BeforeValidator(_empty)] = Field(
        default=(), alias="OperatingSystemResources"
    )


class ProviderPage(_Page):
    """Some of the providers."""

    items: Annotated[tuple[Provider, ...], BeforeValidator(_empty)] = Field(default=(), alias="providers")


def parse(model: type[M], answer: Answer, what: str) -> M:
    """An answer's JSON as a value; :class:`AnswerUnreadable` says what is not as it should be, never a value."""
    document = answer.json()
    try:
        return model.model_validate(document)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=True)
        told = "; ".join(_problem(error) for error in errors[:_MOST_PROBLEMS])
        more = f"; and {len(errors) - _MOST_PROBLEMS} more" if len(errors) > _MOST_PROBLEMS else ""
        # The chained error would show values, tokens among them.
        raise AnswerUnreadable(
            f"{answer.host} answers {what} in a shape that is not known: {told}{more}",
            hint="see that it is an orchestrator, of a version that vmprov knows",
        ) from None


def _problem(error: Any) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]).lstrip(".")
    where = path or "the whole"
    if error["type"] == "missing":
        return f"{where} is missing"
    kind = _KINDS.get(type(error["input"]), "something else")
    wanted = _WANTED.get(error["type"], "as expected")
    return f"{where} is {kind}, not {wanted}"


_KINDS = {
    type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list",
    tuple: "a list", dict: "an object",
}  # fmt: skip
_WANTED = {
    "string_type": "text",
    "string_too_short": "text with at least one character",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "tuple_type": "a list",
    "float_type": "a number",
    "bool_type": "true or false",
}
