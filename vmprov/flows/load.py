"""Flow files, read and checked: what a file says must be able to happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vmprov.documents import Document, Problem, Steps, examine, parse, read_bytes, refuse, unknown
from vmprov.errors import NotFound, SpecError
from vmprov.flows.grammar import SUCCESS, Flow, Pattern, Stage
from vmprov.flows.machine import REBOOT_LOOP
from vmprov.flows.mend import mend
from vmprov.flows.signatures import shipped_signatures
from vmprov.spec.forms import FileSchema
from vmprov.spec.machine import Machine

_LIBRARY = Path(__file__).with_name("library")


def flow_names() -> list[str]:
    """Names of the flows that come with vmprov, sorted."""
    return sorted(path.stem for path in _LIBRARY.glob("*.yaml"))


def flow_path(name_or_path: str) -> Path:
    """The file of a flow: a name is that of a flow that comes with vmprov.

    What contains ``/`` or ends in ``.yaml`` or ``.yml`` is a path. :class:`NotFound` for a name that is unknown.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    names = flow_names()
    if name_or_path not in names:
        what, hint = unknown("flow", name_or_path, names)
        raise NotFound(what, hint=f"{hint} (a file has a / in its name, or ends in .yaml)")
    return _LIBRARY / f"{name_or_path}.yaml"


def load_flow(name_or_path: str) -> Flow:
    """The flow of that name or in that file; :class:`SpecError` with every problem found, each with its place."""
    try:
        return parse_flow(read_bytes(flow_path(name_or_path)), name_or_path)
    except SpecError as wrong:
        if len(wrong.problems) == 1:
            raise
        hint = f"see all with: vmprov flow check {name_or_path}"
        raise SpecError(wrong.what, hint=hint, problems=wrong.problems) from wrong


def flow_machine(name_or_path: str) -> Machine:
    """What a flow brings for the machines that are made for it; :class:`SpecError` if there is no such flow."""
    return load_flow(name_or_path).machine or Machine()


def parse_flow(text: str | bytes, source: str) -> Flow:
    """The flow in a text; ``source`` is what problems call it. :class:`SpecError` with every problem found."""
    document = parse(text, source)
    flow, wrong = examine(Flow, document)
    refuse([*wrong, *(_problems(flow, document) if flow is not None else _problems_besides(document))])
    assert flow is not None
    return flow


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of flow files, for editors; :func:`parse_flow` checks more than it can say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Flow.model_json_schema(schema_generator=FileSchema),
    }


def _problems_besides(document: Document) -> Iterator[Problem]:
    """What is wrong with how the parts of a flow go together, where some of these are wrong by themselves."""
    mended = mend(document.value)
    if mended is not None:
        yield from _problems(mended.flow, document, whole=mended.whole)


def _problems(flow: Flow, document: Document, *, whole: bool = True) -> Iterator[Problem]:
    """``whole``: nothing was left out of it, so that what is missing can be told."""
    names = [*_names(flow, document)]
    yield from names
    yield from _consoles(flow, document)
    yield from _ignored(flow, document)
    yield from _secrets(flow, document, whole=whole)
    if flow.machine is not None and flow.machine.flow:
        yield document.problem(
            ("machine", "flow"), "a flow's machine has no flow of its own", hint="remove it", key=True
        )
    if whole and not names:
        yield from _ways(flow, document)


def _names(flow: Flow, document: Document) -> Iterator[Problem]:
    """Names that are taken twice, and names that nothing has."""
    stages = [stage.stage for stage in flow.stages]
    yield from _twice("stage", stages, "stages", "stage", document)
    yield from _twice("recovery", [recovery.name for recovery in flow.recover], "recover", "name", document)
    for index, name in enumerate(stages):
        if name == SUCCESS:
            what = f"no stage may be called '{SUCCESS}'"
            yield document.problem(("stages", index, "stage"), what, hint="it is what next names for the end")
    for path, name in _stages_named(flow):
        if name not in (*stages, *((SUCCESS,) if path[-1] == "next" else ())):
            what, hint = unknown("stage", name, stages)
            yield document.problem(path, what, hint=hint)


def _twice(what: str, names: list[str], field: str, key: str, document: Document) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            line = document.values[document.find((field, first[name], key))].line
            hint = f"that in line {line} has the same name"
            yield document.problem((field, index, key), f"the {what} '{name}' is there already", hint=hint)
        first.setdefault(name, index)


def _stages_named(flow: Flow) -> Iterator[tuple[Steps, str]]:
    for index, stage in enumerate(flow.stages):
        for place, expectation in enumerate(stage.expect):
            if expectation.next is not None:
                yield ("stages", index, "expect", place, "next"), expectation.next
    for index, recovery in enumerate(flow.recover):
        yield ("recover", index, "next"), recovery.next
        for place, name in enumerate(recovery.during):
            yield ("recover", index, "during", place), name


def _patterns(flow: Flow) -> Iterator[tuple[Steps, Pattern]]:
    for index, stage in enumerate(flow.stages):
        yield from (((("stages", index, "expect", place), pattern)) for place, pattern in enumerate(stage.expect))
        yield from (((("stages", index, "fail", place), pattern)) for place, pattern in enumerate(stage.fail))
    yield from ((("recover", index), pattern) for index, pattern in enumerate(flow.recover))
    yield from ((("fail", index), pattern) for index, pattern in enumerate(flow.fail))


def _consoles(flow: Flow, document: Document) -> Iterator[Problem]:
    for console, times in Counter(flow.consoles).items():
        if times > 1:
            yield document.problem(("consoles",), f"console {console} is there {times} times")
    for path, pattern in _patterns(flow):
        if pattern.console is not None and pattern.console not in flow.consoles:
            what = f"the flow does not listen to console {pattern.console}"
            hint = f"it listens to {' and '.join(map(str, sorted(set(flow.consoles))))}"
            yield document.problem((*path, "console"), what, hint=hint)


def _ignored(flow: Flow, document: Document) -> Iterator[Problem]:
    named: list[tuple[Steps, str]] = [(("ignore", place), name) for place, name in enumerate(flow.ignore)]
    for index, stage in enumerate(flow.stages):
        named += [(("stages", index, "ignore", place), name) for place, name in enumerate(stage.ignore)]
    if not named:
        return
    known = {REBOOT_LOOP, *(one.failure_class for one in (*flow.fail, *shipped_signatures()))}
    for path, name in named:
        if name not in known:
            what, hint = unknown("failure class", name, known)
            yield document.problem(path, what, hint=hint)


def _secrets(flow: Flow, document: Document, *, whole: bool) -> Iterator[Problem]:
    used = set()
    for path, pattern in _patterns(flow):
        for place, typed in enumerate(getattr(pattern, "send", ())):
            if typed.secret is None:
                continue
            used.add(typed.secret)
            if typed.secret not in flow.secrets:
                what, hint = unknown("secret", typed.secret, flow.secrets)
                yield document.problem((*path, "send", place, "secret"), what, hint=hint)
    for name in flow.secrets:
        if whole and name not in used:
            yield document.problem(("secrets", name), f"nothing sends the secret '{name}'", key=True)


def _ways(flow: Flow, document: Document) -> Iterator[Problem]:
    """Stages that cannot be entered, and stages from which success cannot be reached."""
    ways = {stage.stage: set(_ways_on(flow, index, stage)) for index, stage in enumerate(flow.stages)}
    backwards: dict[str, set[str]] = {}
    for name, others in ways.items():
        for other in others:
            backwards.setdefault(other, set()).add(name)
    entered = _reached(ways, flow.stages[0].stage)
    ending = _reached(backwards, SUCCESS)
    lost = [stage.stage for stage in flow.stages if stage.stage in entered - ending]
    for index, stage in enumerate(flow.stages):
        path = ("stages", index, "stage")
        if stage.stage not in entered:
            what = f"nothing leads to the stage '{stage.stage}'"
            yield document.problem(path, what, hint="name it in a next, or remove it")
        elif lost and stage.stage == lost[0]:
            what = f"no way leads from here to success: {' -> '.join(lost)}"
            yield document.problem(path, what, hint="a next must leave this loop")
        if stage.optional and index == len(flow.stages) - 1:
            hint = "it would be success that nothing was seen; remove optional"
            yield document.problem((*path[:2], "optional"), "the last stage cannot be passed over", hint=hint)


def _ways_on(flow: Flow, index: int, stage: Stage) -> Iterator[str]:
    """The stages that one stage can lead to."""
    following = flow.stages[index + 1].stage if index + 1 < len(flow.stages) else SUCCESS
    yield from (expectation.next or following for expectation in stage.expect)
    if stage.optional:
        yield following
    for recovery in flow.recover:
        if not recovery.during or stage.stage in recovery.during:
            yield recovery.next


def _reached(ways: Mapping[str, Iterable[str]], start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        for name in set(ways.get(waiting.pop(), ())) - found:
            found.add(name)
            waiting.append(name)
    return found
