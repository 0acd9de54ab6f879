"""The only door to other programs.

argv is a list, never a shell string; standard input is closed unless given; the locale is fixed so that
output can be read; every run has a deadline.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmprov.errors import CommandFailed, HostNotReady, WaitTimeout
from vmprov.waiting import Cancel, Deadline

Argv = Sequence[str | Path]
# Seconds between two looks at a running program's deadline.
_SLICE = 0.2


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Runner(Protocol):
    """Runs programs; :class:`LocalRunner` does, :class:`FakeRunner` pretends."""

    def run(
        self,
        argv: Argv,
        *,
        deadline: Deadline,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cancel: Cancel | None = None,
    ) -> Done:
        """Run to the end and return what it printed.

        Raises :class:`CommandFailed` for a non-zero exit if ``check``, :class:`WaitTimeout` when the deadline
        passes, :class:`vmprov.errors.Interrupted` when cancelled, :class:`HostNotReady` if it is not installed.
        """
        ...


class LocalRunner:
    """Runs programs on this machine."""

    def run(
        self,
        argv: Argv,
        *,
        deadline: Deadline,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cancel: Cancel | None = None,
    ) -> Done:
        """See :meth:`Runner.run`."""
        words = [str(word) for word in argv]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            )
        except FileNotFoundError as problem:
            raise HostNotReady(f"{words[0]} is not installed", hint="run scripts/setup") from problem
        with process, ExitStack() as undo:
            undo.callback(process.kill)
            out, err = _communicate(process, words[0], deadline, cancel or Cancel())
            undo.pop_all()
        done = Done(process.returncode, out, err)
        if check and done.code != 0:
            last = (done.err.strip() or done.out.strip() or "no output").splitlines()[-1]
            raise CommandFailed(f"{words[0]} exited with {done.code}: {last}", output=done.err or done.out)
        return done


def _communicate(process: subprocess.Popen[str], name: str, deadline: Deadline, cancel: Cancel) -> tuple[str, str]:
    """Everything that the program prints; looks at the deadline and the token a few times per second."""
    while True:
        try:
            return process.communicate(timeout=min(_SLICE, deadline.left))
        except subprocess.TimeoutExpired:
            cancel.check()
            if deadline.expired:
                raise WaitTimeout(f"{name} did not end within {deadline.seconds:.0f} s") from None


def replace_process(argv: Argv) -> None:
    """Become another program (exec); returns only by raising :class:`HostNotReady`."""
    words = [str(word) for word in argv]
    try:
        os.execvp(words[0], words)  # noqa: S606 - no shell is wanted
    except FileNotFoundError as problem:
        raise HostNotReady(f"{words[0]} is not installed", hint="run scripts/setup") from problem


class FakeRunner:
    """Answers from a function instead of running anything, and remembers what was asked for.

    >>> fake = FakeRunner(lambda argv: Done(0, "hello", ""))
    >>> fake.run(["greet"], deadline=Deadline(1)).out, fake.calls
    ('hello', [['greet']])
    """

    def __init__(self, answer: Callable[[list[str]], Done]) -> None:
        self._answer = answer
        self.calls: list[list[str]] = []

    def run(
        self,
        argv: Argv,
        *,
        deadline: Deadline,  # noqa: ARG002 - a fake never waits
        check: bool = True,
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        cancel: Cancel | None = None,  # noqa: ARG002
    ) -> Done:
        """See :meth:`Runner.run`."""
        words = [str(word) for word in argv]
        self.calls.append(words)
        done = self._answer(words)
        if check and done.code != 0:
            raise CommandFailed(f"{words[0]} exited with {done.code}", output=done.err)
        return done
