"""Variables: ``${name}``, ``${env:NAME}`` and ``${file:path}`` in a lab file, and values given from outside.

What is put in is text. A text that is nothing but a reference means, where a number or true or false is expected, what
it would mean in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vmprov.documents import NOWHERE, Place, Problem, Steps, dotted, kind_at, parse, plain_value, unknown
from vmprov.errors import SpecError
from vmprov.spec.compose import Branch, change, find, merge
from vmprov.spec.file import VARIABLE

LARGEST_FILE = 64 * 1024
_LONGEST_CHAIN = 20
# "$${" stands for "${".
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)(\})?")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_STEP = re.compile(r"([A-Za-z0-9_-]+)((?:\[[0-9]{1,4}\])*)")


class _Unknown(Exception):
    """A reference stands for nothing; the text says why, or is empty where that is told elsewhere."""


@dataclass
class Variables:
    """What references stand for. ``given`` -- values from outside, which win; ``environ`` -- the environment.

    ``broken`` -- the places of what could not be put in. ``whole`` -- whether all that declares variables could be
    read; otherwise an unknown one is not told.
    """

    declared: Mapping[str, Branch]
    given: Mapping[str, str]
    environ: Mapping[str, str]
    whole: bool = True
    problems: list[Problem] = field(default_factory=list)
    broken: set[tuple[str, Place]] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def replace_in(self, tree: Branch, model: type[BaseModel]) -> Branch:
        """The tree with everything put in; what cannot be is taken to ``problems``, and left as it is."""

        def scalar(branch: Branch, path: Steps) -> Branch:
            text = branch.content
            variable = path[1] if path[:1] == ("vars",) and len(path) == 2 else ""
            if not isinstance(text, str) or "${" not in text or variable in self.given:
                return branch
            try:
                made: Any = self._text(branch, text, (str(variable),) if variable else ())
            except _Unknown as why:
                self.broken.add((branch.source, branch.place))
                if str(why):
                    self.problems.append(replace(branch.problem(f"{dotted(path)}: {why}"), path=path))
                return branch
            if made != text and kind_at(model, path) in (int, float, bool):
                value = plain_value(made)
                made = made if value is None else value
            return replace(branch, content=made)

        return change(tree, scalar)

    def _text(self, branch: Branch, text: str, chain: tuple[str, ...]) -> str:
        return _REFERENCE.sub(lambda found: self._value(branch, found, chain), text)

    def _value(self, branch: Branch, found: re.Match[str], chain: tuple[str, ...]) -> str:
        if found[0] == "$${":
            return "${"
        if not found[2]:
            raise _Unknown("'${' without '}'; write $${ for these two characters themselves")
        name, default_given, default = found[1].partition(":-")
        kind, colon, rest = name.partition(":")
        value = self._source(branch, kind, rest) if colon else self._variable(name, chain)
        if value is None and default_given:
            return default
        if value is None:
            raise _Unknown(self._missing(name))
        return value

    def _source(self, branch: Branch, kind: str, rest: str) -> str | None:
        if kind == "env" and _ENVIRONMENT_NAME.fullmatch(rest):
            return self.environ.get(rest)
        if kind == "file" and rest:
            path, why = find(branch, rest)
            return _refuse(f"the file {rest[:200]!r} {why}") if why else _content(path, rest[:200])
        raise _Unknown(f"'${{{kind}:{rest}}}' is no reference; write ${{name}}, ${{env:NAME}} or ${{file:path}}")

    def _variable(self, name: str, chain: tuple[str, ...]) -> str | None:
        if not VARIABLE.fullmatch(name):
            raise _Unknown(f"'${{{name[:60]}}}' is no reference; write $${{ for the characters '${{' themselves")
        self.used.add(name)
        if name in chain or len(chain) >= _LONGEST_CHAIN:
            raise _Unknown(f"variables stand for each other: {' -> '.join([*chain, name])}")
        if name in self.given:
            return self.given[name]
        if name not in self.declared:
            return None
        value = self.declared[name]
        if value.content is None or isinstance(value.content, dict | list):
            raise _Unknown("")
        if not isinstance(value.content, str):
            return text_of(value.content)
        try:
            return self._text(value, value.content, (*chain, name))
        except _Unknown as why:
            # A variable that stands for nothing is told once, where it is declared; a loop at each of its members.
            raise (why if chain and name not in chain and "->" in str(why) else _Unknown("")) from why

    def _missing(self, name: str) -> str:
        kind, colon, rest = name.partition(":")
        if colon:
            return f"there is no environment variable {rest}; set it, or write ${{{kind}:{rest}:-a default}}"
        return "; ".join(unknown("variable", name, [*self.declared, *self.given])) if self.whole else ""

    def unused(self) -> Iterator[Problem]:
        """Of what was given from outside, that which nothing declares or refers to."""
        for name in self.given if self.whole else ():
            if name not in self.used and name not in self.declared:
                what, hint = unknown("variable", name, [*self.declared, *self.used])
                yield Problem(NOWHERE, f"{what}; {hint}", f"--var {name}")


def text_of(value: object) -> str:
    """A scalar as it stands in text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _content(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        text = data.decode("utf-8")
    except OSError as failed:
        return _refuse(f"the file {name!r} cannot be read: {failed.strerror}")
    except UnicodeDecodeError:
        return _refuse(f"the file {name!r} is not UTF-8")
    if len(data) > LARGEST_FILE:
        return _refuse(f"the file {name!r} is larger than 64KiB")
    return text.removesuffix("\n").removesuffix("\r")


def _refuse(why: str) -> str:
    raise _Unknown(why)


def override(
    tree: Branch, settings: Iterable[str], directory: Path, model: type[BaseModel]
) -> tuple[Branch, list[Problem]]:
    """The tree with ``vms.web.memory=8GiB`` and the like over it; paths in values are relative to ``directory``."""
    problems: list[Problem] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        source = f"--set {key[:200]}"
        steps = _steps(key.strip())
        if not equals or not steps:
            problems.append(Problem(NOWHERE, "write it as vms.web.memory=8GiB", source))
            continue
        if steps[0] == "base":
            problems.append(Problem(NOWHERE, "what a file lies over can only be said in the file", source))
            continue
        try:
            number = kind_at(model, steps) in (int, float, bool)
            tree = _graft(tree, steps, _parsed(text, source, directory, number=number))
        except SpecError as bad:
            problems.append(Problem(NOWHERE, str(bad).removeprefix(f"{source}:1:1: "), source))
        except _Unknown as why:
            problems.append(Problem(NOWHERE, str(why), source))
    return tree, problems


def _steps(key: str) -> Steps:
    steps: list[str | int] = []
    for part in key.split("."):
        found = _STEP.fullmatch(part)
        if not found:
            return ()
        steps += [found[1], *(int(number) for number in re.findall(r"\[(\d+)\]", found[2]))]
    return tuple(steps)


def _parsed(text: str, source: str, directory: Path, *, number: bool) -> Branch:
    """A value as in a file, but that all is text where no number is expected; its place is the option itself."""

    def branch(value: Any) -> Branch:
        if isinstance(value, dict):
            value = {key: (NOWHERE, branch(inner)) for key, inner in value.items()}
        elif isinstance(value, list):
            value = [branch(inner) for inner in value]
        return Branch(value, source, directory / "-")

    if text.lstrip().startswith(("{", "[", '"', "'")) and not text.startswith("${"):
        return branch(parse(text, source).value)
    value = plain_value(text) if number else text
    return branch(text if value is None else value)


def _graft(tree: Branch, steps: Steps, value: Branch) -> Branch:
    if not steps:
        return merge(tree, value)
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        if not isinstance(tree.content, list) or step >= len(tree.content):
            raise _Unknown(f"there is no item [{step}] to change")
        items = list(tree.content)
        items[step] = _graft(items[step], rest, value)
        return replace(tree, content=items)
    if not isinstance(tree.content, dict):
        raise _Unknown(f"there is no mapping in which '{step}' could be")
    content = dict(tree.content)
    place, below = content.get(step, (NOWHERE, replace(value, content={} if rest else value.content)))
    content[step] = (place, _graft(below, rest, value))
    return replace(tree, content=content)
