"""What can be wished for a VM beside its machine: how it is told apart and kept, and what its first boot does."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vmprov.spec.forms import LIST, Seconds
from vmprov.spec.labels import MOST_LABELS, check_label, check_value
from vmprov.spec.machine import FilePath, Machine
from vmprov.spec.secrecy import holds_a_secret

_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]{1,60} [A-Za-z0-9+/]{40,10000}={0,3}(?: [ -~]{0,200})?")

Ready = Literal["flow", "ssh", "login", "power-on"]


def _command(command: str) -> str:
    if holds_a_secret(command):
        raise ValueError("there is a secret in this text, and commands are recorded")
    return command


def _key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError("this is no public SSH key; it looks like 'ssh-ed25519 AAAA... name'")
    return key


class Part(BaseModel):
    """What the models of labs and of their files have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def given(self) -> dict[str, Any]:
        """The fields that were set, with their values; all others have their defaults."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


Label = Annotated[str, AfterValidator(check_label)]
LabelValue = Annotated[str, AfterValidator(check_value)]
Command = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_command)]


class Seed(Part):
    """What first boot does beside making the account with the lab's key; guests that read cloud-init's user-data do it.

    ``ssh_keys``: more public keys for that account. ``run``: commands, as root, once, in order; a text is a line for
    the shell. ``user_data``: a cloud-config file, which is merged in when the seed is made.
    """

    ssh_keys: Annotated[tuple[Annotated[str, AfterValidator(_key)], ...], LIST] = ()
    run: Annotated[tuple[Command, ...], LIST] = ()
    user_data: FilePath | None = None


class Wishes(Machine):
    """What can be wished for a VM in a lab, beside its machine.

    ``labels``: key and value, to select VMs by. ``ready``: what proves that it is ready; ``None``: the flow, or else
    what the image can. ``protect``: it is not removed before that is taken back. ``ttl``: seconds after which it may be
    removed.
    """

    labels: Annotated[dict[Label, LabelValue], Field(max_length=MOST_LABELS)] = Field(default_factory=dict)
    ready: Ready | None = None
    protect: Annotated[bool, Field(strict=True)] = False
    ttl: Annotated[Seconds, Field(gt=0)] | None = None
    seed: Seed = Field(default_factory=Seed)
