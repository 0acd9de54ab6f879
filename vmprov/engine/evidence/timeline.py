"""Where a VM's time went, read back from what the watch wrote down."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vmprov.flows.verdict import Verdict
from vmprov.store import VMRecord
from vmprov.views import StageStay, Timeline


def read_timeline(vm: VMRecord, directory: Path) -> Timeline:
    """The timeline of a VM whose files lie in ``directory``; without stages where none was written down."""
    verdict = verdict_of(vm)
    try:
        limits, stages, now = _stages(directory, lasts=verdict is None)
    except (KeyError, TypeError, AttributeError):  # somebody else wrote something else
        limits, stages, now = {}, (), None
    last = max((stay.start + stay.seconds for stay in stages), default=0.0)
    return Timeline(
        vm=vm.name,
        lab=vm.lab,
        flow=vm.flow,
        verdict=str(verdict) if verdict else "",
        seconds=max(last, (now or 0.0) if verdict is None else verdict.at),
        stages=stages,
        limits={stage: limit for stage, limit in limits.items() if limit is not None},
        judgement=verdict.to_json() if verdict else None,
    )


def _stages(directory: Path, *, lasts: bool) -> tuple[dict[str, Any], tuple[StageStay, ...], float | None]:
    """Limits by stage, the stays, and where it ``lasts``, the seconds until now."""
    watched = _read(directory / "watch.json", {})
    now = time.time() - watched["wall"] if lasts and "wall" in watched else None
    limits = {stage["stage"]: stage.get("limit") for stage in _read(directory / "flow.json", {}).get("stages", [])}
    stays = _read(directory / "timeline.json", [])
    return limits, tuple(_stay(stay, limits.get(stay["stage"]), now) for stay in stays), now


def _stay(written: dict[str, Any], limit: float | None, now: float | None) -> StageStay:
    start, end = written["start"], written["end"]
    until = end if end is not None else max(start, now or 0.0)
    return StageStay(
        stage=written["stage"], start=start, end=end, seconds=until - start, outcome=written["outcome"],
        boot=written["boot"], limit=limit,
    )  # fmt: skip


def _read(path: Path, default: Any) -> Any:
    """The JSON in a file that is replaced as a whole; ``default`` where it is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return default


def verdict_of(vm: VMRecord) -> Verdict | None:
    """How the last run of a VM's flow ended; ``None`` while it has not."""
    return verdict_from(json.loads(vm.judgement)) if vm.judgement else None


def verdict_from(judgement: Mapping[str, Any]) -> Verdict:
    """The verdict that :meth:`Verdict.to_json` made into an object."""
    known = {field.name: judgement[field.name] for field in fields(Verdict) if field.name in judgement}
    return Verdict(**{**known, "failure_class": judgement["class"], "last_lines": tuple(judgement["last_lines"])})


def sentence(verdict: Verdict) -> str:
    """A verdict on one line, with the line of the console that decided.

    >>> sentence(Verdict("failed", "kernel", "kernel-panic", "Kernel panic - not syncing", 0, 12345))
    "failed(kernel-panic) in stage kernel: 'Kernel panic - not syncing' (console 0, byte 12345)"
    >>> sentence(Verdict("timeout", "login", why="no login prompt within 60 s"))
    'timeout(login): no login prompt within 60 s'
    """
    where = f" in stage {verdict.stage}" if verdict.stage and verdict.kind != "timeout" else ""
    if verdict.evidence and verdict.offset >= 0:
        return f"{verdict}{where}: {verdict.evidence!r} (console {verdict.console}, byte {verdict.offset})"
    return f"{verdict}{where}: {verdict.why}" if verdict.why else f"{verdict}{where}"
