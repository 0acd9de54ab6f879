"""How a machine's onboarding went: its timeline, and the operating system that its login prompt named."""

from __future__ import annotations

import re
from pathlib import Path

from vmprov.console.capture import Capture
from vmprov.console.text import Stripper
from vmprov.engine.evidence.kept import Kept
from vmprov.engine.evidence.timeline import read_timeline, sentence, verdict_of
from vmprov.flows.verdict import Verdict
from vmprov.views import Onboarding

# A login prompt stands a few lines below the line that names the system.
_BEFORE, _AFTER = 8192, 256
_EDGE_MICROVISOR = re.compile(r"Welcome to (?P<os>Edge Microvisor Toolkit[ \w.+-]*?)\s*(?:\(|$)", re.M)
# What getty prints from /etc/issue: the system, the host's name, the terminal.
_ISSUE = re.compile(r"^(?P<os>[A-Z][\w./()+ -]{2,60}?)(?: \S+)? tty\w+\s*$", re.M)


def onboarding(found: Kept) -> Onboarding:
    """Of a VM that is there, or was."""
    vm = found.vm
    timeline, verdict = read_timeline(vm, found.directory), verdict_of(vm)
    stages: dict[str, float] = {}
    for stay in timeline.stages:
        stages[stay.stage] = stages.get(stay.stage, 0.0) + stay.seconds
    return Onboarding(
        vm=vm.name, lab=vm.lab, serial_number=vm.serial_number, flow=vm.flow,
        os=_system(verdict, found.directory) if verdict else "",
        stage=timeline.stages[-1].stage if timeline.stages else "",
        kind=verdict.kind if verdict else "", verdict=timeline.verdict,
        why=sentence(verdict) if verdict and verdict.kind != "success" else "",
        seconds=timeline.seconds, stages=stages,
    )  # fmt: skip


def _system(verdict: Verdict, directory: Path) -> str:
    """The operating system that was named just before the login prompt that made the success."""
    if verdict.kind != "success" or verdict.offset < 0:
        return ""
    capture = Capture(directory / f"console-{verdict.console}.log")
    start, end = max(0, verdict.offset - _BEFORE), verdict.offset + _AFTER
    raw = b"".join(block for _, block in capture.read(start, end))
    stripper = Stripper()
    text = re.sub(r"\r+\n?", "\n", stripper.feed(raw) + stripper.finish())
    named = [(one.end(), one["os"].strip()) for one in (*_EDGE_MICROVISOR.finditer(text), *_ISSUE.finditer(text))]
    return max(named)[1] if named else ""
