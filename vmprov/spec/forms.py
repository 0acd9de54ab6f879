"""Second forms of values: text for a size, one item for a list of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Or:
    """Takes a second form of a value, too: ``convert`` makes the first form of it, ``schema`` describes it."""

    def __init__(self, convert: Callable[[object], object], schema: Callable[[Any], Any]) -> None:
        self._convert = convert
        self._schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._convert, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        inner = handler(schema)
        return {"anyOf": [inner, self._schema(inner)]}


def items(inner: Any) -> Any:
    """The JSON schema of a list's items."""
    return inner["items"]
