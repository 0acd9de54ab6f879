"""``vmprov list`` and ``vmprov show``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_object, print_table
from vmprov.cli.timeline import ON_STDOUT, show_timelines
from vmprov.engine.timeline import sentence, verdict_from
from vmprov.errors import NotFound
from vmprov.lab import Vmprov
from vmprov.spec.quantities import format_size
from vmprov.views import VMView


@click.command()
@click.option("--lab", help="Only this lab's machines.")
@json_option
@click.pass_obj
def list_command(session: Session, lab: str | None, as_json: bool) -> None:
    """List machines as they are now."""
    with opened(session) as vmprov:
        vms = vmprov.vms(lab)
    if as_json:
        print_json([vm.to_json() for vm in vms])
        return
    columns = ("VM", "LAB", "STATE", "VERDICT", "ADDRESS", "IMAGE", "CPUS", "MEMORY", "HOST")
    rows = [
        (
            vm.name,
            vm.lab,
            vm.state,
            vm.told_verdict,
            vm.address or "-",
            vm.image or "-",
            str(vm.cpus),
            format_size(vm.memory),
            vm.host,
        )
        for vm in vms
    ]
    if rows:
        print_table(columns, rows)
    else:
        click.echo("no machines; make some with: vmprov create --count 3", err=True)


@click.command()
@click.argument("name", metavar="VM|LAB")
@click.option("--timeline", is_flag=False, flag_value=ON_STDOUT, metavar="[FILE.svg]",
              help="Where time went, stage by stage: a table, or a drawing. Comes after the name.")  # fmt: skip
@json_option
@click.pass_obj
def show_command(session: Session, name: str, timeline: str | None, as_json: bool) -> None:
    """Show everything that is known about a machine, or about each machine of a lab."""
    if timeline is not None:
        with opened(session) as vmprov:
            show_timelines(vmprov, name, timeline, as_json=as_json)
        return
    with opened(session) as vmprov:
        several = vmprov.store.lab(name) is not None
        vms = vmprov.vms(name) if several else [_show(vmprov, name)]
    if as_json:
        print_json([vm.to_json() for vm in vms] if several else vms[0].to_json())
        return
    for number, vm in enumerate(vms):
        if number:
            click.echo()
        judgement = sentence(verdict_from(vm.judgement)) if vm.judgement else ""
        print_object({**vm.to_json(), "judgement": judgement}, as_json=False, sizes=("memory", "disk"))


def _show(vmprov: Vmprov, name: str) -> VMView:
    try:
        return vmprov.show(name)
    except NotFound as problem:
        try:
            gone = vmprov.timeline(name)
        except NotFound:
            raise problem from None
        raise NotFound(
            f"no VM called {name!r} any more: {gone.verdict or 'it failed'}",
            hint=f"its logs were kept; see: vmprov show {name} --timeline, and vmprov report {name}",
        ) from problem
