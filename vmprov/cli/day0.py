"""``vmprov day0``."""

from __future__ import annotations

import click

from vmprov.cli.day0_lab import lab_command


@click.group()
def day0_command() -> None:
    """Onboard edge nodes: practise with an orchestrator of ours."""


day0_command.add_command(lab_command, "lab")
