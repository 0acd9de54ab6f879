"""Timelines drawn as one SVG image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from vmprov.render import render
from vmprov.views import StageStay, Timeline

_TEMPLATE = "charts/timeline.svg.j2"
# On white and on black, told apart also by people who see no red or no green; they come round after the last.
_COLOURS = (
    ("#4477aa", "#6ea8dc"), ("#ee9944", "#f2b46e"), ("#228877", "#4cbfa9"), ("#aa4477", "#d985ac"),
    ("#ddcc55", "#e6d97a"), ("#66bbdd", "#93d3ec"), ("#886633", "#bd9a63"), ("#9977cc", "#b9a0e2"),
    ("#889922", "#b4c44f"), ("#777788", "#a3a3b3"),
)  # fmt: skip
_PLOT, _MARGIN, _BAR, _ROW, _LEGEND_ROW, _AXIS = 760.0, 20.0, 22, 34, 22, 46
# What a character of the font takes at most, near enough.
_CHARACTER = 7.6
_MOST_TICKS = 10
_LONGEST_NAME = 40
# What XML 1.0 has no way to write.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def chart(timelines: Sequence[Timeline]) -> str:
    """An SVG document: a bar for each timeline on one axis of seconds since power-on, and what the colours mean."""
    names = list(dict.fromkeys(stay.stage for timeline in timelines for stay in timeline.stages))
    styles = {name: f"s{number % len(_COLOURS)}" for number, name in enumerate(names)}
    left = _MARGIN + 10 + _CHARACTER * max((len(_short(one.vm)) for one in timelines), default=0)
    longest = max((_end(timeline) for timeline in timelines), default=0.0)
    step = _step(longest)
    whole = step * max(1, math.ceil(longest / step - 1e-9))
    scale = _PLOT / whole
    verdicts = 40 + _CHARACTER * max((len(_verdict(one)) for one in timelines), default=0)
    width = left + _PLOT + verdicts + _MARGIN
    legend, top = _legend(names, styles, left, width)
    bottom = top + _ROW * len(timelines)
    return render(
        _TEMPLATE,
        title=f"Where time went: {', '.join(_short(one.vm) for one in timelines)}",
        width=round(width), height=round(bottom + _AXIS), left=left, right=left + _PLOT, top=top, bottom=bottom,
        bar=_BAR, stages=legend, colours=[{"light": light, "dark": dark} for light, dark in _COLOURS],
        ticks=[
            {"x": round(left + number * step * scale, 2), "text": f"{number * step:g}"}
            for number in range(round(whole / step) + 1)
        ],
        machines=[
            _machine(timeline, styles, left, scale, top + number * _ROW + (_ROW - _BAR) // 2)
            for number, timeline in enumerate(timelines)
        ],
    )  # fmt: skip


def _machine(timeline: Timeline, styles: dict[str, str], left: float, scale: float, y: int) -> dict[str, Any]:
    judgement = timeline.judgement or {}
    return {
        "name": _short(timeline.vm),
        "y": y,
        "verdict": _verdict(timeline),
        "ok": timeline.verdict == "success",
        "lasts": not timeline.verdict,
        "end": round(left + _end(timeline) * scale, 2),
        "why": _clean(" - ".join(part for part in (judgement.get("why"), judgement.get("evidence")) if part)),
        "stays": [
            {
                "stage": _clean(stay.stage),
                "style": styles[stay.stage],
                "x": round(left + stay.start * scale, 3),
                "width": round(stay.seconds * scale, 3),
                "title": _told(stay),
            }
            for stay in timeline.stages
        ],
    }


def _legend(
    names: Sequence[str], styles: dict[str, str], left: float, width: float
) -> tuple[list[dict[str, Any]], int]:
    """Entries in columns, and where the plot may begin below them."""
    column = 18 + 16 + _CHARACTER * max((len(name) for name in names), default=0)
    columns = max(1, int((width - left - _MARGIN) // column))
    entries = [
        {
            "name": _clean(name),
            "style": styles[name],
            "x": round(left + number % columns * column, 2),
            "y": round(_MARGIN) + number // columns * _LEGEND_ROW,
        }
        for number, name in enumerate(names)
    ]
    return entries, round(_MARGIN) + math.ceil(len(names) / columns) * _LEGEND_ROW + 8


def _step(longest: float) -> float:
    """Seconds between two ticks: 1, 2 or 5 times a power of ten.

    >>> _step(9.5), _step(43), _step(700), _step(0)
    (1.0, 5.0, 100.0, 0.1)
    """
    wanted = max(longest, 1.0) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= wanted * (1 - 1e-9))


def _end(timeline: Timeline) -> float:
    return max((stay.start + stay.seconds for stay in timeline.stages), default=0.0)


def _told(stay: StageStay) -> str:
    boot = f", boot {stay.boot}" if stay.boot > 1 else ""
    return _clean(f"{stay.stage}: {stay.seconds:.1f} s from {stay.start:.1f} s{boot}, {stay.outcome or 'lasts'}")


def _verdict(timeline: Timeline) -> str:
    return _clean(timeline.verdict or "...")


def _short(name: str) -> str:
    name = _clean(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
