"""Labs from files on a simulated host: what is planned, what is done, what drift is, and what a fault leaves."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest

from tests.unit.simulated import make_image
from tests.unit.test_engine import left
from vmprov import Settings, Vmprov
from vmprov.errors import Failed, LibvirtFailed, NameTaken, NotFound, Protected, SpecError
from vmprov.events import Changed, Event, Forgotten, Recorded, StageChanged
from vmprov.hypervisor import DomainState
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.hypervisor.hardware import with_disk, with_memory, without_disk
from vmprov.paths import Home
from vmprov.spec.lab import LabSpec
from vmprov.spec.load import parse_lab

BASE = "lab: trial\nhost: 'fake:'\ndriver: fake\ndefaults: {image: '', memory: 64MiB, timeout: 20s}\n"
THREE = BASE + "vms:\n  web: {count: 2}\n  db: {memory: 128MiB, disks: [{size: 1GiB}], after: [web]}\n"


@pytest.fixture
def image(home: Home) -> str:
    """An image whose machines are ready at their login prompt."""
    return make_image(home)


def lab(text: str) -> LabSpec:
    return parse_lab(text, "lab.yaml")


def actions(vmprov: Vmprov, text: str) -> dict[str, str]:
    return {change.name: change.action.value for change in vmprov.plan(lab(text)).changes}


def domain_of(vmprov: Vmprov, vm: str) -> str:
    return vmprov.store.vm(vm).domain


# all goes well


def test_what_is_not_there_is_created(vmprov: Vmprov) -> None:
    assert actions(vmprov, THREE) == {"web-1": "create", "web-2": "create", "db": "create"}

    result = vmprov.apply(lab(THREE))

    assert (result.ok, [vm.name for vm in result.vms]) == (True, ["web-1", "web-2", "db"])
    assert {vm.name: vm.state for vm in vmprov.vms("trial")} == dict.fromkeys(("web-1", "web-2", "db"), "running")


def test_planning_changes_nothing(vmprov: Vmprov) -> None:
    before = left(vmprov)

    vmprov.plan(lab(THREE))

    assert left(vmprov) == before


def test_applying_again_does_nothing(vmprov: Vmprov) -> None:
    vmprov.apply(lab(THREE))
    before = left(vmprov)

    result = vmprov.apply(lab(THREE))

    assert (list(result.vms), result.plan["changes"], result.ok) == ([], [], True)
    assert left(vmprov) == before


def test_who_comes_after_others_is_powered_on_once_they_are_ready(vmprov: Vmprov) -> None:
    seen: list[tuple[str, str]] = []
    vmprov.events.listen(
        lambda event: seen.append((event.vm, event.stage)) if isinstance(event, StageChanged) else None
    )

    vmprov.apply(lab(THREE))

    assert max(seen.index((vm, "ready")) for vm in ("web-1", "web-2")) < seen.index(("db", "power on"))


def test_a_changed_field_changes_one_machine_where_it_is(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(THREE))
    uuid = vmprov.store.vm("db").uuid

    plan = vmprov.plan(lab(THREE.replace("128MiB", "192MiB")))
    vmprov.apply(lab(THREE.replace("128MiB", "192MiB")))

    assert [(one.name, one.action.value, one.reboot, one.lost) for one in plan.changes] == [("db", "change", True, ())]
    assert [str(reason) for reason in plan.changes[0].reasons] == ["memory: 128MiB -> 192MiB"]
    assert (vmprov.store.vm("db").memory, vmprov.store.vm("db").uuid) == (192 * 1024**2, uuid)
    assert fake.domain(domain_of(vmprov, "db")).state is DomainState.RUNNING


@pytest.mark.parametrize(
    ("was", "wanted", "action", "lost"),
    [
        ("cpus: 1", "cpus: 2", "change", ()),
        ("disks: [{size: 1GiB}]", "disks: [{size: 2GiB}]", "change", ()),
        ("disks: [{size: 1GiB}]", "disks: [{size: 1GiB}, {size: 1GiB}]", "change", ()),
        ("disks: [{name: logs, size: 1GiB}]", "disks: []", "change", ("logs",)),
        ("disk: 1GiB", "disk: 2GiB", "change", ()),
        ("disk: 2GiB", "disk: 1GiB", "replace", ("system disk",)),
        ("firmware: bios", "firmware: uefi", "replace", ("system disk",)),
        ("labels: {a: b}", "labels: {a: c}", "change", ()),
        ("networks: per-vm", "networks: [per-vm, isolated]", "replace", ("system disk",)),
    ],
)
def test_what_a_change_costs_is_said_before_and_afterwards_there_is_nothing_to_do(
    vmprov: Vmprov, was: str, wanted: str, action: str, lost: tuple[str, ...]
) -> None:
    one = BASE + "vms: {vm: {%s}}\n"
    vmprov.apply(lab(one % was))

    plan = vmprov.plan(lab(one % wanted))
    result = vmprov.apply(lab(one % wanted))

    assert [(change.action.value, change.lost) for change in plan.changes] == [(action, lost)]
    assert (result.ok, actions(vmprov, one % wanted)) == (True, {})
    vmprov.delete(everything=True)
    assert left(vmprov) == set()


def test_labels_are_changed_without_a_reboot(vmprov: Vmprov) -> None:
    one = BASE + "vms: {vm: {labels: {a: %s}}}\n"
    vmprov.apply(lab(one % "b"))

    plan = vmprov.plan(lab(one % "c"))

    assert [change.reboot for change in plan.changes] == [False]


def test_what_is_not_in_the_file_any_more_is_deleted(vmprov: Vmprov) -> None:
    vmprov.apply(lab(THREE))
    fewer = BASE + "vms: {web: {count: 1}}\n"

    assert actions(vmprov, fewer) == {"web-2": "delete", "db": "delete"}
    vmprov.apply(lab(fewer))

    assert [vm.name for vm in vmprov.vms()] == ["web-1"]


def test_only_what_is_named_is_applied(vmprov: Vmprov) -> None:
    vmprov.apply(lab(THREE), targets=["web"])

    assert [vm.name for vm in vmprov.vms()] == ["web-1", "web-2"]
    with pytest.raises(NotFound, match="no VM called 'nope'"):
        vmprov.plan(lab(THREE), targets=["nope"])


def test_what_is_named_does_not_start_before_what_it_comes_after(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    for act in (vmprov.plan, vmprov.apply):
        with pytest.raises(
            SpecError, match=r"db comes after web-1, web-2, which is not ready; add --target web-1 --target web-2"
        ):
            act(lab(THREE), targets=["db"])
    assert vmprov.vms() == []
    vmprov.apply(lab(THREE), targets=["web"])

    assert vmprov.apply(lab(THREE), targets=["db"]).ok
    fake.power_off_domain(vmprov.store.vm("web-2").domain)
    vmprov.delete(["db"])
    with pytest.raises(SpecError, match="db comes after web-2, which is not ready"):
        vmprov.apply(lab(THREE), targets=["db"])


def test_a_machine_made_anew_keeps_its_numbers_and_its_data(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    one = BASE + "vms: {vm: {firmware: %s, disks: [{name: data, size: 1GiB}]}}\n"
    vmprov.apply(lab(one % "bios"))
    before = vmprov.store.vm("vm")
    data = [volume for volume in fake.volumes("default") if ".data." in volume.name]

    vmprov.apply(lab(one % "uefi"))

    after = vmprov.store.vm("vm")
    same = ("uuid", "mac", "address", "serial_number", "network")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert [volume for volume in fake.volumes("default") if ".data." in volume.name] == data


# drift


def test_each_kind_of_drift_is_named_and_mended(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {count: 7}}\n"
    vmprov.apply(lab(text))
    names = [f"vm-{number}" for number in range(1, 8)]
    domains = {name: domain_of(vmprov, name) for name in names}
    fake.power_off_domain(domains["vm-1"])
    fake.remove_domain(domains["vm-2"])
    fake.define_domain(with_memory(fake.domain_definition(domains["vm-3"]), 32 * 1024**2))
    fake.remove_network(vmprov.store.vm("vm-4").network)
    fake.stop_network(vmprov.store.vm("vm-5").network)
    fake.pause_domain(domains["vm-6"])

    told = {one.vm: "; ".join(one.drift) for one in vmprov.drift()}
    result = vmprov.apply(lab(text))

    assert told["vm-1"] == "state: stopped -> running"
    assert told["vm-2"] == "state: missing -> running"
    assert told["vm-3"] == "memory: 32MiB -> 64MiB"
    assert "is lost" in told["vm-4"]
    assert "is stopped" in told["vm-5"]
    assert told["vm-6"] == "state: paused -> running"
    assert told["vm-7"] == ""
    assert result.counts == {"mended": 6, "unchanged": 1}
    assert [one.drift for one in vmprov.drift()] == [[]] * 7
    assert {vm.state for vm in vmprov.vms()} == {"running"}


def test_addresses_stay_when_a_lost_network_is_made_again(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {}}\n"
    vmprov.apply(lab(text))
    before = vmprov.store.vm("vm")
    fake.remove_network(before.network)

    vmprov.apply(lab(text))

    after = vmprov.store.vm("vm")
    assert (after.address, after.bridge) == (before.address, before.bridge)
    vmprov.delete(everything=True)
    assert left(vmprov) == set()


def test_a_machine_whose_disk_is_lost_is_made_anew(vmprov: Vmprov, fake: FakeHypervisor, image: str) -> None:
    text = BASE.replace("image: ''", f"image: {image}") + "vms: {vm: {}}\n"
    vmprov.apply(lab(text))
    fake.power_off_domain(domain_of(vmprov, "vm"))
    fake.remove_volume("default", f"{domain_of(vmprov, 'vm')}.img")

    plan = vmprov.plan(lab(text))
    result = vmprov.apply(lab(text))

    assert [change.action.value for change in plan.changes] == ["replace"]
    assert "is lost" in str(plan.changes[0].reasons[0])
    assert (result.ok, actions(vmprov, text)) == (True, {})


DISKS = "vms: {vm: {disks: [{name: logs, size: 1GiB}, {name: data, size: 1GiB}, {name: kept, size: 1GiB}]}}\n"


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.STOPPED])
def test_lost_data_disks_come_back_blank_and_the_rest_stays(
    vmprov: Vmprov, fake: FakeHypervisor, state: DomainState
) -> None:
    vmprov.apply(lab(BASE + DISKS))
    domain = domain_of(vmprov, "vm")
    before = {volume.name for volume in fake.volumes("default")}
    if state is DomainState.STOPPED:
        fake.power_off_domain(domain)
    for disk in ("logs", "data"):
        fake.remove_volume("default", f"{domain}.{disk}.img")

    change = vmprov.plan(lab(BASE + DISKS)).changes[0]
    result = vmprov.apply(lab(BASE + DISKS))

    assert (change.action.value, change.lost) == ("mend", ("logs", "data"))
    assert change.reboot == (state is DomainState.RUNNING)
    assert str(change.reasons[0]) == "disks: logs, data are lost -> blank"
    assert (result.ok, actions(vmprov, BASE + DISKS)) == (True, {})
    assert {volume.name for volume in fake.volumes("default")} == before
    assert fake.domain(domain).state is DomainState.RUNNING
    vmprov.delete(everything=True)
    assert left(vmprov) == set()


def test_a_lost_data_disk_that_is_not_wanted_any_more_goes(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(BASE + DISKS))
    fewer = BASE + "vms: {vm: {disks: [{name: kept, size: 1GiB}]}}\n"
    fake.remove_volume("default", f"{domain_of(vmprov, 'vm')}.logs.img")

    change = vmprov.plan(lab(fewer)).changes[0]
    result = vmprov.apply(lab(fewer))

    assert (change.action.value, change.lost, result.ok) == ("change", ("logs", "data"), True)
    assert actions(vmprov, fewer) == {}
    assert "logs" not in fake.domain_definition(domain_of(vmprov, "vm"))
    assert {volume.name.split(".")[1] for volume in fake.volumes("default")} == {"img", "kept"}


def test_a_protected_machine_does_not_get_a_blank_disk(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {protect: true, disks: [{size: 1GiB}]}}\n"
    vmprov.apply(lab(text))
    fake.remove_volume("default", f"{domain_of(vmprov, 'vm')}.data-1.img")

    with pytest.raises(Protected):
        vmprov.plan(lab(text))


@pytest.mark.parametrize("renamed", [False, True])
def test_variables_of_firmware_and_seeds_that_are_lost_are_made_again(
    vmprov: Vmprov, fake: FakeHypervisor, image: str, renamed: bool
) -> None:
    text = BASE.replace("image: ''", f"image: {image}") + "vms: {%s: {firmware: uefi}}\n"
    vmprov.apply(lab(text % "vm"))
    if renamed:
        vmprov.stop(["vm"])
        vmprov.rename("vm", "other")
        vmprov.start(["other"])
    name = "other" if renamed else "vm"
    lost = {volume.name for volume in fake.volumes("default") if volume.name.endswith((".nvram", "-seed.iso"))}
    for volume in lost:
        fake.remove_volume("default", volume)

    change = vmprov.plan(lab(text % name)).changes[0]
    result = vmprov.apply(lab(text % name))

    assert (change.action.value, change.reboot, change.lost) == ("mend", False, ())
    assert {reason.field for reason in change.reasons} == {"nvram", "seed"}
    assert (len(lost), result.ok, actions(vmprov, text % name)) == (2, True, {})
    assert lost <= {volume.name for volume in fake.volumes("default")}
    vmprov.delete(everything=True)
    assert left(vmprov) == set()


def test_data_disks_do_not_shrink(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE + DISKS))

    with pytest.raises(SpecError) as refused:
        vmprov.plan(lab(BASE + DISKS.replace("1GiB", "512MiB")))

    assert [problem.partition(" has ")[0] for problem in refused.value.problems] == [
        "vm: disks only grow: logs", "vm: disks only grow: data", "vm: disks only grow: kept",
    ]  # fmt: skip
    assert refused.value.hint == "a smaller disk needs another name"


def test_what_was_kept_after_a_failure_is_made_anew(vmprov: Vmprov, fake: FakeHypervisor, image: str) -> None:
    text = BASE.replace("image: ''", f"image: {image}").replace("20s", "1s") + "vms: {vm: {}}\n"
    boots = fake.boot_transcript
    fake.boot_transcript = "nothing to boot\r\n"
    first = vmprov.apply(lab(text), on_failure="keep")
    fake.boot_transcript = boots

    second = vmprov.apply(lab(text))

    assert (first.exit_code, first.vms[0].state, second.ok) == (1, "failed", True)
    assert second.plan["changes"][0]["action"] == "replace"


# failures


def test_a_change_that_fails_gives_back_what_there_was(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(THREE))
    before = vmprov.store.vm("db")
    fake.fail("start_domain", LibvirtFailed("no luck"))

    result = vmprov.apply(lab(THREE.replace("128MiB", "192MiB")))

    after = vmprov.store.vm("db")
    assert (result.exit_code, after.memory, after.state) == (1, before.memory, "ready")
    assert fake.domain(after.domain).state is DomainState.RUNNING
    assert actions(vmprov, THREE) == {}


def test_a_machine_that_was_off_is_off_again_if_it_fails_to_get_ready(
    vmprov: Vmprov, fake: FakeHypervisor, image: str
) -> None:
    text = BASE.replace("image: ''", f"image: {image}").replace("20s", "1s") + "vms: {vm: {}}\n"
    vmprov.apply(lab(text))
    vmprov.stop(["vm"])
    fake.boot_transcript = "nothing to boot\r\n"

    result = vmprov.apply(lab(text))

    assert (result.exit_code, result.vms[0].verdict) == (1, "timeout")
    assert fake.domain(domain_of(vmprov, "vm")).state is DomainState.STOPPED
    assert actions(vmprov, text) == {"vm": "mend"}


@pytest.mark.parametrize(
    ("vms", "said"),
    [
        ("{vm: {image: nowhere}}", "no image called 'nowhere'"),
        ("{vm: {image: big, disk: 1MiB}}", "a system disk of 1MiB is smaller than image big"),
        ("{vm: {networks: theirs}}", "no network called 'theirs' on fake:"),
        ("{vm: {count: 4, memory: 100GiB}}", "4 VMs do not fit on fake:"),
        ("{web: {image: nowhere}}", "no image called 'nowhere'"),
        ("{web: {firmware: uefi, networks: theirs}}", "no network called 'theirs' on fake:"),
        ("{web: {memory: 900GiB}}", "more memory for web"),
        ("{vm: {firmware: uefi, boot_certificates: /nowhere/x.pem}}", "/nowhere/x.pem"),
    ],
)
def test_a_plan_that_cannot_be_done_is_refused_when_it_is_made(vmprov: Vmprov, home: Home, vms: str, said: str) -> None:
    make_image(home, "big", virtual_size=1 << 30)
    vmprov.apply(lab(BASE + "vms: {web: {}}\n"))
    before = left(vmprov)
    text = BASE + "networks: {theirs: {mode: existing}}\nvms: " + vms

    with pytest.raises(SpecError) as refused:
        vmprov.plan(lab(text))

    assert said in str(refused.value)
    assert left(vmprov) == before


def test_a_guest_that_nobody_waited_for_and_that_failed_is_rebooted_by_the_next_apply(
    vmprov: Vmprov, fake: FakeHypervisor, image: str
) -> None:
    text = BASE.replace("image: ''", f"image: {image}").replace("20s", "1s") + "vms: {a: {}}\n"
    vmprov.apply(lab(text))
    vmprov.stop(["a"])
    boots, fake.boot_transcript = fake.boot_transcript, "nothing to boot\r\n"
    vmprov.start(["a"], wait=False)
    fake.boot_transcript = boots

    first = vmprov.apply(lab(text))
    change = vmprov.plan(lab(text)).changes[0]

    assert (first.exit_code, first.vms[0].verdict, change.action.value, change.reboot) == (1, "timeout", "mend", True)
    assert vmprov.apply(lab(text)).ok
    assert actions(vmprov, text) == {}


def test_disks_that_a_change_added_go_if_it_fails(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {disks: [%s]}}\n"
    vmprov.apply(lab(text % "{name: a, size: 1GiB}"))
    before = {volume.name for volume in fake.volumes("default")}
    fake.fail("start_domain", LibvirtFailed("no luck"))

    result = vmprov.apply(lab(text % "{name: a, size: 1GiB}, {name: b, size: 1GiB}"))

    assert (result.exit_code, {volume.name for volume in fake.volumes("default")}) == (1, before)
    assert actions(vmprov, text % "{name: a, size: 1GiB}") == {}
    assert vmprov.apply(lab(text % "{name: a, size: 1GiB}, {name: b, size: 2GiB}")).ok
    assert {volume.capacity >> 30 for volume in fake.volumes("default") if ".b." in volume.name} == {2}


def test_a_domain_that_was_gone_is_there_again_without_what_a_failed_change_added(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {memory: %s}}\n"
    vmprov.apply(lab(text % "64MiB"))
    fake.remove_domain(domain_of(vmprov, "vm"))
    fake.fail("start_domain", LibvirtFailed("no luck"))

    result = vmprov.apply(lab((text % "96MiB").replace("}}", ", disks: [{size: 1GiB}]}}")))

    assert (result.exit_code, actions(vmprov, text % "64MiB")) == (1, {"vm": "mend"})
    assert vmprov.apply(lab(text % "64MiB")).ok
    assert "data-1" not in fake.domain_definition(domain_of(vmprov, "vm"))


def test_a_file_that_cannot_be_used_fails_the_machine_that_needs_it(
    vmprov: Vmprov, fake: FakeHypervisor, image: str
) -> None:
    text = BASE.replace("image: ''", f"image: {image}") + "vms: {vm: {}%s}\n"
    vmprov.apply(lab(text % ""))
    fake.remove_volume("default", f"{domain_of(vmprov, 'vm')}-seed.iso")
    directory = vmprov.home.vm("vm")
    shutil.rmtree(directory)
    directory.write_text("a file where a directory should be")

    result = vmprov.apply(lab(text % ", other: {}"))
    directory.unlink()

    assert {vm.name: vm.verdict for vm in result.vms} == {"vm": "failed", "other": "success"}
    assert f"{directory}" in result.vms[0].why
    assert vmprov.apply(lab(text % ", other: {}")).ok
    assert actions(vmprov, text % ", other: {}") == {}


def test_a_network_of_others_that_is_gone_is_missed_before_the_guest_is_off(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    theirs = "<network><name>theirs</name><bridge name='t'/><ip address='10.99.0.1' netmask='255.255.255.0'/></network>"
    fake.create_network(theirs)
    text = BASE + "networks: {theirs: {mode: existing}}\nvms: {vm: {networks: theirs}}\n"
    vmprov.apply(lab(text))
    fake.stop_network("theirs")

    with pytest.raises(SpecError, match="network 'theirs' is not active"):
        vmprov.apply(lab(text))
    fake.remove_network("theirs")
    with pytest.raises(SpecError, match="no network called 'theirs'"):
        vmprov.apply(lab(text))

    assert fake.domain(domain_of(vmprov, "vm")).state is DomainState.RUNNING


def test_only_what_is_named_has_to_be_possible(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE + "vms: {old: {memory: 200GiB}, db: {disks: [{size: 2GiB}], protect: true}}\n"))
    text = BASE + "vms: {new: {memory: 200GiB}, db: {disks: [{size: 1GiB}]}, bad: {image: nowhere}, good: {}}\n"

    refused = {}
    for name in ("new", "db", "bad"):
        with pytest.raises(SpecError) as problem:
            vmprov.apply(lab(text), targets=[name])
        refused[name] = str(problem.value)

    assert "do not fit" in refused["new"] and "only grow" in refused["db"] and "nowhere" in refused["bad"]
    assert vmprov.apply(lab(text), targets=["good"]).ok
    assert vmprov.apply(lab(text), targets=["old"]).ok
    assert vmprov.apply(lab(text), targets=["new"]).ok


def test_a_time_to_live_that_the_file_takes_back_is_over_though_the_machine_is_made_anew(vmprov: Vmprov) -> None:
    text = BASE + "vms: {vm: {%s}}\n"
    vmprov.apply(lab(text % "ttl: 1h"))

    plan = vmprov.plan(lab(text % "firmware: uefi"))
    vmprov.apply(lab(text % "firmware: uefi"))

    assert (plan.changes[0].action.value, vmprov.store.vm("vm").expires) == ("replace", 0)


def test_a_paused_machine_gets_its_change_when_it_is_powered_on_again(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(BASE + "vms: {vm: {}}\n"))
    fake.pause_domain(domain_of(vmprov, "vm"))
    log = vmprov.home.console_log("vm", 0)
    before = log.stat().st_size

    change = vmprov.plan(lab(BASE + "vms: {vm: {memory: 96MiB}}\n")).changes[0]
    vmprov.apply(lab(BASE + "vms: {vm: {memory: 96MiB}}\n"))

    assert (change.reboot, log.stat().st_size > before) == (True, True)


def test_a_number_of_machines_that_cannot_boot_at_once_is_refused_before_anything_is_done(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE + "vms: {vm: {}}\n"))

    with pytest.raises(SpecError, match="--parallel must be at least 0, not -1"):
        vmprov.apply(lab(THREE), parallel=-1)
    with pytest.raises(SpecError, match="--parallel must be at least 0, not -1"):
        vmprov.rebuild(["vm"], parallel=-1)

    assert (vmprov.store.vm("vm").state, actions(vmprov, BASE + "vms: {vm: {}}\n")) == ("ready", {})


def test_a_change_that_is_tried_again_is_made_as_if_it_were_the_first_time(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {disks: [{name: a, size: 1GiB}]}}\n"
    vmprov.apply(lab(text))
    fake.fail("start_domain", LibvirtFailed("busy", passing=True))

    result = vmprov.apply(lab(text.replace("{name: a, size: 1GiB}", "{name: a, size: 2GiB}, {name: b, size: 1GiB}")))

    assert (result.ok, fake.domain(domain_of(vmprov, "vm")).state) == (True, DomainState.RUNNING)
    sizes = {volume.name.split(".")[1]: volume.capacity >> 30 for volume in fake.volumes("default")}
    assert (sizes["a"], sizes["b"]) == (2, 1)


def test_disks_are_dropped_once_nothing_is_going_to_be_undone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {a: {disks: [{name: logs, size: 1GiB}]}, gone: {}}\n"
    vmprov.apply(lab(text))
    before = {volume.name for volume in fake.volumes("default") if "gone" not in volume.name}
    fake.fail("start_domain", LibvirtFailed("no luck"), when=lambda name: name.endswith("-b"))

    result = vmprov.apply(lab(BASE + "vms: {a: {}, b: {after: [a]}}\n"), on_failure="rollback-lab")

    assert {vm.name: vm.state for vm in result.vms} == {"a": "running", "b": "removed", "gone": "removed"}
    assert {vm.name: vm.verdict for vm in result.vms} == {"a": "failed", "b": "failed", "gone": "success"}
    assert {volume.name for volume in fake.volumes("default")} == before
    assert fake.domain(domain_of(vmprov, "a")).state is DomainState.RUNNING
    assert actions(vmprov, BASE + "vms: {a: {disks: [{name: logs, size: 1GiB}]}}\n") == {}


def test_a_disk_that_could_not_be_dropped_is_told_and_dropped_by_the_next_apply(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    vmprov.apply(lab(BASE + "vms: {vm: {disks: [{name: logs, size: 1GiB}]}}\n"))
    fake.fail("remove_volume", LibvirtFailed("busy"))
    fewer = BASE + "vms: {vm: {}}\n"

    first = vmprov.apply(lab(fewer))
    change = vmprov.plan(lab(fewer)).changes[0]
    second = vmprov.apply(lab(fewer))

    assert (first.exit_code, first.vms[0].state) == (4, "broken")
    assert "not everything else is gone: volume" in first.vms[0].why
    assert (change.action.value, change.reboot, change.lost) == ("mend", False, ())
    assert str(change.reasons[0]).endswith(".logs.img is left over")
    assert (second.ok, actions(vmprov, fewer)) == (True, {})
    assert [volume.name for volume in fake.volumes("default") if "logs" in volume.name] == []


def test_what_is_recorded_of_a_disk_that_was_dropped_already_ruins_nothing(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE + "vms: {vm: {}}\n"))
    vmprov.store.own(
        lab="trial", vm="vm", host="fake:", kind="volume", name=f"{domain_of(vmprov, 'vm')}.old.img", pool="default"
    )

    assert actions(vmprov, BASE + "vms: {vm: {}}\n") == {"vm": "mend"}
    assert vmprov.apply(lab(BASE + "vms: {vm: {}}\n")).ok
    assert actions(vmprov, BASE + "vms: {vm: {}}\n") == {}


def test_a_disk_that_a_killed_change_left_has_the_size_that_is_wanted(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {disks: [%s]}}\n"
    vmprov.apply(lab(text % ""))
    name = f"{domain_of(vmprov, 'vm')}.data-1.img"
    vmprov.store.own(lab="trial", vm="vm", host="fake:", kind="volume", name=name, pool="default")
    fake.create_volume("default", name, size=1 << 30)

    vmprov.apply(lab(text % "{size: 2GiB}"))

    volume = fake.volume("default", name)
    assert (volume is not None and volume.capacity, actions(vmprov, text % "{size: 2GiB}")) == (2 << 30, {})


@pytest.mark.parametrize("method", ["create_volume", "start_domain", "define_domain"])
def test_a_machine_whose_change_failed_and_was_kept_does_not_lose_its_disk(
    vmprov: Vmprov, fake: FakeHypervisor, method: str
) -> None:
    text = BASE + "vms: {vm: {disks: [%s]}}\n"
    vmprov.apply(lab(text % ""))
    fake.fail(method, LibvirtFailed("no luck"))

    result = vmprov.apply(lab(text % "{size: 1GiB}"), on_failure="keep")
    plans = [vmprov.plan(lab(text % disks)).changes[0] for disks in ("", "{size: 1GiB}")]

    assert (result.exit_code, result.vms[0].verdict) == (1, "failed")
    assert [(plan.action.value, plan.lost) for plan in plans if plan.action.value == "replace"] == []
    assert vmprov.apply(lab(text % "{size: 1GiB}")).ok
    assert actions(vmprov, text % "{size: 1GiB}") == {}


def test_who_protects_a_machine_in_the_last_moment_is_heard(
    vmprov: Vmprov, settings: Settings, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {firmware: %s, disks: [{size: 1GiB}]}, new: {}}\n"
    vmprov.apply(lab(BASE + "vms: {vm: {disks: [{size: 1GiB}]}}\n"))
    uuid = vmprov.store.vm("vm").uuid

    def protect() -> bool:
        with Vmprov(settings) as other:
            other.protect(["vm"])
        return False

    fake.fail("node", LibvirtFailed("never"), when=protect)
    with pytest.raises(Protected):
        vmprov.apply(lab(text % "uefi"))

    assert (vmprov.store.vm("vm").uuid, vmprov.store.vm("vm").protected) == (uuid, True)
    assert not vmprov.store.has_vm("new")


def test_what_others_change_of_a_record_meanwhile_is_not_taken_back(
    vmprov: Vmprov, settings: Settings, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {memory: %s, ttl: 1h}}\n"
    vmprov.apply(lab(text % "64MiB"))
    before = vmprov.store.vm("vm")

    def change(_name: str) -> bool:
        with Vmprov(settings) as other:
            other.protect(["vm"])
            other.renew(["vm"], ttl=10 * 86400.0)
            other.label(["vm"], {"by": "hand"})
        return False

    fake.fail("shutdown_domain", LibvirtFailed("never"), when=change)
    vmprov.apply(lab(text % "96MiB"))

    after = vmprov.store.vm("vm")
    assert (after.memory, after.protected, dict(after.labels)) == (96 << 20, True, {"by": "hand"})
    assert after.expires > before.expires + 86400


def test_a_domain_that_somebody_renamed_is_told_and_goes_with_its_machine(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {}}\n"
    vmprov.apply(lab(text))
    domain = domain_of(vmprov, "vm")
    fake.power_off_domain(domain)
    fake.rename_domain(domain, "mine")
    fake.start_domain("mine")

    with pytest.raises(Failed, match="the domain of vm is called 'mine' now") as refused:
        vmprov.plan(lab(text))

    assert refused.value.hint.endswith(f"virsh domrename mine {domain}")
    assert vmprov.drift()[0].drift == [f"domain: mine -> {domain}"]
    vmprov.delete(everything=True)
    assert left(vmprov) == set()


def test_a_domain_of_others_that_has_our_name_is_not_touched(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {cpus: %s}}\n"
    vmprov.apply(lab(text % 1))
    domain = domain_of(vmprov, "vm")
    fake.remove_domain(domain)
    name = f"<name>{domain}</name>"
    fake.define_domain(
        f"<domain type='qemu'>{name}<memory>65536</memory><vcpu>7</vcpu><os><type>hvm</type></os></domain>"
    )
    theirs = fake.domain_definition(domain)

    for cpus in (1, 2):
        with pytest.raises(Failed, match=f"somebody else's is called '{domain}'"):
            vmprov.apply(lab(text % cpus))

    vmprov.delete(everything=True)
    assert fake.domain_definition(domain) == theirs


def test_a_guest_that_was_asked_to_shut_down_runs_again_after_an_interruption(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {memory: %s}}\n"
    vmprov.apply(lab(text % "64MiB"))

    def interrupt(_name: str) -> bool:
        vmprov.cancel.set()
        return False

    fake.fail("shutdown_domain", LibvirtFailed("never"), when=interrupt)
    result = vmprov.apply(lab(text % "96MiB"))

    assert (result.vms[0].verdict, fake.domain(domain_of(vmprov, "vm")).state) == ("cancelled", DomainState.RUNNING)
    assert vmprov.store.vm("vm").memory == 64 << 20


def test_protected_machines_that_were_imported_stay_in_the_lab(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.define_domain(
        "<domain type='qemu'><name>ext</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>"
    )
    vmprov.apply(lab(BASE + "vms: {ext: {domain: ext, protect: true}, vm: {}}\n"))

    with pytest.raises(Protected):
        vmprov.plan(lab(BASE + "vms: {vm: {}}\n"))


def test_what_was_never_finished_goes_though_it_is_protected(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE + "vms: {a: {}, b: {protect: true}}\n"))
    vmprov.store.update_vm("b", state="creating")

    result = vmprov.apply(lab(BASE + "vms: {a: {}}\n"))

    assert (result.ok, [vm.state for vm in result.vms]) == (True, ["removed"])


def test_without_a_kept_definition_a_machine_is_not_mended_and_not_rebooted_either(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {}}\n"
    vmprov.apply(lab(text))
    domain = domain_of(vmprov, "vm")
    fake.define_domain(with_memory(fake.domain_definition(domain), 32 * 1024**2))
    vmprov.home.definition("vm").unlink()
    log = vmprov.home.console_log("vm", 0).read_bytes()

    result = vmprov.apply(lab(text))

    assert (result.exit_code, "was not kept" in result.vms[0].why) == (1, True)
    assert (fake.domain(domain).state, vmprov.home.console_log("vm", 0).read_bytes()) == (DomainState.RUNNING, log)


def test_a_system_disk_smaller_than_the_one_there_is_needs_a_new_one(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE + "vms: {vm: {}}\n"))

    same, smaller = (vmprov.plan(lab(BASE + f"vms: {{vm: {{disk: {disk}}}}}\n")) for disk in ("10GiB", "1GiB"))

    assert (list(same.changes), [(one.action.value, one.lost) for one in smaller.changes]) == (
        [], [("replace", ("system disk",))],
    )  # fmt: skip


def test_a_name_that_a_lab_has_is_refused_in_the_plan(vmprov: Vmprov) -> None:
    vmprov.apply(lab(BASE.replace("trial", "other") + "vms: {vm: {}}\n"))

    with pytest.raises(NameTaken, match="a VM and a lab cannot have the same name"):
        vmprov.plan(lab(BASE + "vms: {other: {}}\n"))


def attach_stray(vmprov: Vmprov, fake: FakeHypervisor) -> str:
    """What a change that was killed before it was recorded leaves of a disk that it added; returns the volume."""
    domain = domain_of(vmprov, "vm")
    name = f"{domain}.extra.img"
    vmprov.store.own(lab="trial", vm="vm", host="fake:", kind="volume", name=name, pool="default")
    volume = fake.create_volume("default", name, size=1 << 30)
    fake.define_domain(with_disk(fake.domain_definition(domain), volume.path, serial="extra"))
    return name


def test_a_volume_that_a_domain_has_stays_until_it_has_it_no_more(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {}}\n"
    vmprov.apply(lab(text))
    stray = attach_stray(vmprov, fake)

    vmprov.resize("vm", cpus=2)
    kept = fake.volume("default", stray)
    change = vmprov.plan(lab(text)).changes[0]
    fake.fail("start_domain", LibvirtFailed("no luck"))
    failed = vmprov.apply(lab(text))
    running = fake.domain(domain_of(vmprov, "vm")).state
    mended = vmprov.apply(lab(text))

    assert kept is not None
    assert (change.reboot, f"disks: {stray} is left over" in map(str, change.reasons)) == (True, True)
    assert (failed.exit_code, running, mended.ok) == (1, DomainState.RUNNING, True)
    assert (fake.volume("default", stray), actions(vmprov, text)) == (None, {})


def test_a_data_disk_that_somebody_detached_is_attached_again(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(BASE + DISKS))
    domain = domain_of(vmprov, "vm")
    fake.define_domain(without_disk(fake.domain_definition(domain), "data"))

    change = vmprov.plan(lab(BASE + DISKS)).changes[0]
    result = vmprov.apply(lab(BASE + DISKS))

    assert (change.action.value, [str(reason) for reason in change.reasons], change.lost) == (
        "mend", ["disks: data is not attached"], (),
    )  # fmt: skip
    assert (result.ok, "data.img" in fake.domain_definition(domain), actions(vmprov, BASE + DISKS)) == (True, True, {})


@pytest.mark.parametrize("policy", ["rollback-vm", "keep", "stop"])
def test_a_guest_that_noticed_nothing_of_a_failed_change_is_not_rebooted_for_it(
    vmprov: Vmprov, fake: FakeHypervisor, image: str, policy: str
) -> None:
    text = BASE.replace("image: ''", f"image: {image}") + "vms: {vm: {labels: {a: %s}}}\n"
    vmprov.apply(lab(text % "b"))
    fake.remove_volume("default", f"{domain_of(vmprov, 'vm')}-seed.iso")
    fake.fail("upload_volume", LibvirtFailed("full"))
    log = vmprov.home.console_log("vm", 0).read_bytes()

    result = vmprov.apply(lab(text % "c"), on_failure=policy)
    again = vmprov.plan(lab(text % "c"))

    assert (result.exit_code, [change.reboot for change in again.changes]) == (1, [False])
    assert vmprov.apply(lab(text % "c")).ok
    assert (vmprov.home.console_log("vm", 0).read_bytes(), actions(vmprov, text % "c")) == (log, {})


def test_a_machine_runs_again_though_a_disk_that_was_added_cannot_be_removed(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    text = BASE + "vms: {vm: {%s}}\n"
    vmprov.apply(lab(text % ""))
    fake.fail("start_domain", LibvirtFailed("no luck"))
    fake.fail("remove_volume", LibvirtFailed("busy"))

    result = vmprov.apply(lab(text % "disks: [{size: 1GiB}]"))

    assert (result.exit_code, fake.domain(domain_of(vmprov, "vm")).state) == (4, DomainState.RUNNING)
    assert actions(vmprov, text % "") == {"vm": "mend"}
    assert vmprov.apply(lab(text % "")).ok
    assert actions(vmprov, text % "") == {}


def test_a_lost_disk_is_lost_until_its_guest_is_off(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(BASE + DISKS))
    fake.remove_volume("default", f"{domain_of(vmprov, 'vm')}.data.img")
    fake.fail("shutdown_domain", LibvirtFailed("no luck"))
    planned = vmprov.plan(lab(BASE + DISKS))

    vmprov.apply(lab(BASE + DISKS), on_failure="keep")

    assert vmprov.plan(lab(BASE + DISKS)).changes[0].lost == planned.changes[0].lost == ("data",)


def test_a_volume_of_others_is_in_the_way_before_the_guest_is_off(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {%s}}\n"
    vmprov.apply(lab(text % ""))
    fake.create_volume("default", f"{domain_of(vmprov, 'vm')}.data-1.img", size=1 << 20)
    log = vmprov.home.console_log("vm", 0).read_bytes()

    result = vmprov.apply(lab(text % "disks: [{size: 1GiB}]"))

    assert (result.exit_code, "it is not ours" in result.vms[0].why) == (1, True)
    assert vmprov.home.console_log("vm", 0).read_bytes() == log


def test_what_comes_after_a_machine_that_failed_waits_for_it(vmprov: Vmprov, fake: FakeHypervisor, image: str) -> None:
    text = BASE.replace("image: ''", f"image: {image}").replace("20s", "1s") + "vms: {a: {}, b: {after: [a]}}\n"
    vmprov.apply(lab(text))
    vmprov.stop(["a", "b"])
    boots, fake.boot_transcript = fake.boot_transcript, "nothing to boot\r\n"
    assert vmprov.start(["a"], timeout=1.0)[0].name == "a"
    fake.boot_transcript = boots

    with pytest.raises(SpecError, match="b comes after a, which is not ready"):
        vmprov.plan(lab(text), targets=["b"])
    change = vmprov.plan(lab(text)).changes[0]

    assert (change.action.value, change.reboot, change.lost) == ("mend", True, ())
    assert vmprov.apply(lab(text)).ok
    assert actions(vmprov, text) == {}


def test_a_guest_that_nobody_waited_for_is_judged_where_it_is(vmprov: Vmprov, fake: FakeHypervisor, image: str) -> None:
    text = BASE.replace("image: ''", f"image: {image}") + "vms: {a: {}, b: {}}\n"
    vmprov.apply(lab(text))
    vmprov.stop(["a"])
    vmprov.start(["a"], wait=False)
    log = vmprov.home.console_log("a", 0).read_bytes()

    change = vmprov.plan(lab(text)).changes[0]
    result = vmprov.apply(lab(text))

    assert (change.name, change.reboot, [str(reason) for reason in change.reasons]) == (
        "a", False, ["judgement: none since it was powered on -> success"],
    )  # fmt: skip
    assert (result.ok, vmprov.store.vm("a").verdict, actions(vmprov, text)) == (True, "success", {})
    assert vmprov.home.console_log("a", 0).read_bytes() == log


def test_a_failure_that_passes_is_no_failure(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("create_network", LibvirtFailed("busy", passing=True))

    assert vmprov.apply(lab(THREE)).ok


def test_who_comes_after_one_that_failed_fails_and_is_gone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("start_domain", LibvirtFailed("no luck"), when=lambda name: name.endswith("web-2"))

    result = vmprov.apply(lab(THREE))

    assert {vm.name: vm.state for vm in result.vms} == {"web-1": "running", "web-2": "removed", "db": "removed"}
    assert "web-2 failed: no luck" in next(vm.why for vm in result.vms if vm.name == "db")
    assert vmprov.apply(lab(THREE)).ok


def test_the_whole_lab_is_undone_if_so_asked(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("start_domain", LibvirtFailed("no luck"), when=lambda name: name.endswith("db"))

    result = vmprov.apply(lab(THREE), on_failure="rollback-lab")

    assert (result.exit_code, left(vmprov)) == (1, set())


def test_a_plan_that_is_not_the_one_agreed_to_is_not_done(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.apply(lab(THREE))
    changed = lab(THREE.replace("128MiB", "192MiB"))
    agreed = vmprov.plan(changed)
    fake.remove_domain(domain_of(vmprov, "web-1"))

    with pytest.raises(Failed, match="changed since the plan was shown"):
        vmprov.apply(changed, expected=agreed)

    assert vmprov.store.vm("db").memory == 128 * 1024**2


def test_protected_machines_do_not_lose_their_data(vmprov: Vmprov) -> None:
    text = BASE + "vms: {vm: {firmware: %s, protect: true}, other: {}}\n"
    vmprov.apply(lab(text % "bios"))

    with pytest.raises(Protected):
        vmprov.plan(lab(text % "uefi"))
    with pytest.raises(Protected):
        vmprov.apply(lab(BASE + "vms: {other: {}}\n"))


def test_a_name_of_another_lab_is_refused(vmprov: Vmprov) -> None:
    vmprov.apply(lab(THREE))

    with pytest.raises(SpecError, match="'web-1' already, in lab trial"):
        vmprov.plan(lab(THREE.replace("lab: trial", "lab: other")))


def test_networks_that_a_file_declares_are_made_once_and_go_with_the_lab(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + (
        "networks: {front: {subnet: 10.99.0.0/24}, back: {mode: isolated}}\n"
        "vms: {web: {count: 2, networks: [front, back]}, db: {networks: [back]}}\n"
    )

    result = vmprov.apply(lab(text))
    subnets = {str(subnet) for network in fake.networks() for subnet in network.subnets}
    again = actions(vmprov, text)
    vmprov.delete(everything=True)

    assert (result.ok, len(subnets), "10.99.0.0/24" in subnets, again) == (True, 2, True, {})
    assert left(vmprov) == set()


def test_a_subnet_in_use_fails_and_leaves_nothing(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    theirs = "<network><name>theirs</name><bridge name='t'/><ip address='10.99.0.1' netmask='255.255.255.0'/></network>"
    fake.create_network(theirs)
    text = BASE + "networks: {front: {subnet: 10.99.0.0/24}}\nvms: {web: {networks: [front]}}\n"

    result = vmprov.apply(lab(text))

    assert (result.exit_code, left(vmprov)) == (1, {"network theirs"})
    assert "10.99.0.0/24 is in use already" in result.vms[0].why


# events


class Replay:
    """Knows nothing but events."""

    def __init__(self) -> None:
        self.vms: dict[str, dict[str, object]] = {}
        self.things: set[tuple[str, str, str]] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Recorded) and event.kind == "vm":
            self.vms[event.name] = dict(event.fields)
        elif isinstance(event, Changed):
            self.vms.get(event.vm, {}).update(event.fields)
        elif isinstance(event, Forgotten) and event.kind == "vm":
            del self.vms[event.name]
        elif isinstance(event, Recorded):
            self.things.add((event.kind, event.name, event.vm))
        elif isinstance(event, Forgotten):
            self.things.discard((event.kind, event.name, event.vm))


def test_events_are_enough_to_tell_what_there_is(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    replay = Replay()
    vmprov.events.listen(replay)
    fake.fail("start_domain", LibvirtFailed("no luck"), when=lambda name: name.endswith("web-2"))

    vmprov.apply(lab(THREE))
    vmprov.apply(lab(THREE.replace("128MiB", "192MiB")))
    vmprov.apply(lab(BASE + "vms: {web: {count: 2}}\n"))

    told = {name: (vm["state"], vm["verdict"], vm["memory"], vm["mac"]) for name, vm in replay.vms.items()}
    assert told == {vm.name: (vm.state, vm.verdict, vm.memory, vm.mac) for vm in vmprov.store.vms()}
    things = {(owned.kind, owned.name, owned.vm) for owned in vmprov.store.owned()}
    assert replay.things == things | {("lab", "trial", "")}


def test_what_was_rolled_back_in_the_database_is_never_told(vmprov: Vmprov) -> None:
    told: list[Event] = []
    vmprov.events.listen(told.append)

    with pytest.raises(ZeroDivisionError), vmprov.store.transaction():
        vmprov.store.add_lab("trial", host="fake:", driver="fake")
        raise ZeroDivisionError
    vmprov.store.add_lab("other", host="fake:", driver="fake")

    assert [event.name for event in told if isinstance(event, Recorded)] == ["other"]


# the journal


def test_the_journal_says_what_was_done_and_what_became_of_it(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("start_domain", LibvirtFailed("no luck"), when=lambda name: name.endswith("web-2"))

    vmprov.apply(lab(BASE + "vms: {web: {count: 2}}\n"))

    operation = vmprov.store.operations("trial")[0]
    states = {
        step: [one.state for one in operation.steps if one.step == step] for step in {s.step for s in operation.steps}
    }
    assert (operation.command, operation.ended > 0) == ("apply", True)
    assert states["web-1/power on"] == ["doing", "done"]
    assert states["web-2/power on"] == ["doing", "failed"]
    assert states["web-2/record"] == ["undoing", "undone"]
    assert next(one.why for one in operation.steps if one.state == "failed") == "no luck"


def test_a_second_one_waits_for_its_turn_and_is_told_for_whom(settings: Settings, vmprov: Vmprov) -> None:
    from vmprov.engine.at_work import lab_turn

    vmprov.apply(lab(BASE + "vms: {web: {}}\n"))
    turn = lab_turn(vmprov.context("", ""), "trial")
    assert turn.take()
    turn.tell(json.dumps({"pid": 4711, "command": "apply"}))
    told: list[str] = []
    vmprov.events.listen(lambda event: (told.append(str(event)), turn.close()) if "waiting" in str(event) else None)

    result = vmprov.delete(["trial"])

    assert (result.deleted, len(told)) == (["web"], 1)
    assert "waiting until vmprov apply (pid 4711) is done with lab trial" in told[0]


def test_a_host_is_asked_little_about_machines_that_are_as_they_should_be(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    text = BASE + "vms: {vm: {count: 10}}\n"
    vmprov.apply(lab(text))
    calls: list[str] = []
    for method in (
        "node",
        "domains",
        "domain",
        "domain_xml",
        "domain_definition",
        "networks",
        "pool",
        "volumes",
        "volume",
    ):
        noted = partial(lambda name, *_: calls.append(name) is not None, method)
        fake.fail(method, LibvirtFailed("never"), when=noted)

    vmprov.apply(lab(text))

    assert sorted(calls) == ["domain_definition"] * 10 + ["domains", "networks", "volumes"]
