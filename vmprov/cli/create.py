"""``vmprov create``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from vmprov.cli import Session
from vmprov.cli.events import events_option
from vmprov.cli.machine import given, machine_options, machine_wishes
from vmprov.cli.options import host_option, json_option, opened, print_json, report_outcomes
from vmprov.cli.progress import choose_progress
from vmprov.errors import SpecError
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.views import CreateResult


@click.command()
@click.option("--count", type=int, help="How many machines (default 1).")
@click.option("--name", default="", metavar="PREFIX", help="Names begin with this; without --count, the one name.")
@click.option("--lab", default="", help="The lab to put them into (default: a new one).")
@click.option("--driver", default="", help="How domains are made: vagrant (the default), or fake on a host fake:.")
@host_option
@machine_options
@click.option("--serial-numbers", default="", metavar="A,B,...|@FILE",
              help="SMBIOS serial numbers, one per machine; a file has one a line, or a column.")  # fmt: skip
@click.option("--parallel", type=int, default=0, help="Most machines booting at once (default: by cores and memory).")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label, to choose machines by.")
@click.option("--ttl", metavar="DURATION", help="How long they live; see: vmprov renew.")
@click.option("--protect", is_flag=True, help="Nobody removes them before that is taken back.")
@click.option(
    "--on-failure",
    type=click.Choice(["rollback-vm", "keep", "rollback-lab", "stop"]),
    default="rollback-vm",
    show_default=True,
    help="What becomes of a machine that fails, and of the others.",
)
@click.option("--keep-on-failure", is_flag=True, help="The same as --on-failure keep.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@click.option("--output", type=click.Choice(["table", "yaml"]), default="table", show_default=True,
              help="With --dry-run, yaml prints the lab file that means the same.")  # fmt: skip
@json_option
@events_option
@click.pass_context
def create_command(
    context: click.Context, /, host: str, dry_run: bool, output: str, as_json: bool, **wanted: Any
) -> int:
    """Make virtual machines and wait until each is ready: until SSH answers with the lab's key, or the flow is passed.

    A machine that fails is removed again and does not stop the others. Machines outlive the command.
    Exit codes: 0 all ready, 1 some failed, 2 bad request, 3 host not ready, 4 not fully undone, 130 interrupted.
    """
    from vmprov.spec.request import CreateRequest
    from vmprov.spec.serials import read_serial_numbers

    if output == "yaml" and (as_json or not dry_run):
        raise click.UsageError("--output yaml needs --dry-run, and goes without --json")
    session: Session = context.obj
    wanted["serial_numbers"] = read_serial_numbers(wanted["serial_numbers"])
    wishes = machine_wishes(given(context, wanted))
    if "labels" in wishes:
        wishes["labels"] = _labels(wishes["labels"])
    request = CreateRequest.parse(**wishes)
    home = Home(Settings.from_environ().home)
    session.cancel_on_signals()
    if dry_run:
        with opened(session) as vmprov:
            result = vmprov.plan_create(request, host=host)
    else:
        with (
            choose_progress(lambda vm: home.console_log(vm, 0)) as progress,
            opened(session, progress) as vmprov,
        ):
            if sys.stdin.isatty():
                vmprov.ask = progress.ask
            result = vmprov.create(request, host=host)
    if as_json:
        print_json(result.to_json())
    elif output == "yaml":
        from vmprov.spec.lab import lab_of
        from vmprov.spec.write import to_yaml

        lab = lab_of(request, lab=result.lab, names=[vm.name for vm in result.vms], host=host)
        click.echo(to_yaml(lab), nl=False)
    else:
        _print_result(result)
    return result.exit_code


def _labels(texts: Sequence[str]) -> dict[str, str]:
    from vmprov.spec.labels import parse_label

    try:
        labels = [parse_label(text) for text in texts]
    except ValueError as problem:
        raise SpecError(f"--label: {problem}") from problem
    return dict(labels)


def _print_result(result: CreateResult) -> None:
    report_outcomes(result.vms)
    left = [vm.name for vm in result.vms if vm.state not in ("removed", "planned")]
    if result.exit_code == 130:
        click.echo(f"vmprov: interrupted; left: {', '.join(left) or 'nothing'}", err=True)
