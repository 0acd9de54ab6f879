"""Progress on stderr: a live table where it is a terminal, else one line per change."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

from vmprov.events import Event, Note, Output, Progress, StageChanged

_COLOURS = {
    "ready": "green",
    "removed": "dim",
    "failed": "red",
    "timeout": "red",
    "broken": "red",
    "cancelled": "yellow",
}
_FINAL = frozenset(("ready", "removed", "failed", "timeout", "broken", "cancelled", "running", "stopped"))
_REFRESHES_PER_SECOND = 4
# Characters that stay of a name or a stage where the last line takes all the room.
_LEAST_WIDTH = 8


@dataclass
class Row:
    """What is known of one VM."""

    stage: str = ""
    why: str = ""
    since: float = field(default_factory=time.monotonic)
    entered: float = field(default_factory=time.monotonic)
    until: float = 0.0
    told: str = ""

    @property
    def seconds(self) -> float:
        """Since the VM was first heard of."""
        return (self.until or time.monotonic()) - self.since

    @property
    def in_stage(self) -> float:
        """Seconds since the stage began."""
        return (self.until or time.monotonic()) - self.entered


class PlainProgress:
    """One line on stderr per change of stage; for logs and pipes."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._steps: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def ask(self, question: str) -> str:
        """Put a question about a secret to whoever sits at the terminal."""
        return ask(question)

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        if isinstance(event, StageChanged):
            self._say(f"{event.vm}: {event.stage}" + (f" ({event.why})" if event.why else ""))
        elif isinstance(event, Note):
            self._say(event.text)
        elif isinstance(event, Progress) and event.total == event.done == 1:
            self._say(f"{event.what}: done in {event.text}")
        elif isinstance(event, Progress) and event.what not in self._steps:
            self._steps.add(event.what)
            self._say(f"{event.what} ...")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f}s] {text}", file=sys.stderr, flush=True)


class LiveProgress:
    """A table with a row per VM - stage, seconds, last serial line - redrawn a few times per second."""

    figures: tuple[str, ...] = ("SECONDS",)

    def __init__(self, last_serial_line: Callable[[str], str]) -> None:
        self._last_serial_line = last_serial_line
        self._rows: dict[str, Row] = {}
        self._step = ""
        self._lock = threading.Lock()
        self._live: Any = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=self._render,
            console=Console(stderr=True),
            refresh_per_second=_REFRESHES_PER_SECOND,
        )
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._step = ""
        self._live.stop()

    def ask(self, question: str) -> str:
        """Put a question about a secret to whoever sits at the terminal, in place of the table."""
        self._live.stop()
        try:
            return ask(question)
        finally:
            self._live.start()

    def __call__(self, event: Event) -> None:
        """Listen to one event."""
        with self._lock:
            if isinstance(event, StageChanged):
                row = self._rows.setdefault(event.vm, Row())
                row.stage, row.why = event.stage, event.why
                row.entered = event.started if event.started is not None else time.monotonic()
                row.until = time.monotonic() if event.stage in _FINAL else 0.0
            elif isinstance(event, Output) and event.vm in self._rows:
                self._rows[event.vm].told = event.line.strip()
            elif isinstance(event, Progress):
                self._step = "" if event.total == event.done == 1 else _describe(event)
            elif isinstance(event, Note):
                self._live.console.print(event.text, markup=False)

    def figures_of(self, name: str, row: Row) -> tuple[str, ...]:  # noqa: ARG002 - other tables need the name
        """The cells under ``figures`` for a VM."""
        return (f"{row.seconds:.1f}",)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("VM", no_wrap=True, min_width=_LEAST_WIDTH)
        table.add_column("STAGE", no_wrap=True, min_width=_LEAST_WIDTH)
        for column in self.figures:
            table.add_column(column, no_wrap=True, justify="right", min_width=len(column))
        table.add_column("LAST LINE", no_wrap=True)
        with self._lock:
            for name, row in self._rows.items():
                said = "" if row.stage == "removed" else self._last_serial_line(name) or row.told
                table.add_row(
                    Text(name),
                    Text(row.stage, style=_COLOURS.get(row.stage, "cyan")),
                    *self.figures_of(name, row),
                    Text(row.why or said, style="dim"),
                )
            parts: list[Any] = [table] if self._rows else []
            if self._step:
                parts.append(Text(self._step, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)


def ask(question: str) -> str:
    """Put a question about a secret to whoever sits at the terminal."""
    answer: str = click.prompt(question, hide_input=True, err=True)
    return answer


def _describe(event: Progress) -> str:
    if event.total > 1:
        return f"{event.what} ... {100 * event.done // event.total}%"
    return f"{event.what} ... {event.text}"


def choose_progress(console_log: Callable[[str], Path]) -> PlainProgress | LiveProgress:
    """The table for a terminal, lines for anything else."""
    if not sys.stderr.isatty():
        return PlainProgress()
    from vmprov.console.tail import last_line

    return LiveProgress(lambda vm: last_line(console_log(vm)))
