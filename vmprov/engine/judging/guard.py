"""Judging machines for as long as they run: the keeper's eyes for failure lines.

While a VM is made, whoever waits for it judges it. From then on, the keeper's process does: a kernel that panics in
a VM that had been ready makes its verdict ``failed``, whether or not anybody watches.

``python -m vmprov.engine.judging.guard STATE-DIRECTORY LIMIT`` starts the keeper with this in the background, unless
there is one.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vmprov.console.keeper import Keeper, serve
from vmprov.paths import Home

if TYPE_CHECKING:
    from vmprov.flows.machine import Machine
    from vmprov.store import Store, VMRecord


class Guard:
    """Judges the VMs whose consoles have proven success."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._store: Store | None = None
        self._database = 0  # its inode
        self._machines: dict[int, Machine] = {}
        self._positions: dict[Path, int] = {}
        self._guarded: dict[Path, VMRecord] = {}

    def look(self) -> None:
        """See which VMs are to be judged; and judge what they sent."""
        present = {}
        for vm in self._ready():
            for console in range(vm.consoles):
                present[self._home.console_log(vm.name, console)] = vm
        for log, vm in self._guarded.items():
            if log not in present or present[log].id != vm.id:
                self._positions.pop(log, None)
                self._machines.pop(vm.id, None)
        for log in present:
            if log not in self._positions:
                self._positions[log] = self._judged_until(log)
        self._guarded = present
        for log, vm in present.items():
            with suppress(OSError):
                self._judge(log, vm)

    def _ready(self) -> list[VMRecord]:
        try:
            database = self._home.database.stat().st_ino
        except OSError:
            return []
        if self._store is not None and database != self._database:
            # It was lost, and another one is in its place.
            self._store.close()
            self._store = None
        if self._store is None:
            from vmprov.store import Store

            self._store, self._database = Store(self._home.database), database
        return [vm for vm in self._store.vms() if vm.state == "ready" and vm.verdict == "success" and vm.flow]

    def _judged_until(self, log: Path) -> int:
        """How much of a capture was judged by whoever gave the verdict; all of it where nobody says."""
        try:
            said = json.loads((log.parent / "judged.json").read_text())
            return int(said[log.stem.removeprefix("console-")])
        except (OSError, ValueError, KeyError, TypeError):
            return log.stat().st_size if log.exists() else 0

    def _judge(self, log: Path, vm: VMRecord) -> None:
        from vmprov.console.capture import Capture
        from vmprov.flows.machine import REBOOT_LOOP, Machine, watch_only

        size, position = log.stat().st_size, self._positions[log]
        if vm.id not in self._machines:
            if size == position:
                return
            flow = watch_only().model_copy(update={"consoles": tuple(range(vm.consoles)), "ignore": (REBOOT_LOOP,)})
            # Guests may well be rebooted: that is no loop.
            self._machines[vm.id] = Machine(flow, start=time.monotonic())
        machine = self._machines[vm.id]
        for offset, block in Capture(log).read(position if position <= size else 0, size):
            machine.feed(int(log.stem.removeprefix("console-")), offset, block, time.monotonic())
        self._positions[log] = size
        machine.tick(time.monotonic())
        if machine.verdict is not None and self._store is not None:
            verdict = machine.verdict
            self._store.update_vm_if(
                vm.name, {"id": vm.id, "verdict": "success"},
                verdict=verdict.kind, why=verdict.why, judgement=json.dumps(verdict.to_json()),
            )  # fmt: skip


def main(root: str, limit: str) -> None:
    """Start the keeper of the state directory ``root`` in the background, unless it has one."""
    home = Home(Path(root))
    serve(home, lambda: Keeper(home, limit=int(limit), guard=Guard(home).look))


if __name__ == "__main__":
    main(*sys.argv[1:])
