"""``vmprov ssh``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.options import opened
from vmprov.runner import replace_process


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name", metavar="VM")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
@click.pass_obj
def ssh_command(session: Session, name: str, command: tuple[str, ...]) -> None:
    """Log in to a machine with the lab's key, or run a command on it.

    Exits with the command's own exit code.
    """
    words = command[1:] if command[:1] == ("--",) else command
    with opened(session) as vmprov:
        argv = vmprov.ssh_argv(name, words)
    replace_process(argv)
