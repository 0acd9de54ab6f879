"""What the database holds, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmprov.spec.wishes import Wishes


@dataclass(frozen=True)
class LabRecord:
    """A lab that we own; ``created`` in seconds since the epoch, ``spec`` its file as last applied, or empty."""

    name: str
    host: str
    driver: str
    created: float
    spec: str = ""


@dataclass(frozen=True)
class Nic:
    """What a NIC of a VM is on: a libvirt network, or else only a ``bridge`` of the host; ``mac`` in lower case."""

    network: str
    bridge: str
    mac: str
    address: str = ""


@dataclass(frozen=True)
class VMRecord:
    """A VM that we own. ``memory`` and ``disk`` in bytes, ``seconds`` from the request to its verdict.

    ``spec``: the :class:`vmprov.spec.wishes.Wishes` as they were wanted, as JSON; empty for one of an older vmprov.
    ``nics``: all of them; the columns ``network``, ``bridge``, ``mac`` and ``address`` are those of the first.
    ``expires``: in seconds since the epoch; 0: never. ``adopted``: its domain is somebody else's, and is left alone.
    """

    id: int
    lab: str
    name: str
    state: str
    verdict: str
    why: str
    host: str
    driver: str
    domain: str
    uuid: str
    image: str
    login: str
    network: str
    bridge: str
    address: str
    mac: str
    serial_number: str
    cpus: int
    memory: int
    disk: int
    consoles: int
    created: float
    seconds: float
    flow: str
    judgement: str
    spec: str = ""
    nics: tuple[Nic, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    protected: bool = False
    expires: float = 0.0
    adopted: bool = False

    @property
    def machine(self) -> Wishes:
        """What was wanted; of a VM of an older vmprov, what the columns say."""
        # pydantic is slow to import, and listing VMs does not need it.
        from vmprov.spec.wishes import Wishes

        if self.spec:
            return Wishes.model_validate_json(self.spec)
        return Wishes(
            image=self.image, cpus=self.cpus, memory=self.memory, disk=self.disk, networks=(self.network,),
            consoles=self.consoles, flow=self.flow,
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One past run of a flow; ``ended`` in seconds since the epoch, ``stages``: (stage, start, seconds, outcome)."""

    vm: str
    lab: str
    image: str
    flow: str
    verdict: str
    failure_class: str
    stage: str
    ended: float
    seconds: float
    stages: tuple[tuple[str, float, float, str], ...] = ()


@dataclass(frozen=True)
class Owned:
    """An outside object that we made or are about to make; ``vm`` is empty for what a whole lab shares."""

    id: int
    lab: str
    vm: str
    host: str
    kind: str
    name: str
    detail: Mapping[str, str]
