"""``--events``: everything that happens, as JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TextIO

import click

from vmprov.errors import SpecError
from vmprov.events import Event, event_json

_STDOUT = "-"


class EventLines:
    """Writes each event as a line of JSON, at once, for as long as that is possible; machines matter more."""

    def __init__(self, stream: TextIO, place: str) -> None:
        self._stream: TextIO | None = stream
        self._place = place
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        line = json.dumps(event_json(event), default=str)
        with self._lock:
            if self._stream is None:
                return
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except OSError as problem:  # a full disk, a reader that left
                # What is still buffered must not fail again at exit, nor what else goes to the same place.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
                self._stream = None
                click.echo(f"vmprov: no more events are written to {self._place}: {problem.strerror}", err=True)


def _open(context: click.Context, _option: click.Parameter, place: str | None) -> None:
    if place is None:
        return
    if place == _STDOUT and context.params.get("as_json"):
        raise click.UsageError("--events - and --json both want stdout; give a file to one of them")
    if place == _STDOUT:
        stream: TextIO = sys.stdout
    else:
        try:
            stream = context.with_resource(Path(place).open("a", encoding="utf-8"))  # noqa: SIM115 - the context does
        except OSError as problem:
            raise SpecError(f"cannot write events to {place}: {problem.strerror}") from problem
    context.obj.listeners.append(EventLines(stream, place))


events_option = click.option(
    "--events", metavar="FILE|-", expose_value=False, callback=_open,
    help="Append everything that happens to a file, as JSON lines; - is stdout.",
)  # fmt: skip
