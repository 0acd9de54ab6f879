"""``vmprov list`` and ``vmprov show``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_object, print_table
from vmprov.spec.quantities import format_size


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
    columns = ("VM", "LAB", "STATE", "ADDRESS", "IMAGE", "CPUS", "MEMORY", "HOST")
    rows = [
        (
            vm.name,
            vm.lab,
            vm.state,
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
@click.argument("name", metavar="VM")
@json_option
@click.pass_obj
def show_command(session: Session, name: str, as_json: bool) -> None:
    """Show everything that is known about one machine."""
    with opened(session) as vmprov:
        vm = vmprov.show(name)
    print_object(vm.to_json(), as_json=as_json, sizes=("memory", "disk"))
