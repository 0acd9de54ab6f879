"""Which subnets networks get: handed out once, and kept for as long as nobody else uses them."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tests.unit.simulated import make_image
from vmprov.hosts.fake import FakeHost
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.lab import Vmprov
from vmprov.paths import Home
from vmprov.spec.load import parse_lab
from vmprov.views import ApplyResult


@pytest.fixture(autouse=True)
def image(home: Home) -> str:
    """An image whose machines are ready at their login prompt."""
    return make_image(home)


def apply(vmprov: Vmprov, text: str) -> ApplyResult:
    lab = "lab: trial\nhost: 'fake:'\ndefaults: {image: '', memory: 64MiB}\n"
    return vmprov.apply(parse_lab(lab + text, "lab.yaml"))


def subnets(fake: FakeHypervisor) -> list[str]:
    return sorted(str(subnet) for network in fake.networks() for subnet in network.subnets)


def leases(vmprov: Vmprov) -> list[str]:
    return sorted(vmprov.store.leased(host="fake:", kind="subnet"))


def lose(fake: FakeHypervisor, *names: str) -> None:
    for name in names or [network.name for network in fake.networks()]:
        fake.remove_network(name)


def take(fake: FakeHypervisor, subnet: str) -> None:
    """Somebody else makes a network."""
    network = IPv4Network(subnet)
    ip = f"<ip address='{network[1]}' netmask='{network.netmask}'/>"
    fake.create_network(f"<network><name>theirs</name><bridge name='theirs'/>{ip}</network>")


ONE = "vms: {vm: {}}\n"


def test_a_lost_network_comes_back_with_its_subnet(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    apply(vmprov, ONE)
    before = subnets(fake)
    lose(fake)

    assert apply(vmprov, ONE).ok
    assert subnets(fake) == leases(vmprov) == before


def test_a_lost_network_comes_back_elsewhere_if_its_subnet_is_routed_by_now(
    vmprov: Vmprov, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(vmprov, ONE)
    lose(fake)
    monkeypatch.setattr(FakeHost, "routes", lambda _: [IPv4Network("10.87.0.0/24")])

    assert apply(vmprov, ONE).ok
    assert subnets(fake) == leases(vmprov) == ["10.87.1.0/28"]
    assert vmprov.store.vm("vm").address == "10.87.1.2"


def test_of_several_networks_only_that_moves_whose_subnet_is_taken(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = "vms: {vm: {networks: [per-vm, per-vm, per-vm]}}\n"
    apply(vmprov, text)
    lost = vmprov.store.vm("vm").nics[1].network
    lose(fake, lost)
    take(fake, "10.87.0.16/28")

    assert apply(vmprov, text).ok
    assert leases(vmprov) == ["10.87.0.0/28", "10.87.0.32/28", "10.87.0.48/28"]
    assert subnets(fake) == [*leases(vmprov)[:1], "10.87.0.16/28", *leases(vmprov)[1:]]
    vmprov.delete(everything=True)
    assert (leases(vmprov), subnets(fake)) == ([], ["10.87.0.16/28"])


def test_what_is_taken_between_handing_out_and_making_is_handed_out_anew(
    vmprov: Vmprov, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmprov.engine.objects import nics

    lease = nics.lease_own_subnets

    def late(*arguments: object) -> None:
        lease(*arguments)  # type: ignore[arg-type]
        take(fake, "10.87.0.0/24")

    monkeypatch.setattr(nics, "lease_own_subnets", late)

    assert apply(vmprov, "vms: {vm: {count: 5, networks: [per-vm, per-vm]}}\n").ok
    assert [*leases(vmprov), "10.87.0.0/24"] == [*subnets(fake)[1:], subnets(fake)[0]]
    assert len(leases(vmprov)) == 10


def test_a_lost_shared_network_is_made_once_by_those_who_miss_it(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = "vms: {vm: {count: 3, networks: [shared]}}\n"
    apply(vmprov, text)
    before = subnets(fake)
    lose(fake)
    fake.delay("create_network", 0.1)

    assert apply(vmprov, text).ok
    assert subnets(fake) == leases(vmprov) == before


FRONT = "networks: {front: {subnet: 10.99.0.0/24}}\n"


@pytest.mark.parametrize(
    "first", ["a: {networks: [front, shared]}, b: {networks: [shared, front]}", "a: {networks: [shared, front]}"]
)
def test_a_declared_subnet_is_nobody_elses(vmprov: Vmprov, fake: FakeHypervisor, first: str) -> None:
    text = f"{FRONT}vms: {{{first}}}\n"
    assert apply(vmprov, text).ok
    before = subnets(fake)
    lose(fake)

    assert apply(vmprov, text).ok
    assert subnets(fake) == leases(vmprov) == before == ["10.87.0.0/22", "10.99.0.0/24"]


def test_a_declared_subnet_that_somebody_took_is_told_with_what_to_do(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = f"{FRONT}vms: {{web: {{networks: [front]}}}}\n"
    apply(vmprov, text)
    lose(fake)
    take(fake, "10.99.0.0/16")

    [vm] = apply(vmprov, text).vms

    assert "subnet 10.99.0.0/24 is in use already; choose another one in the lab's file" in vm.why
