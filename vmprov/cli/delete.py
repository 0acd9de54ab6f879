"""``vmprov delete``."""

from __future__ import annotations

import click

from vmprov.cli import Session
from vmprov.cli.events import events_option
from vmprov.cli.options import agrees, json_option, opened, print_json, report, selector_option
from vmprov.cli.progress import choose_progress
from vmprov.errors import Protected, SpecError
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.views import DeleteResult, Failure


@click.command()
@click.argument("targets", nargs=-1, metavar="[VM|LAB ...]")
@selector_option
@click.option("--all", "everything", is_flag=True, help="Everything that this state directory records, and kept logs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
@events_option
@click.pass_obj
def delete_command(
    session: Session, targets: tuple[str, ...], selector: str | None, everything: bool, yes: bool, dry_run: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Remove machines or whole labs: domains, disks, networks, consoles, Vagrant's state, records.

    Works from records; what others made on the same host is never touched. Running it twice is fine.
    """
    if not targets and not everything and selector is None:
        raise SpecError("nothing to delete was named", hint="name VMs or labs, or use --all or --selector")
    if everything and selector is not None:
        raise SpecError("--all does not go with --selector", hint="leave one of them out")
    session.cancel_on_signals()
    home = Home(Settings.from_environ().home)
    with opened(session) as vmprov:
        known, unknown = vmprov.select_known(targets)
        wanted = [target for target in targets if target not in unknown]
        if selector is not None:
            wanted = vmprov.matching(selector, wanted) if wanted or not targets else []
            known = vmprov.select(wanted)
        vms = vmprov.store.vms() if everything else known
    names = [vm.name for vm in vms if not vm.protected]
    for name in unknown:
        click.echo(f"vmprov: no VM or lab called {name!r}; nothing to remove", err=True)
    if dry_run:
        result = DeleteResult(deleted=names, failed=[_refused(vm.name) for vm in vms if vm.protected])
    else:
        if names and not yes and not agrees(f"Remove {', '.join(names)}?"):
            raise SpecError("nothing was removed", hint="use --yes to remove without being asked")
        with (
            choose_progress(lambda vm: home.console_log(vm, 0)) as progress,
            opened(session, progress) as vmprov,
        ):
            result = vmprov.delete(wanted, everything=everything)
    if as_json:
        print_json(result.to_json())
    else:
        verb = "would be removed" if dry_run else "removed"
        click.echo(f"{verb}: {', '.join(result.deleted) or 'nothing'}")
    report(result.failed)
    return result.exit_code


def _refused(name: str) -> Failure:
    return Failure(name, str(Protected(name, who="it")))
