"""A flow file with faults, mended as far as is needed to see what else is wrong with it: all is told at once."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vmprov.flows.grammar import Flow

# What was mended may show the next fault; beyond so many it is not worth it.
_ROUNDS = 5
_PATTERNS = ("text", "regex", "prompt")
# What can stand for a value that is wrong or missing.
_STAND_INS = {**dict.fromkeys(_PATTERNS, "x"), "flow": "x", "expect": "x", "class": "x"}
# What can be left out without any effect on how stages, names and secrets go together.
_ASIDE = ("limit", "nudge", "settle", "pacing", "boots", "description", "why", "budget", "console")


@dataclass(frozen=True)
class Mended:
    """A flow; ``whole`` -- nothing was left out that may be meant to lead somewhere, or to send something."""

    flow: Flow
    whole: bool


def mend(value: Any) -> Mended | None:
    """The flow that a file's ``value`` would be without its faults; ``None`` where that cannot be told."""
    value = deepcopy(value)
    whole = True
    for _ in range(_ROUNDS):
        try:
            return Mended(Flow.model_validate(value), whole)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                path = error["loc"]
                if error["type"] == "extra_forbidden" and _leave_out(value, path):
                    # At the top there is nothing that leads anywhere but what cannot be mended.
                    whole = whole and len(path) == 1
                elif not _replace(value, path):
                    return None
    return None


def _at(value: Any, path: tuple[int | str, ...]) -> Any:
    """What is at a path; index 0 of what is no list is the thing itself."""
    for step in path:
        inside = step in value if isinstance(value, dict) else isinstance(value, list) and isinstance(step, int)
        if inside:
            value = value[step]
        elif step != 0:
            return None
    return value


def _leave_out(value: Any, path: tuple[int | str, ...]) -> bool:
    holder = _at(value, path[:-1])
    return isinstance(holder, dict) and holder.pop(path[-1], None) is not None


def _replace(value: Any, path: tuple[int | str, ...]) -> bool:
    holder, last = _at(value, path[:-1]), path[-1] if path else ""
    if last in _ASIDE:
        return _leave_out(value, path)
    if isinstance(holder, dict) and last in _STAND_INS:
        holder[last] = _STAND_INS[str(last)]
        return True
    here = _at(value, path)
    # It has none of the patterns, or several.
    if isinstance(here, dict) and path[-2:-1] == ("expect",):
        for pattern in _PATTERNS:
            here.pop(pattern, None)
        here["text"] = "x"
        return True
    return False
