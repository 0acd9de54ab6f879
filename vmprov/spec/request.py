"""A request for virtual machines, as ``vmprov create`` and the library take it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from vmprov.errors import SpecError
from vmprov.spec.names import check_image_name, check_name, check_network_name, check_serial_number
from vmprov.spec.quantities import format_size, parse_duration, parse_size

MIB = 1024**2
MOST_VMS = 1000
DEFAULT_LIMIT = 600.0
SMALLEST_MEMORY = 32 * MIB
SMALLEST_DISK = MIB


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _lab_name(name: str) -> str:
    return check_name(name, "lab name")


Size = Annotated[int, BeforeValidator(_size)]
Seconds = Annotated[float, BeforeValidator(_duration)]


class CreateRequest(BaseModel):
    """What to make. Sizes in bytes (or text such as ``2GiB``), ``timeout`` in seconds (or text such as ``5m``).

    ``timeout`` of ``None`` means: the flow's own limit, or ten minutes.
    ``consoles``: serial ports of each; at least as many as the flow listens to are made.

    ``name`` is a prefix where ``count`` is given (``web-1``, ``web-2``), else the one VM's name.
    ``network`` is ``per-vm``, ``shared``, ``isolated``, or the name of an existing libvirt network.
    ``image`` may be empty: a machine with a blank disk, ready as soon as it is powered on.
    ``driver`` may be empty: the host's default.
    ``flow`` is a shipped flow's name or a file; empty: ready is when SSH answers, or the login prompt shows.
    ``parallel`` of 0 means: as many at once as the host's cores and memory suggest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int | None = Field(default=None, ge=1, le=MOST_VMS)
    name: Annotated[str, AfterValidator(lambda name: check_name(name) if name else name)] = ""
    lab: Annotated[str, AfterValidator(lambda name: _lab_name(name) if name else name)] = ""
    image: Annotated[str, AfterValidator(lambda name: check_image_name(name) if name else name)] = "debian-12"
    driver: str = ""
    flow: str = ""
    network: Annotated[str, AfterValidator(check_network_name)] = "per-vm"
    cpus: int = Field(default=1, ge=1, le=256)
    memory: Size = Field(default=1024 * MIB, ge=SMALLEST_MEMORY)
    disk: Size | None = Field(default=None, ge=SMALLEST_DISK)
    consoles: int = Field(default=1, ge=1, le=2)
    serial_numbers: tuple[Annotated[str, AfterValidator(check_serial_number)], ...] = ()
    timeout: Annotated[Seconds, Field(gt=0)] | None = None
    parallel: int = Field(default=0, ge=0, le=MOST_VMS)
    keep_on_failure: bool = False

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
        """A valid request, or :class:`SpecError` with every problem found."""
        try:
            return cls(**wanted)
        except ValidationError as invalid:
            problems = [_sentence(error) for error in invalid.errors()]
            raise SpecError("; ".join(problems), problems=problems) from invalid

    @property
    def limit(self) -> float:
        """Seconds from power-on to the verdict."""
        return DEFAULT_LIMIT if self.timeout is None else self.timeout

    def vm_names(self, taken: set[str]) -> list[str]:
        """The VMs' names. Numbers go up from 1; where no name was asked for, those in ``taken`` are passed over."""
        if self.name and self.count is None:
            return [self.name]
        wanted = self.count or 1
        if self.name:
            return [f"{self.name}-{number}" for number in range(1, wanted + 1)]
        free = (name for name in (f"vm-{number}" for number in range(1, 10**6)) if name not in taken)
        return [next(free) for _ in range(wanted)]


def _sentence(error: Any) -> str:
    """One problem found by pydantic, in the words of the command line."""
    field = str(error["loc"][0]) if error["loc"] else ""
    given = error.get("input")
    limits = error.get("ctx", {})
    option = f"--{field.replace('_', '-')}" if field else ""
    if error["type"] == "greater_than_equal":
        least = limits["ge"]
        if field in ("memory", "disk"):
            least, given = format_size(int(least)), format_size(int(given))
        return f"{option} must be at least {least}, not {given}"
    if error["type"] == "less_than_equal":
        return f"{option} must be at most {limits['le']}, not {given}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{option}: {message}" if option else message
