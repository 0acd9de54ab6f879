"""What every operation of the engine needs, passed on explicitly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmprov.drivers import Driver
from vmprov.errors import SpecError
from vmprov.events import Events, StageChanged
from vmprov.hosts import Host
from vmprov.hypervisor import Hypervisor
from vmprov.images import Images
from vmprov.paths import Home
from vmprov.runner import Runner
from vmprov.settings import Settings
from vmprov.store import Store
from vmprov.waiting import Cancel

if TYPE_CHECKING:
    from vmprov.day0.lab import Practice


@dataclass(frozen=True)
class Context:
    """One operation on one host with one driver; ``practice``: the Day-0 lab, if there is one."""

    home: Home
    settings: Settings
    store: Store
    host: Host
    driver: Driver
    images: Images
    runner: Runner
    events: Events
    cancel: Cancel
    practice: Callable[[], Practice | None] = lambda: None

    @property
    def hypervisor(self) -> Hypervisor:
        """The host's libvirt connection."""
        return self.host.hypervisor()

    def stage(self, vm: str, stage: str, why: str = "", *, started: float | None = None) -> None:
        """Tell listeners that a VM entered a stage; ``started``: when, if that was not just now (monotonic)."""
        self.events.emit(StageChanged(vm=vm, stage=stage, why=why, started=started))


def check_place(ctx: Context, lab: str) -> None:
    """Raise :class:`SpecError` if the lab exists and is on another host, or made by another driver."""
    existing = ctx.store.lab(lab)
    if existing and (existing.host, existing.driver) != (ctx.host.name, ctx.driver.name):
        raise SpecError(
            f"lab {lab!r} is on {existing.host} with driver {existing.driver}",
            hint="a lab has one host and one driver; choose another name for the lab",
        )
