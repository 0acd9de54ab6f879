"""``vmprov protect``, ``renew`` and ``label``: on what terms machines are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import click

from vmprov.cli import Session
from vmprov.cli.options import chosen, duration, opened, report, selector_option
from vmprov.cli.progress import PlainProgress
from vmprov.errors import SpecError
from vmprov.lab import Vmprov
from vmprov.views import Failure

_targets = click.argument("targets", nargs=-1, metavar="VM|LAB ...")


def _run(
    session: Session, targets: Sequence[str], selector: str | None, action: Callable[[Vmprov, list[str]], list[Failure]]
) -> int:
    with PlainProgress() as progress, opened(session, progress) as vmprov:
        failures = action(vmprov, chosen(vmprov, targets, selector))
    return report(failures)


@click.command()
@_targets
@selector_option
@click.option("--off", is_flag=True, help="Take it back.")
@click.pass_obj
def protect_command(session: Session, targets: tuple[str, ...], selector: str | None, off: bool) -> int:
    """Let nobody delete, rebuild or replace machines. They are started, stopped and used as before."""
    return _run(session, targets, selector, lambda vmprov, names: vmprov.protect(names, on=not off))


@click.command()
@_targets
@selector_option
@click.option("--ttl", metavar="DURATION|never", help="How long from now on (default: as long as before).")
@click.pass_obj
def renew_command(session: Session, targets: tuple[str, ...], selector: str | None, ttl: str | None) -> int:
    """Let machines live longer: their time to live begins again, now."""
    seconds = None if ttl is None else math.inf if ttl == "never" else duration("--ttl", ttl)
    return _run(session, targets, selector, lambda vmprov, names: vmprov.renew(names, ttl=seconds))


@click.command()
@click.argument("words", nargs=-1, metavar="[VM|LAB ...] KEY=VALUE|KEY- ...")
@selector_option
@click.pass_obj
def label_command(session: Session, words: tuple[str, ...], selector: str | None) -> int:
    """Set labels of machines (role=edge), or take them away (role-)."""
    from vmprov.spec.labels import parse_changes

    # Names of VMs and labs have no '=', and do not end with '-'.
    told = [word for word in words if "=" in word or word.endswith("-")]
    try:
        changes = parse_changes(told)
    except ValueError as problem:
        raise SpecError(str(problem)) from problem
    if not changes:
        raise SpecError("no label was named", hint="write for example role=edge, or role- to take it away")
    targets = [word for word in words if word not in told]
    return _run(session, targets, selector, lambda vmprov, names: vmprov.label(names, changes))
