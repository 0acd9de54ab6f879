"""One SQLite file, opened, brought up to date, and used in transactions; the only module that imports sqlite3."""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmprov.errors import DatabaseBroken, HostNotReady
from vmprov.events import Event, Events
from vmprov.store.schema import MIGRATIONS
from vmprov.waiting import Deadline, wait_until

_BUSY_LIMIT = 30.0

Row = sqlite3.Row


class Database:
    """One open database. Its methods may be called from any thread."""

    def __init__(self, path: Path, *, migrations: Sequence[str] = MIGRATIONS, events: Events | None = None) -> None:
        self.path = path
        self._events = events or Events()
        self._untold: list[Event] = []
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
            broken = getattr(problem, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            if broken:
                raise DatabaseBroken(
                    f"the database {self.path} is damaged: {problem}",
                    hint="make the records anew from what hosts know: vmprov gc --rebuild",
                ) from problem
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
                self._db.execute("INSERT INTO installation VALUES (?)", (self._identity(),))

    def _identity(self) -> str:
        """The installation's id, which marks objects as ours; a file beside the database keeps it if that is lost."""
        file = self.path.with_name("installation")
        try:
            known = file.read_text().strip()
        except OSError:
            known = ""
        if re.fullmatch(r"[0-9a-f]{4}", known):
            return known
        identity = secrets.token_hex(2)
        file.write_text(f"{identity}\n")
        file.chmod(0o600)
        return identity

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
                self._untold.clear()
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            told, self._untold = self._untold, []
            for event in told:
                self._events.emit(event)

    def tell(self, event: Event) -> None:
        """Tell listeners, once what it says is written down; within a transaction."""
        self._untold.append(event)

    def rows(self, query: str, *values: Any) -> list[Row]:
        """What a query finds."""
        with self._lock, self._failing():
            return self._db.execute(query, values).fetchall()

    def write(self, statement: str, *values: Any) -> int:
        """Execute a statement; returns the id of the row that it inserted."""
        with self.transaction():
            return int(self._db.execute(statement, values).lastrowid or 0)


def is_conflict(problem: HostNotReady) -> bool:
    """Whether the database refused what contradicts it, such as a name that is taken."""
    return isinstance(problem.__cause__, sqlite3.IntegrityError)
