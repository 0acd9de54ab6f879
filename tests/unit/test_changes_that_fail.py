"""Changes of a machine on a simulated host: whichever call fails, or is the last one, nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pytest

from tests.unit.simulated import hypervisor_of
from tests.unit.test_engine import left
from vmprov import Settings, Vmprov
from vmprov.errors import LibvirtFailed, VmprovError
from vmprov.hypervisor import Hypervisor
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.hypervisor.hardware import with_memory
from vmprov.spec.lab import LabSpec
from vmprov.spec.load import parse_lab

METHODS = [name for name in vars(Hypervisor) if not name.startswith("_") and name != "close"]


class Killed(BaseException):
    """As good as ``kill -9``: nothing of ours catches it."""


def lab(words: str) -> LabSpec:
    defaults = "{driver: fake, host: 'fake:', image: '', memory: 64MiB, timeout: 20s}"
    return parse_lab(f"lab: trial\ndefaults: {defaults}\nvms: {{vm: {{{words}}}}}\n", "lab.yaml")


def lose(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    """Lose a data disk, the variables of the firmware, and the network."""
    vm = vmprov.store.vm("vm")
    for ending in (".old.img", ".nvram"):
        assert fake.remove_volume("default", vm.domain + ending)
    assert fake.remove_network(vm.network)


def meddle(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    """Pause it, and change its definition."""
    domain = vmprov.store.vm("vm").domain
    fake.define_domain(with_memory(fake.domain_definition(domain), 32 << 20))
    fake.pause_domain(domain)


def undefine(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    """Remove its domain."""
    fake.remove_domain(vmprov.store.vm("vm").domain)


def nothing(_vmprov: Vmprov, _fake: FakeHypervisor) -> None:
    """Leave it as it is."""


OLD = "firmware: uefi, disks: [{name: old, size: 1GiB}, {name: kept, size: 1GiB}]"
NEW = "firmware: uefi, cpus: 2, labels: {a: b}, disks: [{name: kept, size: 2GiB}, {name: new, size: 1GiB}]"
CHANGES = {
    "changed": (nothing, NEW), "lost": (lose, OLD), "lost and changed": (lose, NEW), "meddled with": (meddle, OLD),
    "gone and changed": (undefine, NEW),
}  # fmt: skip


def strike(fake: FakeHypervisor, number: int, problem: VmprovError | None) -> Callable[[], bool]:
    """Let the call of that number fail, or kill the command; returns whether it came to that."""
    calls = count(1)
    struck: list[int] = []

    def when(*_arguments: object) -> bool:
        hit = next(calls) == number
        if hit:
            struck.append(number)
        if hit and problem is None:
            raise Killed
        return hit

    for method in METHODS:
        fake.fail(method, problem or LibvirtFailed("never"), when=when)
    return lambda: bool(struck)


@pytest.mark.parametrize("how", ["fails", "fails, and is kept", "kills"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_converges_and_loses_nothing_whichever_call(settings: Settings, change: str, how: str) -> None:
    damage, words = CHANGES[change]
    for number in count(1):
        with Vmprov(settings) as vmprov:
            assert vmprov.apply(lab(OLD)).ok
            before = vmprov.store.vm("vm")
            damage(vmprov, hypervisor_of(vmprov))
            struck = strike(hypervisor_of(vmprov), number, None if how == "kills" else LibvirtFailed("no luck"))
            with suppress(Killed, LibvirtFailed):
                vmprov.apply(lab(words), on_failure="keep" if how == "fails, and is kept" else "rollback-vm")
        with Vmprov(settings) as vmprov:
            planned = vmprov.plan(lab(words)).changes
            again = vmprov.apply(lab(words))

            assert "replace" not in {one.action for one in planned}, number
            assert {name for one in planned for name in one.lost} <= {"old"}, number
            assert (again.ok, vmprov.plan(lab(words)).changes, vmprov.drift()[0].drift) == (True, (), []), number
            after = vmprov.store.vm("vm")
            assert (after.uuid, after.mac, after.nics) == (before.uuid, before.mac, before.nics), number
            assert vmprov.vms()[0].state == "running", number
            assert vmprov.delete(everything=True).failed == [], number
            assert left(vmprov) == set(), number
        if not struck():
            break
    assert number > 10
