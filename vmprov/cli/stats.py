"""``vmprov stats``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_table
from vmprov.views import StageStatistics


@click.command()
@click.option("--image", help="Only machines of this image; '' for those with a blank disk.")
@click.option("--flow", help="Only this flow.")
@json_option
@click.pass_obj
def stats_command(session: Session, image: str | None, flow: str | None, as_json: bool) -> None:
    """Show how long each stage took in past runs: median and 95th percentile (nearest rank) of those that passed it."""
    with opened(session) as vmprov:
        rows = vmprov.stats(image=image, flow=flow)
    if as_json:
        print_json([row.to_json() for row in rows])
    elif rows:
        print_table(("IMAGE", "FLOW", "STAGE", "N", "MEDIAN", "P95", "VERDICTS"), [_cells(row) for row in rows])
    else:
        click.echo("no runs to tell of; make machines with: vmprov create --count 3", err=True)


def _cells(row: StageStatistics) -> tuple[str, ...]:
    return (
        row.image or "-",
        row.flow,
        row.stage or "(total)",
        str(row.n),
        "-" if row.median is None else f"{row.median:7.1f}",
        "-" if row.p95 is None else f"{row.p95:7.1f}",
        ", ".join(f"{count} {kind}" for kind, count in row.verdicts.items()),
    )
