"""What we own: the one SQLite database.

Labs, VMs, the outside objects that belong to them, and leases (anything handed out once: subnets, MAC
addresses, serial numbers). Several vmprov processes may use it at once (WAL, short immediate transactions).
A row is committed *before* the object it speaks of is made, so that whatever is killed can be found.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmprov.errors import HostNotReady, NameTaken, NotFound
from vmprov.waiting import Deadline, wait_until

if TYPE_CHECKING:
    from vmprov.spec.machine import Machine

_BUSY_LIMIT = 30.0

# Each entry brings a database from version N (its index) to N + 1.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE installation (id TEXT NOT NULL);
    CREATE TABLE labs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        host TEXT NOT NULL,
        driver TEXT NOT NULL,
        created REAL NOT NULL
    );
    CREATE TABLE vms (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        lab TEXT NOT NULL REFERENCES labs (name),
        name TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        verdict TEXT NOT NULL DEFAULT '',
        why TEXT NOT NULL DEFAULT '',
        host TEXT NOT NULL,
        driver TEXT NOT NULL,
        domain TEXT NOT NULL,
        uuid TEXT NOT NULL,
        image TEXT NOT NULL,
        login TEXT NOT NULL,
        network TEXT NOT NULL,
        bridge TEXT NOT NULL,
        address TEXT NOT NULL,
        mac TEXT NOT NULL,
        serial_number TEXT NOT NULL,
        cpus INTEGER NOT NULL,
        memory INTEGER NOT NULL,
        disk INTEGER NOT NULL,
        consoles INTEGER NOT NULL,
        created REAL NOT NULL,
        seconds REAL NOT NULL DEFAULT 0
    );
    CREATE TABLE owned (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        lab TEXT NOT NULL REFERENCES labs (name),
        vm TEXT REFERENCES vms (name),
        host TEXT NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        detail TEXT NOT NULL DEFAULT '{}',
        UNIQUE (host, kind, name, lab, vm)
    );
    CREATE TABLE leases (
        host TEXT NOT NULL,
        kind TEXT NOT NULL,
        value TEXT NOT NULL,
        lab TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
        vm TEXT REFERENCES vms (name) ON DELETE CASCADE,
        UNIQUE (host, kind, value)
    );
    """,
    """
    ALTER TABLE vms ADD COLUMN flow TEXT NOT NULL DEFAULT '';
    ALTER TABLE vms ADD COLUMN judgement TEXT NOT NULL DEFAULT '';
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        vm TEXT NOT NULL,
        lab TEXT NOT NULL,
        image TEXT NOT NULL,
        flow TEXT NOT NULL,
        verdict TEXT NOT NULL,
        class TEXT NOT NULL,
        stage TEXT NOT NULL,
        ended REAL NOT NULL,
        seconds REAL NOT NULL
    );
    CREATE TABLE run_stages (
        run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        stage TEXT NOT NULL,
        start REAL NOT NULL,
        seconds REAL NOT NULL,
        outcome TEXT NOT NULL
    );
    CREATE INDEX run_stages_of_runs ON run_stages (run);
    """,
    """
    ALTER TABLE vms ADD COLUMN spec TEXT NOT NULL DEFAULT '';
    ALTER TABLE vms ADD COLUMN nics TEXT NOT NULL DEFAULT '[]';
    """,
)
# Runs of flows that are remembered; the oldest make room.
_MOST_RUNS = 10_000


@dataclass(frozen=True)
class LabRecord:
    """A lab that we own; ``created`` in seconds since the epoch."""

    name: str
    host: str
    driver: str
    created: float


@dataclass(frozen=True)
class Nic:
    """What a NIC of a VM is on: a libvirt network, or else only a ``bridge`` of the host; ``mac`` in lower case."""

    network: str
    bridge: str
    mac: str
    address: str = ""


@dataclass(frozen=True)
class VMRecord:
    """A VM that we own. ``memory`` and ``disk`` in bytes, ``seconds`` from the request to its verdict.

    ``spec``: the :class:`vmprov.spec.machine.Machine` as it was wanted, as JSON; empty for one of an older vmprov.
    ``nics``: all of them; the columns ``network``, ``bridge``, ``mac`` and ``address`` are those of the first.
    """

    id: int
    lab: str
    name: str
    state: str
    verdict: str
    why: str
    host: str
    driver: str
    domain: str
    uuid: str
    image: str
    login: str
    network: str
    bridge: str
    address: str
    mac: str
    serial_number: str
    cpus: int
    memory: int
    disk: int
    consoles: int
    created: float
    seconds: float
    flow: str
    judgement: str
    spec: str = ""
    nics: tuple[Nic, ...] = ()

    @property
    def machine(self) -> Machine:
        """What was wanted; of a VM of an older vmprov, what the columns say."""
        # pydantic is slow to import, and listing VMs does not need it.
        from vmprov.spec.machine import Machine

        if self.spec:
            return Machine.model_validate_json(self.spec)
        return Machine(
            image=self.image, cpus=self.cpus, memory=self.memory, disk=self.disk, networks=(self.network,),
            consoles=self.consoles, flow=self.flow,
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One past run of a flow; ``ended`` in seconds since the epoch, ``stages``: (stage, start, seconds, outcome)."""

    vm: str
    lab: str
    image: str
    flow: str
    verdict: str
    failure_class: str
    stage: str
    ended: float
    seconds: float
    stages: tuple[tuple[str, float, float, str], ...] = ()


@dataclass(frozen=True)
class Owned:
    """An outside object that we made or are about to make; ``vm`` is empty for what a whole lab shares."""

    id: int
    lab: str
    vm: str
    host: str
    kind: str
    name: str
    detail: Mapping[str, str]


_VM_COLUMNS = tuple(field.name for field in fields(VMRecord))


def nics_column(nics: Sequence[Nic]) -> str:
    """What the column ``nics`` holds."""
    return json.dumps([asdict(nic) for nic in nics])


def _read_vm(row: sqlite3.Row) -> VMRecord:
    """A row of ``vms``; the flat columns know better what the first NIC is on."""
    first = Nic(row["network"], row["bridge"], row["mac"], row["address"])
    others = [Nic(**nic) for nic in json.loads(row["nics"])[1:]]
    return VMRecord(**{**row, "nics": (first, *others)})


class Store:
    """One open database. Its methods may be called from any thread."""

    def __init__(self, path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._failing():
            # Transactions are explicit (isolation_level=None): sqlite3's implicit ones begin as readers.
            self._db = sqlite3.connect(path, timeout=_BUSY_LIMIT, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.row_factory = sqlite3.Row
            wait_until(self._use_wal, Deadline(_BUSY_LIMIT), f"access to {path}", interval=0.02)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate(migrations)
            self.installation = str(self._db.execute("SELECT id FROM installation").fetchone()["id"])

    def close(self) -> None:
        """Close the database; calling it twice is the same as once."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise HostNotReady(
                f"the database {self.path} cannot be used: {problem}",
                hint="see that it is a vmprov database, writable, and that the disk is not full",
            ) from problem

    def _use_wal(self) -> bool:
        """Whether the database is in WAL mode now; unlike all else, SQLite does not wait by itself for this."""
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def _migrate(self, migrations: Sequence[str]) -> None:
        newest = len(migrations)
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > newest:
            raise HostNotReady(
                f"the database {self.path} has version {version}, and this vmprov knows versions up to {newest}",
                hint="update vmprov, or name another state directory in VMPROV_HOME",
            )
        if version == newest:
            return
        with self.transaction():
            # Another process may have been faster while we waited for the transaction.
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            for number in range(version, newest):
                for statement in migrations[number].split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number + 1:d}")
            if version == 0:
                self._db.execute("INSERT INTO installation VALUES (?)", (secrets.token_hex(2),))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, against other threads and processes; nested ones join the outer one."""
        with self._lock, self._failing():
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, self._failing():
            return self._db.execute(query, values).fetchall()

    def _write(self, statement: str, *values: Any) -> int:
        with self.transaction():
            return int(self._db.execute(statement, values).lastrowid or 0)

    # labs

    def labs(self) -> list[LabRecord]:
        """All labs, oldest first."""
        return [LabRecord(**row) for row in self._rows("SELECT name, host, driver, created FROM labs ORDER BY id")]

    def lab(self, name: str) -> LabRecord | None:
        """One lab, or ``None``."""
        found = self._rows("SELECT name, host, driver, created FROM labs WHERE name = ?", name)
        return LabRecord(**found[0]) if found else None

    def add_lab(self, name: str, *, host: str, driver: str) -> None:
        """Record a lab; one that exists stays as it is."""
        self._write(
            "INSERT OR IGNORE INTO labs (name, host, driver, created) VALUES (?, ?, ?, ?)",
            name, host, driver, time.time(),
        )  # fmt: skip

    def remove_lab_if_empty(self, name: str) -> bool:
        """Forget a lab that has no VM and owns nothing; ``False`` if it does."""
        with self.transaction():
            used = self._rows("SELECT 1 FROM vms WHERE lab = ? UNION ALL SELECT 1 FROM owned WHERE lab = ?", name, name)
            if not used:
                self._write("DELETE FROM labs WHERE name = ?", name)
            return not used

    # VMs

    def vms(self, lab: str | None = None) -> list[VMRecord]:
        """All VMs, or those of one lab, oldest first."""
        columns = ", ".join(_VM_COLUMNS)
        if lab is None:
            rows = self._rows(f"SELECT {columns} FROM vms ORDER BY id")  # noqa: S608 - our own column names
        else:
            rows = self._rows(f"SELECT {columns} FROM vms WHERE lab = ? ORDER BY id", lab)  # noqa: S608
        return [_read_vm(row) for row in rows]

    def vm(self, name: str) -> VMRecord:
        """One VM; raises :class:`NotFound`."""
        columns = ", ".join(_VM_COLUMNS)
        found = self._rows(f"SELECT {columns} FROM vms WHERE name = ?", name)  # noqa: S608
        if not found:
            raise NotFound(f"no VM called {name!r}", hint="see: vmprov list")
        return _read_vm(found[0])

    def add_vm(self, **columns: str | int | float) -> int:
        """Record a VM; returns its id. Raises :class:`NameTaken` if there is one of that name."""
        try:
            return self._write(
                f"INSERT INTO vms ({', '.join(columns)}, created) "  # noqa: S608 - our own column names
                f"VALUES ({', '.join('?' * (len(columns) + 1))})",
                *columns.values(), time.time(),
            )  # fmt: skip
        except HostNotReady as problem:
            if isinstance(problem.__cause__, sqlite3.IntegrityError):
                raise NameTaken(f"there is a VM called {columns['name']!r} already") from problem
            raise

    def update_vm(self, name: str, **columns: str | int | float) -> None:
        """Change columns of a VM's record; a VM that is gone stays gone."""
        self._write(
            f"UPDATE vms SET {', '.join(f'{column} = ?' for column in columns)} WHERE name = ?",  # noqa: S608
            *columns.values(), name,
        )  # fmt: skip

    def update_nic(self, name: str, place: int, **changes: str) -> None:
        """Change what is recorded of a VM's NIC, counted from 0; a VM that is gone stays gone."""
        with self.transaction():
            found = self._rows("SELECT nics FROM vms WHERE name = ?", name)
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
            if not self._rows(f"SELECT 1 FROM vms WHERE {where}", name, *expected.values()):  # noqa: S608
                return False
            self.update_vm(name, **columns)
            return True

    def remove_vm(self, name: str) -> None:
        """Forget a VM and its leases; what it still owns must be disowned first."""
        self._write("DELETE FROM vms WHERE name = ?", name)

    # past runs of flows

    def add_run(self, run: Run) -> None:
        """Remember how a flow went; it outlives the VM."""
        with self.transaction():
            number = self._write(
                "INSERT INTO runs (vm, lab, image, flow, verdict, class, stage, ended, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                run.vm, run.lab, run.image, run.flow, run.verdict, run.failure_class, run.stage, run.ended, run.seconds,
            )  # fmt: skip
            for stage in run.stages:
                self._write("INSERT INTO run_stages VALUES (?, ?, ?, ?, ?)", number, *stage)
            self._write("DELETE FROM runs WHERE id <= ?", number - _MOST_RUNS)

    def runs(self, *, image: str | None = None, flow: str | None = None) -> list[Run]:
        """Past runs, oldest first, of an image and of a flow where these are given."""
        wanted = {"image": image, "flow": flow}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
        stages: dict[int, list[tuple[str, float, float, str]]] = {}
        for row in self._rows(
            "SELECT run, run_stages.stage, start, run_stages.seconds, outcome FROM run_stages "  # noqa: S608
            f"JOIN runs ON runs.id = run WHERE {where} ORDER BY run_stages.rowid",
            *given.values(),
        ):
            stages.setdefault(row[0], []).append((row[1], row[2], row[3], row[4]))
        rows = self._rows(
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

    # outside objects

    def own(self, *, lab: str, vm: str = "", host: str, kind: str, name: str, **detail: str) -> None:
        """Record an outside object before it is made; recording it twice is the same as once."""
        self._write(
            "INSERT OR IGNORE INTO owned (lab, vm, host, kind, name, detail) VALUES (?, ?, ?, ?, ?, ?)",
            lab, vm or None, host, kind, name, json.dumps(detail),
        )  # fmt: skip

    def owned(self, *, lab: str | None = None, vm: str | None = None, kind: str | None = None) -> list[Owned]:
        """Recorded objects, newest first, so that they can be removed in this order.

        ``vm=""`` means those that no single VM owns.
        """
        wanted = {"lab": lab, "IFNULL(vm, '')": vm, "kind": kind}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
        rows = self._rows(
            "SELECT id, lab, IFNULL(vm, '') AS vm, host, kind, name, detail FROM owned "  # noqa: S608
            f"WHERE {where} ORDER BY id DESC",
            *given.values(),
        )
        return [Owned(**{**row, "detail": json.loads(row["detail"])}) for row in rows]

    def disown(self, owned_id: int) -> None:
        """Forget an object that is gone."""
        self._write("DELETE FROM owned WHERE id = ?", owned_id)

    # leases

    def leased(self, *, host: str, kind: str) -> set[str]:
        """Values of that kind handed out on that host."""
        return {row["value"] for row in self._rows("SELECT value FROM leases WHERE host = ? AND kind = ?", host, kind)}

    def lease(self, *, host: str, kind: str, lab: str, vm: str = "", candidates: Iterable[str]) -> str | None:
        """Hand out the first candidate that nobody holds; ``None`` when all are taken."""
        with self.transaction():
            taken = self.leased(host=host, kind=kind)
            value = next((candidate for candidate in candidates if candidate not in taken), None)
            if value is not None:
                self._write("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", host, kind, value, lab, vm or None)
            return value

    def lease_subnet(
        self,
        *,
        host: str,
        lab: str,
        vm: str,
        candidates: Callable[[set[IPv4Network]], Iterable[IPv4Network]],
    ) -> IPv4Network | None:
        """Hand out the first of the candidates, which are asked for knowing what is handed out already."""
        with self.transaction():
            used = {IPv4Network(value) for value in self.leased(host=host, kind="subnet")}
            chosen = next(iter(candidates(used)), None)
            if chosen is not None:
                self.lease(host=host, kind="subnet", lab=lab, vm=vm, candidates=[str(chosen)])
            return chosen

    def release(self, *, host: str, kind: str, value: str) -> None:
        """Take a lease back; one that nobody holds is fine."""
        self._write("DELETE FROM leases WHERE host = ? AND kind = ? AND value = ?", host, kind, value)
