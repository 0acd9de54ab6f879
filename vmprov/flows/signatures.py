"""Lines that mean failure whatever the flow: kernels, loaders and init systems that say that they have given up."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vmprov.documents import read, validate
from vmprov.flows.grammar import Failure

_FILE = Path(__file__).with_name("signatures.yaml")


class _Signatures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    signatures: list[Failure]


@cache
def shipped_signatures() -> tuple[Failure, ...]:
    """The signatures that come with vmprov, in the order of the file; the first of several that fit a line counts."""
    return tuple(validate(_Signatures, read(_FILE)).signatures)
