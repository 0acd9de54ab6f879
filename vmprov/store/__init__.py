"""What we own: the one SQLite database.

Labs, VMs, the outside objects that belong to them, and leases (anything handed out once: subnets, MAC
addresses, serial numbers). Several vmprov processes may use it at once (WAL, short immediate transactions).
A row is committed *before* the object it speaks of is made, so that whatever is killed can be found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from ipaddress import IPv4Network
from typing import Any

from vmprov.errors import HostNotReady, NameTaken, NotFound
from vmprov.events import Changed, Forgotten, Recorded, Renamed
from vmprov.store.clock import follow_clock
from vmprov.store.database import Database, Row, is_conflict, known_identity, set_aside
from vmprov.store.journal import Entry, Operation, Past, past_operations
from vmprov.store.notes import go_on_after, note_of, read_note, restore
from vmprov.store.records import LabRecord, Nic, Owned, Run, VMRecord

__all__ = [
    "Entry",
    "LabRecord",
    "Nic",
    "Operation",
    "Owned",
    "Past",
    "Run",
    "Store",
    "VMRecord",
    "known_identity",
    "labels_column",
    "nics_column",
    "read_note",
    "set_aside",
]

# Runs of flows that are remembered; the oldest make room.
_MOST_RUNS = 10_000


@lru_cache(maxsize=100_000)
def _network(text: str) -> IPv4Network:
    return IPv4Network(text)


_VM_COLUMNS = tuple(field.name for field in fields(VMRecord))


def labels_column(labels: Mapping[str, str]) -> str:
    """What the column ``labels`` holds."""
    return json.dumps(dict(sorted(labels.items())))


def nics_column(nics: Sequence[Nic]) -> str:
    """What the column ``nics`` holds."""
    return json.dumps([asdict(nic) for nic in nics])


def _read_vm(row: Row) -> VMRecord:
    """A row of ``vms``; the flat columns know better what the first NIC is on."""
    first = Nic(row["network"], row["bridge"], row["mac"], row["address"])
    others = [Nic(**nic) for nic in json.loads(row["nics"])[1:]]
    return VMRecord(
        **{
            **row,
            "nics": (first, *others),
            "labels": json.loads(row["labels"]),
            "protected": bool(row["protected"]),
            "adopted": bool(row["adopted"]),
        }
    )


class Store(Database):
    """The records; see the module."""

    # labs

    def labs(self) -> list[LabRecord]:
        """All labs, oldest first."""
        return [LabRecord(**row) for row in self.rows("SELECT name, host, driver, created, spec FROM labs ORDER BY id")]

    def lab(self, name: str) -> LabRecord | None:
        """One lab, or ``None``."""
        found = self.rows("SELECT name, host, driver, created, spec FROM labs WHERE name = ?", name)
        return LabRecord(**found[0]) if found else None

    def add_lab(self, name: str, *, host: str, driver: str) -> None:
        """Record a lab; one that exists stays as it is."""
        with self.transaction():
            if self.lab(name) is None:
                self.write(
                    "INSERT INTO labs (name, host, driver, created) VALUES (?, ?, ?, ?)",
                    name, host, driver, time.time(),
                )  # fmt: skip
                self.tell(Recorded(kind="lab", name=name, lab=name, fields={"host": host, "driver": driver}))

    def update_lab(self, name: str, *, spec: str) -> None:
        """Remember the file that was applied last."""
        self.write("UPDATE labs SET spec = ? WHERE name = ?", spec, name)

    def remove_lab_if_empty(self, name: str) -> bool:
        """Forget a lab that has no VM and owns nothing; ``False`` if it does."""
        with self.transaction():
            used = self.rows("SELECT 1 FROM vms WHERE lab = ? UNION ALL SELECT 1 FROM owned WHERE lab = ?", name, name)
            if not used:
                self.write("DELETE FROM labs WHERE name = ?", name)
                self.tell(Forgotten(kind="lab", name=name, lab=name))
            return not used

    # VMs

    def vms(self, lab: str | None = None) -> list[VMRecord]:
        """All VMs, or those of one lab, oldest first."""
        columns = ", ".join(_VM_COLUMNS)
        if lab is None:
            rows = self.rows(f"SELECT {columns} FROM vms ORDER BY id")  # noqa: S608 - our own column names
        else:
            rows = self.rows(f"SELECT {columns} FROM vms WHERE lab = ? ORDER BY id", lab)  # noqa: S608
        return [_read_vm(row) for row in rows]

    def vm(self, name: str) -> VMRecord:
        """One VM; raises :class:`NotFound`."""
        columns = ", ".join(_VM_COLUMNS)
        found = self.rows(f"SELECT {columns} FROM vms WHERE name = ?", name)  # noqa: S608
        if not found:
            raise NotFound(f"no VM called {name!r}", hint="see: vmprov list")
        return _read_vm(found[0])

    def has_vm(self, name: str) -> bool:
        """Whether there is a VM of that name."""
        return bool(self.rows("SELECT 1 FROM vms WHERE name = ?", name))

    def add_vm(self, **columns: str | int | float) -> int:
        """Record a VM; returns its id. Raises :class:`NameTaken` if there is one of that name."""
        try:
            with self.transaction():
                number = self.write(
                    f"INSERT INTO vms ({', '.join(columns)}, created) "  # noqa: S608 - our own column names
                    f"VALUES ({', '.join('?' * (len(columns) + 1))})",
                    *columns.values(), time.time(),
                )  # fmt: skip
                self.tell(Recorded(kind="vm", name=str(columns["name"]), lab=str(columns["lab"]), fields=columns))
            return number
        except HostNotReady as problem:
            if is_conflict(problem):
                raise NameTaken(f"there is a VM called {columns['name']!r} already") from problem
            raise

    def update_vm(self, name: str, **columns: str | int | float) -> None:
        """Change columns of a VM's record; a VM that is gone stays gone."""
        with self.transaction():
            self.write(
                f"UPDATE vms SET {', '.join(f'{column} = ?' for column in columns)} WHERE name = ?",  # noqa: S608
                *columns.values(), name,
            )  # fmt: skip
            self.tell(Changed(vm=name, fields=columns))

    def update_nic(self, name: str, place: int, **changes: str) -> None:
        """Change what is recorded of a VM's NIC, counted from 0; a VM that is gone stays gone."""
        with self.transaction():
            found = self.rows("SELECT nics FROM vms WHERE name = ?", name)
            if not found:
                return
            if place == 0:
                self.update_vm(name, **changes)
                return
            nics = json.loads(found[0]["nics"])
            nics[place].update(changes)
            self.update_vm(name, nics=json.dumps(nics))

    def update_vm_if(self, name: str, expected: Mapping[str, str | int], **columns: str | int | float) -> bool:
        """Change columns of a VM's record if others are as expected; ``False`` if they are not (any more)."""
        with self.transaction():
            where = " AND ".join(f"{column} = ?" for column in ("name", *expected))
            if not self.rows(f"SELECT 1 FROM vms WHERE {where}", name, *expected.values()):  # noqa: S608
                return False
            self.update_vm(name, **columns)
            return True

    def rename_vm(self, name: str, new: str, *, domain: str) -> None:
        """Give a VM, with all that it owns and holds, another name, and its domain one, too."""
        with self.transaction():
            # In between, what belongs to it belongs to nobody.
            self.rows("PRAGMA defer_foreign_keys = ON")
            for table in ("owned", "leases"):
                self.write(f"UPDATE {table} SET vm = ? WHERE vm = ?", new, name)  # noqa: S608 - our own tables
            self.write("UPDATE vms SET name = ?, domain = ? WHERE name = ?", new, domain, name)
            self.tell(Renamed(vm=name, new=new))

    def remove_vm(self, name: str) -> None:
        """Forget a VM and its leases; what it still owns must be disowned first."""
        with self.transaction():
            self.write("DELETE FROM vms WHERE name = ?", name)
            self.tell(Forgotten(kind="vm", name=name))

    # past runs of flows

    def add_run(self, run: Run) -> None:
        """Remember how a flow went; it outlives the VM."""
        with self.transaction():
            number = self.write(
                "INSERT INTO runs (vm, lab, image, flow, verdict, class, stage, ended, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                run.vm, run.lab, run.image, run.flow, run.verdict, run.failure_class, run.stage, run.ended, run.seconds,
            )  # fmt: skip
            for stage in run.stages:
                self.write("INSERT INTO run_stages VALUES (?, ?, ?, ?, ?)", number, *stage)
            self.write("DELETE FROM runs WHERE id <= ?", number - _MOST_RUNS)

    def runs(self, *, image: str | None = None, flow: str | None = None) -> list[Run]:
        """Past runs, oldest first, of an image and of a flow where these are given."""
        wanted = {"image": image, "flow": flow}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
        stages: dict[int, list[tuple[str, float, float, str]]] = {}
        for row in self.rows(
            "SELECT run, run_stages.stage, start, run_stages.seconds, outcome FROM run_stages "  # noqa: S608
            f"JOIN runs ON runs.id = run WHERE {where} ORDER BY run_stages.rowid",
            *given.values(),
        ):
            stages.setdefault(row[0], []).append((row[1], row[2], row[3], row[4]))
        rows = self.rows(
            "SELECT id, vm, lab, image, flow, verdict, class, stage, ended, seconds FROM runs "  # noqa: S608
            f"WHERE {where} ORDER BY id",
            *given.values(),
        )
        return [
            Run(
                vm=row["vm"], lab=row["lab"], image=row["image"], flow=row["flow"], verdict=row["verdict"],
                failure_class=row["class"], stage=row["stage"], ended=row["ended"], seconds=row["seconds"],
                stages=tuple(stages.get(row["id"], ())),
            )
            for row in rows
        ]  # fmt: skip

    # times of expiry

    def expired(self) -> list[VMRecord]:
        """VMs whose time is up, and that are not protected."""
        follow_clock(self)
        now = time.time()
        return [vm for vm in self.vms() if 0 < vm.expires <= now and not vm.protected]

    def expiry(self, ttl: float | None) -> float:
        """When a VM expires that lives for so many seconds from now; 0: never."""
        follow_clock(self)
        return time.time() + ttl if ttl else 0.0

    # what is noted elsewhere

    def note(self, name: str) -> str:
        """A VM's records as a text that :func:`read_note` reads; raises :class:`NotFound`."""
        vm = self.vm(name)
        lab = self.lab(vm.lab)
        assert lab is not None
        return note_of(self, vm, lab)

    def restore_vm(self, noted: Mapping[str, Any]) -> None:
        """Record a VM again from what :func:`read_note` read. Raises :class:`NameTaken` if that contradicts a record.

        Numbers of VMs go on after its own.
        """
        try:
            restore(self, noted)
        except HostNotReady as problem:
            if is_conflict(problem):
                raise NameTaken(f"there is another VM called {noted['vm']['name']!r}, or of its number") from problem
            raise

    def go_on_after(self, number: int) -> None:
        """Let the numbers of new VMs, from which addresses and serial numbers are made, go on after this one."""
        go_on_after(self, number)

    # the journal

    def operation(self, command: str, lab: str) -> Operation:
        """What a command does to a lab, to be written down: a context manager that notes its beginning and its end."""
        return Operation(self, command, lab)

    def cut_short(self, lab: str) -> bool:
        """Whether the last operation on a lab never came to its end; whoever asks works on the lab alone."""
        last = self.rows("SELECT ended FROM operations WHERE lab = ? ORDER BY id DESC LIMIT 1", lab)
        return bool(last) and last[0]["ended"] is None

    def operations(self, lab: str | None = None, *, most: int = 50) -> list[Past]:
        """The newest operations, newest first, with their steps."""
        return past_operations(self, lab, most)

    # outside objects

    def own(self, *, lab: str, vm: str = "", host: str, kind: str, name: str, **detail: str) -> None:
        """Record an outside object before it is made; recording it twice is the same as once."""
        with self.transaction():
            self.write(
                "INSERT OR IGNORE INTO owned (lab, vm, host, kind, name, detail) VALUES (?, ?, ?, ?, ?, ?)",
                lab, vm or None, host, kind, name, json.dumps(detail),
            )  # fmt: skip
            self.tell(Recorded(kind=kind, name=name, lab=lab, vm=vm, fields={"host": host, **detail}))

    def owned(
        self,
        *,
        lab: str | None = None,
        vm: str | None = None,
        host: str | None = None,
        kind: str | None = None,
        name: str | None = None,
    ) -> list[Owned]:
        """Recorded objects, newest first, so that they can be removed in this order.

        ``vm=""`` means those that no single VM owns.
        """
        wanted = {"lab": lab, "vm": vm, "host": host, "kind": kind, "name": name}
        given = {column: value or None for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} IS ?" for column in given) or "TRUE"
        rows = self.rows(
            "SELECT id, lab, IFNULL(vm, '') AS vm, host, kind, name, detail FROM owned "  # noqa: S608
            f"WHERE {where} ORDER BY id DESC",
            *given.values(),
        )
        return [Owned(**{**row, "detail": json.loads(row["detail"])}) for row in rows]

    def shared(self, owned: Owned) -> bool:
        """Whether others own the same object."""
        rows = self.rows(
            "SELECT 1 FROM owned WHERE (host, kind, name) = (?, ?, ?) AND id IS NOT ? LIMIT 1",
            owned.host, owned.kind, owned.name, owned.id,
        )  # fmt: skip
        return bool(rows)

    def detail(self, owned_id: int, **detail: str) -> None:
        """Record more about an object."""
        with self.transaction():
            for row in self.rows("SELECT detail FROM owned WHERE id = ?", owned_id):
                told = json.dumps({**json.loads(row["detail"]), **detail})
                self.write("UPDATE owned SET detail = ? WHERE id = ?", told, owned_id)

    def disown(self, owned_id: int) -> None:
        """Forget an object that is gone."""
        with self.transaction():
            for row in self.rows("SELECT kind, name, lab, IFNULL(vm, '') AS vm FROM owned WHERE id = ?", owned_id):
                self.tell(Forgotten(**row))
            self.write("DELETE FROM owned WHERE id = ?", owned_id)

    # leases

    def leased(self, *, host: str, kind: str) -> set[str]:
        """Values of that kind handed out on that host."""
        return {row["value"] for row in self.rows("SELECT value FROM leases WHERE host = ? AND kind = ?", host, kind)}

    def leases_of(self, *, host: str, kind: str, lab: str, vm: str = "") -> list[str]:
        """Values of that kind that a VM holds on that host, or no single VM of the lab (``vm=""``), oldest first."""
        rows = self.rows(
            "SELECT value FROM leases WHERE host = ? AND kind = ? AND lab = ? AND vm IS ? ORDER BY rowid",
            host, kind, lab, vm or None,
        )  # fmt: skip
        return [str(row["value"]) for row in rows]

    def holders(self, *, host: str, kind: str) -> dict[str, str]:
        """Values of that kind handed out on that host, and the VMs that hold them."""
        rows = self.rows("SELECT value, IFNULL(vm, '') AS vm FROM leases WHERE host = ? AND kind = ?", host, kind)
        return {str(row["value"]): str(row["vm"]) for row in rows}

    def lease(self, *, host: str, kind: str, lab: str, vm: str = "", candidates: Iterable[str]) -> str | None:
        """Hand out the first candidate that nobody holds; ``None`` when all are taken."""
        with self.transaction():
            taken = self.leased(host=host, kind=kind)
            value = next((candidate for candidate in candidates if candidate not in taken), None)
            if value is not None:
                self.write("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", host, kind, value, lab, vm or None)
            return value

    def lease_subnets(
        self,
        *,
        host: str,
        lab: str,
        vms: Sequence[str],
        candidates: Callable[[set[IPv4Network]], Iterable[IPv4Network]],
    ) -> list[IPv4Network]:
        """Hand out the first of the candidates, which are asked for knowing what is handed out already.

        One for each of ``vms`` in their order (``""``: no single VM). VMs that are gone by now get none, and nobody
        gets one when there are no more candidates.
        """
        with self.transaction():
            used = {_network(value) for value in self.leased(host=host, kind="subnet")}
            leased = []
            there = (vm for vm in vms if not vm or self.has_vm(vm))
            for vm, chosen in zip(there, candidates(used), strict=False):
                self.write("INSERT INTO leases VALUES (?, 'subnet', ?, ?, ?)", host, str(chosen), lab, vm or None)
                leased.append(chosen)
            return leased

    def release(self, *, host: str, kind: str, value: str) -> None:
        """Take a lease back; one that nobody holds is fine."""
        self.write("DELETE FROM leases WHERE host = ? AND kind = ? AND value = ?", host, kind, value)
