"""``vmprov doctor``."""

from __future__ import annotations

import sys

import click

from vmprov.cli import Session
from vmprov.cli.options import host_option, json_option, opened, print_json
from vmprov.errors import HostNotReady

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@host_option
@json_option
@click.pass_obj
def doctor_command(session: Session, host: str, as_json: bool) -> int:
    """Check this machine; each line says ok, warning or problem, and the command that mends it.

    Exits with 3 if there is a problem.
    """
    from vmprov.doctor import PROBLEM, examine

    findings = []
    with opened(session) as vmprov:
        for finding in examine(vmprov, host):
            findings.append(finding)
            if not as_json:
                level = (
                    click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
                    if sys.stdout.isatty()
                    else f"{finding.level:<8}"
                )
                mend = f"  -> {finding.mend}" if finding.mend else ""
                click.echo(f"{level} {finding.check}: {finding.text}{mend}")
    if as_json:
        print_json([finding.to_json() for finding in findings])
    return HostNotReady.exit_code if any(finding.level == PROBLEM for finding in findings) else 0
