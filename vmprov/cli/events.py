"""``--events``: everything that happens, as JSON lines for programs."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TextIO

import click

from vmprov.errors import SpecError
from vmprov.events import Event, event_json

_STDOUT = "-"


class EventLines:
    """Writes each event as a line of JSON, at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        line = json.dumps(event_json(event), default=str)
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()


def _open(context: click.Context, _option: click.Parameter, place: str | None) -> None:
    if place is None:
        return
    if place == _STDOUT and context.params.get("as_json"):
        raise click.UsageError("--events - and --json both want stdout; give a file to one of them")
    try:
        stream = sys.stdout if place == _STDOUT else Path(place).open("a", encoding="utf-8")  # noqa: SIM115 - until exit
    except OSError as problem:
        raise SpecError(f"cannot write events to {place}: {problem.strerror}") from problem
    context.obj.listeners.append(EventLines(stream))


events_option = click.option(
    "--events", metavar="FILE|-", expose_value=False, callback=_open,
    help="Append everything that happens to a file, as JSON lines; - is stdout.",
)  # fmt: skip
