"""``vmprov rebuild``, ``resize``, ``rename`` and ``import``: machines that become other ones, and stay the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click

from vmprov.cli import Session
from vmprov.cli.events import events_option
from vmprov.cli.lab import print_plan
from vmprov.cli.options import (
    agrees,
    chosen,
    duration,
    host_option,
    json_option,
    opened,
    print_json,
    report_outcomes,
    selector_option,
)
from vmprov.cli.progress import choose_progress
from vmprov.errors import SpecError
from vmprov.lab import Vmprov
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.views import WorkResult


def _work(session: Session, action: Callable[[Vmprov], WorkResult], *, as_json: bool) -> int:
    """Work on machines, tell how it goes and how it went."""
    session.cancel_on_signals()
    home = Home(Settings.from_environ().home)
    with choose_progress(lambda vm: home.console_log(vm, 0)) as progress, opened(session, progress) as vmprov:
        if sys.stdin.isatty():
            vmprov.ask = progress.ask
        result = action(vmprov)
    if as_json:
        print_json(result.to_json())
    else:
        report_outcomes(result.vms)
    return result.exit_code


@click.command()
@click.argument("targets", nargs=-1, metavar="VM|LAB ...")
@selector_option
@click.option("--image", metavar="IMAGE", help="Another image; '' for a blank disk (default: the present one).")
@click.option("--parallel", type=int, default=0, help="Most machines booting at once (default: by cores and memory).")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@events_option
@click.pass_obj
def rebuild_command(
    session: Session, targets: tuple[str, ...], selector: str | None, image: str | None, parallel: int, yes: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Make machines anew: new system disks, firmware variables and TPMs; data disks keep what is on them.

    Names, addresses and serial numbers stay.
    """
    with opened(session) as vmprov:
        vms = vmprov.select(chosen(vmprov, targets, selector))
    names = [vm.name for vm in vms]
    doomed = [vm.name for vm in vms if not vm.protected]
    if doomed and not yes and not agrees(f"Make a new system disk for {', '.join(doomed)}, and lose the present one?"):
        raise SpecError("nothing was rebuilt", hint="use --yes to rebuild without being asked")
    return _work(session, lambda vmprov: vmprov.rebuild(names, image=image, parallel=parallel), as_json=as_json)


@click.command()
@click.argument("name", metavar="VM")
@click.option("--cpus", type=int, help="Virtual CPUs.")
@click.option("--memory", metavar="SIZE", help="Memory.")
@click.option("--disk", "disks", multiple=True, metavar="[NAME=]SIZE", help="The system disk, or a data disk; larger.")
@click.option("--yes", is_flag=True, help="Do not ask before a machine is rebooted.")
@json_option
@events_option
@click.pass_obj
def resize_command(
    session: Session, name: str, cpus: int | None, memory: str | None, disks: tuple[str, ...], yes: bool, as_json: bool
) -> int:
    """Give a machine other CPUs, memory, or larger disks; one that runs is rebooted. If that fails, nothing changes."""
    system, data = _disks(disks)
    if cpus is None and memory is None and not disks:
        raise click.UsageError("nothing to change was named: --cpus, --memory or --disk")
    sizes = {"cpus": cpus, "memory": memory, "disk": system, "disks": data}
    with opened(session) as vmprov:
        plan = vmprov.plan_resize(name, **sizes)
    print_plan(plan, err=True)
    reboot = any(change.reboot for change in plan.changes)
    if reboot and not yes and not agrees(f"Reboot {name} for it?"):
        raise SpecError("nothing was changed", hint="use --yes to reboot it without being asked")
    return _work(
        session, lambda vmprov: vmprov.resize(name, cpus=cpus, memory=memory, disk=system, disks=data), as_json=as_json
    )


@click.command()
@click.argument("name", metavar="VM")
@click.argument("new", metavar="NEW")
@click.option("--restart", is_flag=True, help="Shut it down for that, and start it afterwards.")
@click.option("--timeout", default="10m", show_default=True, metavar="DURATION", help="Longest time to wait for it.")
@json_option
@events_option
@click.pass_obj
def rename_command(session: Session, name: str, new: str, restart: bool, timeout: str, as_json: bool) -> int:
    """Give a machine another name. It must be off. Its guest learns of it when the machine is rebuilt.

    Where an earlier attempt was killed, the same command finishes it.
    """
    seconds = duration("--timeout", timeout)

    def renamed(vmprov: Vmprov) -> WorkResult:
        return WorkResult([vmprov.rename(name, new, restart=restart, timeout=seconds)], 0)

    return _work(session, renamed, as_json=as_json)


@click.command()
@click.argument("domain", metavar="DOMAIN")
@click.option("--lab", default="", help="The lab to put it into (default: a new one).")
@click.option("--name", default="", help="What to call it (default: as the domain is called).")
@host_option
@json_option
@click.pass_obj
def import_command(session: Session, domain: str, lab: str, name: str, host: str, as_json: bool) -> int:
    """Take a domain that somebody made into a lab, without touching it.

    It is listed, started, stopped and reached like the others, and never changed. vmprov delete forgets it.
    """

    def imported(vmprov: Vmprov) -> WorkResult:
        return WorkResult([vmprov.import_domain(domain, lab=lab, name=name, host=host)], 0)

    return _work(session, imported, as_json=as_json)


def _disks(texts: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The size of the system disk, and those of data disks by name."""
    system: str | None = None
    data: dict[str, str] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if (equals and name in data) or (not equals and system is not None):
            raise click.UsageError(f"--disk {text!r}: this disk is named twice")
        if equals:
            data[name] = size
        else:
            system = size
    return system, data
