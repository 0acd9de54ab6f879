"""The database lost, damaged, locked, full, or too new: what is said, and what can be had again."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.simulated import forget, hypervisor_of, told_to, wanted
from vmprov import Settings, Vmprov
from vmprov.engine.judging.guard import Guard
from vmprov.errors import DatabaseBroken, HostNotReady, NameTaken
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.paths import Home
from vmprov.spec.load import parse_lab
from vmprov.store import Owned, Store, VMRecord, read_note
from vmprov.store.clock import follow_clock
from vmprov.store.schema import MIGRATIONS

POOL = "default"

pytestmark = pytest.mark.usefixtures("image")


def recorded(store: Store) -> dict[str, Any]:
    """All records, as far as they can be told again."""

    def plain(vm: VMRecord) -> VMRecord:
        return replace(vm, why="", judgement="")

    def thing(one: Owned) -> tuple[object, ...]:
        return (one.lab, one.vm, one.host, one.kind, one.name, dict(one.detail))

    return {
        "labs": [replace(lab, spec="") for lab in store.labs()],
        "vms": [plain(vm) for vm in store.vms()],
        "owned": sorted(map(str, map(thing, store.owned()))),
        "subnets": store.leased(host="fake:", kind="subnet"),
        "serial numbers": store.leased(host="", kind="serial number"),
    }


def damage(path: Path) -> None:
    """Write over what is in the middle of a database."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)


def several(vmprov: Vmprov) -> None:
    vmprov.create(wanted(lab="one", network="shared", disks=("1GiB",), firmware="uefi"))
    vmprov.create(wanted(lab="two", name="web", count=1, consoles=2))


def test_what_is_no_note_of_ours_is_not_taken_for_one() -> None:
    assert read_note("") is None
    assert read_note("[]") is None
    assert read_note('{"format": 1, "vm": {"name": "a", "uuid": "u"}}') is not None


@pytest.mark.parametrize("how", ["lost", "damaged", "no database"])
def test_records_can_be_had_again_as_they_were(vmprov: Vmprov, how: str) -> None:
    several(vmprov)
    before = recorded(vmprov.store)
    vmprov._forget_store()
    path = vmprov.home.database
    if how == "lost":
        path.unlink()
    elif how == "damaged":
        damage(path)
    else:
        path.write_bytes(b"something else" * 500)

    result = vmprov.rebuild_records()

    assert (result.labs, result.vms, list(result.untold)) == (["one", "two"], ["vm-1", "vm-2", "web-1"], [])
    assert recorded(vmprov.store) == before
    assert vmprov.gc().leftovers == []


def test_a_damaged_database_is_moved_aside_and_that_is_said(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    vmprov._forget_store()
    damage(vmprov.home.database)
    damaged = vmprov.home.database.read_bytes()

    with pytest.raises(DatabaseBroken, match=r"is damaged: .*vmprov gc --rebuild"):
        vmprov.vms()
    result = vmprov.rebuild_records()

    assert (result.database, result.aside) == ("damaged", f"{vmprov.home.database}.damaged-1")
    assert Path(result.aside).read_bytes() == damaged
    assert [vm.name for vm in vmprov.vms()] == ["vm-1"]


def test_damage_that_only_a_full_reading_finds_is_found(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    vmprov._forget_store()
    with sqlite3.connect(vmprov.home.database) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'run_stages'").fetchone()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with vmprov.home.database.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)

    assert vmprov.rebuild_records().database == "damaged"
    assert [vm.state for vm in vmprov.vms()] == ["running"]


def test_what_was_recorded_again_can_be_used_and_removed(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    several(vmprov)
    logs = vmprov.console_logs()
    forget(vmprov)

    vmprov.rebuild_records()

    assert [(vm.name, vm.state, vm.verdict) for vm in vmprov.vms()] == [
        ("vm-1", "running", "success"), ("vm-2", "running", "success"), ("web-1", "running", "success"),
    ]  # fmt: skip
    assert vmprov.console_logs() == logs
    assert list(vmprov.reboot(["web-1"])) == []
    deleted = vmprov.delete(everything=True)
    assert (deleted.deleted, list(deleted.failed)) == (["vm-1", "vm-2", "web-1"], [])
    assert (fake.domains(), fake.networks(), fake.volumes(POOL), vmprov.store.labs()) == ([], [], [], [])


def test_machines_that_are_not_recorded_any_more_lose_nothing_to_who_wants_their_names(
    vmprov: Vmprov, fake: FakeHypervisor
) -> None:
    lab = parse_lab("lab: trial\ndefaults: {driver: fake, image: ''}\nvms: {a: {disks: [1GiB]}, b: {}}", "lab.yaml")
    vmprov.apply(lab)
    files = {path: path.read_bytes() for kind in ("vms", "labs") for path in (vmprov.home.root / kind).rglob("*.*")}
    domains = {one.name: fake.domain_xml(one.name) for one in fake.domains()}
    forget(vmprov)

    with pytest.raises(NameTaken, match=r"has a domain called 'vmprov-.*-a' already, and nothing is recorded"):
        vmprov.apply(lab)
    with pytest.raises(NameTaken):
        vmprov.create(wanted(count=None, name="b", image=""))

    assert {one.name: fake.domain_xml(one.name) for one in fake.domains()} == domains
    assert {path: path.read_bytes() for path in files} == files
    assert vmprov.rebuild_records().vms == ["a", "b"]
    assert not vmprov.plan(lab)


def test_machines_are_guarded_on_by_new_records(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1, flow="login"))
    guard = Guard(vmprov.home)
    guard.look()
    forget(vmprov)
    vmprov.rebuild_records()
    guard.look()

    with vmprov.home.console_log("vm-1", 0).open("ab") as log:
        log.write(b"Kernel panic - not syncing: lost\r\n")
    guard.look()

    assert (vmprov.vms()[0].verdict, vmprov.vms()[0].why) == ("failed", "The kernel gave up.")


def test_new_machines_get_numbers_that_nobody_had(vmprov: Vmprov) -> None:
    first = vmprov.create(wanted()).vms
    forget(vmprov)
    vmprov.rebuild_records()

    later = vmprov.create(wanted(name="later")).vms

    for field in ("serial_number", "mac", "bridge", "address"):
        assert len({getattr(vm, field) for vm in (*first, *later)}) == 4


def test_what_changed_since_power_on_is_noted_too(vmprov: Vmprov) -> None:
    lab = "lab: trial\ndefaults: {image: tiny, driver: fake, memory: 64MiB}\nvms:\n  a: {%s}\n"
    altered = "memory: 128MiB, disks: [{name: data, size: 1GiB}], labels: {role: edge}"
    vmprov.apply(parse_lab(lab % "", "lab.yaml"))
    vmprov.apply(parse_lab(lab % altered, "lab.yaml"))
    before = recorded(vmprov.store)
    forget(vmprov)

    vmprov.rebuild_records()

    assert recorded(vmprov.store) == before
    assert not vmprov.plan(parse_lab(lab % altered, "lab.yaml"))


def test_a_note_has_neither_console_output_nor_passwords(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.boot_transcript = "hunter2 says: panic\r\n"
    vmprov.create(wanted(count=1, timeout=0.2, keep_on_failure=True, graphics="vnc"))
    password = vmprov.home.screen_password("vm-1").read_text()

    xml = fake.domain_xml("vmprov-" + vmprov.store.installation + "-vm-1")

    assert "urn:vmprov:note:1" in xml
    assert "hunter2" not in xml and password not in xml


def test_what_is_recorded_already_stays_as_it_is(vmprov: Vmprov) -> None:
    several(vmprov)
    vmprov.store.update_vm("web-1", why="mine")
    before = recorded(vmprov.store)

    result = vmprov.rebuild_records()

    assert (result.database, result.labs, result.vms, list(result.untold)) == ("sound", [], [], [])
    assert (recorded(vmprov.store), vmprov.store.vm("web-1").why) == (before, "mine")


def test_what_cannot_be_told_is_told(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(count=3))
    installation = vmprov.store.installation
    fake.annotate_domain(f"vmprov-{installation}-vm-1", "")
    fake.annotate_domain(f"vmprov-{installation}-vm-2", json.dumps({"format": 99, "vm": {"name": "x", "uuid": "y"}}))
    (vmprov.home.vms / "gone").mkdir()
    forget(vmprov)

    result = vmprov.rebuild_records()

    assert result.vms == ["vm-3"]
    assert {one.name for one in result.untold} == {"vm-1", "vm-2", "gone"}
    assert all(one.why for one in result.untold)


def test_the_installations_id_is_found_in_files_of_machines(vmprov: Vmprov) -> None:
    vmprov.create(wanted(count=1))
    installation = vmprov.store.installation
    forget(vmprov)
    vmprov.home.installation.unlink()

    result = vmprov.rebuild_records()

    assert (result.vms, vmprov.store.installation) == (["vm-1"], installation)


def test_a_lost_database_is_said_to_be_lost_once(vmprov: Vmprov, settings: Settings) -> None:
    vmprov.create(wanted(count=1))
    forget(vmprov)
    notes = told_to(vmprov)

    vmprov.vms()
    vmprov._forget_store()
    vmprov.vms()

    assert notes == ["the database is lost, and this is a new one; make the records anew from what hosts know: "
                     "vmprov gc --rebuild"]  # fmt: skip


# a database that cannot be used


def test_a_database_that_somebody_has_locked_is_waited_for_and_then_told(home: Home, store: Store) -> None:
    store.close()
    other = sqlite3.connect(home.database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    mine = Store(home.database, patience=0.2)

    with pytest.raises(HostNotReady, match=r"database is locked; another process had it for more than 0 s"):
        mine.add_lab("k", host="fake:", driver="fake")
    other.execute("COMMIT")

    mine.add_lab("k", host="fake:", driver="fake")
    assert [lab.name for lab in mine.labs()] == ["k"]
    mine.close()
    other.close()


def test_a_newer_database_is_refused_by_a_rebuild_too_and_left_alone(vmprov: Vmprov) -> None:
    vmprov._forget_store()
    vmprov.home.create()
    Store(vmprov.home.database, migrations=(*MIGRATIONS, "CREATE TABLE later (x)")).close()
    before = vmprov.home.database.read_bytes()

    with pytest.raises(HostNotReady, match="update vmprov"):
        vmprov.rebuild_records()

    assert vmprov.home.database.read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_to_be_full_and_nothing_is_lost(small_disk: Path, settings: Settings) -> None:
    with Vmprov(replace(settings, home=small_disk)) as vmprov:
        vmprov.create(wanted(image="", count=1))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))

        with pytest.raises(HostNotReady, match=r"the disk is full: free some space"):
            for number in range(1000):
                vmprov.store.add_lab(f"k{number}", host="fake:", driver="fake")
        with pytest.raises((HostNotReady, OSError)):
            vmprov.create(wanted(image="", count=1, name="more"))

        assert [vm.name for vm in vmprov.vms()] == ["vm-1"]
        filler.unlink()
        vmprov.gc()
        assert vmprov.create(wanted(image="", count=1, name="more")).ok
        vmprov.delete(everything=True)
        vmprov.gc()
        assert (hypervisor_of(vmprov).domains(), vmprov.store.labs()) == ([], [])


# the clock


@pytest.mark.parametrize("jump", [-86400.0, 3600.0, 40.0 * 365 * 86400])
def test_a_clock_that_is_set_moves_times_of_expiry_with_it(store: Store, jump: float) -> None:
    add_expiring(store, "vm-1", 1000.0 + 60)
    follow_clock(store, lambda: (1000.0, 50.0))

    follow_clock(store, lambda: (1010.0 + jump, 60.0))
    follow_clock(store, lambda: (1011.0 + jump, 61.0))

    assert store.vm("vm-1").expires == pytest.approx(1060.0 + jump)


def test_a_clock_that_is_slewed_changes_nothing_and_machines_that_never_expire_never_do(store: Store) -> None:
    add_expiring(store, "vm-1", 2000.0)
    add_expiring(store, "vm-2", 0.0)
    follow_clock(store, lambda: (1000.0, 50.0))

    follow_clock(store, lambda: (1100.0, 148.0))
    slewed = store.vm("vm-1").expires
    follow_clock(store, lambda: (9100.0, 150.0))

    assert (slewed, store.vm("vm-2").expires) == (2000.0, 0.0)


def test_after_a_restart_of_this_machine_the_clock_is_believed(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_expiring(store, "vm-1", 2000.0)
    follow_clock(store, lambda: (1000.0, 50.0))
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr("vmprov.store.clock._BOOT_ID", tmp_path / "boot_id")

    follow_clock(store, lambda: (1500.0, 5.0))

    assert store.vm("vm-1").expires == 2000.0


def add_expiring(store: Store, name: str, expires: float) -> None:
    store.add_lab("lab-1", host="fake:", driver="fake")
    store.add_vm(
        lab="lab-1", name=name, state="ready", host="fake:", driver="fake", domain=f"d-{name}", uuid=f"u-{name}",
        image="", login="none", network="n", bridge="b", address="", mac="m", serial_number="s", cpus=1, memory=1,
        disk=1, consoles=1, expires=expires,
    )  # fmt: skip


def test_times_of_expiry_are_kept_in_the_clocks_time(store: Store) -> None:
    assert store.expiry(None) == 0.0
    assert store.expiry(60.0) == pytest.approx(time.time() + 60, abs=5)
