"""``vmprov gc``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_table
from vmprov.cli.progress import choose_progress
from vmprov.errors import SpecError
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.views import Failure, GcResult, RebuildResult

_AGAIN = "vmprov gc --rebuild"


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--rebuild", is_flag=True, help="Make records again from what hosts hold; remove nothing.")
@click.option("--host", "hosts", multiple=True, metavar="URI", help="Look at this host too, if nothing speaks of it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def gc_command(session: Session, dry_run: bool, rebuild: bool, hosts: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Remove what is ours and no lab owns: what a killed command left, what expired, what no record speaks of.

    Found by records, by marks in libvirt's metadata, by names of volumes, by labels of containers, and in the state
    directory. Nothing of others is touched. Running it twice is fine.
    """
    if rebuild and dry_run:
        raise SpecError("--rebuild removes nothing, with or without --dry-run", hint="leave one of them out")
    session.cancel_on_signals()
    home = Home(Settings.from_environ().home)
    with choose_progress(lambda vm: home.console_log(vm, 0)) as progress, opened(session, progress) as vmprov:
        if rebuild:
            return _print_rebuilt(vmprov.rebuild_records(hosts=hosts), as_json=as_json)
        found = vmprov.gc(dry_run=True, hosts=hosts)
        if dry_run or not found.leftovers:
            return _print_collected(found, as_json=as_json, dry_run=True)
        if not yes and not _agrees(found):
            raise SpecError("nothing was removed", hint="use --yes to remove without being asked")
        result = vmprov.gc(hosts=hosts)
    return _print_collected(result, as_json=as_json, dry_run=False)


def _agrees(found: GcResult) -> bool:
    _print_table(found, err=True)
    if any(_AGAIN in one.why for one in found.leftovers):
        click.echo(f"vmprov: machines among these were recorded before; to have them again: {_AGAIN}", err=True)
    try:
        return click.confirm(f"Remove these {len(found.leftovers)}?", err=True)
    except click.Abort:
        # Nobody answers. The question stands there without a line end.
        click.echo(err=True)
        return False


def _print_table(found: GcResult, *, err: bool = False) -> None:
    rows = [(one.kind, one.name, one.host or "-", one.state, one.problem or one.why) for one in found.leftovers]
    if rows:
        print_table(("KIND", "NAME", "HOST", "STATE", "WHY"), rows, err=err)


def _print_collected(result: GcResult, *, as_json: bool, dry_run: bool) -> int:
    if as_json:
        print_json(result.to_json())
    else:
        _print_table(result)
        counts = {state: sum(one.state == state for one in result.leftovers) for state in ("removed", "kept", "failed")}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        nothing = "nothing is left behind"
        found = f"{len(result.leftovers)} would be removed" if result.leftovers else nothing
        click.echo(found if dry_run else told or nothing)
    _print_others("skipped", result.skipped)
    return 0 if result.ok else 4


def _print_rebuilt(result: RebuildResult, *, as_json: bool) -> int:
    if as_json:
        print_json(result.to_json())
    else:
        aside = f", and is now {result.aside}" if result.aside else ""
        click.echo(f"the database was {result.database}{aside}")
        click.echo(f"recorded again: {', '.join(result.vms) or 'no machine'}")
    if result.database != "sound":
        click.echo(
            "vmprov: what earlier commands did, and how long stages took before, is not known any more", err=True
        )
    _print_others("not recorded", result.untold)
    return 0 if not result.untold else 1


def _print_others(what: str, others: Sequence[Failure]) -> None:
    for one in others:
        click.echo(f"vmprov: {what}: {one.name}: {one.why}", err=True)
