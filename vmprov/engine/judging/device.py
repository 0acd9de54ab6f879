"""A real board's serial port: captured, timed and judged by the same code as a VM's console."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pydantic import SecretStr

from vmprov.console.index import Mark, Moment, Times, TimesWriter, encode, machine_run
from vmprov.console.links import Link, PortLink, open_link
from vmprov.console.transcript import Piece
from vmprov.engine.judging.watch import INTERVAL, Beginning, Watch, keep_beginning
from vmprov.errors import Failed, HostNotReady, Interrupted
from vmprov.flows.grammar import Flow
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.locks import Turn
from vmprov.paths import Home, make_private
from vmprov.waiting import Cancel


class PortWire:
    """One serial port: a thread reads it all the time into a capture."""

    def __init__(self, url: str, link: PortLink, log: Path) -> None:
        self._url = url
        self._link = link
        self._log = log
        self._times = TimesWriter(log)
        self._pieces: list[Piece] = []
        self._lock = threading.Lock()
        self._closing = False
        self.gone = False
        # Why it could not be captured any longer.
        self.problem = ""
        self._fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.start = os.fstat(self._fd).st_size
        known = Times(log)
        known.refresh()
        if known.machine != machine_run():
            self._times.write(encode(Mark.MACHINE, machine_run(), Moment.now()))
        self._thread = threading.Thread(target=self._run, name="port", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        position = self.start
        while not self._closing:
            data = self._link.receive(INTERVAL)
            if data is None:
                continue
            if not data:
                self.gone = True
                return
            moment = Moment.now()
            try:
                rest = data
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError as problem:
                self.problem = f"{self._log} cannot be written: {problem.strerror}"
                return
            self._times.write(encode(Mark.SEEN, position + len(data), moment))
            with self._lock:
                self._pieces.append(Piece(0, position, data, moment))
            position += len(data)

    def take(self) -> list[Piece]:
        """See :meth:`vmprov.engine.judging.watch.Wire.take`."""
        with self._lock:
            pieces, self._pieces = self._pieces, []
        return pieces

    def log(self, console: int) -> Path:  # noqa: ARG002 - a port is one console
        """See :meth:`vmprov.engine.judging.watch.Wire.log`."""
        return self._log

    def typing(self, console: int) -> AbstractContextManager[Link]:  # noqa: ARG002
        """See :meth:`vmprov.engine.judging.watch.Wire.typing`; the port is ours all the time."""
        return self._typing()

    @contextmanager
    def _typing(self) -> Iterator[Link]:
        try:
            yield self._link
        except OSError as problem:
            raise self.lost() from problem

    def lost(self) -> Failed:
        """What to say when the port is no longer there."""
        return Failed(f"the serial port {self._url} is gone", hint="see whether it is still plugged in")

    def close(self) -> None:
        """See :meth:`vmprov.engine.judging.watch.Wire.close`."""
        self._closing = True
        self._thread.join()
        self._link.close()
        self._times.close()
        os.close(self._fd)


def device_name(url: str) -> str:
    """A name for a port, as a directory can have it: ``/dev/ttyUSB0`` is ``dev-ttyusb0``."""
    return re.sub(r"[^a-z0-9]+", "-", url.lower()).strip("-")[:60]


def watch_port(
    home: Home,
    url: str,
    baud: int,
    flow: Flow,
    *,
    secrets: Mapping[str, SecretStr],
    entered: Callable[[str, float], None],
    cancel: Cancel,
    limit: float | None,
) -> tuple[Verdict, tuple[StageTime, ...], Path]:
    """Run a flow on a serial port; returns the verdict, the timeline and the capture.

    ``url``: a device file, or what pyserial takes: ``rfc2217://host:port``, ``socket://host:port``. ``limit`` in
    seconds. The capture goes on where an earlier one of the same port ended; only what arrives from now on is judged.
    Raises as :func:`vmprov.console.session.open_port`; when cancelled, the verdict says so.
    """
    directory = home.device(device_name(url))
    link = open_link(url, baud)
    make_private(directory)
    wire = PortWire(url, link, directory / "console-0.log")
    beginning = Beginning(wall=time.time(), offsets={"0": wire.start}, limit=limit, proof="flow")
    keep_beginning(directory, flow, beginning)
    flow = flow.model_copy(update={"consoles": (0,)})
    watch = Watch(
        flow, beginning, wire, turn=Turn(directory / "watch.lock"), directory=directory, secrets=secrets,
        entered=entered, cancel=cancel,
    )  # fmt: skip
    try:
        verdict = watch.redacted(_wait(watch, wire, cancel))
        return verdict, watch.finish(verdict), directory / "console-0.log"
    finally:
        watch.close()


def _wait(watch: Watch, wire: PortWire, cancel: Cancel) -> Verdict:
    try:
        while True:
            gone = wire.gone
            if verdict := watch.look():
                return verdict
            if wire.problem:
                raise HostNotReady(wire.problem, hint="see that the disk is not full")
            if gone:
                raise wire.lost()
            cancel.sleep(INTERVAL)
    except Interrupted:
        watch.cancel()
        if watch.verdict is None:
            raise
        return watch.verdict
    except Failed as problem:
        if isinstance(problem.__cause__, OSError):
            raise wire.lost() from problem
        raise
