"""``vmprov start``, ``stop`` and ``reboot``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from vmprov.cli import Session
from vmprov.cli.events import events_option
from vmprov.cli.options import chosen, duration, opened, report, selector_option
from vmprov.cli.progress import choose_progress
from vmprov.lab import Vmprov
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.views import Failure

_names = click.argument("names", nargs=-1, metavar="VM|LAB ...")
_force = click.option("--force", is_flag=True, help="Pull the plug instead of asking the guest.")
_no_wait = click.option("--no-wait", is_flag=True, help="Return at power-on instead of when the machine is ready.")


def _timeout(default: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(
        "--timeout", default=default, show_default=True, metavar="DURATION", help="Longest time to wait."
    )


def _run(
    session: Session,
    names: Sequence[str],
    selector: str | None,
    action: Callable[[Vmprov, list[str]], Sequence[Failure]],
) -> int:
    session.cancel_on_signals()
    home = Home(Settings.from_environ().home)
    with choose_progress(lambda vm: home.console_log(vm, 0)) as progress, opened(session, progress) as vmprov:
        failures = action(vmprov, chosen(vmprov, names, selector))
    code = report(failures)
    return 130 if session.cancel.is_set else code


@click.command()
@_names
@selector_option
@_no_wait
@_timeout("10m")
@events_option
@click.pass_obj
def start_command(session: Session, names: tuple[str, ...], selector: str | None, no_wait: bool, timeout: str) -> int:
    """Power machines on and wait until they are ready."""
    seconds = duration("--timeout", timeout)
    return _run(session, names, selector, lambda vmprov, names: vmprov.start(names, timeout=seconds, wait=not no_wait))


@click.command()
@_names
@selector_option
@_force
@_timeout("2m")
@events_option
@click.pass_obj
def stop_command(session: Session, names: tuple[str, ...], selector: str | None, force: bool, timeout: str) -> int:
    """Ask machines to shut down, and wait until they have."""
    seconds = duration("--timeout", timeout)
    return _run(session, names, selector, lambda vmprov, names: vmprov.stop(names, timeout=seconds, force=force))


@click.command()
@_names
@selector_option
@_force
@_no_wait
@_timeout("10m")
@events_option
@click.pass_obj
def reboot_command(
    session: Session, names: tuple[str, ...], selector: str | None, force: bool, no_wait: bool, timeout: str
) -> int:
    """Shut machines down and start them again; their console logs go on."""
    seconds = duration("--timeout", timeout)
    return _run(
        session,
        names,
        selector,
        lambda vmprov, names: vmprov.reboot(names, timeout=seconds, force=force, wait=not no_wait),
    )
