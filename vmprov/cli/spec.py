"""``vmprov validate`` and ``vmprov schema``: lab files, before anything is done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vmprov.cli.options import json_option, print_json
from vmprov.errors import SpecError

if TYPE_CHECKING:
    from vmprov.spec.lab import LabSpec
    from vmprov.spec.machine import Machine

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Over the file, such as vms.web.memory=8GiB."
)
var_option = click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="The value of a variable, over that of the file."
)


def pairs(variables: tuple[str, ...]) -> dict[str, str]:
    """The values that ``--var`` gives."""
    for text in variables:
        if "=" not in text:
            raise click.UsageError(f"--var {text!r} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in variables)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@set_option
@var_option
@json_option
def validate_command(
    files: tuple[str, ...], overrides: tuple[str, ...], variables: tuple[str, ...], as_json: bool
) -> int:
    """Check lab files, and say every problem with its line and column. Nothing else is looked at or changed."""
    given = pairs(variables)
    found = [_checked(file, overrides, given) for file in files]
    if as_json:
        print_json(found)
    else:
        for one in found:
            for problem in one["problems"]:
                click.echo(problem, err=True)
            if one["ok"]:
                vms = len(one["vms"])
                click.echo(f"{one['file']}: ok: lab {one['lab']}, {vms} VM{'' if vms == 1 else 's'}")
    return 0 if all(one["ok"] for one in found) else SpecError.exit_code


def lab_of(file: str, overrides: tuple[str, ...], variables: dict[str, str]) -> LabSpec:
    """The lab in a file; flows are loaded only if it names one."""
    from vmprov.spec.load import load_lab

    def machine_of(flow: str) -> Machine:
        from vmprov.flows.load import flow_machine

        return flow_machine(flow)

    return load_lab(file, overrides=overrides, variables=variables, flows=machine_of)


def _checked(file: str, overrides: tuple[str, ...], variables: dict[str, str]) -> dict[str, Any]:
    try:
        lab = lab_of(file, overrides, variables)
    except SpecError as wrong:
        return {"file": file, "ok": False, "problems": list(wrong.problems), "lab": "", "vms": []}
    return {"file": file, "ok": True, "problems": [], "lab": lab.lab, "vms": [vm.name for vm in lab.vms]}


@click.command()
@click.argument("kind", type=click.Choice(["lab", "flow"]), default="lab")
def schema_command(kind: str) -> None:
    """Print the JSON schema of lab files, or of flow files, for editors."""
    if kind == "flow":
        from vmprov.flows.load import schema as flow_schema

        print_json(flow_schema())
        return
    from vmprov.spec.file import schema

    print_json(schema())
