"""Options and output that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmprov.cli import Session
from vmprov.errors import NotFound, SpecError
from vmprov.events import Event, Note
from vmprov.lab import Vmprov
from vmprov.spec.quantities import format_size, parse_duration
from vmprov.views import Failure, VMView

if TYPE_CHECKING:
    from vmprov.events import Listener

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
host_option = click.option(
    "--host",
    metavar="URI",
    default="",
    help="embedded, or a libvirt URI such as qemu:///system.  [env: VMPROV_HOST]",
)
selector_option = click.option(
    "-l", "--selector", metavar="LABELS", help="Only machines with these labels, such as role=edge,env!=test."
)


def chosen(vmprov: Vmprov, targets: Sequence[str], selector: str | None, *, required: bool = True) -> list[str]:
    """The machines that names and ``--selector`` mean; where neither is given, none, if that is not refused.

    Raises :class:`NotFound` if the selector means none.
    """
    if selector is None:
        if required and not targets:
            raise click.UsageError("Missing argument 'VM|LAB ...', or --selector")
        return list(targets)
    names = vmprov.matching(selector, targets)
    if not names:
        raise NotFound(f"no VM has the labels {selector}", hint="see: vmprov list")
    return names


def duration(option: str, text: str) -> float:
    """The seconds that an option gives; raises :class:`SpecError`."""
    try:
        return parse_duration(text)
    except ValueError as problem:
        raise SpecError(f"{option}: {problem}") from problem


def agrees(question: str) -> bool:
    """Whether somebody answers a question with yes."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        # Nobody answers. The question stands there without a line end.
        click.echo(err=True)
        return False


@contextmanager
def opened(session: Session, *listeners: Listener) -> Iterator[Vmprov]:
    """The state directory, with this run's cancel token; without listeners, notes are printed on stderr."""
    with Vmprov(listeners=[*(listeners or (_print_note,)), *session.listeners], cancel=session.cancel) as vmprov:
        yield vmprov


def _print_note(event: Event) -> None:
    if isinstance(event, Note):
        click.echo(f"vmprov: {event.text}", err=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Print columns as wide as their contents; plain text, so that it can be cut and grepped."""
    widths = [max([len(column), *(len(row[place]) for row in rows)]) for place, column in enumerate(columns)]
    for row in (columns, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(line, bold=row is columns and sys.stdout.isatty(), err=err)


def print_object(document: Mapping[str, Any], *, as_json: bool, sizes: Sequence[str] = ()) -> None:
    """Print one object: as JSON, or a field a line with those in ``sizes`` (bytes) in readable units."""
    if as_json:
        print_json(document)
        return
    for field, value in document.items():
        shown = format_size(value) if field in sizes else value
        click.echo(f"{field.replace('_', ' '):<14} {shown if shown != '' else '-'}")


def pairs_text(pairs: Mapping[str, str]) -> str:
    """Labels on one line."""
    return ",".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def report_outcomes(vms: Sequence[VMView]) -> None:
    """Print how it went for each VM, and on stderr why some failed."""
    columns = ("VM", "STATE", "VERDICT", "ADDRESS", "NETWORK", "BRIDGE", "SERIAL NUMBER", "SECONDS")
    rows = [
        (
            vm.name,
            vm.state,
            vm.verdict or "-",
            vm.address or "-",
            vm.network or "-",
            vm.bridge or "-",
            vm.serial_number or "-",
            f"{vm.seconds:.1f}",
        )
        for vm in vms
    ]
    if rows:
        print_table(columns, rows)
    for vm in vms:
        if vm.verdict not in ("success", ""):
            told = f"{vm.name}: {vm.verdict}: {vm.why or 'no reason known'}{_where_logged(vm)}"
            click.echo(f"vmprov: {told}", err=True)


def _where_logged(vm: VMView) -> str:
    """Its log, or the directory of its files where nothing was captured; nothing where it has none."""
    log = Path(vm.console_log)
    there = [path for path in (log, log.parent) if vm.console_log and path.exists()]
    return f" [log: {there[0]}]" if there else ""


def report(failures: Sequence[Failure]) -> int:
    """Say on stderr what failed; returns the exit code."""
    for failure in failures:
        click.echo(f"vmprov: {failure.name}: {failure.why}", err=True)
    return 1 if failures else 0
