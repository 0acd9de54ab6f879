"""Creating and removing on a simulated host: what is made, what a fault costs, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.unit.simulated import hypervisor_of, make_image
from vmprov import CreateRequest, CreateResult, Settings, Vmprov, VMView
from vmprov.errors import HostNotReady, Interrupted, InUse, LibvirtFailed, NameTaken, SpecError
from vmprov.events import Event, StageChanged
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.paths import Home
from vmprov.store import Store

POOL = "default"
LOGIN_STAGES = ["power-on", "firmware", "bootloader", "kernel", "login"]
HANGING = "SeaBIOS\r\nBooting from Hard Disk...\r\nno bootable medium\r\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def image(home: Home) -> None:
    """An image called ``tiny`` whose machines are ready at their login prompt."""
    make_image(home)


@pytest.fixture
def another(settings: Settings) -> Iterator[Vmprov]:
    """A second process at the same state directory, as far as one process can have it."""
    with Vmprov(settings) as opened:
        yield opened


def wanted(**words: object) -> CreateRequest:
    return CreateRequest.parse(
        **{"image": "tiny", "driver": "fake", "memory": "64MiB", "timeout": 20.0, "count": 3, **words}
    )


def about(vm: str) -> Callable[..., bool]:
    """Whether a call's arguments speak of that VM (names, XML)."""
    return lambda *arguments: vm in " ".join(map(str, arguments))


def by_name(result: CreateResult, attribute: str) -> dict[str, object]:
    return {vm.name: getattr(vm, attribute) for vm in result.vms}


def one(result: CreateResult) -> VMView:
    assert len(result.vms) == 1
    return result.vms[0]


def left(vmprov: Vmprov) -> set[str]:
    """Everything there is: recorded, on the host, in the state directory; images and kept logs apart."""
    fake, store, home = hypervisor_of(vmprov), vmprov.store, vmprov.home
    directories = [path for kind in ("vms", "labs", "run/console") for path in (home.root / kind).glob("*")]
    return {
        *(f"record of VM {vm.name}" for vm in store.vms()),
        *(f"record of lab {lab.name}" for lab in store.labs()),
        *(f"record of {owned.kind} {owned.name}" for owned in store.owned()),
        *(f"leased subnet {value}" for value in store.leased(host="fake:", kind="subnet")),
        *(f"leased serial number {value}" for value in store.leased(host="", kind="serial number")),
        *(f"domain {domain.name}" for domain in fake.domains()),
        *(f"network {network.name}" for network in fake.networks()),
        *(f"volume {volume.name}" for volume in fake.volumes(POOL)),
        *(f"directory {path.relative_to(home.root)}" for path in directories),
    }


def base_volumes(fake: FakeHypervisor) -> list[str]:
    return [volume.name for volume in fake.volumes(POOL) if "VAGRANTSLASH" in volume.name]


class Stages:
    """Remembers every change of stage, and counts the VMs between power-on and verdict."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.booting: set[str] = set()
        self.most = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageChanged):
            self.seen.append((event.vm, event.stage))
            if event.stage == "power on":
                self.booting.add(event.vm)
            elif event.stage in ("ready", "failed", "timeout", "cancelled"):
                self.booting.discard(event.vm)
            self.most = max(self.most, len(self.booting))


def at_stage(stage: str, action: Callable[[], object], vm: str = "") -> Callable[[Event], None]:
    """A listener that acts, from another thread, as soon as a VM enters the stage."""

    def listener(event: Event) -> None:
        if isinstance(event, StageChanged) and event.stage == stage and vm in event.vm:
            threading.Thread(target=action).start()

    return listener


# all goes well


def test_machines_that_are_ready_are_running_and_told_in_order(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    result = vmprov.create(wanted())

    assert [(vm.name, vm.state, vm.verdict) for vm in result.vms] == [
        ("vm-1", "running", "success"), ("vm-2", "running", "success"), ("vm-3", "running", "success"),
    ]  # fmt: skip
    assert (result.exit_code, result.ok, len(fake.domains())) == (0, True, 3)


def test_each_machine_has_a_network_an_address_a_mac_and_a_serial_number_of_its_own(vmprov: Vmprov) -> None:
    vms = vmprov.create(wanted()).vms

    distinct = [len({getattr(vm, name) for vm in vms}) for name in ("network", "bridge", "address", "mac")]
    assert distinct == [3, 3, 3, 3]
    assert len({vm.serial_number for vm in vms}) == 3


def test_the_console_log_holds_the_boot_from_its_first_byte(vmprov: Vmprov) -> None:
    vm = one(vmprov.create(wanted(count=1)))

    assert Path(vm.console_log).read_bytes().startswith(b"\r\nSeaBIOS")


def test_a_machine_without_image_is_ready_at_power_on(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING

    result = vmprov.create(wanted(image="", count=1))

    assert (one(result).verdict, base_volumes(fake)) == ("success", [])


def test_a_domain_carries_our_mark(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(count=1, lab="trial"))

    mark = fake.domains()[0].mark
    assert mark is not None
    assert (mark.installation, mark.lab, mark.vm) == (vmprov.store.installation, "trial", "vm-1")


def test_no_more_machines_boot_at_once_than_asked_for(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    stages = Stages()
    vmprov.events.listen(stages)
    fake.delay("start_domain", 0.002)

    result = vmprov.create(wanted(count=20, parallel=3))

    assert (result.ok, len(result.vms), stages.most) == (True, 20, 3)


def test_the_stages_of_a_machine_come_in_order(vmprov: Vmprov) -> None:
    stages = Stages()
    vmprov.events.listen(stages)

    vmprov.create(wanted(count=1))

    assert [stage for _, stage in stages.seen] == ["network", "disk", "power on", *LOGIN_STAGES, "ready"]


def test_a_base_volume_is_put_on_the_host_once_and_goes_with_its_last_machine(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    vmprov.create(wanted(count=2))
    vmprov.create(wanted(count=1))
    both = base_volumes(fake)

    vmprov.delete(["lab-1"])
    after_first = base_volumes(fake)
    vmprov.delete(["lab-2"])

    assert (len(both), after_first, base_volumes(fake)) == (1, both, [])


def test_serial_numbers_are_never_given_twice_even_after_a_deletion(vmprov: Vmprov, another: Vmprov) -> None:
    first = by_name(vmprov.create(wanted()), "serial_number")
    vmprov.delete(everything=True)
    second = by_name(another.create(wanted()), "serial_number")

    assert first.keys() == second.keys()
    assert set(first.values()) & set(second.values()) == set()


def test_given_serial_numbers_are_used_in_order(vmprov: Vmprov) -> None:
    result = vmprov.create(wanted(count=2, serial_numbers=("EDGE0002", "EDGE0001")))

    assert [vm.serial_number for vm in result.vms] == ["EDGE0002", "EDGE0001"]


def test_a_serial_number_in_use_is_refused_and_nothing_is_recorded(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1, serial_numbers=("EDGE0001",)))
    before = left(vmprov)

    with pytest.raises(NameTaken, match="EDGE0001"):
        vmprov.create(wanted(count=1, serial_numbers=("EDGE0001",)))

    assert left(vmprov) == before


def test_a_name_in_use_is_refused_and_nothing_is_recorded(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=2, name="web"))
    before = left(vmprov)

    with pytest.raises(NameTaken, match=r"'web-1' already.*choose another --name"):
        vmprov.create(wanted(count=3, name="web"))

    assert left(vmprov) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"memory": "1TiB"}, "not one would fit"),
        ({"memory": "100GiB"}, "2 would fit"),
        ({"network": "nowhere"}, "no network called 'nowhere'"),
        ({"image": "nope"}, "no image called 'nope'"),
        ({"driver": "nope"}, "no such driver: 'nope'"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_made(
    vmprov: Vmprov, words: dict[str, object], why: str
) -> None:
    with pytest.raises(SpecError, match=why):
        vmprov.create(wanted(**words))

    assert left(vmprov) == set()


def test_a_lab_stays_on_its_host(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1, lab="trial"))

    with pytest.raises(SpecError, match="'trial' is on fake: with driver fake"):
        vmprov.create(wanted(count=1, lab="trial"), host="fake:other")


def test_machines_can_join_a_lab(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1, lab="trial"))
    vmprov.create(wanted(count=1, lab="trial"))

    assert [vm.name for vm in vmprov.vms("trial")] == ["vm-1", "vm-2"]


# a dry run


def test_a_dry_run_writes_nothing(vmprov: Vmprov) -> None:
    result = vmprov.plan_create(wanted())

    assert (result.exit_code, set(by_name(result, "state").values())) == (0, {"planned"})
    assert left(vmprov) == set()


def test_what_a_dry_run_tells_comes_true(vmprov: Vmprov) -> None:
    told = vmprov.plan_create(wanted())
    made = vmprov.create(wanted())

    assert by_name(told, "serial_number") == by_name(made, "serial_number")
    assert by_name(told, "mac") == by_name(made, "mac")


def test_a_dry_run_refuses_what_a_run_refuses(vmprov: Vmprov) -> None:
    with pytest.raises(SpecError, match="do not fit"):
        vmprov.plan_create(wanted(memory="1TiB"))


# failures


@pytest.mark.parametrize(
    "method",
    ["volume", "create_network", "upload_volume", "create_volume", "define_domain", "start_domain", "domain"],
)
def test_a_machine_that_fails_is_undone_alone(vmprov: Vmprov, fake: FakeHypervisor, method: str) -> None:
    # A domain is looked at once before it is judged, to be annotated, which may fail.
    fake.fail(method, LibvirtFailed("no luck"), when=about("vm-2"), times=2 if method == "domain" else 1)

    result = vmprov.create(wanted())

    assert by_name(result, "state") == {"vm-1": "running", "vm-2": "removed", "vm-3": "running"}
    assert by_name(result, "verdict") == {"vm-1": "success", "vm-2": "failed", "vm-3": "success"}
    assert (result.exit_code, result.vms[1].why.split(";")[0]) == (1, "no luck")
    assert [thing for thing in left(vmprov) if "vm-2" in thing] == []


def test_a_lab_without_any_machine_left_is_gone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("upload_volume", LibvirtFailed("the disk is full"), times=4)

    result = vmprov.create(wanted())

    assert set(by_name(result, "verdict").values()) == {"failed"}
    assert (result.exit_code, left(vmprov)) == (1, set())


def test_a_machine_that_stops_while_booting_fails_at_once(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING
    domain = f"vmprov-{vmprov.store.installation}-vm-1"
    vmprov.events.listen(lambda event: fake.power_off_domain(domain) if "power-on" in str(event) else None)

    vm = one(vmprov.create(wanted(count=1)))

    assert vm.verdict == "failed"
    assert "is stopped instead of running" in vm.why
    assert vm.seconds < 10


def test_silence_is_no_success(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = ""

    assert one(vmprov.create(wanted(count=1, timeout=0.3))).verdict == "timeout"


def test_a_machine_that_hangs_times_out_with_its_last_serial_line(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING

    result = vmprov.create(wanted(count=1, timeout=0.3))

    assert (result.exit_code, one(result).verdict, one(result).state) == (1, "timeout", "removed")
    assert "its last serial line: 'no bootable medium'" in one(result).why
    assert left(vmprov) == set()


def test_the_log_of_a_machine_that_was_undone_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING

    vm = one(vmprov.create(wanted(count=1, timeout=0.3)))

    assert Path(vm.console_log).read_bytes() == HANGING.encode()


def test_a_machine_whose_logs_cannot_be_kept_is_undone_all_the_same(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING
    vmprov.home.failed.write_text("in the way")

    result = vmprov.create(wanted(count=1, timeout=0.3))

    assert (result.exit_code, one(result).state, left(vmprov)) == (1, "removed", set())


def test_kept_logs_go_when_everything_is_deleted(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING
    vm = one(vmprov.create(wanted(count=1, timeout=0.3)))

    vmprov.delete(everything=True)

    assert not Path(vm.console_log).exists()


def test_a_failed_machine_is_kept_if_asked_for(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING

    result = vmprov.create(wanted(count=1, timeout=0.3, keep_on_failure=True))

    assert (result.exit_code, one(result).state, one(result).verdict) == (1, "failed", "timeout")
    assert (vmprov.show("vm-1").state, fake.domains()[0].state) == ("failed", "running")


def test_a_kept_machine_can_be_deleted(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("start_domain", LibvirtFailed("no luck"), when=about("vm-2"))
    vmprov.create(wanted(keep_on_failure=True))

    result = vmprov.delete(["lab-1"])

    assert (result.deleted, list(result.failed), left(vmprov)) == (["vm-1", "vm-2", "vm-3"], [], set())


@pytest.mark.parametrize("method", ["remove_network", "remove_volume", "remove_domain", "network"])
def test_what_cannot_be_undone_leaves_a_broken_machine_which_a_second_delete_finishes(
    vmprov: Vmprov, fake: FakeHypervisor, another: Vmprov, method: str
) -> None:
    fake.boot_transcript = HANGING
    vmprov.events.listen(
        lambda event: fake.fail(method, LibvirtFailed("stuck"), times=99) if "stage='timeout'" in str(event) else None
    )

    result = vmprov.create(wanted(count=1, timeout=0.3))
    broken = another.show("vm-1")
    finished = another.delete(["vm-1"])

    assert (result.exit_code, one(result).state, broken.state) == (4, "broken", "broken")
    assert "stuck" in one(result).why
    assert (finished.deleted, list(finished.failed), left(another)) == (["vm-1"], [], set())


def test_a_domain_that_cannot_be_removed_keeps_its_disks_and_network(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(count=1))
    volumes = fake.volumes(POOL)
    fake.fail("remove_domain", LibvirtFailed("stuck"))

    result = vmprov.delete(["vm-1"])

    assert [failure.name for failure in result.failed] == ["vm-1"]
    assert (fake.volumes(POOL), len(fake.networks())) == (volumes, 1)


def test_a_shared_network_that_cannot_be_removed_is_told_and_found_again(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(network="shared"))
    fake.fail("remove_network", LibvirtFailed("stuck"))

    first = vmprov.delete(["lab-1"])
    second = vmprov.delete(["lab-1"])

    assert [failure.name for failure in first.failed] == ["lab-1"]
    assert (list(second.failed), left(vmprov)) == ([], set())


def test_an_image_that_does_not_match_its_digest_is_never_put_on_the_host(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    disk = vmprov.images.disk("tiny")
    disk.write_bytes(disk.read_bytes()[:-1] + b"x")

    result = vmprov.create(wanted(count=1))

    assert (result.exit_code, left(vmprov)) == (1, set())
    assert "does not match its digest" in one(result).why


def test_a_file_that_cannot_be_written_fails_its_machine_alone(vmprov: Vmprov, home: Home) -> None:
    (home.root / "vms").mkdir()
    home.vm("vm-2").write_text("in the way")

    result = vmprov.create(wanted())

    assert by_name(result, "verdict") == {"vm-1": "success", "vm-2": "failed", "vm-3": "success"}


# interruption


@pytest.mark.parametrize("stage", ["network", "disk", "power on", "power-on"])
def test_a_cancelled_creation_leaves_nothing(vmprov: Vmprov, fake: FakeHypervisor, stage: str) -> None:
    fake.boot_transcript = HANGING
    fake.delay("create_network", 0.02)
    fake.delay("start_domain", 0.02)
    vmprov.events.listen(at_stage(stage, vmprov.cancel.set))

    result = vmprov.create(wanted())

    assert set(by_name(result, "verdict").values()) == {"cancelled"}
    assert (result.exit_code, set(by_name(result, "state").values())) == (130, {"removed"})
    assert left(vmprov) == set()


def test_machines_that_wait_for_their_turn_are_cancelled_too(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = HANGING
    vmprov.events.listen(at_stage("power-on", vmprov.cancel.set))

    result = vmprov.create(wanted(count=6, parallel=2))

    assert ([vm.verdict for vm in result.vms], left(vmprov)) == (["cancelled"] * 6, set())


def test_a_machine_that_was_ready_before_the_interruption_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("start_domain", Interrupted("interrupted"), when=about("vm-2"))

    result = vmprov.create(wanted(count=2, parallel=1))

    assert (result.exit_code, [vm.verdict for vm in result.vms]) == (130, ["success", "cancelled"])
    assert [(vm.name, vm.state) for vm in vmprov.vms()] == [("vm-1", "running")]


_KILLS_ITSELF = """
import os, signal, sys
from vmprov import CreateRequest, Vmprov

def listener(event):
    if getattr(event, "stage", "") == sys.argv[1] and event.vm == "vm-2":
        os.kill(os.getpid(), signal.SIGKILL)

with Vmprov(listeners=[listener]) as vmprov:
    vmprov.create(CreateRequest.parse(image="tiny", driver="fake", memory="64MiB", count=3, network=sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("stage", "network"),
    [("network", "per-vm"), ("disk", "per-vm"), ("power on", "per-vm"), ("power-on", "shared")],
)
def test_what_a_killed_process_left_is_removed_by_delete(vmprov: Vmprov, stage: str, network: str) -> None:
    environ = {**os.environ, "VMPROV_HOME": str(vmprov.home.root), "VMPROV_HOST": "fake:", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", _KILLS_ITSELF, stage, network], env=environ, timeout=60, check=False)
    states = {vm.name: vm.state for vm in vmprov.vms()}

    result = vmprov.delete(["lab-1"])

    assert (killed.returncode, states["vm-2"]) == (-signal.SIGKILL, "creating")
    assert (result.deleted, list(result.failed), left(vmprov)) == (["vm-1", "vm-2", "vm-3"], [], set())


@pytest.mark.parametrize("answers", [0, 1])
def test_a_host_that_fails_before_anything_is_made_leaves_no_records(
    vmprov: Vmprov, fake: FakeHypervisor, answers: int
) -> None:
    failing = iter([False] * answers + [True])
    fake.fail("node", LibvirtFailed("the connection broke"), when=lambda: next(failing))

    with pytest.raises(LibvirtFailed, match="the connection broke"):
        vmprov.create(wanted())

    assert left(vmprov) == set()


# what belongs to others


def test_a_network_of_somebody_else_is_refused_and_left_alone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    name = f"vmprov-{vmprov.store.installation}-vm-2"
    fake.create_network(f"<network><name>{name}</name><bridge name='foreign1'/></network>")

    result = vmprov.create(wanted())

    assert by_name(result, "verdict") == {"vm-1": "success", "vm-2": "failed", "vm-3": "success"}
    assert "it is not ours to use" in result.vms[1].why
    assert [network.bridge for network in fake.networks() if network.name == name] == ["foreign1"]


def test_a_bridge_of_somebody_else_is_refused_and_left_alone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    bridge = f"vp{vmprov.store.installation}v1"
    fake.create_network(f"<network><name>theirs</name><bridge name='{bridge}'/></network>")

    result = vmprov.create(wanted(count=1))

    assert f"bridge {bridge} belongs to network 'theirs'" in one(result).why
    assert left(vmprov) == {"network theirs"}


def test_a_network_that_somebody_put_in_the_place_of_ours_is_not_removed(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vm = one(vmprov.create(wanted(count=1)))
    fake.remove_network(vm.network)
    fake.create_network(f"<network><name>{vm.network}</name><bridge name='foreign1'/></network>")

    result = vmprov.delete(["vm-1"])

    assert (result.deleted, left(vmprov)) == (["vm-1"], {f"network {vm.network}"})


def define_foreign(fake: FakeHypervisor, name: str) -> str:
    xml = f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    return fake.define_domain(xml).uuid


def test_a_domain_of_somebody_else_is_refused_and_left_alone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    name = f"vmprov-{vmprov.store.installation}-vm-1"
    theirs = define_foreign(fake, name)

    result = vmprov.create(wanted(count=1))

    assert (result.exit_code, one(result).state) == (1, "removed")
    assert (fake.domain(name).uuid, left(vmprov)) == (theirs, {f"domain {name}"})


def test_a_domain_that_somebody_put_in_the_place_of_ours_is_not_removed(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vm = one(vmprov.create(wanted(count=1)))
    fake.remove_domain(vm.domain)
    theirs = define_foreign(fake, vm.domain)

    result = vmprov.delete(["vm-1"])

    assert (result.deleted, fake.domain(vm.domain).uuid) == (["vm-1"], theirs)


def test_a_volume_of_somebody_else_is_refused_and_left_alone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    name = f"vmprov-{vmprov.store.installation}-vm-1.img"
    theirs = fake.create_volume(POOL, name, size=1 << 20)

    result = vmprov.create(wanted(count=1))

    assert (result.exit_code, fake.volumes(POOL)) == (1, [theirs])


# networks


def test_subnets_that_somebody_uses_are_passed_over(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(
        "<network><name>theirs</name><bridge name='b0'/><ip address='10.87.0.1' netmask='255.255.255.224'/></network>"
    )

    vms = vmprov.create(wanted(count=2)).vms

    assert {vm.address for vm in vms} == {"10.87.0.34", "10.87.0.50"}


def test_a_subnet_that_turns_out_to_be_taken_is_replaced_by_another(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("create_network", NameTaken("the subnet is in use"), times=2)

    result = vmprov.create(wanted(count=1))

    assert (result.ok, one(result).address) == (True, "10.87.0.34")
    assert vmprov.store.leased(host="fake:", kind="subnet") == {"10.87.0.32/28"}


def test_machines_for_which_no_subnet_is_left_fail_alone(settings: Settings) -> None:
    with Vmprov(replace(settings, subnets=IPv4Network("10.87.0.0/27"))) as vmprov:
        result = vmprov.create(wanted(count=3))

        assert sorted(vm.verdict for vm in result.vms) == ["failed", "success", "success"]
        assert "no free /28 subnet is left in 10.87.0.0/27" in "".join(vm.why for vm in result.vms)
        assert len(vmprov.store.leased(host="fake:", kind="subnet")) == 2


def test_a_subnet_comes_back_with_its_machine(settings: Settings) -> None:
    with Vmprov(replace(settings, subnets=IPv4Network("10.87.0.0/28"))) as vmprov:
        first = one(vmprov.create(wanted(count=1))).address
        vmprov.delete(everything=True)

        assert one(vmprov.create(wanted(count=1))).address == first


@pytest.mark.parametrize("mode", ["shared", "isolated"])
def test_machines_of_a_lab_share_one_network(vmprov: Vmprov, fake: FakeHypervisor, mode: str) -> None:
    vms = vmprov.create(wanted(network=mode)).vms

    assert {(vm.network, vm.bridge) for vm in vms} == {(fake.networks()[0].name, fake.networks()[0].bridge)}
    assert len(fake.networks()) == 1


def test_machines_that_join_a_lab_join_its_network(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(network="shared", lab="trial", count=2))
    vmprov.create(wanted(network="shared", lab="trial", count=2))

    assert len(fake.networks()) == 1


def test_a_shared_network_stays_until_its_last_machine_goes(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(network="shared", count=2))

    vmprov.delete(["vm-1"])
    meanwhile = len(fake.networks())
    vmprov.delete(["vm-2"])

    assert (meanwhile, left(vmprov)) == (1, set())


def test_an_existing_network_is_used_and_never_removed(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    theirs = fake.create_network("<network><name>theirs</name><bridge name='br-theirs'/></network>")

    vms = vmprov.create(wanted(network="theirs", count=2)).vms
    vmprov.delete(everything=True)

    assert {(vm.network, vm.bridge) for vm in vms} == {("theirs", "br-theirs")}
    assert (fake.networks(), left(vmprov)) == ([theirs], {"network theirs"})


def test_an_existing_network_that_vanishes_meanwhile_fails_its_machines(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network("<network><name>theirs</name><bridge name='br-theirs'/></network>")

    def remove_it(event: Event) -> None:
        if "stage='network'" in str(event):
            fake.remove_network("theirs")

    vmprov.events.listen(remove_it)

    result = vmprov.create(wanted(network="theirs", count=1))

    assert (result.exit_code, one(result).verdict, left(vmprov)) == (1, "failed", set())


# deleting


def test_deleting_removes_everything_that_was_made(vmprov: Vmprov) -> None:
    vmprov.create(wanted())

    result = vmprov.delete(["vm-1", "vm-2", "vm-3"])

    assert (result.deleted, list(result.failed), left(vmprov)) == (["vm-1", "vm-2", "vm-3"], [], set())


def test_deleting_a_lab_leaves_other_labs_alone(vmprov: Vmprov) -> None:
    vmprov.create(wanted(lab="one"))
    vmprov.create(wanted(lab="two", count=1))

    vmprov.delete(["one"])

    assert [(vm.name, vm.state) for vm in vmprov.vms()] == [("vm-4", "running")]


def test_deleting_everything_twice_is_fine(vmprov: Vmprov) -> None:
    vmprov.create(wanted())

    first, second = vmprov.delete(everything=True), vmprov.delete(everything=True)

    assert (len(first.deleted), list(second.deleted), list(second.failed)) == (3, [], [])


def test_a_name_that_stands_for_nothing_is_passed_over(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))

    result = vmprov.delete(["vm-1", "nope"])

    assert (result.deleted, list(result.failed), left(vmprov)) == (["vm-1"], [], set())


def test_what_others_removed_already_counts_as_removed(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vm = one(vmprov.create(wanted(count=1)))
    fake.remove_domain(vm.domain)
    fake.remove_network(vm.network)
    fake.remove_volume(POOL, f"{vm.domain}.img")

    result = vmprov.delete(["vm-1"])

    assert (result.deleted, left(vmprov)) == (["vm-1"], set())


def test_deleting_works_without_the_image(vmprov: Vmprov, home: Home) -> None:
    vmprov.create(wanted())
    (home.image("tiny") / "image.json").unlink()

    result = vmprov.delete(everything=True)

    assert (list(result.failed), left(vmprov)) == ([], set())


def test_an_image_in_use_is_not_deleted(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))

    with pytest.raises(InUse, match="in use by vm-1"):
        vmprov.delete_image("tiny")


# several at once


def create_as_another_process(settings: Settings, start: threading.Barrier, **words: object) -> list[str]:
    start.wait()
    with Vmprov(settings) as vmprov:
        return [vm.name for vm in vmprov.create(wanted(**words)).vms if vm.verdict == "success"]


def test_processes_that_create_at_once_do_not_collide(vmprov: Vmprov, settings: Settings) -> None:
    start = threading.Barrier(4)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(create_as_another_process, settings, start) for _ in range(4)]
        names = [name for made in running for name in made.result()]

    vms = vmprov.vms()
    distinct = [len({getattr(vm, of) for vm in vms}) for of in ("name", "address", "bridge", "mac", "serial_number")]
    assert (len(names), distinct, len({vm.lab for vm in vms})) == (12, [12] * 5, 4)


def open_as_another_process(path: Path, start: threading.Barrier) -> str:
    start.wait()
    store = Store(path)
    store.close()
    return store.installation


@pytest.mark.parametrize("attempt", range(10))
def test_a_new_state_directory_can_be_opened_by_many_at_once(tmp_path: Path, attempt: int) -> None:
    start = threading.Barrier(8)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(open_as_another_process, tmp_path / "vmprov.db", start) for _ in range(8)]
        installations = {ended.result() for ended in running}

    assert len(installations) == 1


def test_of_two_processes_that_want_one_name_one_is_refused(vmprov: Vmprov, settings: Settings) -> None:
    start = threading.Barrier(2)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(create_as_another_process, settings, start, name="web") for _ in range(2)]
        refusals = [ended.exception() for ended in running]

    assert [type(refusal) for refusal in refusals if refusal] == [NameTaken]
    assert [vm.name for vm in vmprov.vms()] == ["web-1", "web-2", "web-3"]


def test_one_deletes_while_another_creates_from_the_same_image(
    vmprov: Vmprov, another: Vmprov, fake: FakeHypervisor
) -> None:
    vmprov.create(wanted(lab="old"))
    with ThreadPoolExecutor(2) as pool:
        deleting = pool.submit(vmprov.delete, ["old"])
        creating = pool.submit(another.create, wanted(lab="new", name="new"))

    assert (list(deleting.result().failed), creating.result().ok, len(base_volumes(fake))) == ([], True, 1)


def test_closing_under_the_hands_of_other_threads_is_no_crash(settings: Settings) -> None:
    vmprov = Vmprov(settings)
    vmprov.create(wanted(count=8))
    removing = threading.Event()
    vmprov.events.listen(lambda event: removing.set() if "stage='removing'" in str(event) else None)

    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(vmprov.delete, everything=True)
        removing.wait(10)
        vmprov.close()

    assert isinstance(deleting.exception(), HostNotReady | None)
