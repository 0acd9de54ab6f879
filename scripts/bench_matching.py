"""How fast transcripts are matched: all signatures, each flow that comes with vmprov in its first stage; CPU time."""

from __future__ import annotations

import re
import statistics
import time
from typing import Any

from tests import transcripts
from vmprov.flows.grammar import Flow
from vmprov.flows.load import flow_names, load_flow
from vmprov.flows.machine import Action, Machine

_CHUNK = 64 * 1024
_SIZE = 64 * 1024 * 1024
_ENDLESS = 1_000_000_000
_SEGMENT = re.compile(rb"[^\r\n]*[\r\n]+|[^\r\n]+\Z")


def measure() -> dict[str, Any]:
    """MB/s for each flow, and the lowest of them."""
    figures = {name: _speed(load_flow(name)) for name in flow_names()}
    return {
        "MB/s": {name: round(speed, 1) for name, speed in figures.items()},
        "median": round(statistics.median(figures.values()), 1),
        "lowest": round(min(figures.values()), 1),
        "bytes": _SIZE,
    }


def _speed(flow: Flow) -> float:
    unit = corpus(flow)
    machine, console = _machine(flow), flow.consoles[0]
    # As many lines as there are, again and again; the time spent on making the chunks is not counted.
    data = unit * (_SIZE // len(unit) + 1)
    chunks = [data[at : at + _CHUNK] for at in range(0, _SIZE, _CHUNK)]
    start = time.process_time()
    for number, chunk in enumerate(chunks):
        machine.feed(console, number * _CHUNK, chunk, 0.0)
    seconds = time.process_time() - start
    if machine.verdict is not None:
        raise SystemExit(f"flow {flow.flow}: {machine.verdict} amid the transcripts")
    return len(chunks) * _CHUNK / seconds / 1e6


def _machine(flow: Flow) -> Machine:
    """That of a flow which nothing ends but its patterns; firmware starts are looked for, and counted."""
    stages = [stage.model_copy(update={"limit": None, "nudge": None}) for stage in flow.stages]
    return Machine(flow.model_copy(update={"limit": None, "stages": tuple(stages), "boots": _ENDLESS}))


def corpus(flow: Flow) -> bytes:
    """All that the recorded machines said, but for the lines on which the flow, or a signature, would act."""
    console = flow.consoles[0]
    kept: list[bytes] = []
    for name in transcripts.names():
        recorded = transcripts.load(name)
        for uart in recorded.consoles:
            kept += _quiet_lines(flow, console, recorded.data(uart))
    return b"".join(kept)


def _quiet_lines(flow: Flow, console: int, data: bytes) -> list[bytes]:
    lines = _SEGMENT.findall(data + b"\r\n")
    while (at := _first_action(flow, console, lines)) is not None:
        del lines[at]
    return lines


def _first_action(flow: Flow, console: int, lines: list[bytes]) -> int | None:
    machine = _machine(flow)
    machine.tick(0.0)
    offset = 0
    for at, line in enumerate(lines):
        actions: list[Action] = machine.feed(console, offset, line, 0.0)
        offset += len(line)
        if actions:
            return at
    return None
