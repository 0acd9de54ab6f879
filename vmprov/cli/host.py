"""``vmprov host``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import host_option, json_option, opened, print_json, print_object, print_table
from vmprov.cli.progress import choose_progress
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.spec.quantities import format_size


@click.group()
def host_command() -> None:
    """Start, stop and show hosts: the machines (or the container of ours) on which VMs run."""


@host_command.command("up")
@host_option
@click.pass_obj
def up(session: Session, host: str) -> None:
    """Make a host usable. ``create`` does this by itself."""
    session.cancel_on_signals()
    home = Home(Settings.from_environ().home)
    with choose_progress(lambda vm: home.console_log(vm, 0)) as progress, opened(session, progress) as vmprov:
        found = vmprov.host_up(host)
        click.echo(f"{vmprov.host(host).name} is up; guests run on {found.kind.upper()}: {found.why}")


@host_command.command("down")
@host_option
@click.option("--force", is_flag=True, help="Even while it holds machines; they are powered off and stay recorded.")
@click.pass_obj
def down(session: Session, host: str, force: bool) -> None:
    """Stop a host of ours. A libvirt that is not ours is left as it is, but for our runner container."""
    with opened(session) as vmprov:
        stopped = vmprov.host_down(host, force=force)
        click.echo(f"{vmprov.host(host).name} {'is down' if stopped else 'was not up'}")


@host_command.command("list")
@json_option
@click.pass_obj
def list_hosts(session: Session, as_json: bool) -> None:
    """List the default host and every host that holds machines of ours."""
    with opened(session) as vmprov:
        views = vmprov.host_views()
    if as_json:
        print_json([view.to_json() for view in views])
        return
    rows = [
        (
            view.name,
            "up" if view.up else "down",
            str(view.vms),
            str(view.cpus or "-"),
            format_size(view.free_memory) if view.up else "-",
        )
        for view in views
    ]
    print_table(("HOST", "STATE", "VMS", "CPUS", "FREE MEMORY"), rows)


@host_command.command("show")
@host_option
@json_option
@click.pass_obj
def show(session: Session, host: str, as_json: bool) -> None:
    """Show one host: what it has, and what is free."""
    with opened(session) as vmprov:
        view = vmprov.host_view(host)
    print_object(view.to_json(), as_json=as_json, sizes=("memory", "free_memory", "pool_available"))
