"""Lab files, read: bases laid under them, variables put in, counts expanded, and everything checked at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmprov.documents import Problem, Steps, examine, refuse, unknown
from vmprov.errors import VmprovError
from vmprov.spec.compose import Branch, Files, change, flatten, merge
from vmprov.spec.file import Entry, LabFile
from vmprov.spec.lab import LabSpec, NetworkSpec, VMSpec, is_path
from vmprov.spec.machine import Machine
from vmprov.spec.refer import Variables, override
from vmprov.spec.rules import Draft, problems_of
from vmprov.spec.secrecy import inline_secrets

# Where files are named: relative to the file in which that is written.
_FILES = (("http_boot", "ca"), ("boot_certificates",), ("seed", "user_data"), ("flow",))
_OF_THE_LAB = ("host", "driver")

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
    win over those of the file. ``flows``: what a flow brings for a machine, or :class:`VmprovError` if there is no such
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
    problems += [*put.problems, *put.unused()]
    tree = _with_paths(tree, problems, put.broken)

    _, found = examine(LabFile, flatten(tree), part=lambda path: not whole or path[:1] in (("defaults",), ("vms",)))
    secrets = {(problem.source, problem.place) for problem in problems}
    problems += [
        problem
        for problem in found
        if (problem.source, problem.place) not in secrets and not _touches(problem.path, put.broken)
    ]
    if not whole:  # what would not hold might, with what is missing
        refuse(problems)
    draft = _draft(tree, problems, put.broken)
    problems += problems_of(draft)
    if flows is not None or not any(entry.flow for entry in draft.entries.values()):
        problems += _of_machines(draft, flows)
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


def _with_paths(tree: Branch, problems: list[Problem], broken: set[Steps]) -> Branch:
    """The tree with absolute names of files; those that do not exist are problems."""

    def scalar(branch: Branch, path: Steps) -> Branch:
        inside = path[1:] if path[:1] == ("defaults",) else path[2:] if path[:1] == ("vms",) else ()
        field = tuple(step for step in inside if isinstance(step, str))
        name = branch.content
        if field not in _FILES or not isinstance(name, str) or not name or path in broken:
            return branch
        if field == ("flow",) and not is_path(name):
            return branch
        file = branch.file.parent / Path(name).expanduser()
        if "\0" not in name and file.is_file():
            return replace(branch, content=os.path.normpath(file))
        broken.add(path)
        why = "is no regular file" if "\0" not in name and file.exists() else "does not exist"
        where = ".".join(str(step) for step in path if isinstance(step, str))
        problems.append(replace(branch.problem(f"{where}: the file {name[:200]!r} {why}"), path=path))
        return branch

    return change(tree, scalar)


def _touches(path: Steps, broken: set[Steps]) -> bool:
    return any(path[: len(other)] == other for other in broken)


def _draft(tree: Branch, problems: list[Problem], broken: set[Steps]) -> Draft:
    """Each VM over the defaults; those that are not right by themselves are told, and missing in the draft."""
    seen = {(problem.source, problem.place) for problem in problems}
    entries: dict[str, Entry] = {}
    whole = flatten(tree)
    documents = {}
    defaults = tree.at(("defaults",))
    if defaults is not None and isinstance(defaults.content, dict):
        content = {key: inner for key, inner in defaults.content.items() if key not in _OF_THE_LAB}
        defaults = replace(defaults, content=content)
    for name, branch in _entries(tree).items():
        if not isinstance(branch.content, dict):
            continue
        merged = branch if defaults is None or not isinstance(defaults.content, dict) else merge(defaults, branch)
        documents[name] = flatten(merged, ("vms", name))
        entry, found = examine(Entry, documents[name], ("vms", name))
        if entry is not None:
            entries[name] = entry
        for problem in found:
            if (problem.source, problem.place) not in seen and not _touches(problem.path, broken):
                seen.add((problem.source, problem.place))
                problems.append(problem)
    return Draft(tree, whole, documents, entries)


def _of_machines(draft: Draft, flows: FlowMachine | None) -> Iterator[Problem]:
    """Flows that do not exist, and what does not go together once their wishes are laid under the machine's."""
    for name, entry in draft.entries.items():
        machine: Machine = entry
        if entry.flow and flows is not None:
            try:
                below = flows(entry.flow)
            except VmprovError as problem:
                yield draft.problem(name, ("flow",), str(problem))
                continue
            machine = Machine(**_machine(entry)).over(below)
        for field, why in machine.conflicts(ours=draft.networks):
            yield draft.problem(name, (field,), why)


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
