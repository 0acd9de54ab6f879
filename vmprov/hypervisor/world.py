"""What exists on a simulated host: named JSON values of several kinds, in memory or in one file.

The file is a list of changes, one JSON array a line, to which every process appends under a lock. Whoever opens it
again reads only what was added since. So a call costs the same among ten machines as among ten thousand. A file
that has grown far beyond what it says is written anew.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from vmprov.locks import exclusive
from vmprov.waiting import Deadline

_LOCK_LIMIT = 60.0
# Lines in the file for each value that exists, beyond which it is written anew; and the least that is worth it.
_SLACK = 4
_WORTH_IT = 1000

Values = dict[str, dict[str, Any]]


class World:
    """All values, by kind and name. With a ``path``, every process that names the same file sees the same world."""

    def __init__(
        self, path: Path | None, start: Values, changed: Callable[[str, str, Any], None] = lambda *_: None
    ) -> None:
        """``start``: what exists in a world that nobody has changed yet.

        ``changed``: is told kind, name and value of everything that changes, also by others; ``None``: it is gone.
        """
        self._path = path
        self._start = start
        self._changed = changed
        self._lock = threading.RLock()
        self._values = _copy(start)
        self._read = 0
        self._inode = 0
        self._lines = 0

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """The world, for one call that reads and perhaps changes it; nothing is changed if the call fails."""
        path = self._path
        between_processes = (
            nullcontext()
            if path is None
            else exclusive(path.with_name(f"{path.name}.lock"), Deadline(_LOCK_LIMIT), f"the fake host {path}")
        )
        with self._lock, between_processes:
            if path is not None:
                self._catch_up(path)
            change = Change(self._values)
            yield change
            self._apply(change.made)
            if path is not None and change.made:
                self._append(path, change.made)

    def _catch_up(self, path: Path) -> None:
        """Take over what other processes changed; a file that is not the one we know is read from its beginning."""
        try:
            status = path.stat()
        except FileNotFoundError:
            if self._read:
                self._forget(0)
            return
        if status.st_ino != self._inode or status.st_size < self._read:
            self._forget(status.st_ino)
        if status.st_size == self._read:
            return
        with path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        # A line without its end was being written by a process that was killed.
        whole = added.rfind(b"\n") + 1
        for line in added[:whole].splitlines():
            kind, name, value = json.loads(line)
            self._apply({(kind, name): value})
            self._lines += 1
        self._read += whole
        if whole < len(added):
            with path.open("r+b") as file:
                file.truncate(self._read)

    def _forget(self, inode: int) -> None:
        self._apply({(kind, name): None for kind, values in self._values.items() for name in values})
        self._apply({(kind, name): value for kind, values in self._start.items() for name, value in values.items()})
        self._read, self._lines, self._inode = 0, 0, inode

    def _apply(self, made: Made) -> None:
        for (kind, name), value in made.items():
            if value is None:
                self._values[kind].pop(name, None)
            else:
                self._values[kind][name] = value
            self._changed(kind, name, value)

    def _append(self, path: Path, made: Made) -> None:
        live = sum(len(values) for values in self._values.values())
        if self._lines > max(_WORTH_IT, _SLACK * live):
            self._write_anew(path)
            return
        data = b"".join(_line(kind, name, value) for (kind, name), value in made.items())
        with path.open("ab") as file:
            file.write(data)
        self._inode = self._inode or path.stat().st_ino
        self._read += len(data)
        self._lines += len(made)

    def _write_anew(self, path: Path) -> None:
        gone = [
            (kind, name) for kind, values in self._start.items() for name in values if name not in self._values[kind]
        ]
        lines = [_line(kind, name, None) for kind, name in gone]
        lines += [_line(kind, name, value) for kind, values in self._values.items() for name, value in values.items()]
        draft = path.with_name(f"{path.name}.new")
        draft.write_bytes(b"".join(lines))
        draft.replace(path)
        status = path.stat()
        self._read, self._lines, self._inode = status.st_size, len(lines), status.st_ino


Made = dict[tuple[str, str], Any]


class Change:
    """The world within one call: as it is, with what the call has changed so far."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self.made: Made = {}

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """A value, which must not be changed in place; ``None`` if there is none."""
        found = self.made[kind, name] if (kind, name) in self.made else self._values[kind].get(name)
        return found

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """All values of a kind by name."""
        changed = {name: value for (of, name), value in self.made.items() if of == kind}
        if not changed:
            return self._values[kind]
        return {name: value for name, value in {**self._values[kind], **changed}.items() if value is not None}

    def put(self, kind: str, name: str, value: dict[str, Any]) -> None:
        """Make a value, or replace it."""
        self.made[kind, name] = value

    def remove(self, kind: str, name: str) -> bool:
        """Remove a value; ``False`` if there was none."""
        there = self.get(kind, name) is not None
        if there:
            self.made[kind, name] = None
        return there


def _line(kind: str, name: str, value: Any) -> bytes:
    return json.dumps([kind, name, value], separators=(",", ":")).encode() + b"\n"


def _copy(values: Values) -> Values:
    return {kind: dict(named) for kind, named in values.items()}
