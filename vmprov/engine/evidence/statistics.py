"""How long stages took in past runs, and how these ended."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from vmprov.store import Run
from vmprov.views import StageStatistics

_P95 = 0.95


def stage_statistics(runs: Iterable[Run]) -> list[StageStatistics]:
    """A row per image, flow and stage, sorted by image and flow; after the stages of each, the row of the whole run.

    Stages stand in the order in which runs entered them first. A stage that was passed several times in one run
    counts several times; stays that ended otherwise do not count.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.image, run.flow), []).append(run)
    return [row for (image, flow), group in sorted(groups.items()) for row in _rows(image, flow, group)]


def _rows(image: str, flow: str, runs: Sequence[Run]) -> list[StageStatistics]:
    stays: dict[str, list[float]] = {}
    for run in runs:
        for stage, _, seconds, outcome in run.stages:
            passed = stays.setdefault(stage, [])
            if outcome == "passed":
                passed.append(seconds)
    whole = [run.seconds for run in runs if run.verdict == "success"]
    verdicts = dict(sorted(Counter(run.verdict for run in runs).items()))
    return [
        *(_row(image, flow, stage, seconds, {}) for stage, seconds in stays.items()),
        _row(image, flow, "", whole, verdicts),
    ]


def _row(image: str, flow: str, stage: str, seconds: Sequence[float], verdicts: dict[str, int]) -> StageStatistics:
    return StageStatistics(
        image=image,
        flow=flow,
        stage=stage,
        n=len(seconds),
        median=median(seconds) if seconds else None,
        p95=nearest_rank(seconds, _P95) if seconds else None,
        verdicts=verdicts,
    )


def nearest_rank(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least ``share`` of them do not exceed.

    >>> nearest_rank(range(1, 101), 0.95), nearest_rank([3, 1], 0.95), nearest_rank([7], 0.95)
    (95, 3, 7)
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]
