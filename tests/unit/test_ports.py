"""The files of a UART: what the engine makes before power-on, whose they are, and what is left of them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from vmprov.console.ports import drafts, input_path, lock_path, make_port, relay_path, remove_port, socket_path
from vmprov.console.relay import daemon_log, relays_of
from vmprov.drivers import Uart
from vmprov.engine.context import Context
from vmprov.engine.objects.prepare import make_consoles
from vmprov.paths import Home
from vmprov.store import VMRecord


@pytest.fixture
def base(home: Home) -> Path:
    return home.console_port(1, 0)


@pytest.fixture
def log(home: Home) -> Path:
    path = home.console_log("web-1", 0)
    path.parent.mkdir(parents=True)
    return path


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def test_the_capture_and_the_fifo_are_there_before_power_on_and_private(base: Path, log: Path) -> None:
    make_port(base, log)

    assert (log.read_bytes(), mode(log)) == (b"", 0o600)
    assert stat.S_ISFIFO(input_path(base).stat().st_mode)
    assert mode(input_path(base)) == 0o600


def test_sockets_that_libvirt_makes_beside_it_get_our_group(base: Path, log: Path) -> None:
    make_port(base, log)

    assert mode(base.parent) == 0o2700


def test_output_leads_nowhere_so_that_nobody_can_hold_it_up(base: Path, log: Path) -> None:
    make_port(base, log)

    assert base.with_name(f"{base.name}.out").readlink() == Path(os.devnull)


def test_a_capture_that_exists_is_kept(base: Path, log: Path) -> None:
    log.write_bytes(b"earlier")

    make_port(base, log)

    assert log.read_bytes() == b"earlier"


def test_a_fifo_that_exists_is_kept(base: Path, log: Path) -> None:
    make_port(base, log)
    before = input_path(base).stat().st_ino

    make_port(base, log)

    assert input_path(base).stat().st_ino == before


def test_what_is_no_fifo_and_no_link_is_replaced(base: Path, log: Path) -> None:
    base.parent.mkdir(parents=True)
    output = base.with_name(f"{base.name}.out")
    for path in (input_path(base), output):
        path.write_text("a file")

    make_port(base, log)

    assert stat.S_ISFIFO(input_path(base).stat().st_mode)
    assert output.is_symlink()


def test_removing_leaves_the_capture_and_nothing_else(base: Path, log: Path) -> None:
    make_port(base, log, relayed=True)
    assert relay_path(base).readlink() == log
    socket_path(base).touch()
    lock_path(base).touch()
    killed = drafts(lock_path(base)) / f"{lock_path(base).name}.1-2"
    killed.touch()

    remove_port(base)
    remove_port(base)

    assert [*base.parent.iterdir(), *killed.parent.iterdir()] == []
    assert log.exists()


@dataclass
class StubContext:
    """Just what making consoles asks for."""

    home: Home
    console_kind: str

    @property
    def host(self) -> Any:
        return self

    @property
    def settings(self) -> Any:
        return self

    keeper = True


def record(**fields: Any) -> VMRecord:
    known: dict[str, Any] = dict.fromkeys(VMRecord.__dataclass_fields__, "")
    return VMRecord(**{**known, "id": 7, "name": "web-1", "consoles": 2, **fields})


def test_on_a_host_of_ours_qemu_reads_the_fifo_and_writes_the_capture(home: Home) -> None:
    home.vm("web-1").mkdir(parents=True)

    uarts = make_consoles(cast("Context", StubContext(home, "pipe")), record())

    assert uarts == tuple(Uart("pipe", home.console_port(7, port), home.console_log("web-1", port)) for port in (0, 1))
    assert all(uart.log.exists() for uart in uarts)
    assert all(input_path(home.console_port(7, port)).is_fifo() for port in (0, 1))


def test_elsewhere_qemu_serves_a_socket_and_libvirts_daemon_writes_a_file_to_copy(home: Home) -> None:
    home.vm("web-1").mkdir(parents=True)

    (uart,) = make_consoles(cast("Context", StubContext(home, "unix")), record(consoles=1))

    base, log = home.console_port(7, 0), home.console_log("web-1", 0)
    assert uart == Uart("unix", socket_path(base), daemon_log(log))
    assert (mode(uart.log), mode(log)) == (0o600, 0o600)
    assert relays_of(home) == {log: uart.log}
    assert input_path(base).is_fifo()
