"""What a flow file may hold.

A flow is a list of stages. The machine is *in* a stage until one of the patterns that the stage expects is seen;
then it sends what that pattern says, and enters the next stage. Passing the last one is success - nothing else is.

Wherever a list is expected, a single item may stand for a list of one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from vmprov.documents import unknown
from vmprov.spec.names import check_flow_name, check_stage_name
from vmprov.spec.quantities import parse_duration

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
    """An RE2 expression, ready to ``search``; :class:`ValueError` saying what RE2 has against it."""
    options = re2.Options()
    options.log_errors = False
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
        raise ValueError(f"RE2 refuses the expression: {said}" + (f"; {hint}" if hint else "")) from refused


def _check_regex(text: str) -> str:
    if compile_regex(text).search("") is not None:
        raise ValueError("the expression matches the empty string, and so every line; write what must be there")
    return text


def _check_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("there is a line break in it; patterns are looked for within one line")
    return text


def _check_key(name: str) -> str:
    if name not in KEYS:
        raise ValueError("; ".join(unknown("key", name, KEYS)))
    return name


def _check_place(text: str) -> str:
    if re.sub(r"\{vm\}", "", text).strip("{}") != re.sub(r"\{vm\}", "", text):
        raise ValueError("only {vm} may stand in braces")
    return text


class _Or:
    """Takes another form of a value, too: ``convert`` makes the first of the second, ``schema`` describes the second."""

    def __init__(self, convert: Any, schema: Any) -> None:
        self._convert = convert
        self._schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._convert, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        inner = handler(schema)
        return {"anyOf": [inner, self._schema(inner)]}


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


DURATION = _Or(_duration, lambda _: {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)?$"})
LIST = _Or(_list, lambda inner: inner["items"])

Seconds = Annotated[float, Strict(), Field(gt=0), DURATION]
Name = Annotated[str, AfterValidator(check_stage_name)]
Names = Annotated[tuple[Name, ...], LIST]
Console = Annotated[int, Strict(), Field(ge=0, le=1)]
Line = Annotated[str, Field(min_length=1), AfterValidator(_check_line)]
