"""What labgrid keeps of a serial console on the same host: its QEMUDriver with its console log, one guest of ``tiny``.

labgrid is installed into a virtual environment that is removed again. Its QEMU runs in the container of the embedded
host, as vmprov's do. The guest prints as many bytes each time: while nobody reads, while one ``expect`` runs to their
end, and while one runs that is killed half-way.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_create import Inside, Place, wait_for_ssh

from vmprov import ssh
from vmprov.lab import Vmprov
from vmprov.runner import LocalRunner
from vmprov.settings import Settings

VERSION = "26.0.1"
_LIMIT = 900.0
_MEMORY_MIB = 128
_PORT = 2300
_NAME = "labgrid"
# Seconds for which nobody reads.
_UNREAD = 30.0
_END = "bench-end"
# Bytes that the guest prints each time: labgrid takes 10 to 30 kB/s.
SIZE = 500_000


class Refused(Exception):
    """It could not be measured here."""


def measure(environ: Mapping[str, str], script: str) -> dict[str, Any]:
    """Bytes in labgrid's log for those that ``script`` makes the guest print (SIZE), or ``failed``, and why."""
    with Vmprov(Settings.from_environ(environ)) as vmprov:
        host = vmprov.host("embedded")
        host.up(vmprov.events)
        with tempfile.TemporaryDirectory(dir=vmprov.home.host("embedded"), prefix="bench-") as scratch:
            key = Path(scratch) / "key"
            ssh.make_key(key, LocalRunner(), comment="bench")
            place = Place(vmprov, host, vmprov.images.get("tiny"), key, Path(scratch), 1)
            try:
                python = _install(place.scratch / "venv")
                with _machine(place, python) as machine:
                    return {"version": VERSION, **_measure(machine, script)}
            except (Refused, subprocess.SubprocessError) as problem:
                return {"version": VERSION, "failed": str(problem)}


def _install(directory: Path) -> Path:
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"labgrid=={VERSION}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Refused(f"labgrid could not be installed: {done.stderr.strip()[-300:]}")
    return python


@dataclass
class _Machine:
    """The guest, and the process of labgrid's that owns it."""

    place: Place
    process: subprocess.Popen[str]
    log: Path

    def ask(self, *words: object) -> None:
        """Tell labgrid to do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """What came of it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Refused(f"labgrid ended: {self.process.communicate()[1].strip()[-500:]}")
        return str(json.loads(line))

    def start(self, script: str) -> subprocess.Popen[str]:
        """Run a shell script in the guest."""
        login = ssh.Login(
            address="127.0.0.1", user=self.place.login_user, key=self.place.key, alias=_NAME, port=_PORT,
            known_hosts=self.place.scratch / "known_hosts",
        )  # fmt: skip
        process = subprocess.Popen(
            ssh.command_line(self.place.host, login, ["sh", "-s"], batch=True), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(script)
        process.stdin.close()
        process.stdin = None
        return process

    def sent(self) -> int:
        """Bytes that have left the guest's first UART, as its kernel counts them."""
        text = self.start("cat /proc/tty/driver/serial\n").communicate(timeout=_LIMIT)[0]
        line = next(line for line in text.splitlines() if line.startswith("0:"))
        return int(line.partition(" tx:")[2].split()[0])

    @property
    def logged(self) -> int:
        """How long labgrid's log is."""
        return self.log.stat().st_size


@contextmanager
def _machine(place: Place, python: Path) -> Iterator[_Machine]:
    inside = Inside(place)
    scratch = place.scratch
    place.seed(_NAME)
    disk, seed, pid = scratch / f"{_NAME}.qcow2", scratch / f"{_NAME}-seed.iso", scratch / f"{_NAME}.pid"
    backing = str(place.vmprov.images.disk(place.image.name))
    inside.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, str(disk))
    qemu = scratch / "qemu"
    container = f"vmprov-host-{place.vmprov.store.installation}"
    qemu.write_text(f'#!/bin/sh\nexec docker exec -i {container} qemu-system-x86_64 "$@"\n')
    qemu.chmod(0o755)
    kvm = place.host.acceleration().kind == "kvm"
    extra = (
        f"-accel {'kvm' if kvm else 'tcg,thread=multi'} -pidfile {pid} -device virtio-rng-pci "
        f"-drive file={seed},if=virtio,format=raw,readonly=on"
    )
    driver = {
        "qemu_bin": "qemu", "machine": "pc", "cpu": "host" if kvm else "max", "memory": f"{_MEMORY_MIB}M",
        "disk": "disk", "extra_args": extra,
        "nic": f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{_PORT}-:22",
    }  # fmt: skip
    logs = scratch / "log"
    logs.mkdir()
    config = {"tools": {"qemu": str(qemu)}, "images": {"disk": str(disk)}, "driver": driver, "log": str(logs)}
    program = Path(__file__).with_name("bench_labgrid_driver.py")
    process = subprocess.Popen(
        [python, program, json.dumps(config)], env={**os.environ, "TMPDIR": str(scratch)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    machine = _Machine(place, process, logs / "console_main")
    try:
        if machine.answer() != "on":
            raise Refused("the guest could not be switched on")
        machine.ask("expect", "login: ", _LIMIT)
        if machine.answer() != "found":
            raise Refused("the guest did not come up")
        wait_for_ssh(place, "127.0.0.1", _PORT, _NAME)
        yield machine
    finally:
        process.kill()
        process.wait()
        # labgrid's machine outlives labgrid where that was killed.
        inside.run("sh", "-c", f"! [ -e {pid} ] || kill $(cat {pid}) || true")


def _measure(machine: _Machine, script: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    size = SIZE
    machine.ask("expect", "nothing says this", 3)
    machine.answer()
    # Nobody reads.
    logged, sent = machine.logged, machine.sent()
    printing = machine.start(f"{script}echo {_END} >/dev/ttyS0\n")
    time.sleep(_UNREAD)
    found["nobody reads"] = {
        "seconds": _UNREAD, "wanted": size, "sent": machine.sent() - sent, "captured": machine.logged - logged,
    }  # fmt: skip
    # One expect runs to the end.
    start = time.monotonic()
    machine.ask("expect", _END, _LIMIT)
    if machine.answer() != "found":
        raise Refused("the end of what the guest printed did not come")
    seconds = time.monotonic() - start
    expected = printing.communicate(timeout=_LIMIT)[0].split()[0]
    found["one expect runs"] = {
        **_compared(machine, logged, size, expected), "seconds": round(seconds, 1),
        "kB/s": round((size - found["nobody reads"]["captured"]) / seconds / 1e3, 1),
    }  # fmt: skip
    # Its process is killed half-way.
    logged = machine.logged
    printing = machine.start(script)
    machine.ask("expect", "nothing says this", _LIMIT)
    _until(lambda: machine.logged - logged >= size / 2 or printing.poll() is not None)
    machine.process.kill()
    machine.process.wait()
    expected = printing.communicate(timeout=_LIMIT)[0].split()[0]
    found["it is killed half-way"] = _compared(machine, logged, size, expected)
    return found


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not ready():
        if time.monotonic() > deadline:
            raise Refused("the guest printed too slowly")
        time.sleep(0.05)


def _compared(machine: _Machine, begin: int, size: int, expected: str) -> dict[str, Any]:
    with machine.log.open("rb") as file:
        file.seek(begin)
        data = file.read(size)
    same = hashlib.sha256(data).hexdigest() == expected
    return {"sent": size, "captured": len(data), "percent": round(100 * len(data) / size, 2), "identical": same}


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """For the table."""
    if "failed" in found:
        return [("labgrid", f"not measured: {found['failed']}", "")]
    unread = found["nobody reads"]
    held = 100 * (unread["wanted"] - unread["sent"]) / unread["wanted"]
    figure = f"{unread['captured']} of {unread['sent']} bytes; {held:.0f} % of what it would print held up in the guest"
    table = [(f"  labgrid, nobody reads for {unread['seconds']:g} s", figure, "")]
    for name in ("one expect runs", "it is killed half-way"):
        one = found[name]
        figure = f"{one['percent']} %, {'identical' if one['identical'] else 'not identical'}"
        table.append((f"  labgrid, {name}", figure + (f", {one['kB/s']} kB/s" if "kB/s" in one else ""), ""))
    return table
