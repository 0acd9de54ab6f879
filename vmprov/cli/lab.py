"""``vmprov plan``, ``vmprov apply`` and ``vmprov status``: labs that are described in files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from vmprov.cli import Session
from vmprov.cli.events import events_option
from vmprov.cli.options import agrees, json_option, opened, print_json, print_table, report_outcomes, selector_option
from vmprov.cli.progress import choose_progress
from vmprov.cli.spec import lab_of, pairs, set_option, var_option
from vmprov.errors import SpecError
from vmprov.paths import Home
from vmprov.settings import Settings

if TYPE_CHECKING:
    from vmprov.engine.plan import Plan

_SIGNS = {"create": ("+", "green"), "adopt": ("+", "green"), "change": ("~", "yellow"), "mend": ("!", "yellow"),
          "replace": ("±", "red"), "delete": ("-", "red")}  # fmt: skip
# The exit code that says: all went well, and there is something to do.
_CHANGES = 2

file_option = click.option(
    "-f", "--file", "file", default="lab.yaml", show_default=True, metavar="FILE", help="The lab's file."
)
target_option = click.option(
    "--target", "targets", multiple=True, metavar="VM", help="Only this machine, or this group of the file."
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (json_option, target_option, var_option, set_option, file_option):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if there is something to do.")
@click.pass_obj
def plan_command(
    session: Session, file: str, overrides: tuple[str, ...], variables: tuple[str, ...], targets: tuple[str, ...],
    as_json: bool, detailed_exitcode: bool,
) -> int:  # fmt: skip
    """Say what would make a lab as its file wants it: why, and what that costs. Nothing is changed."""
    lab = lab_of(file, overrides, pairs(variables))
    with opened(session) as vmprov:
        plan = vmprov.plan(lab, targets=targets)
    if as_json:
        print_json(plan.to_json())
    else:
        print_plan(plan)
    return _CHANGES if detailed_exitcode and plan else 0


@click.command()
@_options
@click.option("--auto-approve", "--yes", "approved", is_flag=True, help="Do not ask.")
@click.option("--parallel", type=int, default=0, help="Most machines booting at once (default: by cores and memory).")
@click.option("--on-failure", type=click.Choice(["rollback-vm", "keep", "rollback-lab", "stop"]), default="rollback-vm",
              show_default=True, help="What becomes of a machine that fails, and of the others.")  # fmt: skip
@events_option
@click.pass_obj
def apply_command(
    session: Session, file: str, overrides: tuple[str, ...], variables: tuple[str, ...], targets: tuple[str, ...],
    as_json: bool, approved: bool, parallel: int, on_failure: str,
) -> int:  # fmt: skip
    """Make a lab as its file wants it: what is missing is made, what differs is changed or mended, the rest stays.

    The plan is shown first, and asked for. Running it again does nothing where nothing changed.
    """
    lab = lab_of(file, overrides, pairs(variables))
    session.cancel_on_signals()
    home = Home(Settings.from_environ().home)
    expected = None
    if not approved:
        with opened(session) as vmprov:
            expected = vmprov.plan(lab, targets=targets)
        print_plan(expected, err=True)
        if expected and not agrees("Do this?"):
            raise SpecError("nothing was changed", hint="use --auto-approve to change without being asked")
    with choose_progress(lambda vm: home.console_log(vm, 0)) as progress, opened(session, progress) as vmprov:
        if sys.stdin.isatty():
            vmprov.ask = progress.ask
        result = vmprov.apply(lab, expected=expected, targets=targets, on_failure=on_failure, parallel=parallel)
    if as_json:
        print_json(result.to_json())
        return result.exit_code
    report_outcomes(result.vms)
    told = ", ".join(f"{count} {done}" for done, count in result.counts.items() if count)
    click.echo(f"lab {result.lab}: {told or 'nothing to do'}")
    return result.exit_code


def print_plan(plan: Plan, *, err: bool = False) -> None:
    """Print what has to be done, why, and what it costs."""
    width = max((len(change.name) for change in plan.changes), default=0)
    for change in plan.changes:
        sign, colour = _SIGNS[change.action.value]
        costs = ["reboot"] if change.reboot else []
        costs += [f"lost: {', '.join(change.lost)}"] if change.lost else []
        cost = f" ({'; '.join(costs)})" if costs else ""
        click.secho(f"{sign} {change.name.ljust(width)}  {change.action.value}{cost}", fg=colour, err=err)
        for reason in change.reasons:
            click.echo(f"    {reason}{'  [drift]' if reason.drift else ''}", err=err)
    counts: dict[str, int] = {}
    for change in plan.changes:
        counts[change.action.value] = counts.get(change.action.value, 0) + 1
    todo = ", ".join(f"{count} to {action}" for action, count in counts.items()) or "nothing to do"
    kept = f"; {len(plan.kept)} unchanged" if plan.kept else ""
    click.echo(f"lab {plan.lab}: {todo}{kept}", err=err)


@click.command()
@click.argument("targets", nargs=-1, metavar="[VM|LAB ...]")
@selector_option
@click.option("--drift", "drift", is_flag=True, help="Only machines that differ from what is recorded; exit 1 if any.")
@json_option
@click.pass_obj
def status_command(session: Session, targets: tuple[str, ...], selector: str | None, drift: bool, as_json: bool) -> int:
    """Say how machines differ from what is recorded of them: off, changed by hand, without their network, half made."""
    with opened(session) as vmprov:
        named = targets if selector is None else vmprov.matching(selector, targets)
        found = vmprov.drift(named) if named or selector is None else []
    differing = [one for one in found if one.drift]
    shown = differing if drift else found
    if as_json:
        print_json([one.to_json() for one in shown])
    elif shown:
        rows = [(one.vm, one.lab, one.state, "; ".join(one.drift) or "-") for one in shown]
        print_table(("VM", "LAB", "STATE", "DRIFT"), rows)
    else:
        click.echo("no drift" if found else "no machines", err=True)
    return 1 if drift and differing else 0
