"""Timelines for ``vmprov show --timeline``: tables with bars of text, or a drawing in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vmprov.cli.options import print_json, print_table
from vmprov.engine.evidence.timeline import sentence, verdict_from
from vmprov.errors import Failed, SpecError
from vmprov.lab import Vmprov
from vmprov.views import StageStay, Timeline

# What stands for no file.
ON_STDOUT = "-"
_BAR = 40


def show_timelines(vmprov: Vmprov, name: str, file: str, *, as_json: bool) -> None:
    """Show the timelines of a VM or a lab; ``file`` is that of a drawing, or :data:`ON_STDOUT` for none."""
    if file != ON_STDOUT and not file.endswith(".svg"):
        raise SpecError(f"--timeline draws SVG, not {file!r}", hint="name a file that ends in .svg, or none")
    timelines = vmprov.timelines([name])
    if file != ON_STDOUT:
        _draw(timelines, Path(file))
    if as_json:
        several = vmprov.store.lab(name) is not None or [one.vm for one in timelines] != [name]
        print_json([one.to_json() for one in timelines] if several else timelines[0].to_json())
    elif file != ON_STDOUT:
        click.echo(f"timelines of {len(timelines)} machines: {file}")
    else:
        for number, timeline in enumerate(timelines):
            if number:
                click.echo()
            _print_timeline(timeline)


def _draw(timelines: Sequence[Timeline], path: Path) -> None:
    from vmprov.engine.evidence.chart import chart

    try:
        path.write_text(chart(timelines), encoding="utf-8")
    except OSError as problem:
        raise Failed(f"{path} cannot be written: {(problem.strerror or str(problem)).lower()}") from problem


def _print_timeline(timeline: Timeline) -> None:
    verdict = verdict_from(timeline.judgement) if timeline.judgement else None
    told = sentence(verdict) if verdict else "no verdict yet"
    click.echo(
        f"{timeline.vm}: {told}, after {timeline.seconds:.1f} s" if timeline.stages else f"{timeline.vm}: {told}"
    )
    if timeline.stages:
        _print_stages(timeline.stages)
    if verdict and verdict.kind == "timeout" and verdict.last_lines:
        click.echo("last lines:")
        for line in verdict.last_lines:
            click.echo(f"  {line}")


def _print_stages(stages: Sequence[StageStay]) -> None:
    limited = any(stay.limit is not None for stay in stages)
    columns = ("STAGE", "START", "SECONDS", *(("LIMIT",) if limited else ()), "OUTCOME", "")
    longest = max(stay.start + stay.seconds for stay in stages)
    rows = [
        (
            stay.stage,
            f"{stay.start:7.1f}",
            f"{stay.seconds:7.1f}",
            *((f"{stay.limit:.0f}" if stay.limit is not None else "-",) if limited else ()),
            (stay.outcome or "lasts") + (f" (boot {stay.boot})" if stay.boot > 1 else ""),
            _bar(stay, longest),
        )
        for stay in stages
    ]
    print_table(columns, rows)


def _bar(stay: StageStay, longest: float) -> str:
    """Where in the whole run a stay lies."""
    if not longest or not stay.seconds:
        return ""
    start = round(stay.start / longest * _BAR)
    end = round((stay.start + stay.seconds) / longest * _BAR)
    return " " * min(start, _BAR - 1) + "#" * max(1, end - start)
