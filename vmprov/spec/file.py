"""What a lab file may hold, before it is expanded; the JSON schema of such files."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from vmprov.documents import shown
from vmprov.spec.forms import LIST, FileSchema
from vmprov.spec.lab import MOST_VMS, DomainName, LabName, Network, NetworkName, SerialNumber, VMName
from vmprov.spec.quantities import format_size
from vmprov.spec.wishes import Part, Wishes

# Names of variables.
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,59}")


def _scalar(value: object) -> object:
    if isinstance(value, dict | list):
        raise ValueError(f"must be text, a number, true or false, not {shown(value)}")
    return value


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise ValueError(f"variable {name[:60]!r} is not allowed; use letters, digits, '_' and '-'")
    return name


Variable = Annotated[str, AfterValidator(_variable)]
Scalar = Annotated[Any, AfterValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean"]})]


class Defaults(Wishes):
    """What all VMs have that do not say otherwise. ``host`` and ``driver`` are those of the lab."""

    host: str = ""
    driver: str = ""


class Entry(Wishes):
    """One VM, or ``count`` of them that are alike: ``web`` is ``web-1``, ``web-2`` then.

    ``after``: these have to be ready before it is started. ``serial_numbers``: one for each.
    ``domain``: one that somebody made and that is taken in as it is, in place of one that we make.
    """

    count: Annotated[int, Field(ge=1, le=MOST_VMS, strict=True)] | None = None
    after: Annotated[tuple[str, ...], LIST] = ()
    serial_numbers: Annotated[tuple[SerialNumber, ...], LIST] = ()
    domain: DomainName = ""


class LabFile(Part):
    """A lab file. ``base``: files that this one lies over. ``vars``: values for ``${name}``."""

    lab: LabName
    base: Annotated[tuple[str, ...], LIST] = ()
    vars: dict[Variable, Scalar] = Field(default_factory=dict)
    host: str = ""
    driver: str = ""
    networks: dict[NetworkName, Network] = Field(default_factory=dict)
    defaults: Defaults = Field(default_factory=Defaults)
    vms: Annotated[dict[VMName, Entry], Field(min_length=1)]


# What an editor is told of a reference.
REFERENCE = {"type": "string", "pattern": r"\$\{"}
_NARROW = ("integer", "number", "boolean")


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of lab files, for editors; reading a file checks more than it can say.

    Where no reference to a variable could stand otherwise, it allows one.
    """
    made: dict[str, Any] = _with_references(LabFile.model_json_schema(schema_generator=FileSchema))
    # What a file based on others must hold is known once they are put together.
    required = made.pop("required")
    made["anyOf"] = [{"required": ["base"]}, {"required": required}]
    for described in made["$defs"].values():
        described.pop("required", None)
        memory = described["properties"].get("memory", {})
        if "default" in memory:
            memory["default"] = format_size(memory["default"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _with_references(node: Any) -> Any:
    """The schema with a reference allowed wherever not any text is; without titles, which say what the keys say."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
    kinds = node.get("type", [])
    narrow = kinds in _NARROW or (kinds == "string" and bool({"enum", "const", "pattern", "format"} & set(node)))
    if narrow:
        default = {"default": node.pop("default")} if "default" in node else {}
        return {"anyOf": [node, dict(REFERENCE)], **default}
    return {key: value if key in ("default", "required") else _with_references(value) for key, value in node.items()}
