"""The database's tables, as the steps that bring it from one version to the next."""

from __future__ import annotations

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
    """
    ALTER TABLE labs ADD COLUMN spec TEXT NOT NULL DEFAULT '';
    ALTER TABLE vms ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE vms ADD COLUMN protected INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE vms ADD COLUMN expires REAL NOT NULL DEFAULT 0;
    ALTER TABLE vms ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE operations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        command TEXT NOT NULL,
        lab TEXT NOT NULL,
        pid INTEGER NOT NULL,
        started REAL NOT NULL,
        ended REAL
    );
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        operation INTEGER NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
        subject TEXT NOT NULL,
        step TEXT NOT NULL,
        what TEXT NOT NULL,
        state TEXT NOT NULL,
        at REAL NOT NULL,
        why TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX journal_of_operations ON journal (operation);
    """,
    """
    CREATE TABLE clock (boot TEXT NOT NULL, offset REAL NOT NULL);
    """,
    """
    CREATE INDEX owned_of_vms ON owned (vm, lab);
    CREATE INDEX leases_of_vms ON leases (vm, lab);
    """,
)
