"""The host goes away, or others remove things, while a lab is worked on: nothing is lost, the same again mends it."""

from __future__ import annotations

import threading

import pytest

from vmprov import Vmprov
from vmprov.errors import Failed, HostNotReady
from vmprov.events import Event, StageChanged
from vmprov.hypervisor import Hypervisor
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.spec.lab import LabSpec
from vmprov.spec.load import parse_lab

POOL = "default"

pytestmark = pytest.mark.usefixtures("image")

CALLS = [name for name, value in vars(Hypervisor).items() if callable(value) and not name.startswith("_")]


def lab(vms: str = "web: {count: 2}, db: {disks: [{name: data, size: 1GiB}]}") -> LabSpec:
    return parse_lab(
        f"lab: trial\ndefaults: {{image: tiny, driver: fake, memory: 64MiB}}\nvms: {{{vms}}}\n", "lab.yaml"
    )


class Outage:
    """While it lasts, libvirt does not answer."""

    def __init__(self, fake: FakeHypervisor) -> None:
        self.lasts = False
        for name in CALLS:
            gone = HostNotReady("libvirt does not answer")
            fake.fail(name, gone, times=1_000_000, when=lambda *_: self.lasts)

    def begin_at(self, vmprov: Vmprov, stage: str) -> None:
        """Begin as soon as any VM enters the stage."""

        def listener(event: Event) -> None:
            if isinstance(event, StageChanged) and event.stage == stage:
                self.lasts = True

        vmprov.events.listen(listener)


@pytest.mark.parametrize("stage", ["network", "disk", "power on", "kernel"])
def test_a_connection_lost_while_applying_costs_what_was_begun_and_no_more(
    vmprov: Vmprov, fake: FakeHypervisor, stage: str
) -> None:
    outage = Outage(fake)
    outage.begin_at(vmprov, stage)

    lost = vmprov.apply(lab())
    vmprov.events._listeners.clear()
    recorded = {vm.name: vm.state for vm in vmprov.store.vms()}
    outage.lasts = False
    collected = vmprov.gc()
    again = vmprov.apply(lab())

    assert not lost.ok and all(vm.why for vm in lost.vms if vm.verdict not in ("success", ""))
    # What could not be undone is recorded, and so it is found.
    assert set(recorded.values()) <= {"broken", "ready"}
    assert collected.ok and again.ok
    assert not vmprov.plan(lab())
    assert len(fake.domains()) == 3


def test_a_connection_lost_while_deleting_is_told_and_the_same_again_finishes(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    vmprov.apply(lab())
    outage = Outage(fake)
    outage.begin_at(vmprov, "removing")

    first = vmprov.delete(["trial"])
    outage.lasts = False
    vmprov.events._listeners.clear()
    second = vmprov.delete(["trial"])

    assert first.failed and all("does not answer" in one.why for one in first.failed)
    assert (list(second.failed), fake.domains(), fake.volumes(POOL), vmprov.store.labs()) == ([], [], [], [])


def test_a_domain_that_somebody_removes_between_plan_and_apply_is_noticed(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab())
    plan = vmprov.plan(lab("web: {count: 2, memory: 96MiB}, db: {disks: [{name: data, size: 1GiB}]}"))
    fake.remove_domain(vmprov.store.vm("db").domain)

    with pytest.raises(Failed, match="lab trial changed since the plan was shown"):
        vmprov.apply(lab("web: {count: 2, memory: 96MiB}, db: {disks: [{name: data, size: 1GiB}]}"), expected=plan)
    result = vmprov.apply(lab("web: {count: 2, memory: 96MiB}, db: {disks: [{name: data, size: 1GiB}]}"))

    assert result.ok and len(fake.domains()) == 3


def test_a_domain_that_somebody_removes_while_it_is_changed_is_told_and_the_same_again_mends_it(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    vmprov.apply(lab())
    wanted = lab("web: {count: 2, memory: 96MiB}, db: {disks: [{name: data, size: 1GiB}]}")
    domain = vmprov.store.vm("web-1").domain
    once = threading.Event()

    def gone(xml: str) -> bool:
        if domain in xml and not once.is_set():
            once.set()
            fake._world._values["domains"].pop(domain)
        return False

    fake.fail("define_domain", Failed("never"), when=gone)
    vmprov.apply(wanted)
    again = vmprov.apply(wanted)

    assert once.is_set() and again.ok
    assert not vmprov.plan(wanted)
    assert {one.name for one in fake.domains()} == {vm.domain for vm in vmprov.store.vms()}
