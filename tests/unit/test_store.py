from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from vmprov.addressing import free_subnets
from vmprov.errors import HostNotReady, NameTaken, NotFound
from vmprov.paths import Home
from vmprov.store import Store
from vmprov.store.schema import MIGRATIONS

RANGE = IPv4Network("10.87.0.0/16")


def add_vm(store: Store, name: str, lab: str = "lab-1") -> int:
    store.add_lab(lab, host="fake:", driver="fake")
    return store.add_vm(
        lab=lab, name=name, state="creating", host="fake:", driver="fake", domain=f"d-{name}", uuid="u", image="",
        login="none", network="n", bridge="b", address="", mac="m", serial_number="s", cpus=1, memory=1, disk=1,
        consoles=1,
    )  # fmt: skip


def test_a_vm_is_found_again_after_the_database_was_closed(home: Home, store: Store) -> None:
    add_vm(store, "vm-1")
    store.close()

    again = Store(home.database)

    assert again.vm("vm-1").lab == "lab-1"
    again.close()


def test_the_installation_stays_the_same(home: Home, store: Store) -> None:
    again = Store(home.database)

    assert again.installation == store.installation
    again.close()


def test_two_vms_cannot_have_one_name(store: Store) -> None:
    add_vm(store, "vm-1")

    with pytest.raises(NameTaken, match="'vm-1' already"):
        add_vm(store, "vm-1")


def test_an_unknown_vm_is_said_to_be_unknown(store: Store) -> None:
    with pytest.raises(NotFound, match="no VM called 'nope'"):
        store.vm("nope")


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        add_vm(store, "vm-1")
        raise RuntimeError

    assert (store.vms(), store.labs()) == ([], [])


def test_owned_objects_come_back_newest_first(store: Store) -> None:
    add_vm(store, "vm-1")
    store.own(lab="lab-1", vm="vm-1", host="fake:", kind="network", name="n")
    store.own(lab="lab-1", vm="vm-1", host="fake:", kind="volume", name="v", pool="default")

    owned = store.owned(vm="vm-1")

    assert [(thing.kind, dict(thing.detail)) for thing in owned] == [("volume", {"pool": "default"}), ("network", {})]


def test_owning_twice_is_the_same_as_once(store: Store) -> None:
    add_vm(store, "vm-1")
    store.own(lab="lab-1", vm="vm-1", host="fake:", kind="network", name="n")
    store.own(lab="lab-1", vm="vm-1", host="fake:", kind="network", name="n")

    assert len(store.owned(vm="vm-1")) == 1


def test_a_vm_that_still_owns_something_cannot_be_forgotten(store: Store) -> None:
    add_vm(store, "vm-1")
    store.own(lab="lab-1", vm="vm-1", host="fake:", kind="network", name="n")

    with pytest.raises(HostNotReady, match="FOREIGN KEY"):
        store.remove_vm("vm-1")


def test_leases_return_with_their_vm(store: Store) -> None:
    add_vm(store, "vm-1")
    store.lease(host="h", kind="subnet", lab="lab-1", vm="vm-1", candidates=["10.0.0.0/28"])

    store.remove_vm("vm-1")

    assert store.leased(host="h", kind="subnet") == set()


def test_a_value_is_leased_once(store: Store) -> None:
    add_vm(store, "vm-1")

    first = store.lease(host="h", kind="port", lab="lab-1", candidates=["1", "2"])
    second = store.lease(host="h", kind="port", lab="lab-1", candidates=["1", "2"])
    third = store.lease(host="h", kind="port", lab="lab-1", candidates=["1", "2"])

    assert (first, second, third) == ("1", "2", None)


def test_subnets_leased_by_many_connections_at_once_all_differ(home: Home, store: Store) -> None:
    add_vm(store, "vm-1")

    def lease(_number: int) -> IPv4Network:
        mine = Store(home.database)
        try:
            [leased] = mine.lease_subnets(
                host="h", lab="lab-1", vms=["vm-1"], candidates=lambda used: free_subnets(RANGE, 28, used)
            )
            return leased
        finally:
            mine.close()

    with ThreadPoolExecutor(8) as pool:
        leased = list(pool.map(lease, range(40)))

    assert len(set(leased)) == 40


def test_subnets_are_leased_to_many_at_once_while_there_are_some(store: Store) -> None:
    add_vm(store, "vm-1")
    add_vm(store, "vm-2")

    def lease(*vms: str) -> list[str]:
        leased = store.lease_subnets(
            host="h", lab="lab-1", vms=vms, candidates=lambda used: free_subnets(IPv4Network("10.0.0.0/26"), 28, used)
        )
        return [str(one) for one in leased]

    assert lease("vm-1", "vm-2", "vm-1") == ["10.0.0.0/28", "10.0.0.16/28", "10.0.0.32/28"]
    assert lease("vm-2", "vm-2") == ["10.0.0.48/28"]
    assert store.leases_of(host="h", kind="subnet", lab="lab-1", vm="vm-1") == ["10.0.0.0/28", "10.0.0.32/28"]


def test_a_newer_database_is_refused_and_left_alone(home: Home) -> None:
    Store(home.database, migrations=(*MIGRATIONS, "CREATE TABLE later (x)")).close()

    with pytest.raises(HostNotReady, match=f"version {len(MIGRATIONS) + 1}.*update vmprov"):
        Store(home.database)


def test_an_older_database_is_brought_up_to_date_with_its_contents(home: Home) -> None:
    old = Store(home.database)
    add_vm(old, "vm-1")
    old.close()

    new = Store(home.database, migrations=(*MIGRATIONS, "ALTER TABLE vms ADD COLUMN colour TEXT DEFAULT 'red'"))

    assert new.vm("vm-1").name == "vm-1"
    new.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vmprov.db"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(HostNotReady, match=r"vmprov\.db is damaged: .*gc --rebuild"):
        Store(path)


def test_the_database_is_for_its_owner_only(home: Home, store: Store) -> None:
    assert (home.root.stat().st_mode & 0o777, store.path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_lab_is_forgotten_only_when_it_is_empty(store: Store) -> None:
    add_vm(store, "vm-1")

    assert store.remove_lab_if_empty("lab-1") is False
    store.remove_vm("vm-1")
    assert store.remove_lab_if_empty("lab-1") is True


def test_many_readers_do_not_disturb_a_writer(home: Home, store: Store) -> None:
    reader = sqlite3.connect(home.database)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM vms").fetchall()

    add_vm(store, "vm-1")

    assert store.vm("vm-1").name == "vm-1"
    reader.close()
