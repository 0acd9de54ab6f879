"""YAML, read with the place of every value; the only module that imports a YAML library.

What is read is JSON in another notation: mappings with text keys, lists, text, numbers, true, false and null, as
in the core schema of YAML 1.2 - ``yes``, ``12:30:00``, ``2024-01-01`` and ``007`` are text. Tags are refused.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from vmprov.errors import NotFound, SpecError

LARGEST = 1024**2
DEEPEST = 50
# Values, and pieces of 64 characters, that a file may hold once its aliases are replaced by what they stand for.
MOST_VALUES = 100_000
MOST_PROBLEMS = 100

# Its parser is written in C where PyYAML was built with libyaml.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# NUL, control characters, the line ends that only YAML 1.1 knows, and what is no character at all.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_BASED_INT = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")

Steps = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class Place(NamedTuple):
    """Where something begins in a file: line and column (in characters), both from 1."""

    line: int
    column: int


# Of what stands in no file, such as an option.
NOWHERE = Place(0, 0)


@dataclass(frozen=True, order=True)
class Problem:
    """A fault and its place; as text one line, ``file:line:column: path.to.field: what; hint``.

    ``path`` -- where in the document, as far as it is known.
    """

    place: Place
    text: str
    source: str
    path: Steps = field(default=(), compare=False)

    def __str__(self) -> str:
        if self.place == NOWHERE:
            return f"{self.source}: {self.text}"
        return f"{self.source}:{self.place.line}:{self.place.column}: {self.text}"


class Refused(SpecError):
    """What is wrong with one document or several; ``found`` holds the problems with their places."""

    def __init__(self, what: str, *, problems: list[str], found: list[Problem]) -> None:
        super().__init__(what, problems=problems)
        self.found = found


def refuse(problems: Iterable[Problem]) -> None:
    """Raise :class:`Refused` with the first 100 problems, by file and place; nothing happens where there are none."""
    found = sorted(set(problems), key=lambda problem: (problem.source, problem))
    if not found:
        return
    lines = [str(problem) for problem in found[:MOST_PROBLEMS]]
    if len(found) > MOST_PROBLEMS:
        lines.append(f"{found[0].source}: there are more problems than are shown here")
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    what = lines[0] + more
    raise Refused(what, problems=lines, found=found)


@dataclass(frozen=True)
class Document:
    """What a file holds, and where.

    ``value`` -- dicts, lists, text, numbers, booleans and None. ``source`` -- the file's name in messages.
    ``values`` and ``keys`` -- the places of values and of mappings' keys, by the keys and indexes that lead there:
    ``("stages", 0, "limit")``. What stands where an alias is has the place of what the alias stands for.
    ``sources`` -- the files of the places that are in another one than ``source``.
    """

    source: str
    value: Any
    values: dict[Steps, Place]
    keys: dict[Steps, Place]
    sources: Mapping[Steps, str] = field(default_factory=dict)

    def find(self, path: Steps) -> Steps:
        """As much of ``path`` as the document has; index 0 of what is no list is the thing itself."""
        value: Any = self.value
        found: Steps = ()
        for step in path:
            if isinstance(value, dict):
                inside = step in value
            else:
                inside = isinstance(value, list) and isinstance(step, int) and step < len(value)
            if inside:
                value = value[step]
                found += (step,)
            elif step != 0:
                break
        return found

    def problem(self, path: Steps, what: str, *, hint: str = "", key: bool = False) -> Problem:
        """A fault of the value at ``path``, or of its key; ``path`` may lead deeper than the document does."""
        path = self.find(path)
        place = self.keys.get(path) if key else None
        where = f"{dotted(path)}: " if path else ""
        sentence = f"{what}; {hint}" if hint else what
        return Problem(place or self.values[path], where + sentence, self.sources.get(path, self.source), path)


def read(path: Path, *, source: str = "") -> Document:
    """The document in a file; see :func:`parse`. ``source`` is what messages call it, its path where empty."""
    return parse(read_bytes(path), source or str(path))


def read_bytes(path: Path) -> bytes:
    """A file's content, one byte more than :func:`parse` takes at most; :class:`SpecError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except FileNotFoundError as missing:
        raise NotFound(f"{path}: there is no such file") from missing
    except OSError as failed:
        raise SpecError(f"{path}: cannot be read: {failed.strerror}") from failed


def parse(text: str | bytes, source: str) -> Document:
    """The one document in a text of at most 1 MiB, nested at most 50 deep.

    :class:`SpecError` with all problems, each with its place, where it is no YAML, or YAML that nobody should
    rely on: duplicate keys, keys that are no text, tags, tabs between tokens, several documents.
    """
    text = _decode(text, source)
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        code = ord(forbidden[0])
        what = "a NUL byte" if code == 0 else f"the character U+{code:04X}"
        hint = "this is no text file" if code == 0 else f'write it as "\\u{code:04x}", in double quotes'
        refuse([Problem(_place(text, forbidden.start()), f"{what} is not allowed; {hint}", source)])
    return _Reader(text, source).document()


def _decode(text: str | bytes, source: str) -> str:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(data) > LARGEST:
        refuse([Problem(Place(1, 1), "the file is larger than 1MiB", source)])
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        before = data[: bad.start].decode("utf-8")
        what = f"the byte 0x{data[bad.start]:02x} is not UTF-8; save the file as UTF-8"
        refuse([Problem(_place(before, len(before)), what, source)])
        raise
    return decoded.removeprefix("\ufeff")


def _place(text: str, index: int) -> Place:
    before = text[:index]
    line = before.count("\n") + 1
    return Place(line, index - (before.rfind("\n") + 1) + 1)


@dataclass(frozen=True)
class _Node:
    """A value before its aliases are replaced; a list holds nodes, a mapping (place of the key, node)."""

    place: Place
    content: Any


class _Fatal(Exception):
    """Nothing that follows can be read."""


class _Reader:
    """Makes one document of the parser's events. Everything in here is at most ``DEEPEST`` calls deep."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._tabs = "\t" in text
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, _Node] = {}
        self._problems: list[Problem] = []
        self._values: dict[Steps, Place] = {}
        self._keys: dict[Steps, Place] = {}
        self._weight = 0

    def document(self) -> Document:
        """All of it, or :class:`SpecError`."""
        value = None
        try:
            root = self._root()
            self._weight = 0
            value = self._expand(root, ())
        except _Fatal:
            pass
        except yaml.YAMLError as broken:
            self._problems.append(self._not_yaml(broken))
        except (ValueError, OverflowError) as broken:  # the parser in Python, for escapes such as "\UFFFFFFFF"
            self._note(Place(1, 1), f"not valid YAML: {broken}")
        refuse(self._problems)
        return Document(self._source, value, self._values, self._keys)

    def _root(self) -> _Node:
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            self._give_up(Place(1, 1), "the file is empty")
        root = self._node(next(self._events), 1)
        next(self._events)  # the document ends
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._give_up(_start(event), "a second document begins here; write one document to a file")
        if root.content is None:
            self._give_up(root.place, "the file is empty")
        return root

    def _give_up(self, place: Place, text: str) -> NoReturn:
        self._note(place, text)
        raise _Fatal

    def _note(self, place: Place, text: str) -> None:
        self._problems.append(Problem(place, text, self._source))

    def _bound(self, place: Place, depth: int, weight: int) -> None:
        if depth > DEEPEST:
            self._give_up(place, f"nested more than {DEEPEST} deep")
        self._weight += weight
        if self._weight > MOST_VALUES:
            self._give_up(place, f"the file holds more than {MOST_VALUES} values, those of aliases included")

    def _node(self, event: Any, depth: int) -> _Node:
        place = self._begin(event)
        self._bound(place, depth, 1)
        if isinstance(event, yaml.AliasEvent):
            # An anchor is known once what it names has ended, so nothing can contain itself.
            anchor: str = event.anchor or ""
            if anchor not in self._anchors:
                self._give_up(place, f"the alias *{anchor[:60]} stands for nothing that ends before it")
            return self._anchors[anchor]
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(place, self._scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = _Node(place, list(self._items(depth)))
        else:
            node = _Node(place, self._entries(depth))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _begin(self, event: Any) -> Place:
        place, index = _start(event), event.start_mark.index
        gap = re.search(r"[ \t]*\Z", self._text[max(0, index - 200) : index]) if self._tabs else None
        if gap and "\t" in gap[0]:
            self._note(place, "there is a tab before this; use spaces")
        given: str = getattr(event, "tag", None) or ""
        if given:
            tag = given.replace("tag:yaml.org,2002:", "!!")[:60]
            self._note(place, f"the tag {tag} is not allowed; remove it, and put text in quotes")
        return place

    def _items(self, depth: int) -> Iterator[_Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> dict[str, tuple[Place, _Node]]:
        entries: dict[str, tuple[Place, _Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = _start(event)
            content = self._node(event, depth + 1).content
            if isinstance(event, yaml.AliasEvent) or not isinstance(content, str):
                text = event.value[:60] if isinstance(event, yaml.ScalarEvent) else ""
                said = f"the key {text!r} is not text" if text else "a key must be text"
                self._note(place, f"{said}; put it in quotes" if text else said)
                content = f"{place}"
            elif content in entries:
                first = entries[content][0]
                self._note(place, f"the key {shown(content)} is there already, in line {first.line}; remove one")
            entries[content] = (place, self._node(next(self._events), depth + 1))
        return entries

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if _SURROGATE.search(text):
            self._note(_start(event), "half a surrogate pair is no character")
        return plain_value(text) if event.implicit[0] else text

    def _expand(self, node: _Node, path: Steps) -> Any:
        content = node.content
        self._bound(node.place, len(path) + 1, 1 + (len(content) // 64 if isinstance(content, str) else 0))
        self._values[path] = node.place
        if isinstance(content, list):
            return [self._expand(item, (*path, index)) for index, item in enumerate(content)]
        if isinstance(content, dict):
            self._keys.update({(*path, key): place for key, (place, _) in content.items()})
            return {key: self._expand(inner, (*path, key)) for key, (_, inner) in content.items()}
        return content

    def _not_yaml(self, broken: yaml.YAMLError) -> Problem:
        mark, began = getattr(broken, "problem_mark", None), getattr(broken, "context_mark", None)
        if began and not (mark and self._text[mark.index :].strip()):
            mark = began  # what has no end: where it begins says more than where the file ends
        said = getattr(broken, "problem", None) or str(broken)
        context = getattr(broken, "context", None)
        if "nesting depth" in said:  # newer parsers look ahead, and have a limit of their own
            said, context = f"nested more than {DEEPEST} deep", None
        place = _place(self._text, min(mark.index, len(self._text.rstrip()))) if mark else Place(1, 1)
        here = self._text[mark.index : mark.index + 1] if mark else ""
        if here == "\t":
            return Problem(place, "a tab where YAML wants spaces; use spaces", self._source)
        if "maximum nesting depth" in said:  # the parser's own limit; it looks ahead and may meet it before ours
            return Problem(place, f"nested more than {DEEPEST} deep", self._source)
        hint = next((hint for part, hint in _HINTS.items() if part in said), "")
        told = " ".join(f"not valid YAML: {said}{f' {context}' if context else ''}".split())[:300]
        return Problem(place, f"{told}; {hint}" if hint else told, self._source)


# What a parser says, and what is usually the matter.
_HINTS = {
    "mapping values are not allowed": "put text that contains ': ' in quotes",
    "unexpected end of stream": "a quote is not closed",
    "cannot start any token": "put text that begins with this character in quotes",
    "unknown escape character": "use single quotes: nothing in them is an escape",
    "did not find expected key": "look at the indentation, and at quotes and brackets before this",
    "'-' indicator": "look at the indentation",
    "did not find expected ',' or": "a bracket is not closed, or a comma is missing",
    "expected node content": "a bracket is not closed, or there is a comma too many",
}


class _Writer(yaml.SafeDumper):
    """Block style, lists indented, no aliases; what would be read as something else is quoted."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        style = None
        if _FORBIDDEN.search(text) or "\t" in text:
            style = '"'
        elif "\n" in text:
            style = "|"
        elif not isinstance(plain_value(text), str):
            style = "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _Writer.text)


def write(value: Any) -> str:
    """YAML that :func:`parse` reads as ``value``: mappings (in their order), lists, text, numbers and booleans."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=10**6)


def _start(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def plain_value(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means: the core schema of YAML 1.2, but for infinities and what is not exact as a number.

    >>> plain_value("12"), plain_value("1e3"), plain_value("true"), plain_value("~")
    (12, 1000.0, True, None)
    >>> plain_value("yes"), plain_value("007"), plain_value(".inf"), plain_value("12:30")
    ('yes', '007', '.inf', '12:30')
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if len(text) <= 40 and _FLOAT.fullmatch(text) and not text.lstrip("+-").isdigit():
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def validate(model: type[M], document: Document) -> M:
    """An instance of a pydantic model, or :class:`SpecError` with every problem and its place, in words for people.

    A key without a value (null) is refused wherever it stands. Validators may raise ValueError("what; hint").
    The model's validators see the document as their context.
    """
    instance, problems = examine(model, document)
    refuse(problems)
    assert instance is not None
    return instance


def examine(
    model: type[M], document: Document, at: Steps = (), *, part: Callable[[Steps], bool] = lambda _: False
) -> tuple[M | None, list[Problem]]:
    """As :func:`validate`, of what is at one path, with the problems in place of an exception.

    ``part``: whether keys may be missing at a path, since the rest comes from elsewhere.
    """
    problems = [
        document.problem(path, "there is no value; give one, or remove this", key=True)
        for path in document.values
        if path[: len(at)] == at and _value(document, path) is None
    ]
    try:
        return model.model_validate(_value(document, at), context=document), problems
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        told = [error for error in errors if error["input"] is not None and not _follows_only(error)]
        told = [error for error in told if error["type"] != "missing" or not part((*at, *error["loc"]))]
        found = [_problem(model, document, at, error) for error in told]
        return None, problems + sorted(found, key=lambda problem: problem.place)[: MOST_PROBLEMS + 1]


def _follows_only(error: Any) -> bool:
    """Whether it says that a list is too short which is so only without its items that are wrong themselves."""
    return error["type"] == "too_short" and bool(len(error["input"]) >= error["ctx"]["min_length"])


def _value(document: Document, path: Steps) -> Any:
    value = document.value
    for step in path:
        value = value[step]
    return value


def _problem(model: type[BaseModel], document: Document, at: Steps, error: Any) -> Problem:
    """One of pydantic's errors in words for people."""
    path: Steps = (*at, *error["loc"])
    kind, given, limits = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        what, hint = unknown("key", str(path[-1]), _keys_at(model, path[len(at) : -1]))
        told = document.problem(path[:-1], what, hint=hint)
        return replace(document.problem(path, "", key=True), text=told.text)
    if kind == "missing":
        return document.problem(path[:-1], f"the key '{path[-1]}' is missing")
    of_key = path[-1:] == ("[key]",)
    if of_key:
        path = path[:-1]
    if kind in _TYPES:
        hint = "put it in quotes" if kind == "string_type" and isinstance(given, int | float) else ""
        return document.problem(path, f"must be {_TYPES[kind]}, not {shown(given)}", hint=hint, key=of_key)
    if kind == "literal_error":
        near = difflib.get_close_matches(str(given)[:80].lower(), re.findall(r"'([^']*)'", limits["expected"]), n=1)
        hint = f"did you mean '{near[0]}'?" if near else ""
        return document.problem(path, f"must be {limits['expected']}, not {shown(given)}", hint=hint, key=of_key)
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return document.problem(path, f"must be {words} {limits[name]:g}, not {shown(given)}", key=of_key)
    if kind == "too_long":
        return document.problem(path, f"must not have more than {limits['max_length']} items", key=of_key)
    if kind in ("string_too_short", "too_short") and limits.get("min_length") == 1:
        return document.problem(path, "must not be empty", key=of_key)
    return document.problem(path, str(error["msg"]).removeprefix("Value error, ")[:300], key=of_key)


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "ip_v4_address": "an IPv4 address",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (lines of 'key: value')",
    "model_type": "a mapping (lines of 'key: value')",
    "model_attributes_type": "a mapping (lines of 'key: value')",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def unknown(what: str, given: str, known: Iterable[str]) -> tuple[str, str]:
    """What to say of a name that is none of ``known``, and the hint: the nearest one, else some of them."""
    names = sorted(set(known))
    near = difflib.get_close_matches(given[:80], names, n=1, cutoff=0.6)
    some = f"known: {', '.join(names[:15])}{', ...' if len(names) > 15 else ''}" if names else "there are none"
    hint = f"did you mean '{near[0]}'?" if near else some
    return f"unknown {what} {shown(given)}", hint


def _keys_at(kind: Any, path: Steps) -> list[str]:
    """The keys that a model takes at a place; none where that depends on more than the place."""
    for step in path:
        kind = _inside(_bare(kind), step)
    kind = _bare(kind)
    fields = kind.model_fields if _is_model(kind) else {}
    return [field.alias or name for name, field in fields.items()]


def kind_at(model: type[BaseModel], path: Steps) -> Any:
    """The type of what a model takes at a path, without None; ``None`` if it takes nothing there."""
    kind: Any = model
    for step in path:
        kind = _inside(_bare(kind), step)
    return _bare(kind)


def _inside(kind: Any, step: str | int) -> Any:
    if _is_model(kind):
        return next((f.annotation for name, f in kind.model_fields.items() if step in (name, f.alias)), None)
    arguments = get_args(kind)
    return arguments[1 if get_origin(kind) is dict else 0] if arguments else None


def _bare(kind: Any) -> Any:
    """A type without Annotated and without None."""
    while True:
        arguments = [argument for argument in get_args(kind) if argument is not NoneType]
        if get_origin(kind) is Annotated or (NoneType in get_args(kind) and len(arguments) == 1):
            kind = arguments[0]
        else:
            return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def shown(value: Any) -> str:
    """A value as a message shows it, short."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return json.dumps(value, default=str)


def dotted(path: Steps) -> str:
    """``stages[0].expect``; keys that are no plain words in quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w-]{1,60}", step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text
