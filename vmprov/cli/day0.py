"""``vmprov day0``."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vmprov.cli import Session
from vmprov.cli.options import json_option, opened, print_json, print_table
from vmprov.cli.progress import LiveProgress, PlainProgress, ask
from vmprov.errors import NameTaken, OrchestratorFailed, SpecError
from vmprov.events import StageChanged
from vmprov.spec.quantities import parse_duration
from vmprov.waiting import Deadline

if TYPE_CHECKING:
    from vmprov.day0.answers import Host
    from vmprov.day0.client import Orchestrator
    from vmprov.views import Failure

F = TypeVar("F", bound=Callable[..., Any])

# The lab to practise with has a module of its own.
_LAB = "vmprov.cli.day0_lab"
_WAIT_LIMIT = "3h"


class _Day0Group(click.Group):
    """The commands below, and those of the lab, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "lab"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "lab":
            command: click.Command = importlib.import_module(_LAB).lab_command
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Day0Group)
def day0_command() -> None:
    """Onboard edge nodes: speak with an orchestrator, and report how it went.

    Where the orchestrator is comes from options, else from EDGE_... variables, else from vmprov.toml.
    """


def orchestrator_options(command: F) -> F:
    """The options that say where the orchestrator is and who asks."""
    options = (
        click.option("--cluster", metavar="DOMAIN", help="The orchestrator's domain.  [env: EDGE_CLUSTER]"),
        click.option("--api-url", metavar="URL", help="Its API (default: https://api.DOMAIN).  [env: EDGE_API_URL]"),
        click.option("--token-url", metavar="URL", help="Where tokens come from.  [env: EDGE_TOKEN_URL]"),
        click.option("--project", metavar="NAME", help="The project.  [env: EDGE_PROJECT]"),
        click.option("--username", metavar="NAME", help="The API user.  [env: EDGE_API_USERNAME]"),
        click.option("--password-file", metavar="FILE", help="A file whose first line is the password; else "
                     "EDGE_API_PASSWORD, else you are asked.  [env: EDGE_API_PASSWORD_FILE]"),
        click.option("--ca-file", metavar="FILE", help="CA certificates to verify it with.  [env: EDGE_CA_FILE]"),
        click.option("--connect-to", metavar="ADDRESS[:PORT]", help="Where its names are.  [env: EDGE_CONNECT_TO]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@day0_command.command("register")
@click.argument("serial_numbers", metavar="SERIAL|@FILE...", nargs=-1, required=True)
@click.option("--if-missing", is_flag=True, help="Serial numbers that are registered already are fine.")
@orchestrator_options
@json_option
@click.pass_obj
def register(
    session: Session, /, serial_numbers: tuple[str, ...], if_missing: bool, as_json: bool, **where: str | None
) -> int:
    """Register serial numbers, so that their machines are onboarded without anybody typing.

    Exit codes: 0 all registered, 1 some were not.
    """
    numbers = _serial_numbers(serial_numbers)
    with _orchestrator(session, where) as orchestrator:
        orchestrator.check()
        found = orchestrator.register_all(numbers)
    bad = [one for one in found if one.outcome == "failed" or (one.outcome == "existing" and not if_missing)]
    if as_json:
        print_json({"ok": not bad, "hosts": [one.to_json() for one in found]})
    else:
        print_table(
            ("SERIAL NUMBER", "OUTCOME", "HOST"),
            [(one.serial_number, one.outcome, one.host_id or "-") for one in found],
        )
        for one in bad:
            click.echo(f"vmprov: {one.serial_number}: {one.why}", err=True)
    return 1 if bad else 0


@day0_command.command("hosts")
@orchestrator_options
@json_option
@click.pass_obj
def hosts(session: Session, /, as_json: bool, **where: str | None) -> None:
    """List the hosts that the orchestrator knows, and how far each is."""
    with _orchestrator(session, where) as orchestrator:
        found = orchestrator.hosts()
    _print_hosts(found, as_json=as_json)


@day0_command.command("status")
@click.argument("serial_numbers", metavar="SERIAL|@FILE...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until each is onboarded, or has failed.")
@click.option("--timeout", metavar="DURATION", help=f"With --wait: give up after so long (default: {_WAIT_LIMIT}).")
@orchestrator_options
@json_option
@click.pass_obj
def status(
    session: Session,
    /,
    serial_numbers: tuple[str, ...],
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **where: str | None,
) -> int:
    """Show how far hosts are, by their exact serial numbers.

    Exit codes: 0 none has failed (with --wait: all are onboarded), 1 some have failed or the time is up, 2 not known.
    """
    numbers = _serial_numbers(serial_numbers)
    if timeout and not wait:
        raise SpecError("--timeout is the limit of --wait", hint="add --wait, or leave it out")
    try:
        limit = parse_duration(timeout or _WAIT_LIMIT)
    except ValueError as problem:
        raise SpecError(f"--timeout: {problem}") from problem
    with _orchestrator(session, where) as orchestrator:
        if wait:
            with _progress() as progress:

                def changed(number: str, stage: str) -> None:
                    progress(StageChanged(vm=number, stage=stage))

                found = orchestrator.wait(numbers, Deadline(limit), changed=changed)
        else:
            found = [orchestrator.status(number) for number in numbers]
    _print_hosts(found, as_json=as_json)
    return 1 if any(host.ended == "failed" for host in found) else 0


@day0_command.command("unregister")
@click.argument("serial_numbers", metavar="SERIAL|@FILE...", nargs=-1, required=True)
@orchestrator_options
@json_option
@click.pass_obj
def unregister(session: Session, /, serial_numbers: tuple[str, ...], as_json: bool, **where: str | None) -> int:
    """Remove hosts and their instances from the orchestrator; what is gone already counts as removed."""
    from vmprov.views import Failure

    numbers = _serial_numbers(serial_numbers)
    removed: list[str] = []
    failed: list[Failure] = []
    with _orchestrator(session, where) as orchestrator:
        orchestrator.check()
        for number in numbers:
            try:
                there = orchestrator.unregister(number)
            except OrchestratorFailed as problem:
                failed.append(Failure(number, str(problem)))
                continue
            removed.append(number)
            if not as_json:
                click.echo(f"{number}: {'removed' if there else 'was not registered'}")
    return _told_removed(removed, failed, as_json=as_json)


def _told_removed(removed: Sequence[str], failed: Sequence[Failure], *, as_json: bool) -> int:
    from vmprov.cli.options import report
    from vmprov.views import DeleteResult

    if as_json:
        print_json(DeleteResult(removed, failed).to_json())
        return 1 if failed else 0
    return report(failed)


@day0_command.group("os-profile")
def os_profile() -> None:
    """List OS profiles, or choose the one that new hosts get."""


@os_profile.command("list")
@orchestrator_options
@json_option
@click.pass_obj
def list_profiles(session: Session, /, as_json: bool, **where: str | None) -> None:
    """List the operating systems that hosts can get; the default one is marked."""
    with _orchestrator(session, where) as orchestrator:
        profiles = orchestrator.os_profiles()
        default = orchestrator.default_os()
    chosen = default.id if default else ""
    if as_json:
        print_json([{**profile.to_json(), "default": profile.id == chosen} for profile in profiles])
        return
    rows = [
        (profile.name, profile.id, "yes" if profile.id == chosen else "-", profile.title or "-") for profile in profiles
    ]
    print_table(("OS PROFILE", "ID", "DEFAULT", "TITLE"), rows)


@os_profile.command("set")
@click.argument("name")
@orchestrator_options
@json_option
@click.pass_obj
def set_profile(session: Session, /, name: str, as_json: bool, **where: str | None) -> None:
    """Choose the operating system that new hosts get: by name, by id, or as microvisor or ubuntu.

    Nothing is changed if they get it already. If the change fails, they go on to get the old one.
    """
    with _orchestrator(session, where) as orchestrator:
        profile = orchestrator.os_profile(name)
        changed = orchestrator.set_default_os(profile.id)
    if as_json:
        print_json({**profile.to_json(), "changed": changed})
    else:
        click.echo(f"new hosts get {profile.name}" + ("" if changed else ", as before"))


@day0_command.command("import-config")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the settings there.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
@json_option
def import_old_config(file: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Read the settings file of earlier scripts, and print what stands in its place here.

    On stdout: the text of vmprov.toml, with the command as a comment. On stderr: what has no counterpart, and why.
    """
    from vmprov.day0.old_config import import_config

    found = import_config(file)
    if output and output.exists() and not force:
        raise NameTaken(f"{output} is there already", hint="choose another place, or overwrite it with --force")
    if output:
        output.write_text(found.toml, encoding="utf-8")
    if as_json:
        print_json(
            {
                "settings": found.settings,
                "environment": found.environment,
                "command": found.command,
                "toml": found.toml,
                "remarks": [{"key": one.key, "line": one.line, "text": one.text} for one in found.remarks],
            }
        )
        return
    words = [f"{name}={shlex.quote(value)}" for name, value in found.environment.items()]
    command = " ".join([*words, shlex.join(found.command)])
    click.echo(f"wrote {output}\n{command}" if output else f"# {command}\n{found.toml}", nl=bool(output))
    for one in found.remarks:
        place = f"{file}:{one.line}: {one.key}: " if one.line else ""
        click.echo(f"{place}{one.text}", err=True)


@day0_command.command("report")
@click.argument("targets", nargs=-1, metavar="[LAB|VM ...]")
@click.option("--format", "layout", type=click.Choice(("text", "markdown", "json", "junit")), default="text",
              show_default=True, help="How it is written.")  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it there (default: stdout)."
)
@json_option
@click.pass_obj
def report_onboardings(
    session: Session, targets: tuple[str, ...], layout: str, output: Path | None, as_json: bool
) -> None:
    """Show how machines' onboardings went: serial number, OS, stage, seconds in each stage, verdict.

    All machines where none is named; of a lab that is named, those that failed and were removed, too.
    """
    import json

    from vmprov.day0.report import FORMATS

    with opened(session) as vmprov:
        found = vmprov.onboardings(targets)
    if as_json or layout == "json":
        text = json.dumps([one.to_json() for one in found], indent=2) + "\n"
    else:
        text = FORMATS[layout](found)
    if output:
        output.write_text(text, encoding="utf-8")
        click.echo(f"report on {len(found)} machines: {output}", err=True)
    else:
        click.echo(text, nl=False)


@contextmanager
def _orchestrator(session: Session, where: dict[str, str | None]) -> Iterator[Orchestrator]:
    session.cancel_on_signals(quietly=True)
    with opened(session) as vmprov:
        if sys.stdin.isatty():
            vmprov.ask = ask
        with vmprov.orchestrator({field: value for field, value in where.items() if value}) as orchestrator:
            yield orchestrator


def _progress() -> PlainProgress | LiveProgress:
    return LiveProgress(lambda _number: "") if sys.stderr.isatty() else PlainProgress()


def _serial_numbers(given: Sequence[str]) -> tuple[str, ...]:
    from vmprov.spec.serials import read_serial_numbers

    files = [word for word in given if word.startswith("@")]
    if files and len(given) > 1:
        raise SpecError("a file of serial numbers goes alone", hint="give either @FILE or serial numbers")
    return read_serial_numbers(files[0] if files else ",".join(given))


def _print_hosts(found: Sequence[Host], *, as_json: bool) -> None:
    if as_json:
        print_json([host.to_json() for host in found])
        return
    rows = [
        (
            host.serial_number or "-",
            (host.instance.os_name if host.instance else "") or "-",
            host.id,
            (host.instance.id if host.instance else "") or "-",
            host.status or host.onboarding or host.registration or "-",
            str(host.provisioning) or "-",
            host.ended or "-",
        )
        for host in found
    ]
    print_table(("SERIAL NUMBER", "OS", "HOST", "INSTANCE", "STATUS", "PROVISIONING", "ENDED"), rows)
