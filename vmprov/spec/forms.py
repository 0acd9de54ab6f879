"""Second forms of values, for people: text for a size, one item for a list of one; and the JSON schema of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from vmprov.documents import shown
from vmprov.spec.quantities import LONGEST_DURATION, exact_size, format_size, parse_duration, parse_size


class Form:
    """``convert`` makes of what was given what the type takes; ``schema`` makes of its JSON schema that of files.

    ``convert`` is told whether the value is from a file: there, only one form of several may be right.
    """

    def __init__(self, convert: Callable[[object, bool], object], schema: Callable[[Any], Any]) -> None:
        self._convert = convert
        self._schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def convert(value: object, info: ValidationInfo) -> object:
            return self._convert(value, info.context is not None)

        return core_schema.with_info_before_validator_function(convert, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made: dict[str, Any] = self._schema(handler(schema))
        return made


class Or(Form):
    """Takes a second form of a value, too: ``convert`` makes the first form of it, ``schema`` describes it."""

    def __init__(self, convert: Callable[[object], object], schema: Callable[[Any], Any]) -> None:
        super().__init__(lambda value, _: convert(value), lambda inner: {"anyOf": [inner, schema(inner)]})


def items(inner: Any) -> Any:
    """The JSON schema of a list's items."""
    return inner["items"]


def _size(value: object, from_file: bool) -> object:
    if isinstance(value, str):
        return parse_size(value)
    if from_file and isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value:.15g} has no unit; write for example 512MiB or 2GiB")
    if not isinstance(value, int | float | None) or isinstance(value, bool):
        raise ValueError(f"must be a size such as 2GiB, not {shown(value)}")
    return value


def _duration(value: object, _from_file: bool) -> object:
    if not isinstance(value, str | int | float | None) or isinstance(value, bool):
        raise ValueError(f"must be a duration such as 5m, not {shown(value)}")
    seconds = parse_duration(value) if isinstance(value, str) else value
    if seconds is not None and seconds > LONGEST_DURATION:
        raise ValueError(f"must be at most 100 years, not {shown(value)}")
    return round(seconds, 3) if isinstance(seconds, float) else seconds


def _list(value: object) -> object:
    return (value,) if isinstance(value, str | int | float | dict | Path | BaseModel) else value


SIZE_IN_FILES = {"type": "string", "pattern": r"^\s*[0-9]{1,15}(\.[0-9]{1,6})?\s*([kKmMgGtTpP][iI]?[bB]?|[bB])\s*$"}
_DURATION = {"type": "string", "pattern": r"^\s*[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h|d)?\s*$"}

# A single item stands for a list of one.
LIST = Or(_list, items)
# Bytes; in files with a unit.
Size = Annotated[int, Form(_size, lambda _: dict(SIZE_IN_FILES))]
# Seconds, or text with a unit.
Seconds = Annotated[float, Form(_duration, lambda inner: {"anyOf": [inner, dict(_DURATION)]})]


def at_least(smallest: int) -> Callable[[int], int]:
    """A validator of sizes."""

    def check(size: int) -> int:
        if size < smallest:
            raise ValueError(f"must be at least {format_size(smallest)}, not {exact_size(size)}")
        return size

    return check


class FileSchema(GenerateJsonSchema):
    """The schema of files: they know no null; a key is there with a value, or is not there."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """What is there is not null."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Null is no default."""
        made = super().default_schema(schema)
        if made.get("default", made) is None:
            del made["default"]
        return made
