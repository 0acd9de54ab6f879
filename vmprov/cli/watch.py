"""``vmprov watch``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import click

from vmprov.cli import Session
from vmprov.cli.events import events_option
from vmprov.cli.options import chosen, duration, json_option, opened, print_json, print_table, selector_option
from vmprov.cli.progress import LiveProgress, PlainProgress, Row
from vmprov.errors import SpecError
from vmprov.lab import Vmprov
from vmprov.views import Usual, VMView


@click.command()
@click.argument("targets", nargs=-1, metavar="[VM|LAB ...]")
@selector_option
@click.option(
    "-f", "--follow", "following", is_flag=True, help="Go on after the verdicts: what broke later; ends with Ctrl-C."
)
@click.option(
    "--port",
    "url",
    metavar="URL",
    help="Not a machine but a serial port: a device, or rfc2217://HOST:PORT, socket://...",
)
@click.option(
    "--baud", type=click.IntRange(50, 4_000_000), default=115200, show_default=True, help="With --port: bit/s."
)
@click.option("--flow", default="", metavar="NAME|FILE", help="With --port: what it has to pass.")
@click.option("--timeout", default="", metavar="DURATION", help="With --port: longest time to the verdict.")
@json_option
@events_option
@click.pass_obj
def watch_command(
    session: Session,
    targets: tuple[str, ...],
    selector: str | None,
    following: bool,
    url: str | None,
    baud: int,
    flow: str,
    timeout: str,
    as_json: bool,
) -> int:
    """Watch machines until each has a verdict: stage, seconds in it, what is usual, and the last line.

    If the process that made them was killed, this goes on in its place. Exit codes: 0 all succeeded, 1 some did not.
    """
    session.cancel_on_signals(quietly=True)
    if url:
        if targets or selector or following:
            raise SpecError("--port watches one serial port", hint="name no machine, and leave -f out")
        if not flow:
            raise SpecError("--port needs a flow", hint="for example --flow login; see: vmprov flow list")
        return _watch_port(session, url, baud, flow, timeout, as_json=as_json)
    if flow or timeout:
        raise SpecError("--flow and --timeout go with --port", hint="a machine's flow is chosen when it is made")
    with opened(session) as vmprov, _progress(vmprov) as progress:
        vmprov.events.listen(progress)
        if sys.stdin.isatty():
            vmprov.ask = progress.ask
        views = vmprov.watch(chosen(vmprov, targets, selector, required=False), on_after=following)
    if as_json:
        print_json([view.to_json() for view in views])
    else:
        _print_verdicts(views)
    if session.cancel.is_set and not following:
        return 130
    # One that others made is not judged.
    return 0 if all(view.verdict == "success" or (view.adopted and not view.verdict) for view in views) else 1


def _print_verdicts(views: Sequence[VMView]) -> None:
    rows = [(view.name, view.state, view.told_verdict, _why(view)) for view in views]
    if rows:
        print_table(("VM", "STATE", "VERDICT", "WHY"), rows)
    else:
        click.echo("no machines; make some with: vmprov create --count 3", err=True)


def _why(view: VMView) -> str:
    """Why, and the line that told."""
    evidence = (view.judgement or {}).get("evidence") if view.verdict == "failed" else ""
    return " ".join(part for part in (view.why, repr(evidence) if evidence else "") if part) or "-"


def _watch_port(session: Session, url: str, baud: int, flow: str, timeout: str, *, as_json: bool) -> int:
    limit = duration("--timeout", timeout) if timeout else None
    with opened(session) as vmprov, PlainProgress() as progress:
        vmprov.events.listen(progress)
        if sys.stdin.isatty():
            vmprov.ask = progress.ask
        found = vmprov.watch_port(url, baud=baud, flow=flow, limit=limit)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(f"{url}: {found.verdict}" + (f": {found.why}" if found.why else ""))
        if found.evidence:
            click.echo(f"  {found.evidence}")
        click.echo(f"  log: {found.log}")
    return {"success": 0, "cancelled": 130}.get(found.kind, 1)


def _progress(vmprov: Vmprov) -> PlainProgress | LiveProgress:
    if not sys.stderr.isatty():
        return PlainProgress()
    from vmprov.console.tail import last_line

    usual: dict[str, Mapping[str, Usual]] = {}

    def usual_of(vm: str) -> Mapping[str, Usual]:
        if vm not in usual:
            usual[vm] = vmprov.usual_stages(vm)
        return usual[vm]

    return WatchProgress(lambda vm: last_line(vmprov.home.console_log(vm, 0)), usual_of)


class WatchProgress(LiveProgress):
    """The live table with what is usual for each stage, and the time left to its limit."""

    figures = ("SECONDS", "MEDIAN", "P95", "LEFT")

    def __init__(self, last_serial_line: Callable[[str], str], usual_of: Callable[[str], Mapping[str, Usual]]) -> None:
        super().__init__(last_serial_line)
        self._usual_of = usual_of

    def figures_of(self, name: str, row: Row) -> tuple[str, ...]:
        """Seconds in the stage; median and 95th percentile of earlier runs; seconds left."""
        usual = self._usual_of(name).get(row.stage, Usual())
        left = max(0.0, usual.limit - row.in_stage) if usual.limit is not None else None
        shown = (usual.median, usual.p95, left)
        return (f"{row.in_stage:.1f}", *("-" if value is None else f"{value:.1f}" for value in shown))
