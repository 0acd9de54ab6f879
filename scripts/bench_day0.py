"""How long edge nodes take to the micro-OS's prompt, beside firmware that tries PXE first, and what we add to it."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench_create import run, vmprov_command

from vmprov.lab import Vmprov
from vmprov.settings import Settings

_LAB = "bench-day0"
_MARKER = "Provide Username and password for the IDP"
# What libvirt writes into the log of a QEMU process that it starts.
_STARTING = re.compile(r"^(\S+ \S+): starting up libvirt version", re.MULTILINE)
_FLOW = f"""\
flow: bench-micro-os
consoles: [1, 0]
limit: 30m
onboarding: interactive
machine: {{image: "", firmware: uefi, tpm: true, memory: 1GiB, disk: 2GiB, boot: [disk, network]}}
ignore: [pxe-error, http-boot-error, ipxe-error]
stages:
  - stage: firmware
    expect: ["Start HTTP Boot over IPv4"]
  - stage: boot
    expect: ["{_MARKER}"]
"""


@dataclass(frozen=True)
class Boots:
    """Seconds of nodes from QEMU's start to the prompt; and of the command, beyond those of the last one there."""

    prompts: list[float]
    overhead: float


def measure(count: int) -> dict[str, Any]:
    """One node and ``count`` at once, with HTTP boot at once and with PXE first, against the Day-0 lab."""
    with Vmprov(Settings.from_environ()) as vmprov:
        was_up = vmprov.home.day0.exists()
        vmprov.host_up()
    run(*vmprov_command("day0", "lab", "up"))
    try:
        return {str(nodes): _compare(nodes) for nodes in (1, count)}
    finally:
        if not was_up:
            run(*vmprov_command("day0", "lab", "down"))


def _compare(count: int) -> dict[str, float]:
    ours, pxe = _boot(count, "--no-pxe"), _boot(count, "--pxe")
    return {
        "http": statistics.median(ours.prompts),
        "pxe": statistics.median(pxe.prompts),
        "ratio": statistics.median(ours.prompts) / statistics.median(pxe.prompts),
        "overhead": ours.overhead,
    }


def _boot(count: int, pxe: str) -> Boots:
    with tempfile.TemporaryDirectory() as scratch:
        flow = Path(scratch) / "micro-os.yaml"
        flow.write_text(_FLOW)
        words = ("--count", str(count), "--name", "node", "--lab", _LAB, "--flow", str(flow), pxe)
        begun = time.time()
        try:
            run(*vmprov_command("create", *words, "--parallel", str(count)))
            ended = time.time()
            with Vmprov(Settings.from_environ()) as vmprov:
                nodes = [_Node.of(vmprov, vm.name) for vm in vmprov.vms() if vm.lab == _LAB]
        finally:
            run(*vmprov_command("delete", _LAB, "--yes"))
    last = max(nodes, key=lambda node: node.asked)
    return Boots([node.asked - node.started for node in nodes], ended - begun - (last.asked - last.started))


@dataclass(frozen=True)
class _Node:
    """When, in seconds since the epoch, QEMU started, and the prompt was there."""

    started: float
    asked: float

    @classmethod
    def of(cls, vmprov: Vmprov, name: str) -> _Node:
        log = vmprov.home.host("embedded") / "lib/log/qemu" / f"{vmprov.show(name).domain}.log"
        (started,) = _STARTING.findall(log.read_text())
        lines = [line for port in (0, 1) for line in vmprov.vm(name).port(port).lines() if _MARKER in line.text]
        return cls(
            datetime.strptime(started, "%Y-%m-%d %H:%M:%S.%f%z").timestamp(), min(line.moment.wall for line in lines)
        )


def show(found: dict[str, Any]) -> None:
    """Print it."""
    print("edge nodes, from QEMU's start to the micro-OS's prompt:")
    for nodes, one in found.items():
        ratio = f"{one['http']:.1f} s : {one['pxe']:.1f} s with PXE first = {one['ratio']:.2f} (bar: 0.35)"
        print(f"  {nodes}: {ratio}; create adds {one['overhead']:.1f} s (bar: 3)")


if __name__ == "__main__":
    show(measure(3))
