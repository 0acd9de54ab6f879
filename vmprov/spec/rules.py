"""What must hold between the parts of a lab: names, networks, what waits for what, serial numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from vmprov.documents import Document, Problem, Steps, unknown
from vmprov.spec.compose import Branch, flatten
from vmprov.spec.file import Entry
from vmprov.spec.lab import MOST_VMS, Network
from vmprov.spec.machine import NETWORK_MODES
from vmprov.spec.names import LONGEST_NAME

# What a subnet loses: the network's own address, the gateway's, and the broadcast address.
_NOT_FOR_VMS = 3


@dataclass(frozen=True)
class Draft:
    """A lab file on its way to a lab.

    ``tree`` and ``document``: all of it. ``merged``: what ``vms`` holds, over the defaults, by name. ``values``: the
    same without places. ``entries``: the same, as far as it is right by itself.
    """

    tree: Branch
    document: Document
    merged: dict[str, Branch]
    values: dict[str, dict[str, Any]]
    entries: dict[str, Entry]

    def count(self, name: str) -> int | None:
        """How many VMs an entry stands for; ``None`` for the one of that name, and where it cannot be told."""
        count = self.values[name].get("count")
        return count if type(count) is int and 1 <= count <= MOST_VMS else None

    def texts(self, name: str, field: str) -> list[tuple[Steps, str]]:
        """The texts in one of an entry's lists, each with its path in the entry; also where something else is wrong."""
        value = self.values[name].get(field, [])
        items = value if isinstance(value, list) else [value]
        return [((field, index), item) for index, item in enumerate(items) if isinstance(item, str)]

    def problem(self, name: str, path: Steps, what: str, *, hint: str = "") -> Problem:
        """A fault of an entry of ``vms``, or of the defaults that it has; of its name if there is no path."""
        if not path:
            return self.document.problem(("vms", name), what, hint=hint, key=True)
        if path[0] not in self.document.value["vms"][name]:
            return self.document.problem(("defaults", *path), what, hint=hint)
        return flatten(self.merged[name], ("vms", name)).problem(("vms", name, *path), what, hint=hint)

    def where(self, path: Steps) -> str:
        """The place of a key: ``in line 3``, with the file where it is another one than the lab's own."""
        branch = self.tree.at(path[:-1])
        if branch is None or not isinstance(branch.content, dict) or path[-1] not in branch.content:
            return ""
        place, inner = branch.content[path[-1]]
        file = "" if inner.source == self.tree.source else f" of {inner.source}"
        return f"in line {place.line}{file}" if place.line else f"of {inner.source}"

    def text(self, *path: str) -> str:
        """The text at a path; empty where there is none."""
        branch = self.tree.at(path)
        return branch.content if branch is not None and isinstance(branch.content, str) else ""

    @cached_property
    def networks(self) -> dict[str, Network]:
        """The lab's networks, by name, as far as they are right by themselves."""
        found = {}
        declared = self.document.value.get("networks") if isinstance(self.document.value, dict) else None
        for name, value in declared.items() if isinstance(declared, dict) else ():
            try:
                found[name] = Network.model_validate(value, context=self.document)
            except ValidationError:
                continue
        return found

    @cached_property
    def vm_names(self) -> dict[str, list[str]]:
        """What the VMs of each entry are called."""
        found = {}
        for name in self.values:
            count = self.count(name)
            found[name] = [name] if count is None else [f"{name}-{number}" for number in range(1, count + 1)]
        return found


def problems_of(draft: Draft) -> Iterator[Problem]:
    """Everything that is wrong between the parts."""
    yield from _names(draft)
    yield from _order(draft)
    yield from _networks(draft)
    yield from _subnets(draft)
    yield from _serial_numbers(draft)
    yield from _domains(draft)
    for name, entry in draft.entries.items():
        yield from _readiness(draft, name, entry)
    for word in ("host", "driver"):
        one, other = draft.text(word), draft.text("defaults", word)
        if one and other and one != other:
            what = f"the lab has the {word} {one!r} {draft.where((word,))} already"
            yield draft.document.problem(("defaults", word), what, hint=f"a lab has one {word}; remove one")


def _names(draft: Draft) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, vms in draft.vm_names.items():
        longest = vms[-1]
        if len(longest) > LONGEST_NAME >= len(name):
            what = f"with its number, the name {longest!r} is {len(longest)} characters long"
            yield draft.problem(name, (), what, hint=f"at most {LONGEST_NAME} are allowed; choose a shorter one")
        names = dict.fromkeys([*vms, name])
        clash = next((one for one in names if one in taken), "")
        if clash:
            other = taken[clash]
            what = f"'{name}' and '{other}' {draft.where(('vms', other))} both stand for {clash!r}"
            yield draft.problem(name, (), what, hint="rename one")
        taken.update(dict.fromkeys(names, name))
    if draft.text("lab") in taken:
        what = (
            f"'{taken[draft.text('lab')]}' {draft.where(('vms', taken[draft.text('lab')]))} stands for this name, too"
        )
        yield draft.document.problem(("lab",), what, hint="a VM and a lab cannot have the same name")
    total = sum(map(len, draft.vm_names.values()))
    if total > MOST_VMS:
        yield draft.document.problem(
            ("vms",), f"{total} VMs are too many", hint=f"at most {MOST_VMS} are allowed", key=True
        )


def _order(draft: Draft) -> Iterator[Problem]:
    """Names in ``after`` that stand for nothing, and what waits for itself."""
    owner = {vm: name for name, vms in draft.vm_names.items() for vm in vms}
    owner |= {name: name for name in draft.values}
    ways: dict[str, list[tuple[str, Steps]]] = {}
    for name in draft.values:
        for path, other in draft.texts(name, "after"):
            if other in owner:
                ways.setdefault(name, []).append((owner[other], path))
            else:
                what, hint = unknown("VM", other, owner)
                yield draft.problem(name, path, what, hint=hint)
    yield from _loops(draft, ways)


def _loops(draft: Draft, ways: Mapping[str, list[tuple[str, Steps]]]) -> Iterator[Problem]:
    """Each loop, at the ``after`` that closes it. Without recursion: a chain may have thousands of members."""
    done: set[str] = set()
    for start in ways:
        chain, turns = [start], [iter(ways[start])]
        while turns:
            step = next(turns[-1], None)
            if step is None:
                done.add(chain.pop())
                turns.pop()
                continue
            other, path = step
            if other in chain:
                loop = [*chain[chain.index(other) :], other]
                what = f"{' waits for '.join(loop[:8])}{' waits for ...' if len(loop) > 8 else ''}"
                yield draft.problem(chain[-1], path, what, hint="remove one of these")
            elif other not in done and other in ways:
                chain.append(other)
                turns.append(iter(ways[other]))


def _networks(draft: Draft) -> Iterator[Problem]:
    """NICs on networks that nobody declared, and networks with more NICs than addresses."""
    wanted: dict[str, int] = {}
    declared = draft.document.value.get("networks") if isinstance(draft.document.value, dict) else None
    known = set(declared) if isinstance(declared, dict) else set()
    for name in draft.values:
        for path, network in draft.texts(name, "networks"):
            if network in NETWORK_MODES or not re.fullmatch(r"[\w.-]+", network):
                continue
            wanted[network] = wanted.get(network, 0) + (draft.count(name) or 1)
            if network not in known:
                what, hint = unknown("network", network, [*known, *NETWORK_MODES])
                hint = hint if "mean" in hint else "declare it under networks: (mode: existing for one of the host)"
                yield draft.problem(name, path, what, hint=hint)
    for name, one in draft.networks.items():
        subnet = one.subnet
        if subnet is None:
            continue
        room = subnet.num_addresses - _NOT_FOR_VMS
        if one.mode == "existing":
            what = "a network that exists has its subnet already"
            yield draft.document.problem(("networks", name, "subnet"), what, hint="remove this")
        elif wanted.get(name, 0) > room:
            what = f"{wanted[name]} NICs are on this network, and {subnet} has room for {room}"
            yield draft.document.problem(("networks", name, "subnet"), what, hint="use a shorter prefix")


def _subnets(draft: Draft) -> Iterator[Problem]:
    subnets = [(name, network.subnet) for name, network in draft.networks.items() if network.subnet is not None]
    for index, (name, subnet) in enumerate(subnets):
        other = next((one for one in subnets[:index] if one[1].overlaps(subnet)), None)
        if other is not None:
            place = draft.where(("networks", other[0], "subnet"))
            what = f"{subnet} overlaps {other[1]} of '{other[0]}' {place}"
            yield draft.document.problem(("networks", name, "subnet"), what, hint="use another one")


def _serial_numbers(draft: Draft) -> Iterator[Problem]:
    taken: dict[str, Problem] = {}
    for name in draft.values:
        numbers, count = draft.texts(name, "serial_numbers"), draft.count(name) or 1
        if numbers and len(numbers) != count and name in draft.entries:
            what = f"{_counted(len(numbers), 'serial number')} for {_counted(count, 'VM')}"
            yield draft.problem(name, ("serial_numbers",), what, hint="give one for each, or none at all")
        for path, number in numbers:
            if number in taken:
                first = taken[number]
                what = (
                    f"{number!r} is the serial number of '{first.text}' already, see {first.source}:{first.place.line}"
                )
                yield draft.problem(name, path, what, hint="a serial number is one machine's")
            else:
                taken[number] = replace(draft.problem(name, path, ""), text=name)


def _domains(draft: Draft) -> Iterator[Problem]:
    """Domains that would be several VMs."""
    taken: dict[str, str] = {}
    for name, entry in draft.entries.items():
        if not entry.domain:
            continue
        if entry.count is not None:
            yield draft.problem(name, ("domain",), "a domain is one VM, and there is a count", hint="remove the count")
        if entry.domain in taken:
            what = f"{entry.domain!r} is the domain of '{taken[entry.domain]}' already"
            yield draft.problem(name, ("domain",), what, hint="a domain is one VM")
        taken[entry.domain] = name


def _readiness(draft: Draft, name: str, entry: Entry) -> Iterator[Problem]:
    if entry.ready == "flow" and not entry.flow:
        yield draft.problem(name, ("ready",), "there is no flow to be passed", hint="name it in flow, or remove this")
    elif entry.ready not in (None, "flow") and entry.flow:
        what = f"the flow is what proves that it is ready, not {entry.ready}"
        yield draft.problem(name, ("ready",), what, hint="remove ready or flow")
    elif entry.ready == "ssh" and not entry.image:
        yield draft.problem(
            name, ("ready",), "there is no SSH on a blank disk", hint="use login or power-on, or a flow"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
