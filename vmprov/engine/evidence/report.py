"""A report on one VM: everything that tells why it is as it is, in one directory or archive, without secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar

from vmprov.console.capture import Capture
from vmprov.console.index import times_path
from vmprov.console.inputs import inputs_path, read_inputs
from vmprov.console.lines import Line, Selection, captured
from vmprov.engine.context import Context
from vmprov.engine.evidence.collect import COLLECTED, collect, reason
from vmprov.engine.evidence.kept import RECORD, Kept
from vmprov.engine.evidence.readme import TITLE, readme
from vmprov.engine.evidence.repeat import create_command
from vmprov.engine.evidence.timeline import read_timeline
from vmprov.engine.redact import Redactor
from vmprov.engine.secrets import Secrets
from vmprov.errors import Failed, NameTaken, SpecError, VmprovError
from vmprov.flows.grammar import Flow
from vmprov.store import VMRecord

T = TypeVar("T")

ARCHIVES = (".tar.gz", ".tgz")
README = "README.txt"
_BLOCK = 1 << 20
_FROM_HOST = (RECORD, "domain.xml", "network.xml", "leases.json", "qemu.log")
_FROM_WATCH = ("timeline.json", "flow.json", "watch.json")
_FROM_VAGRANT = ("vagrant.log", "vagrant.json", "domain-fragment.xml", "Vagrantfile")


@dataclass(frozen=True)
class Subject:
    """Whom a report is about.

    ``installation`` -- the id of the state directory. ``ctx`` -- how to reach the VM's host, or ``None`` for a VM that
    is gone, or whose host cannot be reached; ``why_not`` is a sentence that says which.
    """

    found: Kept
    installation: str
    ctx: Context | None
    why_not: str

    @property
    def vm(self) -> VMRecord:
        """The VM."""
        return self.found.vm

    @property
    def directory(self) -> Path:
        """Where its logs are."""
        return self.found.directory


def subject_of(found: Kept, installation: str, context: Callable[[VMRecord], Context]) -> Subject:
    """Find out whether a VM's host can be reached; ``context`` opens it, and may raise."""
    if found.gone:
        return Subject(found, installation, None, "The machine failed and was removed: this is what was kept of it.")
    try:
        return Subject(found, installation, context(found.vm), "")
    except VmprovError as problem:
        return Subject(found, installation, None, f"The machine's host cannot be reached: {problem}.")


def known_secrets(directory: Path, vm: str) -> tuple[list[str], dict[str, str]]:
    """Values of the secrets of a VM's flow that can be had now without asking anybody; of the others, name -> why."""
    values: list[str] = []
    unknown: dict[str, str] = {}
    try:
        flow = Flow.model_validate_json((directory / "flow.json").read_text())
    except (OSError, ValueError):
        return values, unknown
    for name, secret in flow.secrets.items():
        try:
            found = Secrets(flow.model_copy(update={"secrets": {name: secret}})).of(vm)
            values += [value.get_secret_value() for value in found.values()]
        except SpecError as problem:
            unknown[name] = str(problem)
    return values, unknown


def write_report(
    subject: Subject,
    path: Path,
    secrets: Iterable[str],
    *,
    more: Mapping[str, str],
    versions: Mapping[str, str],
    force: bool = False,
) -> Path:
    """Write a report as an archive if ``path`` ends in ``.tar.gz``, else as a directory; returns its absolute path.

    ``secrets``: values that must not be in it, besides those of the VM's flow. ``more``: further files by name.
    ``versions``: of programs that only the caller knows. What is missing is told in README.txt.
    Raises :class:`NameTaken` if something is there already, unless ``force`` and it is an earlier report;
    :class:`Failed` if it cannot be written.
    """
    path = path.absolute()
    values, unknown = known_secrets(subject.directory, subject.vm.name)
    redactor = Redactor([*secrets, *values])
    packed = path.name.endswith(ARCHIVES)
    _refuse_overwriting(path, packed=packed, force=force)
    try:
        with tempfile.TemporaryDirectory(prefix=".vmprov-report-", dir=path.parent) as scratch:
            live = Path(scratch) / "live"
            made = Path(scratch) / "made" / (path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz"))
            for directory in (live, made):
                directory.mkdir(mode=0o700, parents=True)
            _Bundle(subject, made, live, redactor, unknown).fill(more, versions)
            made = _packed(made) if packed else made
            if path.is_dir():
                shutil.rmtree(path)
            made.replace(path)
    except OSError as problem:
        raise Failed(f"{path} cannot be written: {reason(problem)}", hint="choose another place") from problem
    return path


def within(seconds: float, action: Callable[[], T]) -> T | None:
    """What ``action`` returns, or ``None`` if it raises one of our errors or is not done in time.

    It then goes on in a thread that keeps nobody from ending. For what is nice to know, and may hang.
    """
    done: list[T] = []

    def attempt() -> None:
        try:
            done.append(action())
        except (VmprovError, OSError):
            return

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return done[0] if done else None


def _refuse_overwriting(path: Path, *, packed: bool, force: bool) -> None:
    if not path.exists():
        return
    if path.is_dir() and (packed or not _is_report(path)):
        raise NameTaken(f"{path} is a directory, and no report", hint="choose another place")
    if not path.is_dir() and not packed:
        raise NameTaken(f"{path} is no directory", hint="choose another place, or a name that ends in .tar.gz")
    if not force:
        raise NameTaken(f"{path} is there already", hint="choose another place, or overwrite it with --force")


def _is_report(directory: Path) -> bool:
    try:
        with (directory / README).open("rb") as file:
            return file.read(len(TITLE)) == TITLE.encode()
    except OSError:
        return False


def _packed(directory: Path) -> Path:
    """An archive that holds a directory, beside it."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    archive = directory.parent.with_name("archive")
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as packed:  # noqa: PTH123
        packed.add(directory, directory.name, filter=anonymous)
    return archive


@dataclass
class _Bundle:
    """A report's directory while it is filled from the VM's files and from ``live``; all passes the redactor."""

    subject: Subject
    directory: Path
    live: Path
    redactor: Redactor
    # Secrets whose values nobody knows now: name -> why.
    unknown: Mapping[str, str]
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fill(self, more: Mapping[str, str], versions: Mapping[str, str]) -> None:
        """Put in all there is, and the README last."""
        vm = self.subject.vm
        collected = self._collected()
        for name in (*_FROM_HOST, *(_FROM_VAGRANT if vm.driver == "vagrant" else ())):
            self._copy(name, collected.get("missing", {}).get(name, ""))
        for name in _FROM_WATCH:
            self._copy(name, "nothing was watched: it was not powered on")
        if vm.judgement:
            self._write("judgement.json", [json.dumps(json.loads(vm.judgement), indent=1).encode()])
        else:
            self.missing["judgement.json"] = "there is no verdict"
        for console in range(max(1, vm.consoles)):
            self._console(self.subject.directory / f"console-{console}.log")
        for name, text in more.items():
            self._write(name, [text.encode("utf-8", "surrogateescape")])
        self._readme({**collected.get("versions", {}), **versions})

    def _collected(self) -> dict[str, Any]:
        """What the host says now, or said when the VM was still there."""
        subject = self.subject
        if subject.ctx is not None:
            collect(subject.ctx, subject.vm, self.live)
        elif subject.why_not:
            self.notes.append(subject.why_not)
        try:
            found = json.loads(self._place(COLLECTED).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _place(self, name: str) -> Path:
        fresh = self.live / name
        return fresh if fresh.exists() else self.subject.directory / name

    def _copy(self, name: str, why_missing: str) -> None:
        source = self._place(name)
        if not source.exists():
            self.missing[name] = why_missing or "it is not there"
            return
        try:
            with source.open("rb") as file:
                self._write(name, iter(lambda: file.read(_BLOCK), b""))
        except OSError as problem:
            self.missing[name] = reason(problem)

    def _write(self, name: str, blocks: Iterable[bytes]) -> None:
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.writelines(self.redactor.blocks(blocks))

    def _console(self, log: Path) -> None:
        if not log.exists():
            self.missing[log.name] = "nothing was captured"
            return
        self._copy(times_path(log).name, "nobody noted when lines arrived")
        self._copy(inputs_path(log).name, "nothing was typed")
        capture, replaced, power_on = Capture(log), self.redactor.count, self._power_on()
        hidden = [entry.offset for entry in read_inputs(log) if entry.secret in self.unknown]
        try:
            self._write(log.name, _without_echo(capture.read(0, block=_BLOCK), hidden))
            lines = _lines_without_echo(captured(self.subject.vm.name, capture, Selection()), hidden)
            raw = self.redactor.count
            self._write(log.with_suffix(".txt").name, _blocks(_line(line, power_on) for line in lines))
        except OSError as problem:
            self.missing[log.name] = reason(problem)
            return
        if dropped := capture.times.trimmed:
            self.notes.append(f"{log.name} begins with byte {dropped}: what came before was dropped to save space.")
        if raw > replaced:
            self.notes.append(f"In {log.name}, secrets were replaced: offsets behind them are no longer exact.")

    def _power_on(self) -> float | None:
        """Seconds since the epoch."""
        try:
            return float(json.loads((self.subject.directory / "watch.json").read_text())["wall"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _readme(self, versions: Mapping[str, str]) -> None:
        subject = self.subject
        self.notes += [
            f"The secret {name!r} is not known here ({why}): it may be in what the consoles sent. Replaced was only "
            "what stands behind the places at which it was typed. Look before you hand this on."
            for name, why in self.unknown.items()
        ]
        if self.redactor.count:
            self.notes.append(f"*** stands for something secret, {self.redactor.count} times in all.")
        text = readme(
            subject.vm,
            read_timeline(subject.vm, subject.directory),
            command=create_command(subject.vm, subject.directory, subject.installation),
            versions=versions,
            files=sorted(path.name for path in self.directory.iterdir()),
            missing=self.missing,
            notes=self.notes,
        )
        self._write(README, [text.encode("utf-8", "surrogateescape")])


def _without_echo(blocks: Iterable[tuple[int, bytes]], places: Sequence[int]) -> Iterator[bytes]:
    """The bytes of a capture, with asterisks from each of ``places`` to the end of its line."""
    goes_on = False
    for offset, block in blocks:
        starts = [0] if goes_on else []
        starts += [place - offset for place in places if offset <= place < offset + len(block)]
        goes_on = False
        for start in starts:
            end = block.find(b"\n", start)
            goes_on = end < 0
            end = len(block) if goes_on else end
            block = block[:start] + re.sub(rb"[^\r]", b"*", block[start:end]) + block[end:]
        yield block


def _lines_without_echo(lines: Iterable[Line], places: Sequence[int]) -> Iterator[Line]:
    """Lines, without the text of those that hold one of ``places``."""
    for line, following in pairwise(chain(lines, [None])):
        if line is not None:
            end = following.offset if following else sys.maxsize
            touched = any(line.offset <= place < end for place in places)
            yield replace(line, text="***") if touched else line


def _line(line: Line, power_on: float | None) -> str:
    when = datetime.fromtimestamp(line.moment.wall).astimezone().isoformat(timespec="milliseconds")
    since = f"{line.moment.wall - power_on:+11.3f}" if power_on is not None else "-"
    return f"{when} {since} {line.text}\n"


def _blocks(lines: Iterator[str]) -> Iterator[bytes]:
    """Lines joined to larger pieces."""
    piece: list[str] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= _BLOCK:
            yield "".join(piece).encode("utf-8", "surrogateescape")
            piece, size = [], 0
    yield "".join(piece).encode("utf-8", "surrogateescape")
