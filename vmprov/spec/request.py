"""A request for virtual machines, as ``vmprov create`` and the library take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vmprov.errors import SpecError
from vmprov.spec.labels import parse_label
from vmprov.spec.names import check_name, check_serial_number
from vmprov.spec.wishes import Wishes

MOST_VMS = 1000
# Where an option is not called what its field is.
_OPTIONS = {
    ("networks",): "--network",
    ("disks",): "--extra-disk",
    ("http_boot",): "--boot-url",
    ("http_boot", "url"): "--boot-url",
    ("http_boot", "ca"): "--ca",
    ("http_boot", "dns"): "--boot-dns",
    ("smbios", "manufacturer"): "--manufacturer",
    ("smbios", "product"): "--product",
    ("boot_certificates",): "--boot-certificate",
    ("labels",): "--label",
}


def _lab_name(name: str) -> str:
    return check_name(name, "lab name")


class CreateRequest(Wishes):
    """What to make: machines of one shape, and how many, how they are called, and how to go about it.

    ``name`` is a prefix where ``count`` is given (``web-1``, ``web-2``), else the one VM's name.
    ``driver`` may be empty: the host's default.
    ``parallel`` of 0 means: as many at once as the host's cores and memory suggest.
    ``on_failure``: what becomes of a VM that fails, and of the others: it is undone alone; it is ``keep``-t; the whole
    batch is undone; or nothing more is begun, and everything stays. ``keep_on_failure``: the same as ``keep``.
    """

    count: int | None = Field(default=None, ge=1, le=MOST_VMS)
    name: Annotated[str, AfterValidator(lambda name: check_name(name) if name else name)] = ""
    lab: Annotated[str, AfterValidator(lambda name: _lab_name(name) if name else name)] = ""
    driver: str = ""
    serial_numbers: tuple[Annotated[str, AfterValidator(check_serial_number)], ...] = ()
    parallel: int = Field(default=0, ge=0, le=MOST_VMS)
    on_failure: Literal["rollback-vm", "keep", "rollback-lab", "stop"] = "rollback-vm"
    keep_on_failure: bool = False

    @model_validator(mode="after")
    def _check_policy(self) -> CreateRequest:
        if self.keep_on_failure and self.on_failure not in ("keep", type(self).model_fields["on_failure"].default):
            raise ValueError(f"--keep-on-failure and --on-failure {self.on_failure} contradict each other")
        return self

    @model_validator(mode="after")
    def _check_serial_numbers(self) -> CreateRequest:
        numbers = self.serial_numbers
        if numbers and len(numbers) != (self.count or 1):
            raise ValueError(f"{len(numbers)} serial numbers were given for {self.count or 1} VMs")
        if len(set(numbers)) != len(numbers):
            raise ValueError("the same serial number was given twice")
        return self

    @classmethod
    def parse(cls, **wanted: Any) -> CreateRequest:
        """A valid request, or :class:`SpecError` with every problem found.

        ``network`` may stand for ``networks``; labels may be texts such as ``role=edge``.
        """
        if "network" in wanted:
            wanted["networks"] = wanted.pop("network")
        if isinstance(wanted.get("labels"), list | tuple):
            wanted["labels"] = _labels(wanted["labels"])
        try:
            return cls(**wanted)
        except ValidationError as invalid:
            problems = [_sentence(error) for error in invalid.errors()]
            raise SpecError("; ".join(problems), problems=problems) from invalid

    @property
    def policy(self) -> str:
        """What becomes of VMs that fail."""
        return "keep" if self.keep_on_failure else self.on_failure

    @property
    def wishes(self) -> Wishes:
        """What is wished for each machine alone."""
        return Wishes(**{name: value for name, value in self.given().items() if name in Wishes.model_fields})

    def refuse_conflicts(self) -> None:
        """Raise :class:`SpecError` if there are wishes that do not go together."""
        problems = [f"{option(field)}: {why}" for field, why in self.conflicts()]
        if problems:
            raise SpecError("; ".join(problems), problems=problems)

    def vm_names(self, taken: set[str]) -> list[str]:
        """The VMs' names. Numbers go up from 1; where no name was asked for, those in ``taken`` are passed over."""
        if self.name and self.count is None:
            return [self.name]
        wanted = self.count or 1
        if self.name:
            return [f"{self.name}-{number}" for number in range(1, wanted + 1)]
        free = (name for name in (f"vm-{number}" for number in range(1, 10**6)) if name not in taken)
        return [next(free) for _ in range(wanted)]


def _labels(texts: Iterable[str]) -> dict[str, str]:
    try:
        return dict(parse_label(text) for text in texts)
    except ValueError as problem:
        raise SpecError(f"--label: {problem}") from problem


def option(*fields: str) -> str:
    """The option of ``vmprov create`` for a field.

    >>> option("http_boot", "ca"), option("keep_on_failure"), option("disks", "size")
    ('--ca', '--keep-on-failure', '--extra-disk')
    """
    for length in range(len(fields), 0, -1):
        if fields[:length] in _OPTIONS:
            return _OPTIONS[fields[:length]]
    return f"--{fields[0].replace('_', '-')}" if fields else ""


def _sentence(error: Any) -> str:
    """One problem found by pydantic, in the words of the command line."""
    fields = tuple(step for step in error["loc"] if isinstance(step, str))
    given = error.get("input")
    limits = error.get("ctx", {})
    named = option(*fields)
    if error["type"] == "greater_than_equal":
        return f"{named} must be at least {limits['ge']}, not {given}"
    if error["type"] == "less_than_equal":
        return f"{named} must be at most {limits['le']}, not {given}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if named and message.startswith("must be"):
        return f"{named} {message}"
    return f"{named}: {message}" if named else message
