"""Collecting garbage on a simulated host: what is found, what stays, and that nothing of others is touched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.test_hypervisor import domain_xml, network_xml
from tests.unit.simulated import forget, hypervisor_of, make_image, network_subnet, told_to, wanted
from vmprov import Settings, Vmprov
from vmprov.engine.at_work import lab_turn
from vmprov.engine.garbage.leftovers import on_host
from vmprov.errors import LibvirtFailed
from vmprov.hypervisor import Mark
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.locks import Turn
from vmprov.networks import Boot, adopted_xml
from vmprov.paths import Home
from vmprov.spec.load import parse_lab
from vmprov.store import Store
from vmprov.views import GcResult

POOL = "default"

pytestmark = pytest.mark.usefixtures("image")


def removed(result: GcResult) -> list[tuple[str, str]]:
    return [(one.kind, Path(one.name).name) for one in result.leftovers if one.state == "removed"]


def found(result: GcResult) -> set[tuple[str, str]]:
    return {(one.kind, Path(one.name).name) for one in result.leftovers}


def everything(vmprov: Vmprov) -> set[str]:
    """Everything there is on the host and in the state directory, but for the database and images."""
    fake, home = hypervisor_of(vmprov), vmprov.home
    return {
        *(f"domain {one.name} {fake.domain_xml(one.name)}" for one in fake.domains()),
        *(f"network {one.name} {fake.network_xml(one.name)}" for one in fake.networks()),
        *(f"volume {one}" for one in fake.volumes(POOL)),
        *(
            str(path.relative_to(home.root))
            for path in home.root.rglob("*")
            if path.name.partition(".")[0] not in ("vmprov", "world", "images", "hosts", "fake")
        ),
    }


# what was cut short


@pytest.mark.parametrize("state", ["creating", "deleting", "broken"])
def test_a_machine_whose_making_or_removing_was_cut_short_goes_with_all_it_has(
    vmprov: Vmprov, fake: FakeHypervisor, state: str
) -> None:
    before = everything(vmprov)
    vmprov.create(wanted(lab="trial", network="shared"))
    for vm in vmprov.store.vms():
        vmprov.store.update_vm(vm.name, state=state)

    result = vmprov.gc()

    assert removed(result) == [("vm", "vm-1"), ("vm", "vm-2")]
    assert (vmprov.store.labs(), vmprov.store.owned(), fake.volumes(POOL)) == ([], [], [])
    assert everything(vmprov) - before == {"vms", "labs", "run", "run/console", "run/console-drafts", "locks"}


def test_machines_in_a_settled_state_stay(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(lab="trial", network="shared"))
    fake.boot_transcript = "nothing\r\n"
    vmprov.create(wanted(lab="trial", network="shared", timeout=0.2, keep_on_failure=True))
    before = everything(vmprov)

    assert vmprov.gc() == GcResult([], [])
    assert everything(vmprov) == before
    assert [vm.state for vm in vmprov.store.vms()] == ["ready", "ready", "failed", "failed"]


def test_a_machine_among_others_goes_alone(vmprov: Vmprov) -> None:
    vmprov.create(wanted(lab="trial", network="shared"))
    vmprov.store.update_vm("vm-2", state="creating")

    result = vmprov.gc()

    assert removed(result) == [("vm", "vm-2")]
    assert [(vm.name, vm.state) for vm in vmprov.vms()] == [("vm-1", "running")]
    assert vmprov.gc().leftovers == []


def test_a_lab_without_machines_goes(vmprov: Vmprov) -> None:
    vmprov.store.add_lab("empty", host="fake:", driver="fake")

    assert removed(vmprov.gc()) == [("lab", "empty")]
    assert vmprov.store.labs() == []


def test_a_machine_that_was_being_made_anew_has_data_to_lose_and_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(count=1, disks=("1GiB",)))
    vmprov.store.update_vm("vm-1", state="rebuilding")
    volumes = fake.volumes(POOL)

    result = vmprov.gc()

    assert [(one.name, one.state) for one in result.leftovers] == [("vm-1", "kept")]
    assert (vmprov.show("vm-1").state, fake.volumes(POOL), result.ok) == ("failed", volumes, True)


def test_a_lab_at_which_somebody_is_at_work_is_left_alone(vmprov: Vmprov) -> None:
    vmprov.create(wanted(lab="trial"))
    vmprov.store.update_vm("vm-1", state="creating")
    turn = lab_turn(vmprov.context("fake:", "fake"), "trial")
    assert turn.take()
    turn.tell(json.dumps({"pid": 7, "command": "apply"}))

    busy = vmprov.gc()
    turn.close()
    after = vmprov.gc()

    assert (busy.leftovers, [(one.name, one.why) for one in busy.skipped]) == (
        [], [("trial", "vmprov apply (pid 7) is at work on it")],
    )  # fmt: skip
    assert removed(after) == [("vm", "vm-1")]


def test_a_machine_that_somebody_watches_is_left_alone(vmprov: Vmprov, home: Home) -> None:
    vmprov.create(wanted())
    for name in ("vm-1", "vm-2"):
        vmprov.store.update_vm(name, state="creating")
    watch = Turn(home.lock("watch-vm-1"))
    assert watch.take()

    result = vmprov.gc()
    watch.close()

    assert (removed(result), [one.name for one in result.skipped]) == ([("vm", "vm-2")], ["vm-1"])
    assert vmprov.store.vm("vm-1").state == "creating"


def test_what_cannot_be_removed_is_told_and_found_again(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted())
    for name in ("vm-1", "vm-2"):
        vmprov.store.update_vm(name, state="creating")
    fake.fail("remove_network", LibvirtFailed("stuck"), when=lambda name: name.endswith("vm-1"))

    first, second = vmprov.gc(), vmprov.gc()

    assert [(one.name, one.state, "stuck" in one.problem) for one in first.leftovers] == [
        ("vm-1", "failed", True), ("vm-2", "removed", False),
    ]  # fmt: skip
    assert (first.ok, second.ok, removed(second)) == (False, True, [("vm", "vm-1")])


def test_looking_changes_nothing(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted())
    vmprov.store.update_vm("vm-1", state="creating")
    fake.create_volume(POOL, f"vmprov-{vmprov.store.installation}-gone.img", size=1)
    before = everything(vmprov)

    result = vmprov.gc(dry_run=True)

    assert found(result) == {("vm", "vm-1"), ("volume", f"vmprov-{vmprov.store.installation}-gone.img")}
    assert {one.state for one in result.leftovers} == {"found"}
    assert everything(vmprov) - before == set()
    assert vmprov.store.vm("vm-1").state == "creating"


# what no record speaks of


def test_what_a_lost_database_spoke_of_is_found_by_marks_and_names(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(lab="trial", network="shared", disks=("1GiB",), firmware="uefi", tpm=True))
    forget(vmprov)

    told, result = vmprov.gc(dry_run=True), vmprov.gc()

    kinds = {kind for kind, _ in found(told)}
    assert kinds == {"domain", "network", "volume", "directory", "file", "lock"}
    # Variables of firmware go with their domain.
    assert {one for one in found(told) - found(result) if not one[1].endswith(".nvram")} == set()
    assert found(result) <= found(told) and result.ok
    assert (fake.domains(), fake.networks(), fake.volumes(POOL)) == ([], [], [])
    assert [
        path for kind in ("vms", "labs", "locks", "run/console") for path in (vmprov.home.root / kind).glob("*")
    ] == []
    assert vmprov.gc() == GcResult([], [])


def test_machines_that_can_be_had_again_are_said_to_be(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    forget(vmprov)

    told = {one.kind: one.why for one in vmprov.gc(dry_run=True).leftovers}

    assert "vmprov gc --rebuild" in told["domain"]
    assert all(why for why in told.values())


def place_foreign_objects(vmprov: Vmprov) -> None:
    """Of somebody else, of another installation, and such as only look like ours."""
    fake, ours = hypervisor_of(vmprov), vmprov.store.installation
    other = "0000" if ours != "0000" else "1111"
    subnets = (network_subnet(number) for number in range(9))
    for name, mark in (("theirs", None), (f"vmprov-{other}-a", Mark(other, "trial", "a")), (f"vmprov-{ours}-b", None)):
        fake.define_domain(domain_xml(name, mark=mark))
        fake.create_network(network_xml(name, subnet=next(subnets), bridge=name[-8:], mark=mark))
    for name in ("theirs.img", f"vmprov-{other}-a.img", f"vmprov-{ours}.img", "VAGRANTSLASH-tiny_box.img"):
        fake.create_volume(POOL, name, size=1)


def test_nothing_of_others_is_listed_or_touched(vmprov: Vmprov) -> None:
    place_foreign_objects(vmprov)
    before = everything(vmprov)
    vmprov.create(wanted())
    forget(vmprov)

    result = vmprov.gc()

    assert {thing for thing in before if thing.startswith(("domain", "network", "volume"))} <= everything(vmprov)
    ours = vmprov.store.installation
    assert [one.name for one in result.leftovers if one.host and f"vmprov-{ours}-vm-" not in one.name
            and "VAGRANTSLASH" not in one.name] == []  # fmt: skip


def test_a_domain_that_was_half_made_from_our_directory_is_ours_without_a_mark(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    name = f"vmprov-{vmprov.store.installation}-half"
    described = domain_xml(name, mark=None).replace(
        "<memory", f"<description>Source: {vmprov.home.root}/labs/k/Vagrantfile</description><memory"
    )
    fake.define_domain(described)

    assert removed(vmprov.gc()) == [("domain", name)]


def test_a_volume_that_somebody_uses_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    name = f"vmprov-{vmprov.store.installation}-vm-9.img"
    volume = fake.create_volume(POOL, name, size=1)
    fake.define_domain(domain_xml("theirs", mark=None, disk=volume.path))

    result = vmprov.gc()

    assert [(one.name, one.state, one.problem) for one in result.leftovers] == [
        (name, "failed", "domain theirs has it as a disk")
    ]
    assert fake.volume(POOL, name) is not None


def test_two_installations_on_one_host_do_not_collect_each_others_machines(
    vmprov: Vmprov, settings: Settings, tmp_path: Path
) -> None:
    vmprov.create(wanted())
    other_home = Home(tmp_path / "other")
    other_home.create()
    make_image(other_home)
    other_home.host("").mkdir()
    other_home.host("fake").symlink_to(vmprov.home.host("fake"))
    with Vmprov(replace(settings, home=other_home.root)) as other:
        assert other.store.installation != vmprov.store.installation
        other.create(wanted(name="other"))
        before = everything(vmprov)
        found_by_other, found_by_us = other.gc(), vmprov.gc()
        assert (found_by_other, found_by_us) == (GcResult([], []), GcResult([], []))
        forget(other)
        other.gc()

        assert len(before) - len(everything(vmprov)) >= 3
        assert [vm.state for vm in vmprov.vms()] == ["running", "running"]
        assert {one.name for one in hypervisor_of(vmprov).domains()} == {vm.domain for vm in vmprov.store.vms()}


def test_what_somebody_begins_to_own_meanwhile_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    name = f"vmprov-{vmprov.store.installation}-late.img"
    fake.create_volume(POOL, name, size=1)
    vmprov.create(wanted(count=1, lab="trial"))

    (seen,) = on_host(vmprov.host("fake:"), vmprov.home, vmprov.store)
    vmprov.store.own(lab="trial", host="fake:", kind="volume", name=name, pool=POOL)

    assert (seen.told.name, seen.still()) == (name, False)
    assert (vmprov.gc().leftovers, fake.volume(POOL, name) is not None) == ([], True)


def test_an_adopted_network_is_given_back_when_nobody_needs_it(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    original = network_xml("lan", subnet=network_subnet(1), bridge="lan0", mark=None)
    fake.create_network(original.replace("<metadata />", ""))
    before = fake.network_xml("lan")
    boot = Boot("http://boot.test/x.efi", {"boot.test": "10.9.1.5"})
    fake.redefine_network(adopted_xml(before, boot, vmprov.store.installation))
    file = vmprov.home.adopted("fake", "lan")
    file.parent.mkdir(parents=True)
    file.write_text(before)

    result = vmprov.gc()

    assert (removed(result), fake.network_xml("lan")) == ([("adopted network", "lan")], before)
    assert not file.exists()


def test_an_adopted_network_is_given_back_also_without_the_kept_definition(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    fake.create_network(network_xml("lan", subnet=network_subnet(1), bridge="lan0", mark=None))
    boot = Boot("http://boot.test/x.efi", {"boot.test": "10.9.1.5"})
    fake.redefine_network(adopted_xml(fake.network_xml("lan"), boot, vmprov.store.installation))

    vmprov.gc()

    assert "boot" not in fake.network_xml("lan") and "adopted" not in fake.network_xml("lan")


def test_a_network_that_another_installation_adopted_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(network_xml("lan", subnet=network_subnet(1), bridge="lan0", mark=None))
    fake.redefine_network(adopted_xml(fake.network_xml("lan"), Boot("http://b.test/"), "zzzz"))
    before = fake.network_xml("lan")

    assert (vmprov.gc().leftovers, fake.network_xml("lan")) == ([], before)


# files


def lay(path: Path, *, age: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("left")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.mark.parametrize(
    "place",
    [
        "vms/gone/console-0.log", "labs/gone/id_ed25519", ".removed-999/console-0.log", "run/console/999-0.in",
        "run/console/999-1.lock", "run/console-drafts/999-0.lock.1-2",
        "locks/at-work-gone.lock", "locks/lab-gone.lock", "locks/vagrantfile-gone.lock",
        "locks/watch-gone.lock", "locks/fake-network-lan.lock", "locks/image-0123456789ab.lock",
        "locks/fake-vmprov-0000-VAGRANTSLASH-tiny_vagrant_box_image_0.0.1_box.img.lock",
        "hosts/fake/adopted/lan.xml", "images/.new-0123456789ab/disk.qcow2",
        "labs/trial/.vagrant/machines/gone/libvirt/id",
    ],
)  # fmt: skip
def test_files_of_what_is_gone_go(vmprov: Vmprov, home: Home, place: str) -> None:
    vmprov.create(wanted(count=1, lab="trial"))
    file = lay(home.root / place)

    result = vmprov.gc()

    assert (file.exists(), len(result.leftovers), vmprov.gc().leftovers) == (False, 1, [])


@pytest.mark.parametrize(
    "place",
    [
        "vms/vm-1/.timeline.json.part", "vms/vm-1/.seed-abc/seed.iso", "vms/vm-1/.nvram-abc",
        "labs/trial/.Vagrantfile.part", "hosts/fake/adopted/.lan.xml.part", ".installation.part",
        "hosts/embedded/vagrant.d/tmp/.vmprov-abc/libvirt/box.img",
    ],
)  # fmt: skip
def test_what_was_being_written_goes_once_it_is_old(vmprov: Vmprov, home: Home, place: str) -> None:
    vmprov.create(wanted(count=1, lab="trial"))
    file = lay(home.root / place)
    young = list(vmprov.gc(dry_run=True).leftovers)
    for path in (file, *file.parents):
        if path.name.startswith("."):
            os.utime(path, (0, 0))

    result = vmprov.gc()

    assert (young, file.exists(), len(result.leftovers)) == ([], False, 1)


def test_locks_that_are_held_and_files_that_are_needed_stay(vmprov: Vmprov, home: Home) -> None:
    vmprov.create(wanted(lab="trial"))
    lay(home.root / "locks" / "something-else.lock")
    lay(home.failed / "vm-9-9" / "console-0.log")
    lay(home.root / "devices" / "dev-ttys0" / "console-0.log")
    held = Turn(home.lock("at-work-gone"))
    assert held.take()
    before = everything(vmprov)

    result = vmprov.gc()
    held.close()

    assert (result, everything(vmprov)) == (GcResult([], []), before)


# time


def test_a_machine_whose_time_is_up_goes(vmprov: Vmprov) -> None:
    vmprov.create(wanted())
    vmprov.store.update_vm("vm-1", expires=time.time() - 1)
    vmprov.store.update_vm("vm-2", expires=time.time() + 3600)

    result = vmprov.gc()

    assert removed(result) == [("vm", "vm-1")]
    assert result.leftovers[0].why.startswith("it expired at ")
    assert [vm.name for vm in vmprov.store.vms()] == ["vm-2"]


def test_a_protected_machine_outlives_its_time(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    vmprov.store.update_vm("vm-1", expires=1.0, protected=1)

    assert (vmprov.gc().leftovers, len(vmprov.store.vms())) == ([], 1)


@pytest.mark.parametrize(
    "command",
    [
        lambda vmprov: vmprov.create(wanted(count=1, name="next")),
        lambda vmprov: vmprov.delete(["nothing-of-that-name"]),
        lambda vmprov: vmprov.start(["vm-2"]),
    ],
    ids=["create", "delete", "start"],
)
def test_the_next_command_removes_a_machine_whose_time_is_up(
    vmprov: Vmprov, command: Callable[[Vmprov], object]
) -> None:
    vmprov.create(wanted())
    vmprov.store.update_vm("vm-1", expires=time.time() - 1)
    notes = told_to(vmprov)

    command(vmprov)

    assert not vmprov.store.has_vm("vm-1") and vmprov.store.has_vm("vm-2")
    assert [note.partition(":")[0] for note in notes] == ["vm-1 is removed"]


def test_who_wants_a_machine_in_a_file_begins_its_time_again_and_is_told_so(vmprov: Vmprov) -> None:
    lab = parse_lab("lab: trial\ndefaults: {driver: fake, image: ''}\nvms: {a: {ttl: 1h, disks: [1GiB]}}", "lab.yaml")
    vmprov.apply(lab)
    before = vmprov.store.vm("a")
    vmprov.store.update_vm("a", expires=time.time() - 1)

    (change,) = vmprov.plan(lab).changes
    assert vmprov.apply(lab).ok

    assert [str(reason) for reason in change.reasons] == ["ttl: its time is up -> 1h"]
    after = vmprov.store.vm("a")
    assert (after.uuid, after.expires) == (before.uuid, pytest.approx(time.time() + 3600, abs=60))
    assert not vmprov.plan(lab)


def test_a_command_that_only_looks_removes_nothing(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    vmprov.store.update_vm("vm-1", expires=1.0)

    assert [vm.name for vm in vmprov.vms()] == ["vm-1"]
    assert vmprov.store.has_vm("vm-1")


def test_a_lab_at_which_somebody_is_at_work_keeps_its_machines_beyond_their_time(vmprov: Vmprov) -> None:
    vmprov.create(wanted(lab="trial"))
    vmprov.store.update_vm("vm-1", expires=1.0)
    turn = lab_turn(vmprov.context("fake:", "fake"), "trial")
    assert turn.take()

    vmprov.create(wanted(lab="other", name="other", count=1))
    turn.close()

    assert vmprov.store.has_vm("vm-1")


# an installation is told by its file


def test_the_file_with_the_installations_id_is_made_again(home: Home) -> None:
    store = Store(home.database)
    store.close()
    home.installation.unlink()

    again = Store(home.database)
    again.close()

    assert home.installation.read_text().strip() == store.installation == again.installation


def test_a_rename_that_somebody_was_killed_over_is_finished(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1, lab="trial"))
    vmprov.stop(["vm-1"], force=True)
    vmprov.store.lease(host="", kind="new name", lab="trial", vm="vm-1", candidates=["edge"])
    vmprov.home.vm("vm-1").rename(vmprov.home.vm("edge"))

    result = vmprov.gc()

    assert [(one.kind, one.name, one.state) for one in result.leftovers] == [("vm", "vm-1", "kept")]
    assert [(vm.name, vm.state) for vm in vmprov.vms()] == [("edge", "stopped")]
    assert vmprov.home.console_log("edge", 0).exists()
    assert vmprov.gc().leftovers == []


def test_a_protected_machine_that_was_never_finished_goes(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    vmprov.store.update_vm("vm-1", state="creating", protected=1)

    assert removed(vmprov.gc()) == [("vm", "vm-1")]
