"""``vmprov report``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json
from vmprov.events import Event, Note
from vmprov.lab import Vmprov
from vmprov.spec.quantities import format_size

# Seconds that the doctor may take: a host that hangs is a reason to write reports.
_DOCTOR_LIMIT = 5.0


@click.command()
@click.argument("name", metavar="VM")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH",
              help="A directory, or an archive if it ends in .tar.gz (default: ./VM-report.tar.gz).")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite an earlier report.")
@json_option
@click.pass_obj
def report_command(session: Session, name: str, output: Path | None, force: bool, as_json: bool) -> None:
    """Put all that tells why a machine is as it is into one archive, without secrets.

    Also for a machine that failed and was removed.
    """
    with opened(session) as vmprov:
        vmprov.events.listen(_tell)
        wanted = output or Path(f"{name}-report.tar.gz")
        path = vmprov.report(name, wanted, force=force, more=_doctor(vmprov, name))
    if as_json:
        print_json({"vm": name, "path": str(path)})
    else:
        size = f", {format_size(path.stat().st_size)}" if path.is_file() else ""
        click.echo(f"report on {name}: {path}{size}")


def _tell(event: Event) -> None:
    if isinstance(event, Note):
        click.echo(f"vmprov: {event.text}", err=True)


def _doctor(vmprov: Vmprov, name: str) -> dict[str, str]:
    """What the doctor finds about the machine's host, if that is up and quick."""
    from vmprov.doctor import examine
    from vmprov.engine.evidence.kept import find_vm
    from vmprov.engine.evidence.report import within

    uri = find_vm(vmprov.home, vmprov.store, name).vm.host

    def examined() -> str:
        if not vmprov.host(uri).is_up():
            return ""
        return json.dumps([finding.to_json() for finding in examine(vmprov, uri)], indent=1)

    found = within(_DOCTOR_LIMIT, examined)
    return {"doctor.json": found} if found else {}
