"""What a flow file may hold.

A flow is a list of stages. The machine is *in* a stage until one of the patterns that the stage expects is seen;
then it sends what that pattern says, and enters the next stage. Passing the last one is success - nothing else is.

Wherever a list is expected, a single item may stand for a list of one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
    model_validator,
)

from vmprov.documents import unknown
from vmprov.spec.forms import Or, items
from vmprov.spec.machine import Machine
from vmprov.spec.names import check_flow_name, check_stage_name
from vmprov.spec.quantities import parse_duration
from vmprov.spec.write import machine_entry

# The stage that ``next`` may name although no flow has one of that name.
SUCCESS = "success"

# What the keys send that ``key`` may name, as a VT220 sends it.
KEYS: Mapping[str, bytes] = MappingProxyType(
    {
        "enter": b"\r", "esc": b"\x1b", "tab": b"\t", "space": b" ", "backspace": b"\x7f",
        "up": b"\x1b[A", "down": b"\x1b[B", "right": b"\x1b[C", "left": b"\x1b[D",
        "home": b"\x1b[1~", "insert": b"\x1b[2~", "delete": b"\x1b[3~", "end": b"\x1b[4~",
        "page-up": b"\x1b[5~", "page-down": b"\x1b[6~",
        "f1": b"\x1bOP", "f2": b"\x1bOQ", "f3": b"\x1bOR", "f4": b"\x1bOS", "f5": b"\x1b[15~", "f6": b"\x1b[17~",
        "f7": b"\x1b[18~", "f8": b"\x1b[19~", "f9": b"\x1b[20~", "f10": b"\x1b[21~", "f11": b"\x1b[23~",
        "f12": b"\x1b[24~",
        **{f"ctrl-{letter}": bytes([number]) for number, letter in enumerate(string.ascii_lowercase, 1)},
    }
)  # fmt: skip


def compile_regex(text: str) -> Any:
    """An RE2 expression, ready to ``search``, without groups; :class:`ValueError` with what RE2 has against it."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # thousands of groups would take seconds for a line, and gigabytes
    try:
        return re2.compile(text, options)
    except re2.error as refused:
        told = refused.args[0] if refused.args else ""
        said = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
        hint = ""
        if re.search(r"\(\?<?[=!]", text):
            hint = "lookahead and lookbehind are not supported"
        elif re.search(r"\(\?P=|\\[1-9k]", text):
            hint = "backreferences are not supported"
        raise ValueError(f"RE2 refuses the expression: {said[:120]}" + (f"; {hint}" if hint else "")) from refused


def _check_regex(text: str) -> str:
    if compile_regex(text).search("") is not None:
        raise ValueError("the expression matches the empty string, and so every line; write what must be there")
    return text


def _check_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("there is a line break in it; patterns are looked for within one line")
    return text


def _check_prompt(text: str) -> str:
    if not text.strip():
        raise ValueError("a prompt of blanks alone is at the end of every line")
    return text


def _check_key(name: str) -> str:
    if name not in KEYS:
        raise ValueError("; ".join(unknown("key", name, KEYS)))
    return name


def _check_place(text: str) -> str:
    if re.search(r"[{}]", text.replace("{vm}", "")):
        raise ValueError("only {vm} may stand in braces")
    return text


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


DURATION = Or(_duration, lambda _: {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)?$"})
LIST = Or(_list, items)

Seconds = Annotated[float, Strict(), Field(gt=0), DURATION]
Name = Annotated[str, AfterValidator(check_stage_name)]
Names = Annotated[tuple[Name, ...], LIST]
Console = Annotated[int, Strict(), Field(ge=0, le=1)]
Line = Annotated[str, Field(min_length=1), AfterValidator(_check_line)]


def _exactly_one(names: tuple[str, ...]) -> dict[str, Any]:
    return {"oneOf": [{"required": [name]} for name in names]}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _names_of_files(cls, value: object, info: ValidationInfo) -> object:
        """In files a key has one name; Python's own name for it is for Python only."""
        for name, field in cls.model_fields.items():
            if info.context is not None and field.alias and isinstance(value, dict) and name in value:
                raise ValueError(f"unknown key '{name}'; did you mean '{field.alias}'?")
        return value


_KINDS = ("text", "regex", "prompt")


class Pattern(_Model):
    """What is looked for; exactly one of ``text``, ``regex`` and ``prompt`` is given.

    ``text`` -- these characters, anywhere in a line.
    ``regex`` -- an RE2 expression (https://github.com/google/re2/wiki/Syntax), which takes linear time whatever it is;
    it must not match the empty string.
    ``prompt`` -- these characters at the end of a line that has no end yet and has stood still for ``settle`` seconds.
    ``console`` -- only on this UART; all of the flow's where not given.
    """

    model_config = ConfigDict(json_schema_extra=_exactly_one(_KINDS))

    text: Line | None = None
    regex: Annotated[str, Field(min_length=1), AfterValidator(_check_regex)] | None = None
    prompt: Annotated[Line, AfterValidator(_check_prompt)] | None = None
    console: Console | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Pattern:
        if sum(getattr(self, kind) is not None for kind in _KINDS) != 1:
            raise ValueError("exactly one of text, regex and prompt must be given")
        return self


_INPUTS = ("line", "text", "secret", "key", "pause")


class Input(_Model):
    """Something to type; exactly one field is given, and in a file a plain string stands for ``line``.

    ``line`` -- this and the Enter key (a carriage return). ``text`` -- this alone.
    ``secret`` -- a secret by its name in ``secrets``, and the Enter key. ``key`` -- such as ``ctrl-c``, see
    ``KEYS``. ``pause`` -- nothing, for so many seconds.
    """

    model_config = ConfigDict(json_schema_extra=_exactly_one(_INPUTS))

    line: str | None = None
    text: Annotated[str, Field(min_length=1)] | None = None
    secret: Name | None = None
    key: Annotated[str, AfterValidator(_check_key), Field(json_schema_extra={"enum": list(KEYS)})] | None = None
    pause: Seconds | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Input:
        if sum(getattr(self, name) is not None for name in _INPUTS) != 1:
            raise ValueError(f"exactly one of {', '.join(_INPUTS[:-1])} and {_INPUTS[-1]} must be given")
        return self


def _plain_for(field: str) -> Callable[[object], object]:
    def convert(value: object) -> object:
        if isinstance(value, int | float):
            raise ValueError("must be text or a mapping; put it in quotes if it is text")
        return {field: value} if isinstance(value, str) else value

    return convert


Inputs = Annotated[tuple[Annotated[Input, Or(_plain_for("line"), lambda _: {"type": "string"})], ...], LIST]


class Expectation(Pattern):
    """One way to pass a stage: the pattern, what is sent when it is seen, and the stage that comes then.

    ``send`` goes to the UART on which the pattern was seen. ``next``: a stage's name or ``success``; the following
    stage where not given. In a file a plain string stands for ``text``.
    """

    send: Inputs = ()
    next: Name | None = None


class Failure(Pattern):
    """A line that means failure: ``class`` names the kind, such as ``kernel-panic``; ``why`` says it in words."""

    failure_class: Name = Field(alias="class")
    why: str = ""


class Recovery(Pattern):
    """A known trap and the way out: type something and go back to a stage, ``budget`` times at most in one run.

    ``name`` shows in the timeline. ``during``: only in these stages; in all of them where empty.
    A trap met once more than the budget allows is a failure of class ``class`` (default: ``name``), unless a signature
    that is ignored told the reason before.
    """

    name: Name
    send: Inputs = ()
    next: Name
    budget: Annotated[int, Strict(), Field(ge=1, le=100)] = 1
    during: Names = ()
    failure_class: Name | None = Field(default=None, alias="class")


_SOURCES = ("env", "file", "ask")
Source = Annotated[str, Field(min_length=1), AfterValidator(_check_place)]


class Secret(_Model):
    """Where a secret comes from; the first place that has it counts: ``env``, then ``file``, then ``ask``.

    ``env`` -- an environment variable. ``file`` -- a path whose first line is the secret. ``ask`` -- the question to
    put to whoever sits at the terminal. The VM's name may stand in ``env`` and ``file`` as ``{vm}``.
    """

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [name]} for name in _SOURCES]})

    env: Source | None = None
    file: Source | None = None
    ask: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _a_source(self) -> Secret:
        if all(getattr(self, name) is None for name in _SOURCES):
            raise ValueError("nothing says where the secret comes from; give env, file or ask")
        return self


class Stage(_Model):
    """One stage.

    ``expect`` -- the patterns of which any passes it. ``limit`` -- seconds that the machine may stay in it; without,
    only the flow's own limit counts.
    ``optional`` -- passed over when the next stage that must come (or an optional one on the way to it) is seen
    instead, or when the limit is up.
    ``nudge`` -- press Enter after so many seconds without a byte, again and again: for consoles that say nothing until
    asked.
    ``fail`` -- lines that mean failure in this stage. ``ignore`` -- failure classes that mean nothing in this stage.
    """

    stage: Name
    expect: Annotated[
        tuple[Annotated[Expectation, Or(_plain_for("text"), lambda _: {"type": "string", "minLength": 1})], ...],
        Field(min_length=1),
        LIST,
    ]
    limit: Seconds | None = None
    optional: Annotated[bool, Strict()] = False
    nudge: Seconds | None = None
    fail: Annotated[tuple[Failure, ...], LIST] = ()
    ignore: Names = ()


class Flow(_Model):
    """A flow file.

    ``flow`` -- its name. ``consoles`` -- the UARTs that it listens to. ``limit`` -- seconds for all stages together.
    ``settle`` -- seconds for which an unfinished line has to stand still to be taken for a prompt.
    ``pacing`` -- seconds between two characters that are sent, for UARTs that lose them otherwise.
    ``boots`` -- firmware starts without a new stage in between from which on it is a reboot loop.
    ``recover``, ``fail``, ``ignore`` -- as in a stage, but at all times. ``secrets`` -- by name, what ``send`` may
    refer to.
    ``machine`` -- what machines are like that are made for this flow, where their request says nothing else.
    ``onboarding`` -- machines boot from an edge orchestrator, and are onboarded to it: with credentials that are typed,
    or registered by their serial numbers before they are powered on.
    """

    flow: Annotated[str, AfterValidator(check_flow_name)]
    description: str = ""
    consoles: Annotated[tuple[Console, ...], Field(min_length=1), LIST] = (0,)
    limit: Seconds | None = None
    settle: Annotated[float, Strict(), Field(ge=0.05, le=60), DURATION] = 0.3
    pacing: Annotated[float, Strict(), Field(ge=0, le=5), DURATION] = 0.0
    boots: Annotated[int, Strict(), Field(ge=2, le=100)] = 4
    secrets: dict[Name, Secret] = Field(default_factory=dict)
    machine: Annotated[Machine, PlainSerializer(machine_entry, when_used="json")] | None = None
    onboarding: Literal["interactive", "non-interactive"] | None = None
    stages: Annotated[tuple[Stage, ...], Field(min_length=1), LIST]
    recover: Annotated[tuple[Recovery, ...], LIST] = ()
    fail: Annotated[tuple[Failure, ...], LIST] = ()
    ignore: Names = ()

    def __hash__(self) -> int:
        return hash((self.flow, self.consoles, self.stages))
