"""Lab files, read: bases laid under them, variables put in, counts expanded, and everything checked at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vmprov.documents import Place, Problem, Steps, dotted, examine, refuse, unknown
from vmprov.errors import SpecError
from vmprov.spec.compose import Branch, Files, change, find, flatten, merge, plain
from vmprov.spec.file import Entry, LabFile
from vmprov.spec.lab import LabSpec, NetworkSpec, VMSpec, is_path
from vmprov.spec.machine import Machine
from vmprov.spec.refer import Variables, override
from vmprov.spec.rules import Draft, problems_of
from vmprov.spec.secrecy import inline_secrets

# Where files are named: relative to the file in which that is written.
_FILES = (("http_boot", "ca"), ("boot_certificates",), ("seed", "user_data"), ("flow",))
_OF_THE_LAB = ("host", "driver")
# What each VM has of its own, and no defaults for.
_OF_ONE = ("count", "after", "serial_numbers", "domain")

# The places of what is told already.
Broken = set[tuple[str, Place]]

FlowMachine = Callable[[str], Machine]


def load_lab(
    path: Path | str,
    *,
    overrides: Iterable[str] = (),
    variables: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
    flows: FlowMachine | None = None,
) -> LabSpec:
    """The lab that a file describes; :class:`vmprov.errors.SpecError` with every problem, each with its place.

    ``overrides``: such as ``vms.web.memory=8GiB``, which win over the file. ``variables``: values of variables, which
    win over those of the file. ``flows``: what a flow brings for a machine, or :class:`SpecError` if there is no such
    flow; without it, flows are not looked at.
    """
    files = Files()
    return _lab(files, files.compose(Path(path), str(path)), overrides, variables or {}, environ, flows)


def parse_lab(
    text: str | bytes,
    source: str,
    *,
    directory: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flows: FlowMachine | None = None,
) -> LabSpec:
    """The lab that a text describes, as :func:`load_lab`; files that it names are relative to ``directory``."""
    path = (directory or Path.cwd()) / source
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    files = Files()
    return _lab(files, files.compose(path, source, data), (), {}, environ, flows)


def _lab(
    files: Files,
    tree: Branch,
    overrides: Iterable[str],
    variables: Mapping[str, str],
    environ: Mapping[str, str],
    flows: FlowMachine | None,
) -> LabSpec:
    names = _entries(tree)
    tree, problems = override(tree, overrides, Path.cwd(), LabFile)
    whole = not files.problems
    problems += files.problems
    if whole:
        problems += _invented(tree, names)
    problems += inline_secrets(tree)

    declared = tree.at(("vars",))
    known = {} if declared is None or not isinstance(declared.content, dict) else declared.content
    put = Variables({name: branch for name, (_, branch) in known.items()}, variables, environ, whole=whole)
    tree = put.replace_in(tree, LabFile)
    told = {(problem.source, problem.place) for problem in problems}
    problems += [problem for problem in put.problems if (problem.source, problem.place) not in told]
    problems += put.unused()
    tree = _with_paths(tree, problems, put.broken)

    _, found = examine(LabFile, flatten(tree), part=lambda path: not whole or _is_part(path))
    told = {(problem.source, problem.place) for problem in problems} | put.broken
    problems += [_hinted(tree, problem) for problem in found if (problem.source, problem.place) not in told]
    if not whole:  # what would not hold might, with what is missing
        refuse(problems)
    draft = _draft(tree, problems, put.broken)
    problems += problems_of(draft)
    told = put.broken
    problems += [one for one in _of_machines(draft, flows) if (one.source, one.place) not in told]
    refuse(problems)
    return _expanded(draft)


def _entries(tree: Branch) -> dict[str, Branch]:
    vms = tree.at(("vms",))
    content = vms.content if vms else None
    return {name: branch for name, (_, branch) in content.items()} if isinstance(content, dict) else {}


def _invented(tree: Branch, names: Mapping[str, Branch]) -> Iterator[Problem]:
    """VMs that only an override knows: most likely they are misspelt."""
    for name, branch in _entries(tree).items():
        if name not in names and branch.source.startswith("--set "):
            what, hint = unknown("VM", name, names)
            yield branch.problem(f"{what}; {hint}")


def _with_paths(tree: Branch, problems: list[Problem], broken: Broken) -> Branch:
    """The tree with absolute names of files; those that do not exist are problems."""

    def scalar(branch: Branch, path: Steps) -> Branch:
        inside = path[1:] if path[:1] == ("defaults",) else path[2:] if path[:1] == ("vms",) else ()
        field = tuple(step for step in inside if isinstance(step, str))
        name = branch.content
        if field not in _FILES or not isinstance(name, str) or not name or (branch.source, branch.place) in broken:
            return branch
        if field == ("flow",) and not is_path(name):
            return branch
        file, why = find(branch, name)
        if not why:
            return replace(branch, content=os.path.normpath(file))
        broken.add((branch.source, branch.place))
        where = ".".join(str(step) for step in path if isinstance(step, str))
        problems.append(replace(branch.problem(f"{where}: the file {name[:200]!r} {why}"), path=path))
        return branch

    return change(tree, scalar)


def _is_part(path: Steps) -> bool:
    """Whether this and something else, defaults and VM, are one thing together."""
    return len(path) > 1 and path[0] in ("defaults", "vms")


def _hinted(tree: Branch, problem: Problem) -> Problem:
    """The problem with a better hint, if it is a mistake that is often made."""
    if len(problem.path) == 3 and problem.path[0] == "vms" and problem.path[2] in _OF_THE_LAB:
        what = f"a lab has one {problem.path[2]}; write it at the top of the file, beside 'lab'"
        return replace(problem, text=f"{dotted(problem.path)}: {what}")
    branch = tree.at(problem.path)
    if len(problem.path) == 2 and problem.path[0] == "vms" and branch is not None and branch.content is None:
        what = "there is no value; write {} for a VM that is as the defaults are"
        return replace(problem, text=f"{dotted(problem.path)}: {what}")
    return problem


def _draft(tree: Branch, problems: list[Problem], broken: Broken) -> Draft:
    """Each VM over the defaults; those that are not right by themselves are told, and missing in the draft."""
    seen = {(problem.source, problem.place) for problem in problems} | broken
    draft = Draft(tree, flatten(tree), {}, {}, {})
    defaults = tree.at(("defaults",))
    if defaults is not None and isinstance(defaults.content, dict):
        content = {key: inner for key, inner in defaults.content.items() if key not in (*_OF_THE_LAB, *_OF_ONE)}
        defaults = replace(defaults, content=content)
    for name, branch in _entries(tree).items():
        if isinstance(branch.content, dict):
            merged = branch if defaults is None or not isinstance(defaults.content, dict) else merge(defaults, branch)
            draft.merged[name] = merged
            draft.values[name] = plain(merged)
    for name, value in draft.values.items():
        try:
            draft.entries[name] = Entry.model_validate(value, context=draft.document)
        except ValidationError:
            _, found = examine(Entry, flatten(draft.merged[name], ("vms", name)), ("vms", name))
            new = [problem for problem in found if (problem.source, problem.place) not in seen]
            seen |= {(problem.source, problem.place) for problem in new}
            problems += new
    return draft


def _of_machines(draft: Draft, flows: FlowMachine | None) -> Iterator[Problem]:
    """Flows that do not exist, and what does not go together once their wishes are laid under the machine's."""
    brought: dict[str, Machine] = {}
    for name, value in draft.values.items():
        flow = value.get("flow")
        if flows is not None and isinstance(flow, str) and flow and flow not in brought:
            try:
                brought[flow] = flows(flow)
            except SpecError as wrong:
                yield from (draft.problem(name, ("flow",), what) for what in wrong.problems)
    seen: set[tuple[str, Place, str]] = set()
    ours = {name for name, network in draft.networks.items() if network.mode != "existing"}
    for name, entry in draft.entries.items():
        if entry.flow and entry.flow not in brought:
            continue
        machine = Machine(**_machine(entry)).over(brought[entry.flow]) if entry.flow else entry
        for field, why in machine.conflicts(ours=ours):
            problem = draft.problem(name, (field,), why)
            if (problem.source, problem.place, why) not in seen:
                seen.add((problem.source, problem.place, why))
                of_all = problem.path[:1] == ("defaults",)
                yield draft.problem(name, (field,), why, hint=f"it is so for '{name}'" if of_all else "")


def _machine(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in entry.given().items() if name in Machine.model_fields}


def _expanded(draft: Draft) -> LabSpec:
    """The lab of a draft that is right."""
    vms: list[VMSpec] = []
    for name, entry in draft.entries.items():
        given = {key: value for key, value in entry.given().items() if key in VMSpec.model_fields}
        one = VMSpec(**{**given, "name": name, "group": name, "after": tuple(dict.fromkeys(entry.after))})
        numbers = entry.serial_numbers or ("",) * (entry.count or 1)
        names = [name] if entry.count is None else [f"{name}-{number}" for number in range(1, entry.count + 1)]
        vms += [
            one.model_copy(update={"name": vm, "serial_number": number} if number else {"name": vm})
            for vm, number in zip(names, numbers, strict=True)
        ]
    networks = [NetworkSpec(name=name, **network.given()) for name, network in draft.networks.items()]
    return LabSpec(
        lab=draft.text("lab"),
        host=draft.text("host") or draft.text("defaults", "host"),
        driver=draft.text("driver") or draft.text("defaults", "driver"),
        networks=tuple(sorted(networks, key=lambda network: network.name)),
        vms=tuple(vms),
    )
