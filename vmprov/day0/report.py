"""Tables of onboardings: as text, as Markdown, and as JUnit XML for CI systems."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from vmprov.views import Onboarding

_SUITE = "vmprov day0"
# What XML 1.0 cannot hold (2.2, production 2).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COLUMNS = ("VM", "SERIAL NUMBER", "OS", "STAGE", "SECONDS", "VERDICT")

Table = Sequence[Sequence[str]]


def as_text(onboardings: Sequence[Onboarding]) -> str:
    """Two tables: a row per machine, and a row per stage with the seconds of each machine."""
    return "\n".join(_laid_out(table) for table in _tables(onboardings))


def as_markdown(onboardings: Sequence[Onboarding]) -> str:
    """The same tables in Markdown."""
    return "\n".join(_in_markdown(table) for table in _tables(onboardings))


def as_junit(onboardings: Sequence[Onboarding]) -> str:
    """A test suite per lab, and a test case per machine, as CI systems read them."""
    root = Element("testsuites", name=_SUITE)
    labs = dict.fromkeys(one.lab for one in onboardings)
    for lab in labs:
        cases = [one for one in onboardings if one.lab == lab]
        suite = SubElement(root, "testsuite", {"name": _text(lab), **_counts(cases)})
        for one in cases:
            _case(suite, one)
    for key, value in _counts(onboardings).items():
        root.set(key, value)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


FORMATS: dict[str, Callable[[Sequence[Onboarding]], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "junit": as_junit,
}


def _tables(onboardings: Sequence[Onboarding]) -> list[Table]:
    rows = [
        (one.vm, one.serial_number, one.os or "-", one.stage or "-", f"{one.seconds:.1f}", one.verdict or "none yet")
        for one in onboardings
    ]
    stages = _in_order([list(one.stages) for one in onboardings])
    tables: list[Table] = [[_COLUMNS, *rows]]
    if stages:
        times = [
            (stage, *(f"{one.stages[stage]:.1f}" if stage in one.stages else "-" for one in onboardings))
            for stage in stages
        ]
        tables.append([("STAGE", *(one.vm for one in onboardings)), *times])
    told = [(one.vm, one.why) for one in onboardings if one.why]
    if told:
        tables.append([("VM", "WHY"), *told])
    return tables


def _in_order(each: Sequence[Sequence[str]]) -> list[str]:
    """All stages, each behind those that came before it in some run.

    >>> _in_order([["firmware", "login"], ["firmware", "kernel", "login"]])
    ['firmware', 'kernel', 'login']
    """
    found: list[str] = []
    for stages in each:
        place = 0
        for stage in stages:
            if stage in found:
                place = found.index(stage) + 1
            else:
                found.insert(place, stage)
                place += 1
    return found


def _laid_out(table: Table) -> str:
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines) + "\n"


def _in_markdown(table: Table) -> str:
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _counts(cases: Sequence[Onboarding]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(one.kind in ("failed", "timeout") for one in cases)),
        "errors": str(sum(one.kind == "cancelled" for one in cases)),
        "skipped": str(sum(not one.kind for one in cases)),
        "time": f"{max((one.seconds for one in cases), default=0.0):.3f}",
    }


def _case(suite: Element, one: Onboarding) -> None:
    case = SubElement(
        suite, "testcase", name=_text(one.vm), classname=_text(f"{one.flow or 'day0'}.{one.lab}"),
        time=f"{one.seconds:.3f}",
    )  # fmt: skip
    properties = SubElement(case, "properties")
    for name, value in (("serial_number", one.serial_number), ("os", one.os), ("stage", one.stage)):
        if value:
            SubElement(properties, "property", name=name, value=_text(value))
    ended = {"failed": "failure", "timeout": "failure", "cancelled": "error", "": "skipped"}.get(one.kind)
    if ended:
        told = SubElement(case, ended, message=_text(one.why or "no verdict yet"))
        if one.kind:
            told.set("type", _text(one.verdict))
            told.text = _text(one.why)
    if one.stages:
        lines = [f"{stage}: {seconds:.1f} s" for stage, seconds in one.stages.items()]
        SubElement(case, "system-out").text = _text("\n".join(lines))


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
