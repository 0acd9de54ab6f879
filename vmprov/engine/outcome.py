"""How it went for a VM that an operation worked on, and where its logs are then."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vmprov.engine.context import Context
from vmprov.engine.evidence.collect import collect
from vmprov.errors import Interrupted, LibvirtFailed, NotFullyUndone, VmprovError, WaitTimeout
from vmprov.flows.verdict import Kind
from vmprov.paths import make_private
from vmprov.store import VMRecord

_KEPT_LOGS = 50


@dataclass(frozen=True)
class Outcome:
    """How it went for one VM.

    ``verdict``: success, failed, timeout or cancelled. ``state``: ready; failed (and kept); removed (undone, or as
    asked for); broken (could not be undone fully, or not all that had to go is gone); refused (nothing was begun, and
    it is as it was).
    ``logs`` is the directory in which its logs are to be found.
    """

    vm: VMRecord
    verdict: str
    state: str
    why: str
    logs: Path


def blamed(outcomes: Sequence[Outcome], left: str) -> list[Outcome]:
    """The outcomes of VMs of which something that they shared is ``left``."""
    return [replace(outcome, state="broken", why="; ".join(filter(None, [outcome.why, left]))) for outcome in outcomes]


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """The exit code of a command that ended so."""
    if any(outcome.state == "broken" for outcome in outcomes):
        return NotFullyUndone.exit_code
    if any(outcome.verdict == "cancelled" for outcome in outcomes):
        return Interrupted.exit_code
    return 0 if all(outcome.verdict == "success" for outcome in outcomes) else 1


def verdict_kind(problem: VmprovError) -> Kind:
    """What kind of verdict a failure is that no console told."""
    if isinstance(problem, Interrupted):
        return "cancelled"
    return "timeout" if isinstance(problem, WaitTimeout) else "failed"


def failure_class(problem: VmprovError) -> str:
    """The class of a failure before the consoles had a say."""
    if isinstance(problem, Interrupted | WaitTimeout):
        return ""
    return "libvirt" if isinstance(problem, LibvirtFailed) else "power-on"


def save_logs(ctx: Context, vm: VMRecord) -> Path:
    """Copy a failed VM's logs where undoing does not reach them, and say where; the oldest of many make room."""
    source, shelf = ctx.home.vm(vm.name), ctx.home.failed
    target = shelf / f"{vm.name}-{vm.id}"
    try:
        make_private(shelf)
        if source.is_dir():
            collect(ctx, vm, source)
        hidden = shutil.ignore_patterns(ctx.home.screen_password(vm.name).name)
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=hidden)
    except OSError:
        # There are none yet, or the disk is full: no reason not to undo.
        return source
    kept = sorted(shelf.iterdir(), key=lambda path: path.stat().st_mtime)
    for old in kept[:-_KEPT_LOGS]:
        shutil.rmtree(old, ignore_errors=True)
    return target
