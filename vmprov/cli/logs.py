"""``vmprov logs``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from vmprov.cli import Session
from vmprov.cli.options import opened
from vmprov.console.tail import LogLine, follow, last_lines
from vmprov.errors import NotFound, SpecError

_PALETTE = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
_EVERYTHING = sys.maxsize


@click.command()
@click.argument("targets", nargs=-1, metavar="[VM|LAB ...]")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with what arrives; end with Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last so many lines of each (with -f: default 10).")
@click.option("--port", type=click.IntRange(0, 1), default=0, show_default=True, help="Which serial port.")
@click.option("--raw", is_flag=True, help="The bytes as they came; for one machine, without -f.")
@click.pass_obj
def logs_command(
    session: Session, targets: tuple[str, ...], following: bool, tail: int | None, port: int, raw: bool
) -> None:
    """Show what machines sent to their serial consoles since power-on; all machines where none is named."""
    with opened(session) as vmprov:
        logs = vmprov.console_logs(targets, port)
        if not logs:
            raise NotFound("there is no machine whose log could be shown", hint="make one with: vmprov create")
        if raw and following:
            raise SpecError("--raw does not follow", hint="leave --follow or --raw out")
        if raw:
            _print_raw(logs)
        elif following:
            session.cancel_on_signals(quietly=True)
            printer = _Printer(logs)
            sources = (lambda: vmprov.console_logs((), port)) if not targets else logs
            for line in follow(sources, cancel=session.cancel, history=10 if tail is None else tail):
                printer.show(line)
            printer.end()
        else:
            printer = _Printer(logs)
            for vm, path in logs.items():
                for text in last_lines(path, _EVERYTHING if tail is None else tail):
                    printer.show(LogLine(vm, text, complete=True))


def _print_raw(logs: Mapping[str, Path]) -> None:
    if len(logs) != 1:
        raise SpecError("--raw shows one machine", hint="name it")
    path = next(iter(logs.values()))
    if path.exists():
        with path.open("rb") as file:
            while chunk := file.read(1 << 16):
                sys.stdout.buffer.write(chunk)


class _Printer:
    """Lines on stdout, with the machine's name before each where there are several, in a colour of its own."""

    def __init__(self, logs: Mapping[str, Path]) -> None:
        self._several = len(logs) > 1
        self._width = max(len(name) for name in logs)
        self._colours: dict[str, str] = {}
        self._unfinished = ""

    def show(self, line: LogLine) -> None:
        goes_on = line.continues and self._unfinished == line.vm
        if self._unfinished and not goes_on:
            click.echo()
        prefix = "" if goes_on or not self._several else self._prefix(line.vm)
        click.echo(f"{prefix}{line.text}", nl=line.complete)
        self._unfinished = "" if line.complete else line.vm

    def end(self) -> None:
        if self._unfinished:
            click.echo()

    def _prefix(self, vm: str) -> str:
        colour = self._colours.setdefault(vm, _PALETTE[len(self._colours) % len(_PALETTE)])
        name = f"{vm:<{self._width}} | "
        return click.style(name, fg=colour) if sys.stdout.isatty() else name
