"""What has to be done: a pure function of what is wanted, what is recorded, and what exists."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from vmprov.engine.observe import Seen
from vmprov.errors import Protected, SpecError
from vmprov.hypervisor import DomainState
from vmprov.hypervisor.hardware import Hardware
from vmprov.spec.lab import VMSpec
from vmprov.spec.quantities import exact_duration, format_size
from vmprov.spec.wishes import Wishes
from vmprov.store import VMRecord


class Action(StrEnum):
    """What is done to a VM.

    ``CREATE``: it is made. ``ADOPT``: a domain that exists is recorded, and runs. ``CHANGE``: it gets what is
    wanted now. ``MEND``: it gets what it had. ``REPLACE``: it is made anew, with its name, addresses and data disks,
    and a new system disk. ``DELETE``: it is removed with all that belongs to it.
    """

    CREATE = "create"
    ADOPT = "adopt"
    CHANGE = "change"
    MEND = "mend"
    REPLACE = "replace"
    DELETE = "delete"


@dataclass(frozen=True)
class Reason:
    """Why: a field that differs, ``was`` -> ``wanted``; or what is the matter with it, in ``was``.

    ``drift``: the record is as wanted, and what exists is not.
    """

    field: str
    was: str
    wanted: str = ""
    drift: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.was} -> {self.wanted}" if self.wanted else f"{self.field}: {self.was}"


@dataclass(frozen=True)
class Change:
    """What is done to one VM, why, and what it costs: whether it is off meanwhile, and which disks are lost.

    Of a data disk whose volume is lost, what was on it is lost when the VM next starts, at the latest.
    """

    action: Action
    name: str
    reasons: tuple[Reason, ...] = ()
    wanted: VMSpec | None = None
    record: VMRecord | None = None
    reboot: bool = False
    lost: tuple[str, ...] = ()

    @property
    def makes_ready(self) -> bool:
        """Whether the VM is not ready before this was done."""
        return self.action in (Action.CREATE, Action.REPLACE) or self._mends_state

    @property
    def starts(self) -> bool:
        """Whether the VM was off, and is powered on for this; one that is paused has its memory already."""
        return any(reason.field == "state" and reason.was != DomainState.PAUSED for reason in self.reasons)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Data disks that the VM does not have any more afterwards."""
        if self.record is None or self.wanted is None:
            return ()
        wanted = {disk.name for disk in self.wanted.disks}
        return tuple(disk.name for disk in self.record.machine.disks if disk.name not in wanted)

    @property
    def boots(self) -> bool:
        """Whether a VM that exists may be powered on for this."""
        return self.reboot or self.action is Action.MEND or self._mends_state

    @property
    def _mends_state(self) -> bool:
        return any(reason.field in ("state", "verdict", "judgement") for reason in self.reasons)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "action": self.action.value,
            "kind": "vm",
            "name": self.name,
            "reasons": [
                {"field": one.field, "was": one.was, "wanted": one.wanted, "drift": one.drift} for one in self.reasons
            ],
            "reboot": self.reboot,
            "data_lost": list(self.lost),
        }


@dataclass(frozen=True)
class Plan:
    """What has to be done to a lab's VMs, in the order of the file; ``kept`` are the VMs that stay as they are."""

    lab: str
    changes: tuple[Change, ...] = ()
    kept: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def only(self, targets: Sequence[str]) -> Plan:
        """The part of the plan that is about some VMs."""
        chosen = tuple(change for change in self.changes if change.name in targets)
        return Plan(self.lab, chosen, tuple(name for name in self.kept if name in targets))

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {"lab": self.lab, "changes": [one.to_json() for one in self.changes], "unchanged": list(self.kept)}


def make_plan(
    lab: str,
    wanted: Sequence[VMSpec],
    records: Sequence[VMRecord],
    seen: Mapping[str, Seen],
    expired: Container[str] = (),
) -> Plan:
    """What makes the lab as it is wanted; a record whose VM is not wanted (any more) is deleted.

    ``seen``: VMs that are recorded, and those whose domains are to be taken in, as they are. ``expired``: VMs whose
    time is up. Where they are wanted still, it begins again.
    """
    recorded = {vm.name: vm for vm in records}
    names = {spec.name for spec in wanted}
    changes: list[Change] = []
    kept: list[str] = []
    for spec in wanted:
        record = recorded.get(spec.name)
        if record is None:
            new = _adoption(spec, seen[spec.name]) if spec.domain else Change(Action.CREATE, spec.name, wanted=spec)
            changes.append(new)
            continue
        change = _change(spec, record, seen[spec.name], expired=spec.name in expired)
        if change is None:
            kept.append(spec.name)
        else:
            changes.append(change)
    for name, record in recorded.items():
        if name not in names:
            lost = () if record.adopted else ("system disk", *(disk.name for disk in record.machine.disks))
            changes.append(Change(Action.DELETE, name, (Reason("name", "not in the file"),), record=record, lost=lost))
    return Plan(lab, tuple(changes), tuple(kept))


def refuse_losses(plan: Plan) -> None:
    """Raise :class:`SpecError` if a data disk would shrink, :class:`Protected` if a protected VM would lose data."""
    _refuse_shrinking(plan.changes)
    _refuse_touching_protected(plan.changes)


def _refuse_touching_protected(changes: Sequence[Change]) -> None:
    # What was never finished has nothing to lose.
    doomed = [one for one in changes if one.lost or one.action is Action.DELETE]
    records = {one.name: one.record for one in doomed if one.record is not None}
    names = [name for name, record in records.items() if record.protected and record.state != "creating"]
    if names:
        raise Protected(*names)


def _refuse_shrinking(changes: Sequence[Change]) -> None:
    problems = []
    for change in changes:
        if change.record is None or change.wanted is None or change.record.adopted:
            continue
        sizes = {disk.name: disk.size for disk in change.record.machine.disks}
        problems += [
            f"{change.name}: {shrinking(disk.name, sizes[disk.name], disk.size)}"
            for disk in change.wanted.disks
            if disk.size < sizes.get(disk.name, 0)
        ]
    if problems:
        raise SpecError("; ".join(problems), hint="a smaller disk needs another name", problems=problems)


def shrinking(disk: str, size: int, wanted: int) -> str:
    """Why a disk cannot get the size that is wanted."""
    return f"disks only grow: {disk} has {format_size(size)}, and {format_size(wanted)} is less"


def spec_of(record: VMRecord, **changes: Any) -> VMSpec:
    """What a VM would be wanted as, to be as it is recorded, but for ``changes``."""
    wishes = record.machine.given() | {"labels": dict(record.labels), "protect": record.protected}
    return VMSpec(**{**wishes, **changes, "name": record.name, "group": record.name})


def wishes_of(spec: VMSpec) -> Wishes:
    """What is wished for a VM, without what it is called."""
    return Wishes(**{name: value for name, value in spec.given().items() if name in Wishes.model_fields})


def drift_of(record: VMRecord, seen: Seen) -> tuple[Reason, ...]:
    """How a VM differs from what is recorded of it."""
    return tuple(_drift(record, seen))


def _change_of_adopted(spec: VMSpec, record: VMRecord, seen: Seen, *, expired: bool) -> Change | None:
    """Whatever machine the file describes: a domain that is not ours stays as it is."""
    reasons = [*_about_record(spec, record, expired=expired), *drift_of(record, seen)]
    if spec.ttl != record.machine.ttl:
        reasons.append(Reason("ttl", _told("ttl", record.machine.ttl), _told("ttl", spec.ttl)))
    if not reasons:
        return None
    action = Action.CHANGE if any(not reason.drift for reason in reasons) else Action.MEND
    return Change(action, spec.name, tuple(reasons), spec, record)


def _change(spec: VMSpec, record: VMRecord, seen: Seen, *, expired: bool) -> Change | None:
    if record.adopted:
        return _change_of_adopted(spec, record, seen, expired=expired)
    machine, before = wishes_of(spec), _as_it_is(spec, record)
    differences = list(_differences(before, machine)) if machine != before else []
    ours = _about_record(spec, record, expired=expired)
    reasons = (*(reason for reason, _ in differences), *ours, *drift_of(record, seen))
    if not reasons:
        return None
    heaviest = max((cost for _, cost in differences), default=_Cost.NONE)
    ruined = _ruined(record, seen)
    lost: list[str] = []
    if ruined:
        reasons = tuple(sorted(reasons, key=lambda reason: not reason.drift))
    if ruined or heaviest is _Cost.SYSTEM_DISK:
        action, reboot = Action.REPLACE, True
        lost.append("system disk")
    else:
        action = Action.CHANGE if any(not reason.drift for reason in reasons) else Action.MEND
        reboot = heaviest is not _Cost.NONE or any(reason.field in _NEEDS_REBOOT for reason in reasons if reason.drift)
        reboot = reboot and seen.state.is_on
    change = Change(action, spec.name, reasons, spec, record, reboot=reboot)
    lost += [*change.dropped, *_lost_disks(record, seen)]
    return replace(change, lost=tuple(dict.fromkeys(lost)))


def _adoption(spec: VMSpec, seen: Seen) -> Change:
    """A domain is taken in, and is to run like any VM."""
    reasons = [Reason("domain", f"{spec.domain}, as it is")]
    if seen.state is not DomainState.RUNNING:
        reasons.append(Reason("state", str(seen.state), "running"))
    return Change(Action.ADOPT, spec.name, tuple(reasons), wanted=spec)


def alteration(spec: VMSpec, record: VMRecord, state: DomainState) -> Change | None:
    """What brings a VM to what is wanted now, where it is, whatever else is the matter with it; or nothing."""
    differences = list(_differences(_as_it_is(spec, record), wishes_of(spec)))
    if not differences:
        return None
    reboot = any(cost is not _Cost.NONE for _, cost in differences) and state.is_on
    reasons = tuple(reason for reason, _ in differences)
    return Change(Action.CHANGE, spec.name, reasons, spec, record, reboot=reboot)


def _as_it_is(spec: VMSpec, record: VMRecord) -> Wishes:
    """What was wanted of a VM; where a size of its system disk is wanted now, with the one that it has."""
    return record.machine if spec.disk is None else record.machine.model_copy(update={"disk": record.disk})


# what is wanted now, against what was wanted


class _Cost(StrEnum):
    """What a changed field costs; the later, the more."""

    NONE = "0"
    REBOOT = "1"
    SYSTEM_DISK = "2"


# Fields of a machine that can be changed where they are. All others end in a new system disk.
_COSTS = {
    "cpus": _Cost.REBOOT,
    "memory": _Cost.REBOOT,
    "disk": _Cost.REBOOT,
    "disks": _Cost.REBOOT,
    "flow": _Cost.NONE,
    "timeout": _Cost.NONE,
    "ready": _Cost.NONE,
    # Where it boots from counts while it has nothing on its disk: when it is made, or made anew.
    "http_boot": _Cost.NONE,
    "ttl": _Cost.NONE,
}
# Of these, the record's own columns know better: they can be changed by commands.
_IN_COLUMNS = ("labels", "protect")
_SIZES = ("memory", "disk")


def _differences(before: Wishes, now: Wishes) -> Iterator[tuple[Reason, _Cost]]:
    for name in type(now).model_fields:
        was, wanted = getattr(before, name), getattr(now, name)
        if was == wanted or name in _IN_COLUMNS:
            continue
        cost = _COSTS.get(name, _Cost.SYSTEM_DISK)
        if name == "disk" and _smaller(was, wanted):
            cost = _Cost.SYSTEM_DISK
        yield Reason(name, _told(name, was), _told(name, wanted)), cost


def _smaller(was: int | None, wanted: int | None) -> bool:
    """Whether a system disk would shrink, as far as sizes are given; the image's own size is not known here."""
    return wanted is None or (was is not None and wanted < was)


def _told(name: str, value: object) -> str:
    if name in _SIZES and isinstance(value, int):
        return format_size(value)
    if name == "ttl" and isinstance(value, float):
        return exact_duration(value)
    if name == "disks" and isinstance(value, tuple):
        return ", ".join(f"{disk.name} ({format_size(disk.size)})" for disk in value) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _about_record(spec: VMSpec, record: VMRecord, *, expired: bool) -> Iterator[Reason]:
    """What only we know of a VM, and its guest does not notice."""
    if expired and spec.ttl == record.machine.ttl:
        yield Reason("ttl", "its time is up", _told("ttl", spec.ttl))
    if dict(spec.labels) != dict(record.labels):
        yield Reason("labels", _labels(record.labels), _labels(spec.labels))
    if spec.protect != record.protected:
        yield Reason("protect", str(record.protected).lower(), str(spec.protect).lower())


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


# what is recorded, against what exists

_NEEDS_REBOOT = ("network", "cpus", "memory", "nics", "consoles", "disks", "verdict")


# What a VM in these states lacks was perhaps never there.
_UNFINISHED = ("creating", "rebuilding", "deleting", "broken")


def _lost_disks(record: VMRecord, seen: Seen) -> tuple[str, ...]:
    return () if record.state in _UNFINISHED else seen.lost.disks


def _ruined(record: VMRecord, seen: Seen) -> str:
    """Why the VM cannot be mended, if so: it was never finished, or what it consists of is lost."""
    if record.state in _UNFINISHED:
        return f"it is {record.state}, and nobody is at work on it"
    if record.state == "failed":
        return f"it failed: {record.why or record.verdict}"
    if seen.half_made:
        return "its domain was only half made"
    return _are_lost(seen.lost.volumes) if seen.lost.volumes else ""


def _are_lost(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} lost"


def _drift(record: VMRecord, seen: Seen) -> Iterator[Reason]:
    if record.adopted:
        if seen.state is not DomainState.RUNNING:
            yield Reason("state", str(seen.state), "running", drift=True)
        return
    if disks := _lost_disks(record, seen):
        yield Reason("disks", _are_lost(disks), "blank", drift=True)
    if ruined := _ruined(record, seen):
        yield Reason("state", ruined, drift=True)
        return
    if seen.state is not DomainState.RUNNING:
        yield Reason("state", str(seen.state), "running", drift=True)
    if seen.domain not in ("", record.domain):
        yield Reason("domain", seen.domain, record.domain, drift=True)
    if record.verdict not in ("success", ""):
        yield Reason("verdict", f"{record.verdict}: {record.why}", "success", drift=True)
    elif not record.verdict and seen.state is DomainState.RUNNING:
        yield Reason("judgement", "none since it was powered on", "success", drift=True)
    yield from _surroundings(seen)
    if seen.hardware is not None:
        yield from _hardware(record, seen.hardware)


def _surroundings(seen: Seen) -> Iterator[Reason]:
    """What it lacks beside its disks."""
    for name in seen.lost.networks:
        yield Reason("network", f"{name} is lost", drift=True)
    for name in seen.idle:
        yield Reason("network", f"{name} is stopped", drift=True)
    for name in seen.detached:
        yield Reason("disks", f"{name} is not attached", drift=True)
    for name in seen.strays:
        # Where the domain has it, its guest uses it.
        attached = seen.hardware is not None and seen.hardware.has(name)
        yield Reason("disks" if attached else "volumes", f"{name} is left over", drift=True)
    for what, lost in (("nvram", seen.lost.nvram), ("seed", seen.lost.seed)):
        if lost:
            yield Reason(what, "its volume is lost", "as when it was made", drift=True)


def _hardware(record: VMRecord, hardware: Hardware) -> Iterator[Reason]:
    """What somebody changed in the domain's definition."""
    if hardware.cpus != record.cpus:
        yield Reason("cpus", str(hardware.cpus), str(record.cpus), drift=True)
    # libvirt counts in KiB, vagrant in MiB.
    if abs(hardware.memory - record.memory) >= 1024**2:
        yield Reason("memory", format_size(hardware.memory), format_size(record.memory), drift=True)
    wanted = tuple((nic.mac.lower(), nic.network or f"bridge:{nic.bridge}") for nic in record.nics)
    if set(hardware.nics) != set(wanted):
        shown = (", ".join(f"{network} ({mac})" for mac, network in nics) or "none" for nics in (hardware.nics, wanted))
        yield Reason("nics", next(shown), next(shown), drift=True)
    if len(hardware.logs) < record.consoles:
        yield Reason("consoles", str(len(hardware.logs)), str(record.consoles), drift=True)
