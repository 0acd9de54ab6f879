"""Watching one VM: its consoles go through the flow's machine, what that says is typed, and the timeline is kept.

What is watched, and from where on, is written down before power-on (``watch.json`` and ``flow.yaml`` in the VM's
directory). So whoever watches can be killed: the next one replays the captures to the present stage and goes on, without typing again
what was typed before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import SecretStr

from vmprov.console.inputs import InputLog, read_inputs
from vmprov.console.links import ConsoleLink, open_uart
from vmprov.console.transcript import Transcript
from vmprov.engine.context import Context
from vmprov.errors import Failed, InUse, VmprovError, WaitTimeout
from vmprov.flows.grammar import Flow, Input
from vmprov.flows.keys import key_bytes
from vmprov.flows.machine import Action, Decided, Entered, Machine, Send
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.store import VMRecord
from vmprov.waiting import Cancel, Deadline, wait_until

# Seconds between two looks at the captures.
INTERVAL = 0.05
# Seconds for which a flow waits for a person who is typing, and for a guest that does not read.
_TYPING_LIMIT = 10.0


@dataclass(frozen=True)
class Beginning:
    """Where a watch began: seconds on both clocks, the captures' lengths by UART, and what it was told.

    ``limit`` -- seconds for all of it. ``proof`` -- what counts as success: ``flow``, ``ssh``, or ``none``.
    """

    wall: float
    offsets: Mapping[str, int]
    limit: float | None
    proof: str


def begin(ctx: Context, vm: VMRecord, flow: Flow, *, limit: float | None, proof: str) -> Beginning:
    """Write down that from now on the VM is watched."""
    sizes = {}
    for console in range(vm.consoles):
        log = ctx.home.console_log(vm.name, console)
        sizes[str(console)] = log.stat().st_size if log.exists() else 0
    beginning = Beginning(wall=time.time(), offsets=sizes, limit=limit, proof=proof)
    directory = ctx.home.vm(vm.name)
    _write(directory / "flow.json", flow.model_dump_json(by_alias=True, exclude_defaults=True, indent=1))
    _write(directory / "timeline.json", "[]")
    _write(directory / "watch.json", json.dumps(asdict(beginning)))
    return beginning


def begun(ctx: Context, vm: VMRecord) -> tuple[Flow, Beginning] | None:
    """What :func:`begin` wrote down; ``None`` if nothing can be read."""
    directory = ctx.home.vm(vm.name)
    try:
        beginning = Beginning(**json.loads((directory / "watch.json").read_text()))
        return Flow.model_validate_json((directory / "flow.json").read_text()), beginning
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text)
    unfinished.chmod(0o600)
    unfinished.replace(path)


class Watch:
    """One VM's flow; :meth:`look` takes what is new."""

    def __init__(
        self, ctx: Context, vm: VMRecord, flow: Flow, beginning: Beginning, secrets: Mapping[str, SecretStr]
    ) -> None:
        self._ctx = ctx
        self._vm = vm
        self._secrets = secrets
        self._consoles = [console for console in flow.consoles if console < vm.consoles]
        start = beginning.wall - time.time() + time.monotonic()
        self.flow = flow
        self.machine = Machine(flow, start=start, limit=beginning.limit)
        logs = {console: ctx.home.console_log(vm.name, console) for console in self._consoles}
        self._transcript = Transcript(logs, {int(port): size for port, size in beginning.offsets.items()})
        self._started = start
        self._sender = f"flow {flow.flow}"
        self._typed = self._typed_before(beginning)
        self._written: tuple[StageTime, ...] = ()

    def _typed_before(self, beginning: Beginning) -> int:
        """How much of what the flow types an earlier watcher has typed already."""
        numbers = [0]
        for console in self._consoles:
            for entry in read_inputs(self._ctx.home.console_log(self._vm.name, console)):
                if entry.by == self._sender and entry.wall >= beginning.wall:
                    numbers.append(entry.number)
        return max(numbers)

    @property
    def seconds(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self._started

    @property
    def verdict(self) -> Verdict | None:
        """How the flow ended, if it has."""
        return self.machine.verdict

    def look(self) -> Verdict | None:
        """Take what the consoles sent since the last look; returns the verdict once there is one."""
        for piece in self._transcript.take():
            self._act(self.machine.feed(piece.console, piece.offset, piece.data, piece.moment.running))
        self._act(self.machine.tick(time.monotonic()))
        self._keep_timeline()
        return self.machine.verdict

    def cancel(self) -> None:
        """Somebody asked to stop."""
        self._act(self.machine.cancel(time.monotonic()))
        self._keep_timeline()

    def close(self) -> None:
        """Let go of the captures."""
        self._transcript.close()

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Entered):
                self._ctx.stage(self._vm.name, action.stage)
            elif isinstance(action, Send) and action.number > self._typed:
                self._typed = action.number
                self._type(action)

    def _keep_timeline(self) -> None:
        timeline = self.machine.timeline
        if timeline != self._written:
            self._written = timeline
            stays = [stay.to_json() for stay in timeline]
            _write(self._ctx.home.vm(self._vm.name) / "timeline.json", json.dumps(stays))

    # typing

    def _type(self, action: Send) -> None:
        name = self._vm.name
        log = self._ctx.home.console_log(name, action.console)
        inputs = InputLog(log, self._sender)
        link = self._take_console(action.console, log)
        try:
            for given in action.inputs:
                if given.pause is not None:
                    self._ctx.cancel.sleep(given.pause)
                    continue
                # Before it is typed: a crash in between must not make it twice.
                inputs.write(**_recorded(given), number=action.number)
                self._send(link, _bytes(given, self._secrets))
        finally:
            link.close()

    def _take_console(self, console: int, log: Path) -> ConsoleLink:
        base = self._ctx.home.console_port(self._vm.id, console)
        busy: list[InUse] = []

        def attempt() -> ConsoleLink | None:
            try:
                return open_uart(base, log, self._vm.name)
            except InUse as problem:
                busy[:] = [problem]
                return None

        try:
            return wait_until(attempt, Deadline(_TYPING_LIMIT), "free console", cancel=self._ctx.cancel)
        except WaitTimeout as problem:
            raise Failed(f"the flow could not type: {busy[-1] if busy else problem}") from problem

    def _send(self, link: ConsoleLink, data: bytes) -> None:
        deadline = Deadline(_TYPING_LIMIT)
        while data:
            sent = link.send(data[:1] if self.flow.pacing else data)
            data = data[sent:]
            if not sent:
                if deadline.expired:
                    raise WaitTimeout(f"the guest read no input for {_TYPING_LIMIT:.0f} s")
                self._ctx.cancel.sleep(INTERVAL)
            elif data and self.flow.pacing:
                self._ctx.cancel.sleep(self.flow.pacing)


def _recorded(given: Input) -> dict[str, str]:
    if given.secret is not None:
        return {"secret": given.secret}
    return {"text": given.line if given.line is not None else given.text or f"<{given.key}>"}


def _bytes(given: Input, secrets: Mapping[str, SecretStr]) -> bytes:
    if given.secret is not None:
        return secrets[given.secret].get_secret_value().encode() + b"\r"
    if given.line is not None:
        return given.line.encode() + b"\r"
    return given.text.encode() if given.text is not None else key_bytes(given.key or "")
