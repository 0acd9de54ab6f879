"""What vmprov tells about a VM or an operation: plain values, the same for people, ``--json`` and the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class VMView:
    """A VM as it is now.

    ``state``: creating, rebuilding, running, stopped, paused, crashed, missing (its domain is gone), failed (kept on
    failure), deleting, broken (could not be removed fully), removed, unchanged (in a result: nothing was begun with
    it), or unknown (its host does not answer).
    ``verdict``: success, failed, timeout, cancelled, or "" while there is none. ``judgement``: the verdict in full -
    its class, stage, evidence and offset, as in ``vmprov.flows.verdict.Verdict.to_json`` - or ``None``.
    ``memory`` and ``disk`` in bytes; ``seconds`` from the request to the verdict; ``console_log`` a path.
    ``nics``: of each NIC the ``network``, ``bridge``, ``mac`` and ``address``; those of the first also stand alone.
    ``labels``: key and value. ``protected``: it is not removed before that is taken back. ``expires``: when it may be
    removed, in seconds since the epoch; 0: never. ``adopted``: its domain is somebody else's.
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
    nics: Sequence[Mapping[str, str]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    protected: bool = False
    expires: float = 0.0
    adopted: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)

    @property
    def told_verdict(self) -> str:
        """The verdict with its class or stage: ``failed(kernel-panic)``, ``timeout(login)``; ``-`` if there is none."""
        said = self.judgement or {}
        detail = {"failed": said.get("class"), "timeout": said.get("stage")}.get(self.verdict)
        return f"{self.verdict}({detail})" if detail else self.verdict or "-"


@dataclass(frozen=True)
class Usual:
    """What is usual for a stage, in seconds: median and 95th percentile of earlier runs, and the stage's limit."""

    median: float | None = None
    p95: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class PortVerdict:
    """How a flow ended on a serial port; ``verdict`` in words, ``judgement`` in full, ``log`` its capture."""

    port: str
    flow: str
    kind: str
    verdict: str
    why: str
    evidence: str
    log: str
    judgement: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]

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
class WorkResult:
    """How it went for VMs that were worked on; ``exit_code`` is that of the command."""

    vms: Sequence[VMView]
    exit_code: int

    @property
    def ok(self) -> bool:
        """Whether all went well."""
        return self.exit_code == 0

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"ok": self.ok, "vms": [vm.to_json() for vm in self.vms]}


@dataclass(frozen=True)
class ApplyResult:
    """How an ``apply`` went: the ``plan`` that was done, as JSON, and the VMs that it was about."""

    lab: str
    plan: Mapping[str, Any]
    vms: Sequence[VMView]
    exit_code: int

    @property
    def ok(self) -> bool:
        """Whether everything was done."""
        return self.exit_code == 0

    @property
    def counts(self) -> dict[str, int]:
        """How many VMs were created, changed, and so on, and how many failed."""
        failed = {vm.name for vm in self.vms if vm.verdict not in ("success", "")}
        counts: dict[str, int] = {}
        for change in self.plan["changes"]:
            done = "failed" if change["name"] in failed else _DONE[change["action"]]
            counts[done] = counts.get(done, 0) + 1
        return counts | {"unchanged": len(self.plan["unchanged"])}

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"lab": self.lab, "ok": self.ok, **self.plan, "vms": [vm.to_json() for vm in self.vms]}


_DONE = {
    "create": "created", "adopt": "adopted", "change": "changed", "mend": "mended", "replace": "replaced",
    "delete": "deleted",
}  # fmt: skip


@dataclass(frozen=True)
class Drift:
    """How a VM differs from what is recorded of it, in words; ``state`` is its domain's."""

    vm: str
    lab: str
    state: str
    drift: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """Something that could not be done to a VM, and why; ``exit_code`` is what that makes a command's."""

    name: str
    why: str
    exit_code: int = 1

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"name": self.name, "why": self.why}


@dataclass(frozen=True)
class DeleteResult:
    """What a ``delete`` removed and what it could not."""

    deleted: Sequence[str]
    failed: Sequence[Failure]

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 4 if something is left that should be gone, 1 if it only was refused."""
        codes = [failure.exit_code for failure in self.failed]
        return 4 if 4 in codes else max(codes, default=0)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {"deleted": list(self.deleted), "failed": [failure.to_json() for failure in self.failed]}


@dataclass(frozen=True)
class Leftover:
    """Something of ours that nothing needs (any more), and ``why`` that is known.

    ``kind``: vm, lab, domain, network, adopted network, volume, container, directory, file, or lock. ``host`` is empty
    for what lies in the state directory. ``state``: found, removed, kept (it has data to lose), or failed; then
    ``problem`` says why.
    """

    kind: str
    name: str
    host: str
    why: str
    state: str = "found"
    problem: str = ""


@dataclass(frozen=True)
class GcResult:
    """What ``gc`` found and did; ``skipped``: labs, VMs and hosts that were left alone, and why."""

    leftovers: Sequence[Leftover]
    skipped: Sequence[Failure] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that was to be removed is gone."""
        return not any(one.state == "failed" for one in self.leftovers)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "ok": self.ok,
            "leftovers": [asdict(one) for one in self.leftovers],
            "skipped": [asdict(one) for one in self.skipped],
        }


@dataclass(frozen=True)
class RebuildResult:
    """What ``gc --rebuild`` recorded again: names of VMs and labs; ``untold``: what could not be told, and why.

    ``database``: what became of the one that was there - sound, missing, or damaged; ``aside``: where that is now.
    """

    database: str
    aside: str
    labs: Sequence[str]
    vms: Sequence[str]
    untold: Sequence[Failure]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)


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


@dataclass(frozen=True)
class StageStay:
    """One stay of a VM in a stage of its flow.

    ``start`` and ``end`` in seconds since power-on, ``seconds`` between them; while it lasts, ``end`` is ``None`` and
    ``seconds`` runs up to now. ``outcome``: passed, skipped, recovered, failed, timeout, cancelled, or "" while it
    lasts. ``boot`` counts the firmware starts from 1. ``limit``: how many seconds the flow allows, or ``None``.
    """

    stage: str
    start: float
    end: float | None
    seconds: float
    outcome: str
    boot: int = 1
    limit: float | None = None


@dataclass(frozen=True)
class Timeline:
    """Where a VM's time went since it was last powered on.

    ``verdict`` names the class or the stage, too: ``success``, ``failed(kernel-panic)``, ``timeout(login)``,
    ``cancelled``, or "" while there is none. ``judgement``: as in :class:`VMView`. ``seconds``: from power-on to the
    verdict, or up to now. ``stages`` in the order in which they were entered; none where no console was watched.
    ``limits``: of all stages of the flow that have one, in seconds.
    """

    vm: str
    lab: str
    flow: str
    verdict: str
    seconds: float
    stages: tuple[StageStay, ...] = ()
    judgement: Mapping[str, Any] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {**asdict(self), "stages": [asdict(stay) for stay in self.stages]}


@dataclass(frozen=True)
class Onboarding:
    """How one machine's onboarding went, or goes.

    ``os``: what its login prompt named, or "" while it has not. ``stage``: the last one entered. ``verdict`` as in
    :class:`Timeline`, ``kind`` without class or stage; ``why``: one line that tells what decided. ``seconds``: from
    power-on to the verdict, or up to now. ``stages``: stage -> seconds in it, all stays together, in the order in which
    they were entered.
    """

    vm: str
    lab: str
    serial_number: str
    os: str
    flow: str
    stage: str
    kind: str
    verdict: str
    why: str
    seconds: float
    stages: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {**asdict(self), "stages": dict(self.stages)}


@dataclass(frozen=True)
class StageStatistics:
    """How long a stage of a flow took machines of one image so far; times in seconds.

    ``n``: how many stays ended by passing it; only these count. ``p95``: by the nearest-rank method, so the time of a
    real stay. A ``stage`` of "" stands for the whole run from power-on to success; only there, ``verdicts`` counts how
    all runs ended, by the verdict's kind. ``median`` and ``p95`` are ``None`` where ``n`` is 0.
    """

    image: str
    flow: str
    stage: str
    n: int
    median: float | None
    p95: float | None
    verdicts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {**asdict(self), "verdicts": dict(self.verdicts)}
