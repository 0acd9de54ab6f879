"""``vmprov flow``."""

from __future__ import annotations

import click

from vmprov.cli.options import json_option, print_json, print_table
from vmprov.errors import SpecError
from vmprov.flows.load import flow_names, flow_path, load_flow, schema


@click.group()
def flow_command() -> None:
    """List, show and check flows: what a console is expected to show."""


@flow_command.command("list")
@json_option
def list_flows(as_json: bool) -> None:
    """List the flows that come with vmprov."""
    flows = [load_flow(name) for name in flow_names()]
    if as_json:
        print_json(
            [
                {
                    "name": flow.flow,
                    "description": flow.description,
                    "consoles": list(flow.consoles),
                    "stages": [stage.stage for stage in flow.stages],
                }
                for flow in flows
            ]
        )
        return
    rows = [
        (flow.flow, str(len(flow.stages)), ",".join(map(str, sorted(flow.consoles))), flow.description)
        for flow in flows
    ]
    print_table(("FLOW", "STAGES", "CONSOLES", "DESCRIPTION"), rows)


@flow_command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Print a flow's file, to read it or to begin one's own with it."""
    load_flow(name)
    click.echo(flow_path(name).read_text(encoding="utf-8"), nl=False)


@flow_command.command("check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
def check(files: tuple[str, ...], as_json: bool) -> int:
    """Check flow files, and say every problem with its line and column."""
    found = [(file, _problems(file)) for file in files]
    if as_json:
        print_json([{"file": file, "ok": not problems, "problems": problems} for file, problems in found])
    else:
        for file, problems in found:
            for problem in problems:
                click.echo(problem, err=True)
            if not problems:
                click.echo(f"{file}: ok")
    return SpecError.exit_code if any(problems for _, problems in found) else 0


@flow_command.command("schema")
def print_schema() -> None:
    """Print the JSON schema of flow files, for editors."""
    print_json(schema())


def _problems(file: str) -> list[str]:
    try:
        load_flow(file)
    except SpecError as wrong:
        return list(wrong.problems)
    return []
