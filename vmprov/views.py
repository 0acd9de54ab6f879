"""What vmprov tells about a VM or an operation: plain values, the same for people, ``--json`` and the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class VMView:
    """A VM as it is now.

    ``state``: creating, running, stopped, paused, crashed, missing (its domain is gone), failed (kept on failure),
    deleting, broken (could not be removed fully), removed, or unknown (its host does not answer).
    ``verdict``: success, failed, timeout, cancelled, or "" while there is none. ``judgement``: the verdict in full - its
    class, stage, evidence and offset, as in ``vmprov.flows.verdict.Verdict.to_json`` - or ``None``.
    ``memory`` and ``disk`` in bytes; ``seconds`` from the request to the verdict; ``console_log`` a path.
    """

    name: str
    lab: str
    state: str
    verdict: str
    why: str
    address: str
    mac: str
    network: str
    bridge: str
    serial_number: str
    console_log: str
    seconds: float
    host: str
    driver: str
    domain: str
    image: str
    cpus: int
    memory: int
    disk: int
    flow: str = ""
    judgement: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)


@dataclass(frozen=True)
class CreateResult:
    """How a ``create`` went; ``exit_code`` is that of the command."""

    lab: str
    vms: Sequence[VMView]
    exit_code: int

    @property
    def ok(self) -> bool:
        """Whether every VM is ready."""
        return self.exit_code == 0

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"lab": self.lab, "ok": self.ok, "vms": [vm.to_json() for vm in self.vms]}


@dataclass(frozen=True)
class Failure:
    """Something that could not be done to a VM, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class DeleteResult:
    """What a ``delete`` removed and what it could not."""

    deleted: Sequence[str]
    failed: Sequence[Failure]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"deleted": list(self.deleted), "failed": [asdict(failure) for failure in self.failed]}


@dataclass(frozen=True)
class HostView:
    """A host as it is now; sizes in bytes, 0 where it does not answer. ``uri`` is what other libvirt clients need."""

    name: str
    uri: str
    up: bool
    vms: int
    cpus: int = 0
    memory: int = 0
    free_memory: int = 0
    pool: str = ""
    pool_available: int = 0
    libvirt: str = ""
    qemu: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)
