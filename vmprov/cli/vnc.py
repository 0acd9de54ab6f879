"""``vmprov vnc``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import opened


@click.command()
@click.argument("name", metavar="VM")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port of 127.0.0.1 (default: a free one).")
@click.pass_obj
def vnc_command(session: Session, name: str, port: int) -> None:
    """Offer a machine's screen to a VNC viewer on this machine, until Ctrl-C.

    The machine has to be made with --graphics vnc. The password is in a file, which is named.
    """
    session.cancel_on_signals(quietly=True)
    with opened(session) as vmprov:
        screen = vmprov.screen(name, port=port)
        address, number = screen.address
        click.echo(f"{address}:{number} (password: {vmprov.home.screen_password(name)})")
        screen.serve(session.cancel)
