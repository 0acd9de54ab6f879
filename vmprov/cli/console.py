"""``vmprov console``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import opened


@click.command()
@click.argument("name", metavar="VM")
@click.option("--port", type=click.IntRange(0, 1), default=0, show_default=True, help="Which serial port.")
@click.option("--escape", default="^]", show_default=True, metavar="KEY", help="The key that leaves; none for no key.")
@click.option("--read-only", is_flag=True, help="Read along without typing, beside whoever is attached.")
@click.option("--steal", is_flag=True, help="Take over from whoever is attached.")
@click.pass_obj
def console_command(session: Session, name: str, port: int, escape: str, read_only: bool, steal: bool) -> None:
    """Attach to a machine's serial console.

    Leaving never disturbs the machine, and everything stays in its log. One at a time may type.
    """
    from vmprov.console.attach import attach, parse_escape

    key = parse_escape(escape)
    with opened(session) as vmprov:
        base = vmprov.console_port(name, port)
        log = vmprov.home.console_log(name, port)
        vmprov.keep_consoles()
    leave = f"{escape} leaves" if key else "nothing but a closed terminal leaves"
    ending = attach(
        base,
        log,
        name=name,
        escape=key,
        read_only=read_only,
        steal=steal,
        attached=lambda: click.echo(f"vmprov: attached to {name}, serial port {port}; {leave}", err=True),
        notice=lambda text: click.echo(f"vmprov: {text}", err=True),
    )
    click.echo(f"vmprov: {name}: {ending.value}", err=True)
