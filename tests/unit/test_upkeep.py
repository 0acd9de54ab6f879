"""What becomes of VMs once they are made, on the simulator: kept, renewed, labelled, rebuilt, resized, renamed."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.simulated import make_image
from tests.unit.test_engine import POOL, Stages, left, one, wanted
from vmprov import CreateRequest, Settings, Vmprov
from vmprov.errors import Failed, HostNotReady, Interrupted, LibvirtFailed, NameTaken, NotFound, SpecError
from vmprov.events import Event, Note
from vmprov.hypervisor import DomainState, Mark
from vmprov.hypervisor.definitions import mark_element, parse_definition
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.hypervisor.hardware import read_hardware
from vmprov.paths import Home
from vmprov.spec.load import parse_lab
from vmprov.store import VMRecord

HANGING = "SeaBIOS\r\nBooting from Hard Disk...\r\nno bootable medium\r\n"
FOREIGN = (
    "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>2</vcpu><os><type>hvm</type></os>"
    "<sysinfo type='smbios'><system><entry name='serial'>LEGACY01</entry></system></sysinfo>"
    "<devices>{devices}</devices></domain>"
)
NIC = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='theirs'/></interface>"
NETWORK = (
    "<network><name>theirs</name><bridge name='theirs0'/><ip address='10.9.0.1' netmask='255.255.255.0'>"
    "<dhcp><range start='10.9.0.2' end='10.9.0.9'/></dhcp></ip></network>"
)


@pytest.fixture(autouse=True)
def images(home: Home) -> None:
    """Images ``tiny`` and ``other``, whose machines are ready at their login prompt."""
    for name, size in (("tiny", 1 << 20), ("other", 4 << 20)):
        make_image(home, name, virtual_size=size)


@pytest.fixture
def notes() -> list[str]:
    """What people were told."""
    return []


@pytest.fixture
def vmprov(settings: Settings, notes: list[str]) -> Iterator[Vmprov]:
    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with Vmprov(settings, listeners=[listen]) as opened:
        yield opened


def make(vmprov: Vmprov, *names: str, **words: object) -> VMRecord:
    """VMs of lab ``lab``; returns the record of the last one."""
    for name in names:
        assert vmprov.create(wanted(count=None, name=name, lab="lab", **words)).ok
    return vmprov.store.vm(names[-1])


def definition(fake: FakeHypervisor, vm: VMRecord) -> str:
    return fake.domain_definition(vm.domain)


def volumes(fake: FakeHypervisor) -> dict[str, int]:
    return {volume.name: volume.capacity for volume in fake.volumes(POOL)}


def without_note(xml: str) -> str:
    """A definition without what is noted in it of the VM's records."""
    return re.sub(r"\s*<(\w+):note>.*</\1:note>\s*", "", xml).replace(' xmlns:ns1="urn:vmprov:note:1"', "")


def listen_in(fake: FakeHypervisor, method: str, names: list[str]) -> None:
    """Write down the names of the volumes that a method is called with."""

    def never(_pool: str, name: str) -> bool:
        names.append(name)
        return False

    fake.fail(method, LibvirtFailed("never"), when=never)


# protection


def test_a_protected_machine_is_not_deleted_and_the_others_are(vmprov: Vmprov) -> None:
    make(vmprov, "a", "b")

    assert vmprov.protect(["a"]) == []
    result = vmprov.delete(everything=True)

    assert (result.deleted, [failure.name for failure in result.failed], result.exit_code) == (["b"], ["a"], 1)
    assert result.failed[0].why == "it is protected; allow it with: vmprov protect --off a"
    assert (vmprov.store.vm("a").state, vmprov.show("a").state) == ("ready", "running")


def test_protection_can_be_taken_back(vmprov: Vmprov) -> None:
    make(vmprov, "a", protect=True)

    vmprov.protect(["a"], on=False)

    assert vmprov.delete(["a"]).exit_code == 0
    assert left(vmprov) == set()


def test_a_protected_machine_that_fails_while_it_is_made_is_undone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("start_domain", LibvirtFailed("no"))

    vmprov.create(wanted(count=1, protect=True))

    assert left(vmprov) == set()


def test_a_protected_machine_can_be_stopped_and_started(vmprov: Vmprov) -> None:
    make(vmprov, "a", protect=True)

    assert vmprov.stop(["a"]) == []
    assert vmprov.start(["a"]) == []


def test_a_machine_that_is_protected_while_others_are_deleted_stays(vmprov: Vmprov) -> None:
    make(vmprov, "a")

    def protect(event: Event) -> None:
        if getattr(event, "stage", "") == "removing":
            assert [failure.why for failure in vmprov.protect(["a"])] == ["it is being removed"]

    vmprov.events.listen(protect)

    assert vmprov.delete(["a"]).deleted == ["a"]


def test_a_deletion_that_is_cancelled_before_it_begins_changes_nothing(vmprov: Vmprov) -> None:
    make(vmprov, "a")
    vmprov.cancel.set()

    result = vmprov.delete(["a"])

    assert result.exit_code == Interrupted.exit_code
    assert (vmprov.store.vm("a").state, vmprov.store.vm("a").verdict) == ("ready", "success")


# time to live


def test_a_machine_lives_for_as_long_as_was_asked_for(vmprov: Vmprov) -> None:
    vm = make(vmprov, "a", ttl="2h")

    assert vm.expires == pytest.approx(time.time() + 7200, abs=60)


def test_renewing_begins_the_same_time_again(vmprov: Vmprov) -> None:
    make(vmprov, "a", ttl="2h")
    vmprov.store.update_vm("a", expires=1.0)

    assert vmprov.renew(["a"]) == []

    assert vmprov.store.vm("a").expires == pytest.approx(time.time() + 7200, abs=60)


def test_another_time_is_the_one_that_is_renewed_from_then_on(vmprov: Vmprov) -> None:
    make(vmprov, "a")

    vmprov.renew(["a"], ttl=600)
    vmprov.store.update_vm("a", expires=1.0)
    vmprov.renew(["a"])

    assert vmprov.store.vm("a").expires == pytest.approx(time.time() + 600, abs=60)


def test_a_machine_can_live_for_ever(vmprov: Vmprov) -> None:
    make(vmprov, "a", ttl="2h")

    vmprov.renew(["a"], ttl=math.inf)

    assert vmprov.store.vm("a").expires == 0


def test_nothing_is_renewed_where_there_was_no_time(vmprov: Vmprov) -> None:
    make(vmprov, "a")

    (failure,) = vmprov.renew(["a"])

    assert failure.why == "it has no time to live; give it one: vmprov renew a --ttl 2h"


# labels


def test_labels_are_set_and_taken_away(vmprov: Vmprov) -> None:
    make(vmprov, "a", labels={"role": "edge", "env": "test"})

    vmprov.label(["a"], {"env": None, "zone": "eu", "nope": None})

    assert vmprov.show("a").labels == {"role": "edge", "zone": "eu"}
    assert vmprov.store.vm("a").machine.labels == {"role": "edge", "zone": "eu"}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("role=edge", ["a", "b"]),
        ("role==edge,env!=test", ["b"]),
        ("env", ["a"]),
        ("!env", ["b", "c"]),
        ("env!=test", ["b", "c"]),
        ("role=edge, zone=", []),
    ],
)
def test_machines_are_chosen_by_their_labels(vmprov: Vmprov, selector: str, names: list[str]) -> None:
    make(vmprov, "a", labels={"role": "edge", "env": "test"})
    make(vmprov, "b", labels={"role": "edge"})
    make(vmprov, "c")

    assert vmprov.matching(selector) == names
    assert vmprov.matching(selector, ["b"]) == [name for name in names if name == "b"]


@pytest.mark.parametrize("selector", ["", ",", "a,", "=b", "a=b=c", "!a=b", "a b", "a=b c", "a!b"])
def test_a_selector_that_cannot_be_meant_is_refused(vmprov: Vmprov, selector: str) -> None:
    with pytest.raises(SpecError, match="selector"):
        vmprov.matching(selector)


def test_people_are_told_where_a_lab_file_says_otherwise(vmprov: Vmprov, notes: list[str]) -> None:
    vmprov.apply(parse_lab("lab: lab\ndefaults: {driver: fake, image: tiny}\nvms: {a: {}}", "lab.yaml"))

    vmprov.label(["a"], {"role": "edge"})

    assert notes == ["the file of lab lab still says otherwise, and apply would go by it"]


# rebuilding


def test_a_rebuilt_machine_has_a_new_system_and_keeps_what_it_is(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    before = make(vmprov, "a", disks=["1GiB"], firmware="uefi", tpm=True, labels={"k": "v"}, ttl="2h")
    known = vmprov.home.known_hosts("lab")
    known.write_text("a ssh-ed25519 AAAA\nb ssh-ed25519 BBBB\n")
    made: list[str] = []
    removed: list[str] = []
    listen_in(fake, "create_volume", made)
    listen_in(fake, "remove_volume", removed)

    result = vmprov.rebuild(["a"])

    after = vmprov.store.vm("a")
    assert result.ok
    kept = ("id", "uuid", "mac", "address", "serial_number", "network", "bridge", "labels", "expires", "domain")
    assert {name: getattr(after, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert f"{before.domain}.img" in made
    assert f"{before.domain}.data-1.img" not in made + removed
    assert f"{before.domain}.nvram" in removed
    assert f"{before.domain}.data-1.img" in volumes(fake)
    assert known.read_text() == "b ssh-ed25519 BBBB\n"
    vmprov.delete(["a"])
    assert left(vmprov) == set()


def test_a_machine_can_be_rebuilt_from_another_image(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    make(vmprov, "a")

    result = vmprov.rebuild(["a"], image="other")

    vm = vmprov.store.vm("a")
    assert (result.vms[0].image, vm.machine.image, vm.disk) == ("other", "other", 4 << 20)
    assert [name for name in volumes(fake) if "VAGRANTSLASH-tiny" in name] == []


def test_an_image_that_has_no_room_on_the_disk_is_refused_before_anything_changes(vmprov: Vmprov) -> None:
    before = make(vmprov, "a", disk="2MiB")

    with pytest.raises(SpecError, match="the system disk of a has 2MiB, and image other needs 4MiB; enlarge it first"):
        vmprov.rebuild(["a"], image="other")

    assert vmprov.store.vm("a") == before


def test_an_unknown_image_is_refused_before_anything_changes(vmprov: Vmprov) -> None:
    before = make(vmprov, "a")

    with pytest.raises(NotFound, match="no image called 'nope'"):
        vmprov.rebuild(["a"], image="nope")

    assert vmprov.store.vm("a") == before


def test_a_protected_machine_is_not_rebuilt_and_the_others_are(vmprov: Vmprov) -> None:
    make(vmprov, "a", "b")
    vmprov.protect(["a"])
    before = vmprov.store.vm("a")

    result = vmprov.rebuild(["lab"])

    assert [(vm.name, vm.state, vm.verdict) for vm in result.vms] == [
        ("a", "unchanged", "failed"), ("b", "running", "success"),
    ]  # fmt: skip
    assert (result.exit_code, vmprov.store.vm("a")) == (1, before)


def test_a_machine_whose_rebuild_failed_keeps_its_data_and_can_be_rebuilt_again(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    make(vmprov, "a", disks=["1GiB"])
    fake.fail("start_domain", LibvirtFailed("no"))

    failed = vmprov.rebuild(["a"])
    told = vmprov.drift(["a"])[0].drift
    again = vmprov.rebuild(["a"])

    assert (failed.exit_code, failed.vms[0].state, again.exit_code) == (1, "failed", 0)
    assert told[0].startswith("state: it failed")
    assert volumes(fake)["vmprov-" + vmprov.store.installation + "-a.data-1.img"] == 1 << 30


def test_a_rebuild_does_not_need_the_memory_of_the_machine_twice(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    make(vmprov, "a", memory="200GiB")

    assert vmprov.rebuild(["a"]).ok


# resizing


def test_a_machine_gets_other_sizes_and_is_rebooted_once(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vm = make(vmprov, "a", disks=["1GiB", "2GiB"])
    stages = Stages()
    vmprov.events.listen(stages)

    result = vmprov.resize("a", cpus=3, memory="128MiB", disk="1GiB", disks={"data-2": "4GiB"})

    hardware = read_hardware(parse_definition(definition(fake, vm), "domain"))
    assert (result.ok, hardware.cpus, hardware.memory) == (True, 3, 128 << 20)
    sizes = volumes(fake)
    assert [sizes[f"{vm.domain}{end}.img"] for end in ("", ".data-1", ".data-2")] == [1 << 30, 1 << 30, 4 << 30]
    after = vmprov.store.vm("a")
    assert (after.cpus, after.memory, after.disk, after.machine.disks[1].size) == (3, 128 << 20, 1 << 30, 4 << 30)
    assert [stage for _, stage in stages.seen].count("power on") == 1
    assert vmprov.drift(["a"])[0].drift == []


def test_the_plan_says_what_changes_and_that_it_costs_a_reboot(vmprov: Vmprov) -> None:
    make(vmprov, "a")

    (change,) = vmprov.plan_resize("a", memory="128MiB", disk="8MiB").changes

    assert [str(reason) for reason in change.reasons] == ["memory: 64MiB -> 128MiB", "disk: 1MiB -> 8MiB"]
    assert change.reboot


def test_a_machine_that_is_off_stays_off(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vm = make(vmprov, "a")
    vmprov.stop(["a"])

    plan = vmprov.plan_resize("a", cpus=2)
    result = vmprov.resize("a", cpus=2)

    assert (plan.changes[0].reboot, result.vms[0].state) == (False, "stopped")
    assert fake.domain(vm.domain).state is DomainState.STOPPED
    assert read_hardware(parse_definition(definition(fake, vm), "domain")).cpus == 2


def test_sizes_that_a_machine_has_change_nothing(vmprov: Vmprov) -> None:
    make(vmprov, "a", disks=["1GiB"])

    assert not vmprov.plan_resize("a", cpus=1, memory="64MiB", disk="1MiB", disks={"data-1": "1GiB"})
    assert vmprov.resize("a", cpus=1).vms[0].state == "unchanged"


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"disk": "1MiB"}, "disks only grow: the system disk has 4MiB, and 1MiB is less"),
        ({"disks": {"data-1": "1MiB"}}, "disks only grow: disk data-1 has 1GiB"),
        ({"disks": {"data": "1GiB"}}, "a has no data disk called 'data'; it has: data-1"),
        ({"cpus": 0}, "--cpus must be at least 1"),
        ({"memory": "1"}, "--memory: '1' is not a size"),
        ({"disks": {"data-1": "1"}}, "--disk: '1' is not a size"),
        ({"memory": "1000GiB"}, "has not 999.9GiB more memory for a"),
    ],
)
def test_sizes_that_cannot_be_are_refused(vmprov: Vmprov, sizes: dict[str, object], said: str) -> None:
    make(vmprov, "a", disk="4MiB", disks=["1GiB"])

    with pytest.raises(SpecError) as refused:
        vmprov.plan_resize("a", **sizes)

    assert said in str(refused.value)


def test_a_resize_that_fails_gives_back_what_there_was(vmprov: Vmprov, fake: FakeHypervisor, notes: list[str]) -> None:
    vm = make(vmprov, "a", disks=["1GiB"])
    before = without_note(definition(fake, vm))
    fake.fail("start_domain", LibvirtFailed("not so much"))

    result = vmprov.resize("a", cpus=8, memory="1GiB", disks={"data-1": "2GiB"})

    assert (result.exit_code, result.vms[0].why) == (1, "not so much")
    assert (without_note(definition(fake, vm)), fake.domain(vm.domain).state) == (before, DomainState.RUNNING)
    assert without_note(vmprov.home.definition("a").read_text()) == before
    after = vmprov.store.vm("a")
    assert (after.cpus, after.memory, after.state, after.verdict, after.spec) == (
        vm.cpus, vm.memory, vm.state, vm.verdict, vm.spec,
    )  # fmt: skip
    assert notes == ["a has what it had, but disks do not shrink: data-1 stays larger"]


def test_a_machine_without_a_domain_is_not_resized(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.remove_domain(make(vmprov, "a").domain)

    with pytest.raises(Failed, match="run: vmprov rebuild a"):
        vmprov.resize("a", cpus=2)


# renaming


def test_a_renamed_machine_has_the_new_name_everywhere(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    before = make(vmprov, "a", "b", disks=["1GiB"])
    log = vmprov.home.console_log("b", 0).read_bytes()
    vmprov.home.known_hosts("lab").write_text("a ssh-ed25519 AAAA\nb ssh-ed25519 BBBB\n")
    vmprov.stop(["b"])

    view = vmprov.rename("b", "c")

    vm = vmprov.store.vm("c")
    assert (view.name, view.state, vm.id, vm.uuid, vm.mac) == ("c", "stopped", before.id, before.uuid, before.mac)
    assert vm.domain == before.domain.removesuffix("b") + "c"
    assert [domain.mark for domain in fake.domains() if domain.uuid == vm.uuid] == [
        Mark(vmprov.store.installation, "lab", "c")
    ]
    for text in (definition(fake, vm), vmprov.home.definition("c").read_text()):
        assert read_hardware(parse_definition(text, "domain")).logs == (str(vmprov.home.console_log("c", 0)),)
        assert parse_definition(text, "domain").findtext("name") == vm.domain
    assert vmprov.home.console_log("c", 0).read_bytes() == log
    assert not vmprov.home.vm("b").exists()
    assert vmprov.home.known_hosts("lab").read_text() == "a ssh-ed25519 AAAA\nc ssh-ed25519 BBBB\n"
    assert {owned.vm for owned in vmprov.store.owned()} == {"a", "c"}
    assert not vmprov.store.has_vm("b")
    assert vmprov.start(["c"]) == []
    assert vmprov.drift(["c"])[0].drift == []
    vmprov.delete(everything=True)
    assert left(vmprov) == set()


def test_the_old_name_is_free_for_a_machine_of_its_own(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    make(vmprov, "a", disks=["1GiB"])
    vmprov.stop(["a"])
    vmprov.rename("a", "b")

    new = make(vmprov, "a", disks=["1GiB"])
    rebuilt = vmprov.rebuild(["a", "b"])

    renamed = vmprov.store.vm("b")
    assert rebuilt.ok
    assert len({new.domain, renamed.domain}) == len({new.network, renamed.network}) == 2
    assert f"vmprov-{vmprov.store.installation}-a.data-1.img" in volumes(fake)
    assert f"{new.domain}.data-1.img" in volumes(fake)
    vmprov.delete(["b"])
    assert vmprov.drift(["a"])[0].drift == []
    vmprov.delete(["a"])
    assert left(vmprov) == set()


def test_a_machine_can_get_its_name_back(vmprov: Vmprov) -> None:
    before = make(vmprov, "a", disks=["1GiB"])
    vmprov.stop(["a"])

    vmprov.rename("a", "b")
    vmprov.rename("b", "a")

    assert vmprov.store.vm("a").domain == before.domain
    assert vmprov.rebuild(["a"]).ok
    vmprov.delete(["a"])
    assert left(vmprov) == set()


def test_a_rebuilt_machine_keeps_its_address_and_data_under_its_new_name(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    before = make(vmprov, "a", disks=["1GiB"])
    vmprov.rename("a", "b", restart=True)

    vmprov.rebuild(["b"])

    vm = vmprov.store.vm("b")
    assert (vm.address, vm.mac, vm.network) == (before.address, before.mac, before.network)
    assert f"{before.domain}.data-1.img" in volumes(fake)
    assert f"{before.domain}.img" not in volumes(fake)


def test_a_running_machine_is_renamed_with_a_restart_only(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    before = make(vmprov, "a")

    with pytest.raises(Failed, match="a is running; stop it before, or use --restart"):
        vmprov.rename("a", "b")
    assert vmprov.store.vm("a") == before

    assert vmprov.rename("a", "b", restart=True).state == "running"


@pytest.mark.parametrize(
    ("new", "said"),
    [("b", "there is a VM called 'b' already"), ("lab", "there is a lab called 'lab'"), ("B", "is not allowed")],
)
def test_a_name_that_is_taken_or_none_is_refused_and_nothing_is_stopped(vmprov: Vmprov, new: str, said: str) -> None:
    make(vmprov, "a", "b")
    before = vmprov.store.vms()

    with pytest.raises(SpecError, match=said):
        vmprov.rename("a", new, restart=True)

    assert (vmprov.store.vms(), vmprov.show("a").state) == (before, "running")


def test_a_name_whose_domain_others_made_is_refused(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vm = make(vmprov, "a")
    vmprov.stop(["a"])
    fake.define_domain(FOREIGN.format(name=vm.domain.removesuffix("a") + "b", devices=""))

    with pytest.raises(NameTaken, match="it is not ours"):
        vmprov.rename("a", "b")

    assert vmprov.store.leased(host="", kind="new name") == set()
    assert vmprov.start(["a"]) == []


# What fails is as good as a kill: nothing is done after it.
KILLS = ["rename_domain", "domain_definition", "define_domain", "redefine_network"]


@pytest.mark.parametrize("method", KILLS)
def test_a_rename_that_stopped_halfway_is_finished_by_the_same_command(
    vmprov: Vmprov, fake: FakeHypervisor, method: str
) -> None:
    make(vmprov, "a", disks=["1GiB"])
    vmprov.stop(["a"])
    fake.fail(method, HostNotReady("gone"))
    with pytest.raises(Failed, match="finish it with: vmprov rename a b"):
        vmprov.rename("a", "b")

    with pytest.raises(NameTaken):
        vmprov.create(wanted(count=None, name="b", lab="lab"))
    vmprov.rename("a", "b")

    assert vmprov.start(["b"]) == []
    assert vmprov.drift(["b"])[0].drift == []
    vmprov.delete(["b"])
    assert left(vmprov) == set()


@pytest.mark.parametrize("method", KILLS)
def test_a_rename_that_stopped_halfway_is_told_and_does_not_hinder_deleting(
    vmprov: Vmprov, fake: FakeHypervisor, method: str
) -> None:
    make(vmprov, "a", disks=["1GiB"])
    vmprov.stop(["a"])
    fake.fail(method, HostNotReady("gone"))
    with pytest.raises(Failed):
        vmprov.rename("a", "b")

    told = vmprov.drift(["a"])[0].drift

    assert told[0] == "name: a -> b"
    assert vmprov.delete(["a"]).deleted == ["b"]
    assert left(vmprov) == set()


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from vmprov import Settings, Vmprov
from vmprov.errors import Failed
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
with Vmprov(Settings.from_environ()) as vmprov:
    vmprov.host().hypervisor().fail(sys.argv[1], Failed(""), when=die)
    vmprov.rename("a", "b")
"""


@pytest.mark.parametrize("command", ["rename", "delete", "apply"])
@pytest.mark.parametrize("method", KILLS)
def test_a_rename_that_was_killed_is_finished_by_the_next_command(
    vmprov: Vmprov, settings: Settings, method: str, command: str
) -> None:
    make(vmprov, "a", disks=["1GiB"])
    vmprov.stop(["a"])
    environ = {**os.environ, "VMPROV_HOME": str(settings.home), "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off"}

    killed = subprocess.run([sys.executable, "-c", KILLED_AT, method], env=environ, check=False, timeout=60)
    if command == "rename":
        vmprov.rename("a", "b")
    elif command == "apply":
        lab = parse_lab("lab: lab\ndefaults: {driver: fake, image: tiny, memory: 64MiB}\nvms: {b: {disks: 1GiB}}", "x")
        vmprov.apply(lab)
        assert vmprov.drift(["b"])[0].drift == []
    deleted = vmprov.delete(["a", "b"] if command == "delete" else ["b"]).deleted

    assert killed.returncode == -signal.SIGKILL
    assert deleted == ["b"]
    assert left(vmprov) == set()


def test_a_rename_whose_files_cannot_be_moved_is_finished_later(vmprov: Vmprov, home: Home) -> None:
    make(vmprov, "a")
    vmprov.stop(["a"])
    blocked = home.vm("b")
    blocked.write_text("a file where a directory should be")

    with pytest.raises(Failed, match="is not renamed yet"):
        vmprov.rename("a", "b")
    with pytest.raises(Failed, match="somebody began to rename a") as refused:
        vmprov.plan(parse_lab("lab: lab\ndefaults: {driver: fake, image: tiny}\nvms: {b: {}}", "x"))
    blocked.unlink()

    assert refused.value.hint == "finish that: vmprov rename a b"
    assert vmprov.start(["a"])[0].why == "somebody began to rename it; finish that: vmprov rename a b"
    assert vmprov.rename("a", "b").name == "b"
    assert vmprov.rename("a", "b").name == "b"


# importing


@pytest.fixture
def theirs(fake: FakeHypervisor) -> str:
    """A domain of others, with a NIC and a serial port that nobody captures; returns its definition."""
    fake.create_network(NETWORK)
    fake.define_domain(FOREIGN.format(name="legacy", devices=f"{NIC}<serial type='pty'/>"))
    fake.start_domain("legacy")
    return fake.domain_definition("legacy")


def test_a_domain_of_others_is_taken_in_and_not_touched(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    view = vmprov.import_domain("legacy", lab="lab", name="db")

    vm = vmprov.store.vm("db")
    assert (view.state, view.adopted, view.domain, view.lab) == ("running", True, "legacy", "lab")
    assert (vm.uuid, vm.cpus, vm.memory, vm.serial_number) == (fake.domain("legacy").uuid, 2, 64 << 20, "LEGACY01")
    assert (vm.network, vm.bridge, vm.mac, vm.address) == ("theirs", "theirs0", "52:54:00:00:00:01", "10.9.0.2")
    assert vmprov.drift()[0].drift == []
    assert fake.domain_definition("legacy") == theirs


def test_its_power_is_ours_and_nothing_else(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    vmprov.import_domain("legacy", lab="lab")

    assert vmprov.stop(["legacy"]) == []
    assert vmprov.drift()[0].drift == ["state: stopped -> running"]
    assert vmprov.start(["legacy"]) == []
    assert vmprov.reboot(["legacy"]) == []
    assert vmprov.rebuild(["legacy"]).exit_code == 1
    with pytest.raises(Failed, match="not ours to change"):
        vmprov.resize("legacy", cpus=4)
    assert fake.domain_definition("legacy") == theirs


def test_deleting_forgets_it_and_says_so(vmprov: Vmprov, fake: FakeHypervisor, theirs: str, notes: list[str]) -> None:
    vmprov.import_domain("legacy", lab="lab")

    result = vmprov.delete(["legacy"])

    assert (result.deleted, result.failed) == (["legacy"], [])
    assert notes == ["legacy is forgotten; its domain legacy is left alone, as it is not ours"]
    assert (fake.domain("legacy").state, fake.domain_definition("legacy")) == (DomainState.RUNNING, theirs)
    assert [network.name for network in fake.networks()] == ["theirs"]
    assert (vmprov.store.vms(), vmprov.store.labs(), list(vmprov.home.root.glob("vms/*"))) == ([], [], [])


def test_a_renamed_one_keeps_its_domain(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    vmprov.import_domain("legacy", lab="lab")

    vmprov.rename("legacy", "older")

    assert (vmprov.show("older").domain, vmprov.show("older").state) == ("legacy", "running")
    assert fake.domain_definition("legacy") == theirs


def test_its_log_is_shown_where_it_has_one(vmprov: Vmprov, fake: FakeHypervisor, tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text("hello\n")
    devices = f"<serial type='pty'><log file='{log}'/></serial>"
    fake.define_domain(FOREIGN.format(name="legacy", devices=devices))
    vmprov.import_domain("legacy", lab="lab")

    assert vmprov.console_logs(["legacy"])["legacy"].read_text() == "hello\n"
    with pytest.raises(Failed, match="has no serial port 1"):
        vmprov.console_logs(["legacy"], 1)


def test_a_console_that_is_not_ours_is_told_with_the_way_there(vmprov: Vmprov, theirs: str) -> None:
    vmprov.import_domain("legacy", lab="lab")

    with pytest.raises(Failed, match=r"serial port 0 of legacy \(pty\) is not logged; .* console legacy"):
        vmprov.console_logs(["legacy"])
    with pytest.raises(Failed, match="try: virsh -c fake: console legacy"):
        vmprov.console_port("legacy")
    assert vmprov.console_logs() == {}


def test_ssh_goes_there_as_the_user_is_configured(vmprov: Vmprov, theirs: str) -> None:
    vmprov.import_domain("legacy", lab="lab")

    argv = vmprov.ssh_argv("legacy", ["true"])

    assert (argv[0], argv[-2:]) == ("ssh", ["10.9.0.2", "true"])
    assert "-F" not in argv


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"domain": "nope"}, "no domain called 'nope' on fake:; there are: legacy"),
        ({"domain": "legacy", "name": "a"}, "there is a VM called 'a' already"),
        ({"domain": "legacy", "lab": "a"}, "cannot have the same name"),
        ({"domain": "legacy", "name": "lab"}, "cannot have the same name"),
        ({"domain": "legacy", "name": "A"}, "name 'A' is not allowed"),
        ({"domain": "legacy", "lab": "A"}, "lab name 'A' is not allowed"),
        ({"domain": "vmprov-{id}-a"}, "is ours already: VM a of lab lab"),
        ({"domain": "other"}, "belongs to another vmprov"),
    ],
)
def test_what_must_not_be_taken_in_is_refused(
    vmprov: Vmprov, fake: FakeHypervisor, theirs: str, words: dict[str, str], said: str
) -> None:
    make(vmprov, "a")
    marked = parse_definition(FOREIGN.format(name="other", devices=""), "domain")
    ET.SubElement(marked, "metadata").append(mark_element(Mark("beef", "lab", "x")))
    fake.define_domain(ET.tostring(marked, encoding="unicode"))
    asked = {key: value.replace("{id}", vmprov.store.installation) for key, value in words.items()}
    asked = asked if len(asked) > 1 else {**asked, "name": "z"}

    with pytest.raises(SpecError) as refused:
        vmprov.import_domain(**asked)

    assert said in str(refused.value)
    assert [vm.name for vm in vmprov.store.vms()] == ["a"]


def test_a_domain_is_taken_in_once(vmprov: Vmprov, theirs: str) -> None:
    vmprov.import_domain("legacy", lab="lab")

    with pytest.raises(NameTaken, match="it is VM legacy of lab lab"):
        vmprov.import_domain("legacy", name="other")


# importing, by files

MIXED = """
lab: mixed
defaults: {driver: fake, image: tiny, memory: 64MiB}
vms:
  db: {domain: legacy, labels: {role: db}}
  web: {}
"""


def test_a_file_can_name_a_domain_that_is_taken_in(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    lab = parse_lab(MIXED, "lab.yaml")

    plan = vmprov.plan(lab)
    result = vmprov.apply(lab)

    assert [(change.name, change.action.value) for change in plan.changes] == [("db", "adopt"), ("web", "create")]
    assert (result.ok, [(vm.name, vm.state) for vm in result.vms]) == (True, [("db", "running"), ("web", "running")])
    assert (vmprov.show("db").adopted, vmprov.show("db").labels) == (True, {"role": "db"})
    assert not vmprov.plan(lab)
    assert fake.domain_definition("legacy") == theirs


ORDERED = MIXED.replace("web: {}", "web: {after: [db]}").replace("labels: {role: db}", "labels: {role: db}, after: [a]")
ORDERED += "  a: {}\n"


def test_a_domain_that_is_off_is_taken_in_and_started_in_its_turn(
    vmprov: Vmprov, fake: FakeHypervisor, theirs: str
) -> None:
    fake.power_off_domain("legacy")
    lab = parse_lab(ORDERED, "lab.yaml")
    stages = Stages()
    vmprov.events.listen(stages)

    plan = vmprov.plan(lab)
    result = vmprov.apply(lab)

    assert [str(reason) for reason in plan.changes[0].reasons] == [
        "domain: legacy, as it is", "state: stopped -> running",
    ]  # fmt: skip
    assert (result.ok, [(vm.name, vm.state) for vm in result.vms]) == (
        True, [("db", "running"), ("web", "running"), ("a", "running")],
    )  # fmt: skip
    moments = [("a", "ready"), ("db", "power on"), ("db", "ready"), ("web", "power on")]
    assert [moment for moment in stages.seen if moment in moments] == moments
    assert not vmprov.plan(lab)
    assert fake.domain_definition("legacy") == theirs


def test_a_domain_that_cannot_be_started_is_not_taken_in(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    fake.power_off_domain("legacy")
    before = left(vmprov)
    fake.fail("start_domain", LibvirtFailed("no luck"), when=lambda name: name == "legacy")

    result = vmprov.apply(parse_lab(ORDERED, "lab.yaml"))

    assert {vm.name: (vm.verdict, vm.state) for vm in result.vms} == {
        "db": ("failed", "removed"), "web": ("failed", "removed"), "a": ("success", "running"),
    }  # fmt: skip
    assert (fake.domain("legacy").state, fake.domain_definition("legacy")) == (DomainState.STOPPED, theirs)
    vmprov.delete(everything=True)
    assert left(vmprov) == before


def test_apply_keeps_what_was_imported_if_the_file_names_it(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    vmprov.import_domain("legacy", lab="mixed", name="db")
    lab = parse_lab(MIXED.replace("domain: legacy, ", "domain: legacy, memory: 8GiB, "), "lab.yaml")

    vmprov.apply(lab)
    vmprov.stop(["db"])
    mended = vmprov.apply(lab)

    assert [change["action"] for change in mended.plan["changes"]] == ["mend"]
    assert (vmprov.show("db").state, vmprov.show("db").memory, vmprov.show("db").labels) == (
        "running", 64 << 20, {"role": "db"},
    )  # fmt: skip
    assert fake.domain_definition("legacy") == theirs


@pytest.mark.parametrize(
    ("domain", "said"), [("", "and not one of ours"), ("other", "and not 'other'"), ("nowhere", "and not 'nowhere'")]
)
def test_whose_the_domain_of_a_machine_is_does_not_change(
    vmprov: Vmprov, fake: FakeHypervisor, theirs: str, domain: str, said: str
) -> None:
    vmprov.apply(parse_lab(MIXED, "lab.yaml"))
    fake.define_domain(FOREIGN.format(name="other", devices=""))
    other = MIXED.replace("domain: legacy, ", f"domain: {domain}, " if domain else "")

    with pytest.raises(SpecError, match=f"db is domain 'legacy', which was imported, {said}") as refused:
        vmprov.plan(parse_lab(other, "lab.yaml"))

    assert refused.value.hint == "write domain: legacy, or forget it first: vmprov delete db"


def test_a_plan_for_an_imported_domain_that_is_gone_says_so(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    lab = parse_lab(MIXED, "lab.yaml")
    vmprov.apply(lab)
    fake.remove_domain("legacy")

    with pytest.raises(Failed, match="the domain of db is gone") as refused:
        vmprov.plan(lab)
    vmprov.delete(["db"])
    fake.define_domain(theirs)

    assert refused.value.hint == "vmprov delete db"
    assert vmprov.apply(lab).ok


def test_what_a_domain_of_others_needs_has_to_be_there_too(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    fake.power_off_domain("legacy")
    fake.define_domain(theirs.replace('<memory unit="MiB">64</memory>', '<memory unit="GiB">640</memory>'))
    before = left(vmprov)

    with pytest.raises(SpecError, match="2 VMs do not fit on fake:"):
        vmprov.plan(parse_lab(MIXED, "lab.yaml"))
    with pytest.raises(SpecError, match="2 VMs do not fit on fake:"):
        vmprov.apply(parse_lab(MIXED, "lab.yaml"))

    assert left(vmprov) == before


def test_apply_forgets_what_the_file_no_longer_names(vmprov: Vmprov, fake: FakeHypervisor, theirs: str) -> None:
    vmprov.apply(parse_lab(MIXED, "lab.yaml"))

    result = vmprov.apply(parse_lab(MIXED.replace("  db: {domain: legacy, labels: {role: db}}\n", ""), "lab.yaml"))

    assert (result.ok, [vm.name for vm in vmprov.store.vms()]) == (True, ["web"])
    assert fake.domain("legacy").state is DomainState.RUNNING


def test_a_file_that_names_a_domain_that_is_not_there_is_refused(vmprov: Vmprov) -> None:
    with pytest.raises(NotFound, match="no domain called 'legacy'"):
        vmprov.plan(parse_lab(MIXED, "lab.yaml"))


def test_a_machine_of_ours_is_not_taken_for_a_domain(vmprov: Vmprov, theirs: str) -> None:
    vmprov.create(CreateRequest.parse(name="db", lab="mixed", image="", driver="fake"))

    with pytest.raises(SpecError, match="db is a VM of ours, and not domain 'legacy'"):
        vmprov.plan(parse_lab(MIXED, "lab.yaml"))


def test_all_of_a_request_is_recorded(vmprov: Vmprov) -> None:
    view = one(vmprov.create(wanted(count=1, ttl=3600, labels={"a": "b"}, protect=True, on_failure="stop")))

    assert (view.labels, view.protected) == ({"a": "b"}, True)
    assert view.expires == pytest.approx(time.time() + 3600, abs=60)
