"""Runs one guest in a container of ours and writes down what its UARTs say, and when."""

from __future__ import annotations

import contextlib
import json
import selectors
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.transcripts import Chunk
from vmprov.containers.recipes import image_name
from vmprov.settings import Settings

# What comes within this time of a chunk's first byte belongs to it.
_COALESCE = 0.010
# A recording of more bytes than this ends.
LARGEST = 200_000
_CONNECT_LIMIT = 60.0


@dataclass(frozen=True)
class Expect:
    """Wait until the UART has said this since the last one expected on it."""

    text: bytes
    limit: float = 120.0
    console: int = 0


@dataclass(frozen=True)
class Send:
    """Type this."""

    text: bytes
    console: int = 0


@dataclass(frozen=True)
class Wait:
    """Go on recording for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Reset:
    """Press the reset button."""


Step = Expect | Send | Wait | Reset


class Missed(Exception):
    """The guest did not say what it was expected to."""


@dataclass
class Recording:
    """What was read so far."""

    chunks: list[Chunk] = field(default_factory=list)
    text: dict[int, bytearray] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)

    def add(self, at: float, console: int, data: bytes) -> None:
        """Take in what was read."""
        self.text.setdefault(console, bytearray()).extend(data)
        if self.chunks:
            before, where, earlier = self.chunks[-1]
            if where == console and at - before < _COALESCE:
                self.chunks[-1] = (before, where, earlier + data)
                return
        self.chunks.append((at, console, data))

    def passed(self, wanted: Expect) -> bool:
        """Whether it was said; if so, looks behind it from now on."""
        start = self.seen.get(wanted.console, 0)
        found = self.text.get(wanted.console, bytearray()).find(wanted.text, start)
        if found < 0:
            return False
        self.seen[wanted.console] = found + len(wanted.text)
        return True

    @property
    def full(self) -> bool:
        """Whether it is large enough."""
        return sum(map(len, self.text.values())) > LARGEST


class Workshop:
    """A scratch directory, and the containers that work in it: ``/scratch`` there, guest images at ``/images``."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.name = f"vmprov-{scratch.name}"
        images = Settings.from_environ().home / "images"
        self._mounts = ["-v", f"{scratch}:/scratch", "-v", f"{images}:/images:ro", "-w", "/scratch"]

    def prepare(self, script: str) -> None:
        """Run a shell script where disks can be made."""
        self._docker("run", "--rm", *self._mounts, image_name("builder"), "sh", "-euc", script)

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Run a shell script where QEMU is."""
        rights = ["--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"]
        run = ["run", "--rm", "--init", "--name", self.name, *rights, *self._mounts, "--entrypoint", "sh"]
        return subprocess.Popen(["docker", *run, image_name("host"), "-euc", script], stdin=subprocess.DEVNULL)

    def serve(self, directory: str, port: int) -> None:
        """Serve files over HTTP in the network of the running QEMU."""
        server = f"exec python3 -m http.server --protocol HTTP/1.1 --directory {shlex.quote(directory)} {port}"
        network = ["--network", f"container:{self.name}", "--name", f"{self.name}-http"]
        self._docker("run", "-d", "--rm", "--init", *network, *self._mounts, image_name("builder"), "sh", "-c", server)

    def clean(self) -> None:
        """Remove the containers and what they wrote."""
        for name in (f"{self.name}-http", self.name):
            subprocess.run(["docker", "rm", "-f", name], capture_output=True)
        self.prepare("find /scratch -mindepth 1 -delete")

    @staticmethod
    def _docker(*arguments: str) -> None:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"docker {arguments[0]}: {done.stderr[-2000:]}")


@contextmanager
def workshop() -> Iterator[Workshop]:
    """A workshop that goes away."""
    with tempfile.TemporaryDirectory(prefix="transcripts-") as scratch:
        Path(scratch).chmod(0o777)
        shop = Workshop(Path(scratch))
        try:
            yield shop
        finally:
            shop.clean()


class Guest:
    """The recorder's end of a guest's UARTs and of its machine protocol."""

    def __init__(self, shop: Workshop, consoles: Sequence[int]) -> None:
        self.recording = Recording()
        self._selector = selectors.DefaultSelector()
        self._uarts: dict[int, socket.socket] = {}
        self._control: socket.socket | None = None
        self._control_path = shop.scratch / "control"
        for console in consoles:
            self._uarts[console] = _connect(shop.scratch / f"console{console}")
            self._selector.register(self._uarts[console], selectors.EVENT_READ, console)
        self._start = time.monotonic()

    def play(self, steps: Sequence[Step]) -> None:
        """Do one step after the other, recording all the time."""
        for step in steps:
            if isinstance(step, Expect):
                self._await(step)
            elif isinstance(step, Wait):
                self._record(step.seconds)
            elif isinstance(step, Send):
                self._type(step)
            else:
                self._command("system_reset")
            if self.recording.full:
                return

    def close(self) -> None:
        """Let go of the guest."""
        for uart in self._uarts.values():
            uart.close()
        if self._control:
            self._control.close()
        self._selector.close()

    def _type(self, step: Send) -> None:
        for byte in step.text:
            self._uarts[step.console].sendall(bytes([byte]))
            self._record(0.02)

    def _await(self, step: Expect) -> None:
        end = time.monotonic() + step.limit
        while not self.recording.passed(step):
            if self.recording.full:
                return
            if time.monotonic() > end or not self._read(0.1):
                said = bytes(self.recording.text.get(step.console, b""))[-1500:]
                raise Missed(f"no {step.text!r} within {step.limit} s; last: {said!r}")

    def _record(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self._read(left):
            pass

    def _read(self, timeout: float) -> bool:
        """Take in what there is; false when the guest has gone."""
        for key, _ in self._selector.select(timeout):
            data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            if not data:
                self._selector.unregister(key.fileobj)
                continue
            self.recording.add(time.monotonic() - self._start, key.data, data)
        return bool(self._selector.get_map())

    def _command(self, name: str) -> None:
        if self._control is None:
            self._control = _connect(self._control_path)
            self._control.sendall(b'{"execute": "qmp_capabilities"}\n')
        self._control.sendall(json.dumps({"execute": name}).encode() + b"\n")


def _connect(path: Path) -> socket.socket:
    end = time.monotonic() + _CONNECT_LIMIT
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(str(path))
            return link
        except OSError:
            link.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def stop(process: subprocess.Popen[bytes], shop: Workshop) -> None:
    """End the guest's container."""
    subprocess.run(["docker", "kill", shop.name], capture_output=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
