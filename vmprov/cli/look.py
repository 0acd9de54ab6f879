"""``vmprov list`` and ``vmprov show``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

import click

from vmprov.cli import Session
from vmprov.cli.options import (
    chosen,
    json_option,
    opened,
    pairs_text,
    print_json,
    print_object,
    print_table,
    selector_option,
)
from vmprov.cli.timeline import ON_STDOUT, show_timelines
from vmprov.engine.evidence.timeline import sentence, verdict_from
from vmprov.errors import NotFound
from vmprov.lab import Vmprov
from vmprov.spec.quantities import format_size
from vmprov.views import VMView


@click.command()
@click.option("--lab", help="Only this lab's machines.")
@selector_option
@json_option
@click.pass_obj
def list_command(session: Session, lab: str | None, selector: str | None, as_json: bool) -> None:
    """List machines as they are now."""
    with opened(session) as vmprov:
        vms = vmprov.vms(lab)
        if selector is not None:
            meant = set(vmprov.matching(selector))
            vms = [vm for vm in vms if vm.name in meant]
    if as_json:
        print_json([vm.to_json() for vm in vms])
        return
    if vms:
        _print_list(vms)
    elif selector is not None:
        click.echo(f"no VM has the labels {selector}", err=True)
    else:
        click.echo("no machines; make some with: vmprov create --count 3", err=True)


def _print_list(vms: Sequence[VMView]) -> None:
    """A table; columns that are empty for most people stand in it where there is anything in them."""
    columns: dict[str, Callable[[VMView], str]] = {
        "VM": lambda vm: vm.name,
        "LAB": lambda vm: vm.lab,
        "STATE": lambda vm: vm.state,
        "VERDICT": lambda vm: vm.told_verdict,
        "ADDRESS": lambda vm: vm.address,
        "IMAGE": lambda vm: vm.image,
        "CPUS": lambda vm: str(vm.cpus),
        "MEMORY": lambda vm: format_size(vm.memory),
        "HOST": lambda vm: vm.host,
    }
    seldom: dict[str, Callable[[VMView], str]] = {
        "EXPIRES": lambda vm: _left(vm.expires) if vm.expires else "",
        "LABELS": lambda vm: pairs_text(vm.labels),
        "NOTES": lambda vm: ",".join(word for word in ("protected", "adopted") if getattr(vm, word)),
    }
    columns |= {name: of for name, of in seldom.items() if any(map(of, vms))}
    print_table(list(columns), [[of(vm) or "-" for of in columns.values()] for vm in vms])


def _left(expires: float) -> str:
    """How long a machine still may live."""
    seconds = round(expires - time.time())
    if seconds <= 0:
        return "now"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"in {seconds // length}{unit}"
    return f"in {seconds}s"


@click.command()
@click.argument("name", required=False, metavar="VM|LAB")
@selector_option
@click.option("--timeline", is_flag=False, flag_value=ON_STDOUT, metavar="[FILE.svg]",
              help="Where time went, stage by stage: a table, or a drawing. Comes after the name.")  # fmt: skip
@json_option
@click.pass_obj
def show_command(session: Session, name: str | None, selector: str | None, timeline: str | None, as_json: bool) -> None:
    """Show everything that is known about a machine, or about each machine of a lab."""
    if name is None and selector is None:
        raise click.UsageError("Missing argument 'VM|LAB'")
    if timeline is not None and (name is None or selector is not None):
        raise click.UsageError("--timeline is of a machine or a lab, and goes without --selector")
    if timeline is not None and name is not None:
        with opened(session) as vmprov:
            show_timelines(vmprov, name, timeline, as_json=as_json)
        return
    with opened(session) as vmprov:
        several = selector is not None or vmprov.store.lab(name or "") is not None
        vms = _several(vmprov, name, selector) if several else [_show(vmprov, name or "")]
    if as_json:
        print_json([vm.to_json() for vm in vms] if several else vms[0].to_json())
        return
    for number, vm in enumerate(vms):
        if number:
            click.echo()
        judgement = sentence(verdict_from(vm.judgement)) if vm.judgement else ""
        expires = f"{datetime.fromtimestamp(vm.expires):%Y-%m-%d %H:%M} ({_left(vm.expires)})" if vm.expires else ""
        told = {
            "judgement": judgement,
            "nics": "; ".join(f"{nic['network'] or nic['bridge']} ({nic['mac']})" for nic in vm.nics if nic["mac"]),
            "labels": pairs_text(vm.labels),
            "protected": _yes(vm.protected),
            "expires": expires,
            "adopted": _yes(vm.adopted),
        }
        print_object({**vm.to_json(), **told}, as_json=False, sizes=("memory", "disk"))


def _yes(whether: bool) -> str:
    return "yes" if whether else "no"


def _several(vmprov: Vmprov, lab: str | None, selector: str | None) -> list[VMView]:
    names = chosen(vmprov, [lab] if lab else [], selector, required=False)
    meant = {vm.name for vm in vmprov.select(names)}
    return [vm for vm in vmprov.vms() if vm.name in meant]


def _show(vmprov: Vmprov, name: str) -> VMView:
    try:
        return vmprov.show(name)
    except NotFound as problem:
        try:
            gone = vmprov.timeline(name)
        except NotFound:
            raise problem from None
        raise NotFound(
            f"no VM called {name!r} any more: {gone.verdict or 'it failed'}",
            hint=f"its logs were kept; see: vmprov show {name} --timeline, and vmprov report {name}",
        ) from problem
