"""Watching consoles: what they send goes through the flow's machine, what that says is typed, the timeline is kept.

What is watched, and from where on, is written down before power-on (``watch.json`` and ``flow.json`` in the VM's
directory). So whoever watches can be killed: the next one replays the captures to the present stage and goes on,
without typing again what was typed before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from vmprov.console.inputs import InputLog, read_inputs
from vmprov.console.links import ConsoleLink, Link, open_uart
from vmprov.console.transcript import PATIENCE, Piece, Transcript
from vmprov.engine.context import Context
from vmprov.engine.redact import Redactor
from vmprov.errors import Failed, InUse, WaitTimeout
from vmprov.flows.grammar import KEYS, Flow, Input
from vmprov.flows.machine import Action, Entered, Machine, Send
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.locks import Turn
from vmprov.paths import make_private
from vmprov.store import VMRecord
from vmprov.waiting import Cancel, Deadline, wait_until

# Seconds between two looks at the captures.
INTERVAL = 0.05
# Seconds for which a flow waits for a person who is typing, and for a guest that does not read.
_TYPING_LIMIT = 10.0
# Seconds by which the keeper may be behind; time does not pass before it can have timed what was sent.
LAG = 0.1


@dataclass(frozen=True)
class Beginning:
    """Where a watch began: seconds since the epoch, and the captures' lengths by UART.

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
    ctx.store.update_vm(vm.name, flow="" if proof == "none" else flow.flow, verdict="", judgement="", why="")
    keep_beginning(ctx.home.vm(vm.name), flow, beginning)
    return beginning


def keep_beginning(directory: Path, flow: Flow, beginning: Beginning) -> None:
    """Write down what is watched, and from where on."""
    make_private(directory)
    _write(directory / "flow.json", flow.model_dump_json(by_alias=True, exclude_defaults=True, indent=1))
    _write(directory / "timeline.json", "[]")
    _write(directory / "watch.json", json.dumps(asdict(beginning)))


def begun(directory: Path) -> tuple[Flow, Beginning] | None:
    """What :func:`keep_beginning` wrote down in a VM's directory; ``None`` if nothing can be read."""
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


class Wire(Protocol):
    """The consoles of one machine, real or virtual."""

    def take(self) -> list[Piece]:
        """What they sent since the last call."""
        ...

    def log(self, console: int) -> Path:
        """A console's capture."""
        ...

    def typing(self, console: int) -> AbstractContextManager[Link]:
        """The console, to type on; raises :class:`Failed` if it cannot be had."""
        ...

    def close(self) -> None:
        """Let go of them."""
        ...


class VMWire:
    """The UARTs of a VM: captures to read, FIFOs to write."""

    def __init__(self, ctx: Context, vm: VMRecord, consoles: list[int], offsets: Mapping[str, int]) -> None:
        self._ctx = ctx
        self._vm = vm
        begin = {int(port): size for port, size in offsets.items()}
        patience = PATIENCE if ctx.settings.keeper else 0.0
        self._transcript = Transcript({console: self.log(console) for console in consoles}, begin, patience=patience)

    def take(self) -> list[Piece]:
        """See :meth:`Wire.take`."""
        return self._transcript.take()

    def log(self, console: int) -> Path:
        """See :meth:`Wire.log`."""
        return self._ctx.home.console_log(self._vm.name, console)

    def typing(self, console: int) -> AbstractContextManager[Link]:
        """See :meth:`Wire.typing`; waits for whoever is attached, but not for long."""
        base = self._ctx.home.console_port(self._vm.id, console)
        busy: list[InUse] = []

        def attempt() -> ConsoleLink | None:
            try:
                return open_uart(base, self.log(console), self._vm.name)
            except InUse as problem:
                busy[:] = [problem]
                return None

        try:
            return closing(wait_until(attempt, Deadline(_TYPING_LIMIT), "free console", cancel=self._ctx.cancel))
        except WaitTimeout as problem:
            raise Failed(f"the flow could not type: {busy[-1] if busy else problem}") from problem

    def close(self) -> None:
        """See :meth:`Wire.close`."""
        self._transcript.close()


class Watch:
    """One machine's flow; :meth:`look` takes what is new.

    Several may watch the same machine. The first one leads: it types and writes down; the others look on, and one of
    them takes over when it is gone.
    """

    def __init__(
        self,
        flow: Flow,
        beginning: Beginning,
        wire: Wire,
        *,
        turn: Turn,
        directory: Path,
        secrets: Mapping[str, SecretStr],
        entered: Callable[[str, float], None],
        cancel: Cancel,
        lag: float = 0.0,
    ) -> None:
        """``turn``: the lock of whoever leads. ``entered``: told of each stage, and when (monotonic) it began.

        ``lag``: seconds by which whoever times the bytes may be behind.
        """
        self.flow = flow
        self.started = beginning.wall - time.time() + time.monotonic()
        self.machine = Machine(flow, start=self.started, limit=beginning.limit)
        self._beginning = beginning
        self._wire = wire
        self._turn = turn
        self._directory = directory
        self._secrets = secrets
        self._entered = entered
        self._cancel = cancel
        self._lag = lag
        self._sender = f"flow {flow.flow}"
        self._typed = -1
        # How much of each capture the machine has been given, by UART.
        self._judged = dict(beginning.offsets)
        self._untyped: list[Send] = []
        self._written: tuple[StageTime, ...] = ()

    def _typed_before(self) -> int:
        """How much of what the flow types an earlier watcher has typed already."""
        numbers = [0]
        for console in self.flow.consoles:
            for entry in read_inputs(self._wire.log(console)):
                if entry.by == self._sender and entry.wall >= self._beginning.wall:
                    numbers.append(entry.number)
        return max(numbers)

    @property
    def seconds(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self.started

    @property
    def verdict(self) -> Verdict | None:
        """How the flow ended, if it has."""
        return self.machine.verdict

    def look(self) -> Verdict | None:
        """Take what the consoles sent since the last look; returns the verdict once there is one."""
        self._turn.take()
        now = time.monotonic()
        for piece in self._wire.take():
            self._judged[str(piece.console)] = piece.offset + len(piece.data)
            self._act(self.machine.feed(piece.console, piece.offset, piece.data, piece.moment.running))
        self._act(self.machine.tick(now - self._lag))
        self._keep_timeline(self.machine.timeline)
        return self.machine.verdict

    def redacted(self, verdict: Verdict) -> Verdict:
        """A verdict without the flow's secrets, which the guest may have echoed."""
        clean = Redactor(secret.get_secret_value() for secret in self._secrets.values()).text
        lines = tuple(map(clean, verdict.last_lines))
        return replace(verdict, evidence=clean(verdict.evidence), why=clean(verdict.why), last_lines=lines)

    def cancel(self) -> None:
        """Somebody asked to stop."""
        self._act(self.machine.cancel(time.monotonic()))

    def finish(self, verdict: Verdict) -> tuple[StageTime, ...]:
        """The timeline, in which nothing lasts any more, written down."""
        outcome = "passed" if verdict.kind == "success" else verdict.kind
        timeline = tuple(
            replace(stay, end=max(stay.start, self.seconds), outcome=outcome) if stay.end is None else stay
            for stay in self.machine.timeline
        )
        self._keep_timeline(timeline)
        if self._turn.mine:
            _write(self._directory / "judged.json", json.dumps(self._judged))
        return timeline

    @property
    def leading(self) -> bool:
        """Whether this watcher is the one that types and writes down; others of the same VM only look on."""
        return self._turn.mine

    def close(self) -> None:
        """Let go of the consoles."""
        self._wire.close()
        self._turn.close()

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Entered):
                self._entered(action.stage, action.at)
            elif isinstance(action, Send):
                self._untyped.append(action)
        if not self._untyped:
            return
        if self._turn.take():
            if self._typed < 0:
                self._typed = self._typed_before()
            waiting, self._untyped = self._untyped, []
            for send in waiting:
                if send.number > self._typed:
                    self._typed = send.number
                    self._type(send)

    def _keep_timeline(self, timeline: tuple[StageTime, ...]) -> None:
        if timeline != self._written and self._turn.take():
            self._written = timeline
            stays = [stay.to_json() for stay in timeline]
            _write(self._directory / "timeline.json", json.dumps(stays))

    # typing

    def _type(self, action: Send) -> None:
        inputs = InputLog(self._wire.log(action.console), self._sender)
        with self._wire.typing(action.console) as link:
            for given in action.inputs:
                if given.pause is not None:
                    self._cancel.sleep(given.pause)
                    continue
                # Before it is typed: a crash in between must not make it twice.
                inputs.write(**_recorded(given), number=action.number)
                self._send(link, _bytes(given, self._secrets))

    def _send(self, link: Link, data: bytes) -> None:
        deadline = Deadline(_TYPING_LIMIT)
        while data:
            try:
                sent = link.send(data[:1] if self.flow.pacing else data)
            except OSError as problem:
                raise Failed(f"the flow could not type: {problem.strerror or problem}") from problem
            data = data[sent:]
            if not sent:
                if deadline.expired:
                    raise WaitTimeout(f"the guest read no input for {_TYPING_LIMIT:.0f} s")
                self._cancel.sleep(INTERVAL)
            elif data and self.flow.pacing:
                self._cancel.sleep(self.flow.pacing)


def _recorded(given: Input) -> dict[str, str]:
    if given.secret is not None:
        return {"secret": given.secret}
    return {"text": given.line if given.line is not None else given.text or f"<{given.key}>"}


def _bytes(given: Input, secrets: Mapping[str, SecretStr]) -> bytes:
    if given.secret is not None:
        return secrets[given.secret].get_secret_value().encode() + b"\r"
    if given.line is not None:
        return given.line.encode() + b"\r"
    return given.text.encode() if given.text is not None else KEYS[given.key or "enter"]
