"""Recorded serial bytes with their timing: of real guests, and made ones for what cannot be had from a guest here.

``NAME.transcript`` is JSON Lines. The first line describes the recording; each other one is what was read at once:
``{"at": seconds, "console": 0, "data": "..."}``, in which one code point (latin-1) is one byte.
``python -m tests.transcripts.record`` makes them anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_SUFFIX = ".transcript"

Chunk = tuple[float, int, bytes]


@dataclass(frozen=True)
class Transcript:
    """One recording: ``chunks`` are (seconds since the guest was started, UART, bytes)."""

    name: str
    about: str
    consoles: tuple[int, ...]
    chunks: list[Chunk]
    made: bool = False

    def data(self, console: int = 0) -> bytes:
        """Everything that one UART sent."""
        return b"".join(data for _, where, data in self.chunks if where == console)


def names() -> list[str]:
    """What there is."""
    return sorted(path.stem for path in _HERE.glob("*" + _SUFFIX))


def load(name: str) -> Transcript:
    """Read one."""
    with (_HERE / (name + _SUFFIX)).open(encoding="ascii") as file:
        head = json.loads(file.readline())
        lines = [json.loads(line) for line in file]
    chunks = [(line["at"], line["console"], line["data"].encode("latin-1")) for line in lines]
    return Transcript(head["transcript"], head["about"], tuple(head["consoles"]), chunks, head.get("made", False))


def save(transcript: Transcript, recorded: dict[str, str]) -> Path:
    """Write one; ``recorded`` says what with."""
    head: dict[str, object] = {
        "transcript": transcript.name,
        "about": transcript.about,
        "consoles": list(transcript.consoles),
    }
    if transcript.made:
        head["made"] = True
    head["recorded"] = recorded
    lines = [json.dumps(head)]
    for at, console, data in transcript.chunks:
        lines.append(json.dumps({"at": round(at, 3), "console": console, "data": data.decode("latin-1")}))
    path = _HERE / (transcript.name + _SUFFIX)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path
