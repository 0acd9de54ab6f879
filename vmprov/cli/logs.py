"""``vmprov logs``."""

from __future__ import annotations

import heapq
import json
import select
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from vmprov.cli import Session
from vmprov.cli.options import chosen, duration, opened, selector_option
from vmprov.console.capture import Capture, Follower
from vmprov.console.lines import Line, Selection, captured, follow
from vmprov.errors import Interrupted, NotFound, SpecError
from vmprov.lab import Vmprov
from vmprov.spec.quantities import format_size, parse_duration
from vmprov.waiting import Cancel

_PALETTE = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
_HISTORY = 10
_BLOCK = 1 << 16
# Seconds between two looks at a capture, and at whether its machine is still there.
_INTERVAL = 0.02
_PRESENT_INTERVAL = 0.5

Found = Callable[[str], bool]


@click.command()
@click.argument("targets", nargs=-1, metavar="[VM|LAB ...]")
@selector_option
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with what arrives; end with Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last so many lines of each (with -f: default 10).")
@click.option("--since", metavar="DURATION|TIME", help="Only since then: 10m ago, or a time such as 2030-01-31T12:00.")
@click.option("--boot", type=click.IntRange(min=1), metavar="N", help="Only the boot of that number, from 1.")
@click.option("--port", type=click.IntRange(0, 1), default=0, show_default=True, help="Which serial port.")
@click.option("--grep", metavar="RE", help="Only lines that match; RE2 syntax.")
@click.option("--until", metavar="RE", help="Follow until every machine has shown a line that matches.")
@click.option("--timeout", metavar="DURATION", help="With --until: give up after so long, and exit with 1.")
@click.option("--timestamps", is_flag=True, help="The time before each line.")
@click.option("--raw", is_flag=True, help="The bytes as they came; for one machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line of output.")
@click.pass_obj
def logs_command(session: Session, /, targets: tuple[str, ...], selector: str | None, **wanted: Any) -> int:
    """Show what machines sent to their serial consoles since power-on; all machines where none is named.

    Several machines' lines are merged in the order of time. Exit codes with --until: 0 all matched, 1 timeout.
    """
    options = _Options(**wanted)
    options.check()
    selection, grep, until = options.selection(), _pattern(options.grep), _pattern(options.until)
    with opened(session) as vmprov:
        named = chosen(vmprov, targets, selector, required=False)
        logs = vmprov.console_logs(named, options.port)
        if not logs:
            raise NotFound("there is no machine whose log could be shown", hint="make one with: vmprov create")
        vmprov.keep_consoles()
        printer = _Printer(logs, timestamps=options.timestamps, as_json=options.as_json)
        if options.following or until:
            session.cancel_on_signals(quietly=True)
        present = _Present(vmprov, tuple(named), options.port, logs, session.cancel, has_to=until is not None)
        if options.raw:
            _print_raw(present, logs, selection, following=options.following)
            return 0
        if options.following or until:
            arriving = follow(present.logs, cancel=session.cancel, selection=selection)
            return _show_until(arriving, printer, grep, until, options.seconds, present)
        each = [captured(vm, Capture(path), selection) for vm, path in logs.items()]
        for line in heapq.merge(*each, key=lambda line: line.moment.order):
            if grep is None or line.note or grep(line.text):
                printer.show(line)
        printer.end()
    return 0


class _Present:
    """The logs that are followed, as they are now; ends it once nothing can come any more.

    That is where machines are named and the last of them is gone; and, where each ``has_to`` show something, once one
    of those that have not yet is gone.
    """

    def __init__(
        self,
        vmprov: Vmprov,
        targets: tuple[str, ...],
        port: int,
        logs: Mapping[str, Path],
        cancel: Cancel,
        *,
        has_to: bool,
    ) -> None:
        self._vmprov = vmprov
        self._targets = targets
        self._port = port
        self._logs = dict(logs)
        self._has_to = has_to
        self.cancel = cancel
        # Those that have yet to show what is waited for, and those of them that never will.
        self.missing = set(logs)
        self.gone: list[str] = []

    def logs(self) -> Mapping[str, Path]:
        """VM -> log; says on stderr who was removed since the last call."""
        try:
            known = self._vmprov.select_known(self._targets)[0] if self._targets else self._vmprov.store.vms()
        except NotFound:  # it is being removed just now
            return self._logs
        log = self._vmprov.home.console_log
        now = {vm.name: log(vm.name, self._port) for vm in known if self._port < vm.consoles}
        for name in sorted(self._logs.keys() - now.keys()):
            click.echo(f"vmprov: {name} was removed", err=True)
            if name in self.missing:
                self.gone.append(name)
        self._logs = now
        if (self._targets and not now) or (self._has_to and self.gone) or _nobody_reads():
            self.cancel.set()
        return now


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has left, as after ``| head``; a silent machine would never tell."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


@dataclass(frozen=True)
class _Options:
    following: bool
    tail: int | None
    since: str | None
    boot: int | None
    port: int
    grep: str | None
    until: str | None
    timeout: str | None
    timestamps: bool
    raw: bool
    as_json: bool

    def check(self) -> None:
        if self.raw and (self.grep or self.until or self.timestamps or self.as_json):
            raise SpecError("--raw shows bytes as they came", hint="it goes with -f, --tail, --since and --boot only")
        if self.timeout and not self.until:
            raise SpecError("--timeout is the limit of --until", hint="say what to wait for: --until RE")
        if self.boot and (self.following or self.until):
            raise SpecError("--boot does not go with -f or --until", hint="leave one of them out")

    @property
    def seconds(self) -> float | None:
        return duration("--timeout", self.timeout) if self.timeout else None

    def selection(self) -> Selection:
        tail = self.tail
        if tail is None and self.following and not self.until and not self.since:
            tail = _HISTORY
        return Selection(since=_since(self.since) if self.since else None, boot=self.boot, tail=tail)


def _since(text: str) -> float:
    """Seconds since the epoch."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as problem:
        raise SpecError(
            f"--since: {text!r} is neither a duration nor a time", hint="write for example 10m or 2030-01-31T12:00"
        ) from problem


def _pattern(expression: str | None) -> Found | None:
    if expression is None:
        return None
    from vmprov.flows.grammar import compile_regex

    try:
        search = compile_regex(expression).search
    except ValueError as problem:
        raise SpecError(f"{expression!r}: {problem}") from problem
    return lambda text: search(text) is not None


def _show_until(
    lines: Generator[Line, None, None],
    printer: _Printer,
    grep: Found | None,
    until: Found | None,
    limit: float | None,
    present: _Present,
) -> int:
    """Show lines until interrupted, or until every machine has shown what is waited for, or the time is up."""
    alarm = threading.Timer(limit, present.cancel.set) if limit else None
    started = time.monotonic()
    if alarm:
        alarm.daemon = True
        alarm.start()
    pick = _Pick(grep)
    with closing(lines):
        for line in lines:
            whole = pick.whole(line)
            for part in pick.shown(line, whole):
                printer.show(part)
            if until and not line.note and until(whole):
                present.missing.discard(line.vm)
                if not present.missing:
                    break
    if alarm:
        alarm.cancel()
    printer.end()
    return _waited(present, limit, time.monotonic() - started) if until else 0


def _waited(present: _Present, limit: float | None, spent: float) -> int:
    """The exit code, and on stderr why it is not 0."""
    if not present.missing:
        return 0
    if gone := [name for name in present.gone if name in present.missing]:
        click.echo(f"vmprov: no match on {', '.join(sorted(gone))} before the removal", err=True)
        return 1
    if limit and spent >= limit:
        click.echo(f"vmprov: no match within {limit:g} s on {', '.join(sorted(present.missing))}", err=True)
        return 1
    return 130


class _Pick:
    """Which lines to show where they may arrive in parts: what is looked for may reach across them."""

    def __init__(self, grep: Found | None) -> None:
        self._grep = grep
        self._begun: dict[str, str] = {}
        self._told: set[str] = set()

    def whole(self, line: Line) -> str:
        """The line's text with what of it was handed out before."""
        if line.note:
            return line.text
        text = self._begun.get(line.vm, "") + line.text if line.continues else line.text
        self._begun[line.vm] = text
        return text

    def shown(self, line: Line, whole: str) -> list[Line]:
        """What to show of it: nothing, it, or all of the line where its beginning was not shown."""
        if self._grep is None or line.note:
            return [line]
        if line.continues and line.vm in self._told:
            return [line]
        self._told.discard(line.vm)
        if not self._grep(whole):
            return []
        self._told.add(line.vm)
        return [replace(line, text=whole, continues=False)]


def _print_raw(present: _Present, logs: Mapping[str, Path], selection: Selection, *, following: bool) -> None:
    from vmprov.console.lines import span

    if len(logs) != 1:
        raise SpecError("--raw shows one machine", hint="name it")
    vm, path = next(iter(logs.items()))
    raw = _Raw(path, *span(vm, Capture(path), selection))
    try:
        raw.show()
        looked = time.monotonic()
        while following and not present.cancel.is_set:
            with suppress(Interrupted):
                present.cancel.sleep(_INTERVAL)
            raw.show()
            if time.monotonic() - looked >= _PRESENT_INTERVAL:
                looked = time.monotonic()
                following = vm in present.logs()
    finally:
        raw.close()


class _Raw:
    """A capture's bytes on stdout, as they came; on stderr, how many were dropped before they could be read."""

    def __init__(self, path: Path, start: int, end: int | None) -> None:
        self._capture = Capture(path)
        self._follower = Follower(path)
        self._place = start
        self._end = end

    def show(self) -> None:
        """Show what is new."""
        size = self._capture.size
        if size < self._place:  # somebody made it anew, or shorter
            self._place = 0
        if size == self._place:
            return
        out = sys.stdout.buffer
        for offset, block in self._capture.read(self._place, self._end, block=_BLOCK):
            if offset > self._place:
                dropped = format_size(offset - self._place)
                click.echo(f"vmprov: {dropped} of older output were dropped to stay within the limit", err=True)
            out.write(block)
            self._place = offset + len(block)
            self._follower.tell(self._place)
        out.flush()

    def close(self) -> None:
        """No longer hold back trimming."""
        self._follower.close()


class _Printer:
    """Lines on stdout, with the machine's name before each where there are several, in a colour of its own."""

    def __init__(self, vms: Iterable[str], *, timestamps: bool, as_json: bool) -> None:
        self._names = set(vms)
        self._width = max(len(name) for name in self._names)
        self._timestamps = timestamps
        self._as_json = as_json
        self._colours: dict[str, str] = {}
        self._unfinished = ""
        self._terminal = sys.stdout.isatty()
        self._begun: dict[str, Line] = {}

    def show(self, line: Line) -> None:
        self._names.add(line.vm)
        self._width = max(self._width, len(line.vm))
        if self._as_json:
            self._show_json(line)
            return
        goes_on = line.continues and self._unfinished == line.vm
        if self._unfinished and not goes_on:
            click.echo()
        prefix = "" if goes_on else self._prefix(line)
        text = click.style(line.text, dim=True) if line.note and self._terminal else line.text
        click.echo(f"{prefix}{text}", nl=line.complete)
        if not line.complete:
            sys.stdout.flush()
        self._unfinished = "" if line.complete else line.vm

    def _show_json(self, line: Line) -> None:
        """A line that goes on is printed anew as a whole: who reads JSON puts nothing together."""
        begun = self._begun.pop(line.vm, None)
        if line.continues and begun:
            line = replace(line, text=begun.text + line.text, continues=False)
        if not line.complete:
            self._begun[line.vm] = line
        click.echo(json.dumps(line.to_json(), ensure_ascii=False))

    def end(self) -> None:
        if self._unfinished:
            click.echo()

    def _prefix(self, line: Line) -> str:
        prefix = ""
        if self._timestamps:
            when = datetime.fromtimestamp(line.moment.wall)
            prefix = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d} "
        if len(self._names) > 1:
            colour = self._colours.setdefault(line.vm, _PALETTE[len(self._colours) % len(_PALETTE)])
            name = f"{line.vm:<{self._width}} | "
            prefix += click.style(name, fg=colour) if self._terminal else name
        return prefix
