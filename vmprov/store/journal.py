"""The journal: which command did what to a lab, each step written down before and after it was done."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from vmprov.events import OperationBegan, OperationEnded, StepChanged
from vmprov.store.database import Database

# Operations that are remembered; the oldest make room.
_MOST_OPERATIONS = 500


class Doing(Protocol):
    """A step, as the journal sees it."""

    @property
    def key(self) -> str:
        """Its name, unique within the operation."""
        ...

    @property
    def subject(self) -> str:
        """The VM or lab that it belongs to."""
        ...

    @property
    def what(self) -> str:
        """The action, in words for people."""
        ...


@dataclass(frozen=True)
class Entry:
    """One step and what became of it; ``at`` is when, in seconds since the epoch.

    ``state``: doing, done, failed, undoing, undone, or left (it could not be undone).
    """

    subject: str
    step: str
    what: str
    state: str
    at: float
    why: str


@dataclass(frozen=True)
class Past:
    """An operation; ``started`` and ``ended`` in seconds since the epoch, ``ended`` 0: it was killed, or still runs."""

    id: int
    command: str
    lab: str
    pid: int
    started: float
    ended: float
    steps: tuple[Entry, ...]


class Operation:
    """One operation, from its beginning to its end; its methods may be called from any thread."""

    def __init__(self, database: Database, command: str, lab: str) -> None:
        self._database = database
        self._command = command
        self._lab = lab
        self.id = 0

    def __enter__(self) -> Self:
        with self._database.transaction():
            self.id = self._database.write(
                "INSERT INTO operations (command, lab, pid, started) VALUES (?, ?, ?, ?)",
                self._command, self._lab, os.getpid(), time.time(),
            )  # fmt: skip
            self._database.write("DELETE FROM operations WHERE id <= ?", self.id - _MOST_OPERATIONS)
            self._database.tell(OperationBegan(id=self.id, command=self._command, lab=self._lab))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._database.transaction():
            self._database.write("UPDATE operations SET ended = ? WHERE id = ?", time.time(), self.id)
            self._database.tell(OperationEnded(id=self.id, command=self._command, lab=self._lab))

    def note(self, step: Doing, state: str, why: str = "") -> None:
        """Write down that a step is about to be done, or what became of it."""
        with self._database.transaction():
            self._database.write(
                "INSERT INTO journal (operation, subject, step, what, state, at, why) VALUES (?, ?, ?, ?, ?, ?, ?)",
                self.id, step.subject, step.key, step.what, str(state), time.time(), why,
            )  # fmt: skip
            self._database.tell(
                StepChanged(
                    operation=self.id, subject=step.subject, step=step.key, what=step.what, state=str(state), why=why
                )
            )


def past_operations(database: Database, lab: str | None, most: int) -> list[Past]:
    """The newest operations, newest first; of one lab where it is named."""
    rows = database.rows(
        "SELECT id, command, lab, pid, started, IFNULL(ended, 0) AS ended FROM operations "
        "WHERE ? IS NULL OR lab = ? ORDER BY id DESC LIMIT ?",
        lab, lab, most,
    )  # fmt: skip
    entries = {
        row["id"]: tuple(
            Entry(**entry)
            for entry in database.rows(
                "SELECT subject, step, what, state, at, why FROM journal WHERE operation = ? ORDER BY id", row["id"]
            )
        )
        for row in rows
    }
    return [Past(**row, steps=entries[row["id"]]) for row in rows]
