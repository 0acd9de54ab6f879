"""``vmprov day0 lab``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_object, print_table
from vmprov.cli.progress import LiveProgress, PlainProgress, choose_progress
from vmprov.paths import Home
from vmprov.settings import Settings

if TYPE_CHECKING:
    from vmprov.day0.lab import Practice


@click.group()
def lab_command() -> None:
    """An orchestrator to practise against: HTTPS boot, micro-OS, two operating systems, API, faults on demand."""


@lab_command.command("up")
@click.option("--cluster", metavar="DOMAIN", default="", help="The domain of its host names (default: day0.internal).")
@click.option("--fault", "faults", metavar="NAME", multiple=True, help="Switch this fault on; may be repeated.")
@json_option
@click.pass_obj
def up(session: Session, cluster: str, faults: tuple[str, ...], as_json: bool) -> None:
    """Start the lab, in a container of ours. What it is made of is built the first time."""
    session.cancel_on_signals()
    with _progress() as progress, opened(session, progress) as vmprov:
        lab = vmprov.day0_lab.up(vmprov.events, session.cancel, cluster=cluster, faults=faults)
    _show(lab, as_json=as_json)


@lab_command.command("down")
@click.pass_obj
def down(session: Session) -> None:
    """Remove the lab: its container, certificates, keys, images and inventory."""
    with opened(session) as vmprov:
        removed = vmprov.day0_lab.down()
    click.echo(f"the Day-0 lab {'is down' if removed else 'was not up'}")


@lab_command.command("status")
@json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Show where the lab is, its inventory, and the faults that are on."""
    with opened(session) as vmprov:
        lab = vmprov.day0_lab.status()
    _show(lab, as_json=as_json)


@lab_command.command("fault")
@click.argument("name", metavar="NAME|none")
@click.option("--serial", metavar="NUMBER", default="", help="For this node only.")
@click.option("--off", is_flag=True, help="Switch it off again.")
@click.pass_obj
def fault(session: Session, name: str, serial: str, off: bool) -> None:
    """Have something go wrong from now on; ``none`` switches all faults off."""
    with opened(session) as vmprov:
        vmprov.day0_lab.fault(name, serial_number=serial, off=off)
        lab = vmprov.day0_lab.status()
    _show_faults(lab)


@lab_command.command("faults")
@json_option
def list_faults(as_json: bool) -> None:
    """List the faults that there are."""
    from vmprov.day0.orchestrator.faults import KINDS

    if as_json:
        print_json(
            [
                {"fault": name, "argument": list(kind.argument), "default": kind.default,
                 "for_one_node": not kind.of_all, "what": kind.does}
                for name, kind in KINDS.items()
            ]
        )  # fmt: skip
        return
    rows = [
        (f"{name}:{'|'.join(kind.argument)}" if kind.argument else name, kind.default or "-", kind.does)
        for name, kind in KINDS.items()
    ]
    print_table(("FAULT", "DEFAULT", "WHAT HAPPENS"), rows)


@lab_command.command("reset")
@click.pass_obj
def reset(session: Session) -> None:
    """Forget all nodes and faults, and install the first OS profile again."""
    with opened(session) as vmprov:
        vmprov.day0_lab.reset()
    click.echo("the Day-0 lab knows no nodes and has no faults")


def _progress() -> PlainProgress | LiveProgress:
    home = Home(Settings.from_environ().home)
    return choose_progress(lambda vm: home.console_log(vm, 0))


def _show(lab: Practice, *, as_json: bool) -> None:
    document = lab.to_json()
    if as_json:
        print_json(document)
        return
    shown = ("cluster", "address", "boot_url", "api_url", "project", "ca_file", "default_os")
    print_object(
        {
            "state": "up" if lab.up else "down",
            **{key: document[key] for key in shown},
            "credentials": document["credentials_file"],
        },
        as_json=False,
    )
    _show_faults(lab)
    if lab.nodes:
        click.echo()
        rows = [
            (node.serial_number, node.os or "-", node.onboarding or node.registration, node.provisioning or "-",
             node.status or "-")
            for node in lab.nodes
        ]  # fmt: skip
        print_table(("SERIAL", "OS", "ONBOARDING", "PROVISIONING", "STATUS"), rows)


def _show_faults(lab: Practice) -> None:
    shown = ", ".join(f"{one} on {one.serial}" if one.serial else str(one) for one in lab.faults)
    click.echo(f"{'faults':<14} {shown or '-'}")
