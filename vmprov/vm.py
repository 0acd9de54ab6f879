"""One machine in the hands of a program: what its consoles said, and typing on them.

::

    with Vmprov() as vmprov:
        vm = vmprov.vm("vm-1")
        vm.console.wait_for("login:", timeout=60)
        with vm.console as console:
            console.sendline("root")
            console.expect("Password:", timeout=10)
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, overload

from vmprov.console.capture import Capture
from vmprov.console.lines import Followed, Line, Selection, captured, follow
from vmprov.console.tail import last_lines
from vmprov.errors import WaitTimeout
from vmprov.waiting import Cancel, Deadline

if TYPE_CHECKING:
    from vmprov.console.session import Console, Patterns, Ran, Several
    from vmprov.paths import Home
    from vmprov.views import Timeline, VMView

_TOLD_LINES = 20
_INTERVAL = 0.05


class Owner(Protocol):
    """Who knows the machines: :class:`vmprov.lab.Vmprov`."""

    home: Home
    cancel: Cancel

    def show(self, name: str) -> VMView:
        """A machine as it is now."""
        ...

    def timeline(self, vm_name: str) -> Timeline:
        """The stages that it went through."""
        ...

    def console_port(self, name: str, port: int = 0) -> Path:
        """How the names of the files of a UART begin."""
        ...


class VMConsole:
    """One UART of a machine. Reading never disturbs anybody; typing is for one at a time, until :meth:`close`.

    Its methods may be called from several threads.
    """

    def __init__(self, name: str, base: Path, log: Path, cancel: Cancel) -> None:
        self.log = log
        self._name = name
        self._base = base
        self._cancel = cancel
        self._lock = threading.RLock()
        self._session: Console | None = None

    # reading

    @property
    def position(self) -> int:
        """How many bytes it has sent so far: what comes from now on begins at this offset."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def lines(self, *, since: float | None = None, boot: int | None = None, tail: int | None = None) -> list[Line]:
        """What it sent, cleaned: since a time (seconds since the epoch), in one boot, the last so many lines."""
        return list(captured(self._name, Capture(self.log), Selection(since=since, boot=boot, tail=tail)))

    def follow(self, *, tail: int | None = 0, cancel: Cancel | None = None) -> Iterator[Line]:
        """The last ``tail`` lines (``None``: all) and every line that arrives, until cancelled."""
        return follow(lambda: {self._name: self.log}, cancel=cancel or self._cancel, selection=Selection(tail=tail))

    def wait_for(self, pattern: str | re.Pattern[str], timeout: float, *, since: int = 0) -> Line:
        """Wait until a line, finished or standing still, matches a regular expression; returns that line.

        ``since``: the offset from which on bytes count; see :attr:`position`. ``timeout`` in seconds.
        Raises :class:`WaitTimeout` with the last lines, :class:`vmprov.errors.Interrupted` when cancelled.
        """
        expression = re.compile(pattern)
        deadline = Deadline(timeout)
        whole = ""
        with closing(Followed(self._name, self.log, Selection(offset=since))) as followed:
            for line in self._arriving(followed, deadline):
                whole = whole + line.text if line.continues else line.text
                if expression.search(whole):
                    return line
        said = " | ".join(text for text in last_lines(self.log, _TOLD_LINES) if text.strip())
        what = f"{self._name}: no line that matches {expression.pattern!r} within {deadline.seconds:g} s"
        raise WaitTimeout(f"{what}; last seen: {said}")

    def _arriving(self, followed: Followed, deadline: Deadline) -> Iterator[Line]:
        """The lines of the guest until the deadline; at the deadline, what is unfinished counts at once."""
        while not deadline.expired:
            yield from (line for line in followed.look() if not line.note)
            if followed.more:
                self._cancel.check()
            else:
                self._cancel.sleep(min(_INTERVAL, deadline.left))
        yield from (line for line in followed.rest() if not line.note)

    # typing

    @property
    def session(self) -> Console:
        """The console to type on, opened at first use and ours until :meth:`close`.

        Raises :class:`vmprov.errors.Failed` if the machine does not run, :class:`vmprov.errors.InUse` if somebody
        else types.
        """
        from vmprov.console.session import open_console

        with self._lock:
            if self._session is None:
                self._session = open_console(self._base, self.log, name=self._name)
            return self._session

    @overload
    def expect(self, pattern: str | re.Pattern[str], timeout: float = 30.0) -> re.Match[str]: ...
    @overload
    def expect(self, pattern: Several, timeout: float = 30.0) -> int: ...
    def expect(self, pattern: Patterns, timeout: float = 30.0) -> re.Match[str] | int:
        """See :meth:`vmprov.console.session.Console.expect`: in what arrives after the console was opened."""
        return self.session.expect(pattern, timeout)

    def send(self, text: str, *, secret: bool = False) -> None:
        """See :meth:`vmprov.console.session.Console.send`."""
        self.session.send(text, secret=secret)

    def sendline(self, text: str = "", *, secret: bool = False) -> None:
        """See :meth:`vmprov.console.session.Console.sendline`."""
        self.session.sendline(text, secret=secret)

    def run(self, command: str, timeout: float = 60.0) -> Ran:
        """See :meth:`vmprov.console.session.Console.run`: a shell must be waiting at its prompt."""
        return self.session.run(command, timeout)

    def close(self) -> None:
        """Let others type; doing so twice is the same as once."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class VM:
    """One machine; what it is now is asked anew each time."""

    def __init__(self, vmprov: Owner, name: str) -> None:
        self.name = name
        self._vmprov = vmprov
        self._lock = threading.Lock()
        self._consoles: dict[int, JudgedConsole] = {}

    @property
    def view(self) -> VMView:
        """All that is known about it; raises :class:`vmprov.errors.NotFound` once it is gone."""
        return self._vmprov.show(self.name)

    @property
    def verdict(self) -> str:
        """``success``, ``failed(kernel-panic)``, ``timeout(login)``, ``cancelled``, or ``-`` while there is none."""
        return self.view.told_verdict

    @property
    def timeline(self) -> Timeline:
        """The stages that it went through."""
        return self._vmprov.timeline(self.name)

    @property
    def console(self) -> JudgedConsole:
        """Its first UART."""
        return self.port(0)

    def port(self, number: int) -> JudgedConsole:
        """One of its UARTs; raises :class:`vmprov.errors.NotFound` if it has no such port."""
        with self._lock:
            if number not in self._consoles:
                base = self._vmprov.console_port(self.name, number)
                log = self._vmprov.home.console_log(self.name, number)
                self._consoles[number] = JudgedConsole(self, base, log, self._vmprov.cancel)
            return self._consoles[number]


class JudgedConsole(VMConsole):
    """A UART by which its machine is judged."""

    def __init__(self, vm: VM, base: Path, log: Path, cancel: Cancel) -> None:
        super().__init__(vm.name, base, log, cancel)
        self._vm = vm

    @property
    def verdict(self) -> str:
        """What its machine was judged by what its UARTs said; see :attr:`VM.verdict`."""
        return self._vm.verdict

    @property
    def timeline(self) -> Timeline:
        """The stages that its machine went through, as its UARTs told."""
        return self._vm.timeline
