"""The first page of a report: what happened, what is in it, what is not, and how to do it again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from vmprov.engine.evidence.repeat import exact_size
from vmprov.engine.evidence.timeline import sentence, verdict_of
from vmprov.store import VMRecord
from vmprov.views import Timeline

TITLE = "vmprov report of "

# File -> what it is; {n} stands for a serial port's number.
_MEANINGS = {
    "console-{n}.log": "every byte that serial port {n} sent",
    "console-{n}.txt": "the same as lines: when, seconds since power-on, text",
    "console-{n}.input": "what was typed on serial port {n} and by whom, without passwords",
    "console-{n}.times": "when the bytes of the log were seen, in 32-byte records",
    "judgement.json": "the verdict in full",
    "timeline.json": "the stages, in seconds since power-on",
    "flow.json": "the flow by which it was judged",
    "watch.json": "when the watch began and what counted as success",
    "record.json": "the VM's record",
    "domain.xml": "the domain's definition in libvirt",
    "network.xml": "the network's definition in libvirt",
    "leases.json": "addresses that the network's DHCP handed out",
    "qemu.log": "QEMU's own log, its last MiB",
    "vagrant.log": "what vagrant printed",
    "vagrant.json": "the VM's part of the Vagrantfile, as values",
    "domain-fragment.xml": "what was spliced into the domain's definition",
    "Vagrantfile": "the lab's Vagrantfile",
    "doctor.json": "vmprov doctor, when this report was made",
}


def readme(
    vm: VMRecord,
    timeline: Timeline,
    *,
    command: str,
    versions: Mapping[str, str],
    files: Sequence[str],
    missing: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """The page; ``command`` makes such a VM again, ``missing`` is file -> why, ``notes`` are sentences."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    parts = [
        ("", [f"{TITLE}{vm.name}", f"made {now}"]),
        ("Summary", _summary(vm, timeline)),
        ("Where time went", _stages(timeline)),
        ("Last lines", (verdict.last_lines if (verdict := verdict_of(vm)) else ())),
        ("To do it again, in this directory", [command, *_afterwards(vm)]),
        ("Versions", _columns(versions)),
        ("Files", _columns({name: _meaning(name) for name in sorted(files)})),
        ("Missing", _columns(missing)),
        ("Notes", notes),
    ]
    blocks = [[*([title, "-" * len(title)] if title else []), *lines, ""] for title, lines in parts if lines]
    return "\n".join(line for block in blocks for line in block)


def _summary(vm: VMRecord, timeline: Timeline) -> list[str]:
    verdict = verdict_of(vm)
    facts = {
        "verdict": sentence(verdict) if verdict else "none yet",
        "why": vm.why,
        "seconds": f"{timeline.seconds:.1f} from power-on, {vm.seconds:.1f} from the request",
        "state": vm.state,
        "flow": vm.flow,
        "lab": vm.lab,
        "image": vm.image or "none: a blank disk",
        "host": f"{vm.host}, driver {vm.driver}",
        "machine": f"{vm.cpus} CPUs, {exact_size(vm.memory)} memory, {exact_size(vm.disk)} disk",
        "network": f"{vm.network}, {vm.mac}, {vm.address or 'no address known'}",
        "domain": f"{vm.domain}, {vm.uuid}",
        "created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(vm.created)) if vm.created else "",
    }
    return list(_columns({name: text for name, text in facts.items() if text}))


def _stages(timeline: Timeline) -> list[str]:
    return [
        f"{stay.start:9.1f} s  {stay.seconds:9.1f} s  {stay.outcome or 'lasts':<10}  {stay.stage}"
        + (f" (boot {stay.boot})" if stay.boot > 1 else "")
        for stay in timeline.stages
    ]


def _afterwards(vm: VMRecord) -> Iterator[str]:
    name = shlex.quote(vm.name)
    yield f"vmprov watch {name}"
    yield f"vmprov show {name} --timeline"
    yield f"vmprov logs {name} --timestamps"


def _columns(facts: Mapping[str, str]) -> list[str]:
    width = max(map(len, facts), default=0)
    return [f"{name:<{width}}  {text}" for name, text in facts.items()]


def _meaning(name: str) -> str:
    for number in ("0", "1"):
        pattern = name.replace(f"-{number}.", "-{n}.", 1)
        if pattern in _MEANINGS:
            return _MEANINGS[pattern].replace("{n}", number)
    return ""
