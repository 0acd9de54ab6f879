"""Every fault of the Day-0 lab, each with real edge nodes; see scripts/day0faults.

Where a fault is for one node, another is made with it, which has to succeed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmprov.lab import Vmprov
from vmprov.settings import Settings

_LAB = "day0-faults"
_LIMIT = 1800.0
_MACHINE = ("--memory", "1GiB", "--disk", "2GiB")


@dataclass(frozen=True)
class Fault:
    """``name`` as for ``day0 lab fault`` (empty: the lab does as it should), and what has to come of it.

    ``verdict``: the class of the failure, or ``timeout``. ``stage``: where; empty where it is not the point. ``alone``:
    it strikes before a node has said who it is. ``words``: for ``create``.
    """

    name: str
    verdict: str
    stage: str = ""
    flow: str = "edge-io"
    alone: bool = False
    words: Sequence[str] = field(default=())


FAULTS = (
    Fault("", "timeout", "http-address", alone=True, words=("--no-dhcp", "--timeout", "60s")),
    Fault("boot-file-404", "http-boot-error", alone=True),
    Fault("bad-certificate", "http-boot-error", alone=True),
    Fault("slow-download:20000", "timeout", alone=True, words=("--timeout", "40s")),
    Fault("unsigned-boot-file", "secure-boot-refused", alone=True, words=("--firmware", "secure-boot")),
    Fault("wrong-credentials:2", "credentials-refused"),
    Fault("unregistered", "not-registered", flow="edge-nio"),
    Fault("mismatch", "secure-boot-mismatch"),
    Fault("secure-boot-unknown", "secure-boot-unknown"),
    Fault("digest-wrong", "provisioning-failed", "imaging"),
    Fault("disk-too-small", "provisioning-failed", "imaging"),
    Fault("hang:imaging", "timeout", "imaging", words=("--timeout", "150s")),
    Fault("reboot-loop", "reboot-loop"),
    Fault("panic", "kernel-panic"),
)


def vmprov(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it."""
    command = [str(Path(sys.executable).with_name("vmprov")), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, stdin=subprocess.DEVNULL)


def inventory() -> list[str]:
    """The serial numbers that the lab's orchestrator knows."""
    with Vmprov(Settings.from_environ()) as opened:
        return [node.serial_number for node in opened.day0_lab.status().nodes]


def meet(number: int, fault: Fault) -> dict[str, Any]:
    """Make nodes under a fault; what came of it, and what is wrong with that."""
    serials = [f"DAY0F{number:02}{letter}" for letter in ("A" if fault.alone else "AB")]
    vmprov("day0", "lab", "reset")
    if fault.name:
        only = () if fault.alone else ("--serial", serials[0])
        vmprov("day0", "lab", "fault", fault.name, *only)
    started = time.monotonic()
    words = ("--count", str(len(serials)), "--serial-numbers", ",".join(serials), "--name", "node", "--lab", _LAB)
    made = vmprov("create", "--flow", fault.flow, *words, *_MACHINE, *fault.words, "--json")
    seconds = time.monotonic() - started
    vms = json.loads(made.stdout)["vms"] if made.stdout else []
    vmprov("day0", "lab", "fault", "none")
    deleted = vmprov("delete", "--all", "--yes")
    problems = list(_wrong(fault, made, vms))
    if deleted.returncode:
        problems.append(f"delete: {deleted.stderr.strip()}")
    if left := inventory():
        problems.append(f"left in the inventory: {', '.join(left)}")
    judged = (vms[0].get("judgement") or {}) if vms else {}
    return {
        "fault": fault.name or " ".join(fault.words), "flow": fault.flow, "exit": made.returncode,
        "verdict": vms[0]["verdict"] if vms else "", "class": judged.get("class", ""), "stage": judged.get("stage", ""),
        "evidence": judged.get("evidence", ""), "why": vms[0]["why"] if vms else made.stderr.strip()[-300:],
        "sibling": vms[1]["verdict"] if len(vms) > 1 else "-", "seconds": round(seconds, 1), "problems": problems,
    }  # fmt: skip


def _wrong(fault: Fault, made: subprocess.CompletedProcess[str], vms: list[dict[str, Any]]) -> list[str]:
    if not vms:
        return [f"no nodes: {made.stderr.strip()[-300:]}"]
    problems = []
    judged = vms[0].get("judgement") or {}
    told = judged.get("class") or judged.get("kind", vms[0]["verdict"])
    if told != fault.verdict:
        problems.append(f"it is {told}, not {fault.verdict}")
    if fault.stage and judged.get("stage") != fault.stage:
        problems.append(f"in stage {judged.get('stage')}, not {fault.stage}")
    if made.returncode != 1:
        problems.append(f"exit code {made.returncode}")
    if len(vms) > 1 and vms[1]["verdict"] != "success":
        problems.append(f"its sibling: {vms[1]['verdict']}: {vms[1]['why']}")
    return problems


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/day0faults")
    parser.add_argument("--only", default="", help="faults, separated by commas; --no-dhcp is one")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    up = vmprov("day0", "lab", "up")
    if up.returncode:
        raise SystemExit(f"day0faults: {up.stderr}")
    found = []
    for number, fault in enumerate(FAULTS, 1):
        name = fault.name or " ".join(fault.words)
        if only and name not in only:
            continue
        found.append(meet(number, fault))
        one = found[-1]
        if not options.json:
            told = one["class"] or one["verdict"]
            print(
                f"{one['fault']}: {told} in {one['stage'] or '-'}, {one['seconds']} s, sibling {one['sibling']}, "
                f"{one['evidence'] or one['why']!r}: {'; '.join(one['problems']) or 'as it should be'}",
                flush=True,
            )
    if options.json:
        print(json.dumps(found, indent=2))
    bad = sum(bool(one["problems"]) for one in found)
    print(f"{len(found)} faults, {bad} not as they should be", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
