"""A VM's records as one text, to be kept with its domain; from it they can be made again after the database is lost.

It has no console output and no secrets: whoever may look at domains can read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vmprov.store.database import Database
from vmprov.store.records import LabRecord, VMRecord

_FORMAT = 1
# Told by consoles; who needs it replays the captures.
_LEFT_OUT = ("why", "judgement")


def note_of(database: Database, vm: VMRecord, lab: LabRecord) -> str:
    """All that is recorded of a VM, and of what its lab shares."""
    columns = {name: value for name, value in asdict(vm).items() if name not in _LEFT_OUT}
    owned = database.rows(
        "SELECT host, kind, name, detail, IFNULL(vm, '') AS vm FROM owned WHERE lab = ? AND (vm IS NULL OR vm = ?) "
        "ORDER BY id",
        vm.lab, vm.name,
    )  # fmt: skip
    leases = database.rows(
        "SELECT host, kind, value, IFNULL(vm, '') AS vm FROM leases WHERE lab = ? AND (vm IS NULL OR vm = ?) "
        "ORDER BY rowid",
        vm.lab, vm.name,
    )  # fmt: skip
    return json.dumps(
        {
            "format": _FORMAT,
            "vm": columns,
            "lab": {"host": lab.host, "driver": lab.driver, "created": lab.created},
            "owned": [[*row] for row in owned],
            "leases": [[*row] for row in leases],
        },
        separators=(",", ":"),
    )


def read_note(text: str) -> Mapping[str, Any] | None:
    """What a note says; ``None`` if it is none, or one of a newer vmprov."""
    try:
        noted = json.loads(text)
        if noted["format"] == _FORMAT and noted["vm"]["name"] and noted["vm"]["uuid"]:
            return noted  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError):
        pass
    return None


def restore(database: Database, noted: Mapping[str, Any]) -> None:
    """Record a VM again as it was noted; what is recorded already stays as it is.

    Raises :class:`vmprov.errors.HostNotReady` if that contradicts what is recorded by now, such as another VM that has
    the name or the number; then nothing is changed.
    """
    vm, lab = noted["vm"], noted["lab"]
    columns = {
        **vm,
        "why": "",
        "judgement": "",
        "nics": json.dumps(vm["nics"]),
        "labels": json.dumps(vm["labels"]),
        "protected": int(vm["protected"]),
        "adopted": int(vm["adopted"]),
    }
    with database.transaction():
        database.write(
            "INSERT OR IGNORE INTO labs (name, host, driver, created) VALUES (?, ?, ?, ?)",
            vm["lab"], lab["host"], lab["driver"], lab["created"],
        )  # fmt: skip
        known = {row["name"] for row in database.rows("SELECT name FROM pragma_table_info('vms')")}
        given = {name: value for name, value in columns.items() if name in known}
        database.write(
            f"INSERT INTO vms ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})",  # noqa: S608 - our columns
            *given.values(),
        )
        for host, kind, name, detail, owner in noted["owned"]:
            database.write(
                "INSERT INTO owned (lab, vm, host, kind, name, detail) SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS "
                "(SELECT 1 FROM owned WHERE lab = ?1 AND vm IS ?2 AND host = ?3 AND kind = ?4 AND name = ?5)",
                vm["lab"], owner or None, host, kind, name, detail,
            )  # fmt: skip
        for host, kind, value, owner in noted["leases"]:
            database.write(
                "INSERT OR IGNORE INTO leases VALUES (?, ?, ?, ?, ?)", host, kind, value, vm["lab"], owner or None
            )


def go_on_after(database: Database, number: int) -> None:
    """Let the numbers of VMs go on after one that was given before."""
    with database.transaction():
        highest = database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'vms'")
        if not highest:
            database.write("INSERT INTO sqlite_sequence (name, seq) VALUES ('vms', ?)", number)
        elif highest[0]["seq"] < number:
            database.write("UPDATE sqlite_sequence SET seq = ? WHERE name = 'vms'", number)
