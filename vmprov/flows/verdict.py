"""How a flow ended and why, and when each stage began and ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["success", "failed", "timeout", "cancelled"]


@dataclass(frozen=True)
class Verdict:
    """How it ended.

    ``failure_class`` -- for ``failed``: such as ``kernel-panic`` or ``reboot-loop``. ``stage`` -- in which it ended.
    ``evidence`` -- the line that decided, cleaned; ``console`` and ``offset`` -- the UART and the byte of its
    capture at which that line begins (-1: there is no such line).
    ``why`` -- one sentence for people; after a timeout: what was awaited, for how long, and what came nearest.
    ``last_lines`` -- after a timeout: the last lines, cleaned, at most 20.
    ``at`` -- seconds since the flow began.
    """

    kind: Kind
    stage: str = ""
    failure_class: str = ""
    evidence: str = ""
    console: int = -1
    offset: int = -1
    why: str = ""
    last_lines: tuple[str, ...] = ()
    at: float = 0.0

    def __str__(self) -> str:
        """``success``, ``failed(kernel-panic)``, ``timeout(login)``, ``cancelled``."""
        detail = {"failed": self.failure_class, "timeout": self.stage}.get(self.kind, "")
        return f"{self.kind}({detail})" if detail else self.kind

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints; ``class`` for ``failure_class``."""
        fields = asdict(self)
        fields["class"] = fields.pop("failure_class")
        fields["last_lines"] = list(self.last_lines)
        return fields


@dataclass(frozen=True)
class StageTime:
    """One stay in a stage; ``start`` and ``end`` in seconds since the flow began (``end`` is ``None`` while it lasts).

    ``outcome``: passed, skipped, recovered (a recovery led away), failed, timeout, cancelled, or "" while it lasts.
    ``boot`` -- the number of firmware starts seen before, from 1.
    """

    stage: str
    start: float
    end: float | None = None
    outcome: str = ""
    boot: int = 1

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return None if self.end is None else self.end - self.start

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {**asdict(self), "seconds": self.seconds}
