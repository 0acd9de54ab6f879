"""Documents as trees that can be put together: each part keeps the file and the place that it came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmprov.documents import NOWHERE, Document, Place, Problem, Refused, Steps, parse, read_bytes, refuse
from vmprov.errors import SpecError

# Files in one chain of ``base``, and files altogether.
DEEPEST_BASE = 10
MOST_FILES = 100
# Values in all of them together.
MOST_VALUES = 100_000

# The files from the first one to the one whose base is looked at, each with what messages call it.
Chain = tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class Branch:
    """A value with its place. ``content``: a scalar, a list of branches, or a dict of (place of the key, branch).

    ``file`` -- where the value is written, to which paths in it are relative. ``source`` -- what messages call that.
    """

    content: Any
    source: str
    file: Path
    place: Place = NOWHERE

    def at(self, steps: Steps) -> Branch | None:
        """What is at a path; ``None`` if nothing is."""
        branch = self
        for step in steps:
            if isinstance(branch.content, dict) and step in branch.content:
                branch = branch.content[step][1]
            elif isinstance(branch.content, list) and isinstance(step, int) and step < len(branch.content):
                branch = branch.content[step]
            else:
                return None
        return branch

    def problem(self, text: str) -> Problem:
        """A fault of this value."""
        return Problem(self.place, text, self.source)


def grow(document: Document, file: Path) -> Branch:
    """A document as a tree."""

    def branch(value: Any, path: Steps) -> Branch:
        content = value
        if isinstance(value, dict):
            content = {key: (document.keys[*path, key], branch(inner, (*path, key))) for key, inner in value.items()}
        elif isinstance(value, list):
            content = [branch(inner, (*path, index)) for index, inner in enumerate(value)]
        return Branch(content, document.source, file, document.values[path])

    return branch(document.value, ())


def plain(tree: Branch) -> Any:
    """A tree's value alone."""
    if isinstance(tree.content, dict):
        return {key: plain(inner) for key, (_, inner) in tree.content.items()}
    if isinstance(tree.content, list):
        return [plain(inner) for inner in tree.content]
    return tree.content


def flatten(tree: Branch, at: Steps = ()) -> Document:
    """A tree as a document whose values, but for ``at`` and what is below it, are nowhere."""
    document = Document(tree.source, None, {}, {}, {})
    sources: dict[Steps, str] = {}

    def value(branch: Branch, path: Steps) -> Any:
        document.values[path] = branch.place
        if branch.source != tree.source:
            sources[path] = branch.source
        if isinstance(branch.content, dict):
            document.keys.update({(*path, key): place for key, (place, _) in branch.content.items()})
            return {key: value(inner, (*path, key)) for key, (_, inner) in branch.content.items()}
        if isinstance(branch.content, list):
            return [value(inner, (*path, index)) for index, inner in enumerate(branch.content)]
        return branch.content

    whole = value(tree, at)
    for length in range(len(at) - 1, -1, -1):
        document.values[at[:length]] = tree.place
        whole = {at[length]: whole}
    return replace(document, value=whole, sources=sources)


def merge(lower: Branch, upper: Branch) -> Branch:
    """``upper`` over ``lower``: mappings are merged key by key, everything else is replaced."""
    if not isinstance(lower.content, dict) or not isinstance(upper.content, dict):
        return upper
    content = dict(lower.content)
    for key, (place, branch) in upper.content.items():
        content[key] = (place, merge(content[key][1], branch) if key in content else branch)
    return replace(upper, content=content)


def change(tree: Branch, scalar: Callable[[Branch, Steps], Branch], at: Steps = ()) -> Branch:
    """The tree with each scalar replaced by what the function makes of it and its path."""
    content = tree.content
    if isinstance(content, dict):
        changed = {key: (place, change(inner, scalar, (*at, key))) for key, (place, inner) in content.items()}
        return replace(tree, content=changed)
    if isinstance(content, list):
        return replace(tree, content=[change(inner, scalar, (*at, index)) for index, inner in enumerate(content)])
    return scalar(tree, at)


def find(branch: Branch, name: str) -> tuple[Path, str]:
    """The file that a value names, and why it cannot be read if that shows without reading: a pipe might never end."""
    try:
        path = branch.file.parent / Path(name).expanduser()
        if path.is_file():
            return path, ""
        return path, "is no regular file" if path.exists() else "does not exist"
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, or nobody's home directory
        return Path(), "is no file's name"


class Files:
    """A file and those that it is based on, each read once; collects what is wrong with any of them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._trees: dict[Path, Branch | None] = {}
        self._values = 0

    def compose(self, path: Path, source: str, text: bytes | None = None) -> Branch:
        """The file over those of its bases that can be used; ``problems`` says why others cannot.

        :class:`SpecError` if the file itself cannot be read.
        """
        tree = self._compose(path, source, (), text)
        if tree is None or self._values > MOST_VALUES:
            refuse(self.problems)
        assert tree is not None
        return tree

    def _compose(self, path: Path, source: str, chain: Chain, text: bytes | None) -> Branch | None:
        identity = _identity(path)
        if identity in self._trees:
            return self._trees[identity]
        self._trees[identity] = None
        try:
            document = parse(read_bytes(path) if text is None else text, source)
        except Refused as refused:
            self.problems += refused.found
            return None
        tree = grow(document, path.absolute())
        self._values += len(document.values)
        if self._values > MOST_VALUES:
            raise SpecError(f"the files together hold more than {MOST_VALUES} values")
        if chain and not isinstance(tree.content, dict):
            self.problems.append(tree.problem("must be a mapping (lines of 'key: value')"))
            return None
        below: Branch | None = None
        for base in self._bases(tree):
            other = self._base(tree, base, (*chain, (identity, source)))
            if other is not None:
                below = other if below is None else merge(below, other)
        composed = _without_base(tree) if below is None else merge(below, _without_base(tree))
        self._trees[identity] = composed
        return composed

    def _bases(self, tree: Branch) -> Iterator[Branch]:
        named = tree.at(("base",))
        if named is None:
            return
        for item in named.content if isinstance(named.content, list) else [named]:
            if isinstance(item.content, str) and item.content.strip():
                yield item
            else:
                self.problems.append(item.problem("base: must be a file's name, or a list of them"))

    def _base(self, tree: Branch, named: Branch, chain: Chain) -> Branch | None:
        path, _ = find(tree, named.content)
        source = os.path.normpath(os.path.join(os.path.dirname(tree.source), named.content))  # noqa: PTH118, PTH120
        what = _unfit(tree, named.content)
        passed = [identity for identity, _ in chain]
        if not what and _identity(path) in passed:
            loop = [name for _, name in chain[passed.index(_identity(path)) :]]
            what = f"the files are based on each other: {' -> '.join([*loop, source])}; remove one of these"
        elif not what and len(chain) >= DEEPEST_BASE:
            what = f"more than {DEEPEST_BASE} files are based on one another"
        elif not what and len(self._trees) >= MOST_FILES:
            what = f"more than {MOST_FILES} files take part"
        if what:
            self.problems.append(named.problem(f"base: {what}"))
            return None
        if self._values > MOST_VALUES:
            return None
        try:
            return self._compose(path, source, chain, None)
        except SpecError as unfit:
            self.problems.append(named.problem(f"base: {unfit}"))
            return None


def _identity(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _unfit(tree: Branch, name: str) -> str:
    """Why there cannot be a base of this name."""
    if "${" in name:
        return "no variables are replaced here; write the file's name"
    if "://" in name:
        return f"{name[:200]!r} is no file; only files of this machine can be named"
    why = find(tree, name)[1]
    return f"the file {name[:200]!r} {why}" if why else ""


def _without_base(tree: Branch) -> Branch:
    if not isinstance(tree.content, dict):
        return tree
    return replace(tree, content={key: inner for key, inner in tree.content.items() if key != "base"})
