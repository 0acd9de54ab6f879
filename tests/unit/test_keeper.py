"""The keeper: a real process that notes times and boots, trims, judges, and forwards what is typed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.transcripts import load
from tests.unit.uarts import SOON, Call, a_while, add, soon
from vmprov.console.bridge import Bridge, bridges_of
from vmprov.console.capture import Capture
from vmprov.console.index import Mark, Times, machine_run, times_path
from vmprov.console.keeper import Kept, ensure_keeper, needs_keeper
from vmprov.console.lines import Selection, captured
from vmprov.console.ports import input_path, make_port
from vmprov.errors import CommandFailed
from vmprov.flows.machine import Machine, watch_only
from vmprov.paths import Home
from vmprov.runner import LocalRunner
from vmprov.settings import Settings
from vmprov.store import Store, VMRecord
from vmprov.waiting import Deadline

BIOS = b"\x1bc\x1b[?7l\x1b[2JSeaBIOS (version "
UEFI = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H" * 2
PANIC = b"[    9.123456] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\r\n"
ROOT = Path(__file__).parents[2]


def keepers(home: Home) -> list[int]:
    """The processes that keep this state directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if b"vmprov.engine.judging.guard" in words and os.fsencode(home.root) in words and state != "Z":
                found.append(int(process.name))
    return found


@pytest.fixture
def start(home: Home, settings: Settings) -> Iterator[Callable[..., int]]:
    """Starts the keeper and returns its process id."""

    def start(limit: int = 64 << 20) -> int:
        ensure_keeper(home, replace(settings, keeper=True, console_limit=limit), LocalRunner())
        # The one that was started returns before the program that started it has gone.
        return soon(lambda: keepers(home) if len(keepers(home)) == 1 else [], "one keeper")[0]

    yield start
    for pid in keepers(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    soon(lambda: not keepers(home), "end of the keeper")


@pytest.fixture
def log(home: Home) -> Path:
    """The capture of a VM."""
    home.vm("vm-1").mkdir(parents=True)
    log = home.console_log("vm-1", 0)
    log.touch()
    return log


@pytest.fixture
def kept(log: Path) -> Iterator[Kept]:
    """A capture in the keeper's care, without a process."""
    kept = Kept(log)
    yield kept
    kept.close()


def read(log: Path) -> Times:
    times = Times(log)
    times.refresh()
    return times


def noted(log: Path) -> Times:
    """The times of a capture once all of it was seen."""
    soon(lambda: read(log).seen == log.stat().st_size, "times of all bytes")
    return read(log)


def records(log: Path) -> list[tuple[int, int]]:
    """(mark, offset) of all records."""
    data = times_path(log).read_bytes()
    assert len(data) % 32 == 0
    return [(data[at], int.from_bytes(data[at + 8 : at + 16], "little")) for at in range(0, len(data), 32)]


def kill(home: Home, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    soon(lambda: not keepers(home), "end of the keeper")


# times


def test_bytes_are_timed_as_they_arrive(log: Path, start: Callable[..., int]) -> None:
    start()
    before = time.time(), time.monotonic()
    add(log, b"one\r\n")
    noted(log)
    between = time.time(), time.monotonic()
    add(log, b"two\r\n")
    times = noted(log)

    one, two = times.at(5), times.at(10)
    assert one
    assert two
    assert before[0] <= one.wall <= between[0] <= two.wall <= time.time()
    assert before[1] <= one.mono <= between[1] <= two.mono <= time.monotonic()
    assert one.current
    assert times.machine == machine_run()
    assert [line.moment for line in captured("vm-1", Capture(log), Selection())] == [one, two]


def test_a_machine_that_sends_binary_at_full_speed_is_timed_read_and_judged(
    log: Path, start: Callable[..., int]
) -> None:
    start()
    noise = random.Random(7).randbytes(3_000_000)
    machine = Machine(watch_only(), start=time.monotonic())
    for at in range(0, len(noise), 50_000):
        add(log, noise[at : at + 50_000])
        machine.feed(0, at, noise[at : at + 50_000], time.monotonic())
    times = noted(log)

    lines = list(captured("vm-1", Capture(log), Selection()))
    assert b"".join(block for _, block in Capture(log).read(0)) == noise
    assert times.boots == []
    assert len(lines) > 5000
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "".join(line.text for line in lines))
    assert machine.verdict is None


def test_a_machine_that_is_made_later_is_kept_too(home: Home, log: Path, start: Callable[..., int]) -> None:
    start()
    late = home.console_log("vm-2", 1)
    late.parent.mkdir()
    add(late, b"hello\r\n")

    noted(late)

    assert read(log).seen == 0


def test_what_was_said_before_there_was_a_keeper_is_as_old_as_the_file(log: Path, start: Callable[..., int]) -> None:
    add(log, b"said long ago\r\n")
    written = time.time() - 3600
    os.utime(log, (written, written))
    start()
    noted(log)
    add(log, b"said now\r\n")

    old, new = [line.moment for line in captured("vm-1", Capture(log), Selection()) if noted(log)]
    assert old.wall == pytest.approx(written, abs=0.01)
    assert new.wall - old.wall >= 3600
    assert new.mono - old.mono == pytest.approx(new.wall - old.wall, abs=1)


# boots


@pytest.mark.parametrize("firmware", [BIOS, UEFI], ids=["SeaBIOS", "UEFI"])
def test_a_boot_is_counted_once_wherever_it_is_cut(log: Path, firmware: bytes) -> None:
    for cut in range(len(firmware) + 80):
        log.write_bytes(b"")
        times_path(log).unlink(missing_ok=True)
        data = b"login: " + firmware + b"." * 200
        kept = Kept(log)
        for piece in (data[: 7 + cut], data[7 + cut :]):
            add(log, piece)
            assert kept.look()
        kept.close()

        assert read(log).boots == [7], cut


@pytest.mark.parametrize("firmware", [BIOS, UEFI], ids=["SeaBIOS", "UEFI"])
def test_a_boot_is_counted_once_however_it_trickles_and_whoever_is_killed(log: Path, firmware: bytes) -> None:
    data = b"login: " + firmware + b"." * 80
    for at in range(len(data)):
        add(log, data[at : at + 1])
        kept = Kept(log)  # each byte has a keeper of its own
        assert kept.look()
        kept.close()

    assert read(log).boots == [7]
    assert [offset for mark, offset in records(log) if mark == Mark.SEEN] == list(range(1, len(data) + 1))


@pytest.mark.parametrize("size", [17, 64, 5000])
@pytest.mark.parametrize("name", ["reboot-loop", "tiny-ovmf", "debian-12-reset"])
def test_recorded_guests_boot_as_often_in_pieces_as_in_one(log: Path, kept: Kept, name: str, size: int) -> None:
    from vmprov.console.boots import boot_starts

    data = load(name).data()
    for at in range(0, len(data), size):
        add(log, data[at : at + size])
        assert kept.look()

    assert read(log).boots == boot_starts(data)


# trimming


def test_a_capture_is_trimmed_to_its_limit_and_its_offsets_stay(log: Path, start: Callable[..., int]) -> None:
    limit = 256 * 1024
    add(log, BIOS + b"first boot\r\n")
    start(limit)
    noted(log)
    for number in range(40):
        add(log, b"%06d %s\r\n" % (number, b"x" * 65528))

    size = log.stat().st_size
    times = noted(log)
    soon(lambda: read(log).trimmed >= size - limit - 4096, "trimming")
    soon(lambda: log.stat().st_blocks * 512 <= limit + 64 * 1024, "free blocks")

    assert log.stat().st_size == size > 40 * 65536
    assert size - read(log).trimmed <= limit + 4096
    assert times.boots == [0]
    lines = list(captured("vm-1", Capture(log), Selection()))
    assert lines[0].note
    assert lines[-1].offset == size - 65537
    assert all(line.moment.current for line in lines)


def test_without_its_times_a_trimmed_capture_is_still_known_to_be_trimmed(log: Path) -> None:
    add(log, b"x" * 1_000_000 + b"\n")
    first = Kept(log)
    first.look()
    first.trim(100_000)
    first.close()
    before = read(log).trimmed
    times_path(log).unlink()

    add(log, b"more\n")
    second = Kept(log)
    second.look()
    second.close()

    assert read(log).trimmed == before > 800_000
    assert next(captured("vm-1", Capture(log), Selection())).note


def test_a_long_times_file_is_thinned_and_goes_on(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmprov.console.keeper._MOST_TIMES", 32 * 100)
    kept = Kept(log)
    for _ in range(150):
        add(log, b"x")
        kept.look()

    kept.trim(1 << 20)
    thinned = times_path(log).stat().st_size
    add(log, b"x")
    kept.look()
    kept.close()

    assert 32 * 70 <= thinned <= 32 * 120
    assert times_path(log).stat().st_size == thinned + 32
    assert read(log).seen == 151


# a life of crashes


def test_a_keeper_that_is_killed_loses_nothing_and_doubles_nothing(
    home: Home, log: Path, start: Callable[..., int]
) -> None:
    expected = []
    for number in range(3):
        pid = start()
        add(log, b"before %d\r\n" % number)
        expected.append(log.stat().st_size)
        add(log, BIOS[:20])  # half a boot
        noted(log)
        kill(home, pid)
        soon(lambda: needs_keeper(home), "lock of the keeper that was killed")
        add(log, BIOS[20:] + b"1.16)\r\nwhile nobody looked\r\n")
    start()
    times = noted(log)

    seen = [offset for mark, offset in records(log) if mark == Mark.SEEN]
    assert times.boots == expected
    assert seen == sorted(set(seen))
    assert [mark for mark, _ in records(log)].count(Mark.MACHINE) == 1
    assert [line.boot for line in captured("vm-1", Capture(log), Selection()) if "nobody" in line.text] == [1, 2, 3]


def test_a_keeper_ends_when_nothing_is_left_to_keep(home: Home, log: Path, start: Callable[..., int]) -> None:
    start()
    add(log, b"hello")
    noted(log)
    while_kept = needs_keeper(home)

    shutil.rmtree(home.vms)

    soon(lambda: not keepers(home), "end of the keeper")
    assert (while_kept, needs_keeper(home)) == (False, True)
    assert home.keeper_log.read_text() == ""


def test_of_ten_that_are_started_at_once_one_stays(home: Home, log: Path, start: Callable[..., int]) -> None:
    argv = [sys.executable, "-m", "vmprov.engine.judging.guard", str(home.root), "1000000"]
    with ThreadPoolExecutor(10) as pool:
        ended = list(pool.map(lambda _: subprocess.run(argv, check=False, timeout=120).returncode, range(10)))

    assert ended == [0] * 10
    pid = start()
    assert keepers(home) == [pid]
    add(log, BIOS)
    assert noted(log).boots == [0]
    assert [offset for mark, offset in records(log) if mark == Mark.SEEN] == [len(BIOS)]


def test_who_only_asks_whether_there_is_a_keeper_does_not_pass_for_one(
    home: Home, log: Path, start: Callable[..., int]
) -> None:
    lock = home.lock("keeper")
    lock.parent.mkdir()
    asking = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(asking, fcntl.LOCK_SH)
    argv = [sys.executable, "-m", "vmprov.engine.judging.guard", str(home.root), "1000000"]

    with subprocess.Popen(argv) as starting:
        a_while(1.0)
        os.close(asking)

    assert starting.returncode == 0
    assert len(keepers(home)) == 1
    add(log, b"hello")
    noted(log)


def test_no_keeper_is_started_where_the_settings_say_so(home: Home, log: Path) -> None:
    settings = Settings.from_environ({"VMPROV_HOME": str(home.root), "VMPROV_KEEPER": "off"})

    ensure_keeper(home, settings, LocalRunner())

    a_while()
    assert keepers(home) == []
    assert needs_keeper(home)
    assert not home.lock("keeper").exists()


def test_a_keeper_that_cannot_be_started_is_an_error(home: Home, settings: Settings) -> None:
    home.lock("keeper").parent.write_text("in the way")

    with pytest.raises(CommandFailed):
        ensure_keeper(home, replace(settings, keeper=True), LocalRunner())


# what others do to its files


def test_times_that_are_deleted_are_begun_anew(log: Path, start: Callable[..., int]) -> None:
    start()
    add(log, BIOS + b"one\r\n")
    noted(log)

    times_path(log).unlink()
    soon(times_path(log).exists, "new times")
    add(log, b"two\r\n")
    times = noted(log)

    assert times.boots == [0]
    assert times.machine == machine_run()


def test_a_capture_that_is_truncated_is_begun_anew(log: Path, start: Callable[..., int]) -> None:
    start()
    add(log, BIOS + b"a long first life\r\n")
    noted(log)

    log.write_bytes(b"anew\r\n")
    soon(lambda: read(log).seen == 6, "new times")
    os.truncate(log, 0)
    soon(lambda: not times_path(log).exists(), "end of the times")
    add(log, b"and again " + BIOS)
    times = noted(log)

    assert times.boots == [10]
    assert [offset for mark, offset in records(log) if mark == Mark.SEEN] == [log.stat().st_size]


def test_a_capture_that_is_replaced_by_a_longer_one_is_begun_anew(log: Path, kept: Kept) -> None:
    add(log, b"short " + BIOS)
    assert kept.look()
    other = log.with_name("other")
    other.write_bytes(b"another one, and a longer one " * 5)
    other.replace(log)

    assert not kept.look()


def test_a_database_that_cannot_be_read_does_not_end_it(home: Home, log: Path, start: Callable[..., int]) -> None:
    home.database.write_bytes(b"this is no database" * 100)
    pid = start()

    add(log, b"hello")
    noted(log)
    a_while(0.6)
    add(log, b"still there")
    noted(log)

    assert keepers(home) == [pid]


# a full disk

FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from vmprov.console.index import Times
from vmprov.console.keeper import Kept

place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], check=True)
log, filler = place / "console-0.log", place / "filler"
fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
kept = Kept(log)
os.write(fd, b"one\\n")
kept.look()
kept.watch_disk()
try:
    while True:
        with filler.open("ab", buffering=0) as file:
            file.write(b"x" * 4096)
            file.write(b"x" * 4096)
except OSError:
    pass
try:
    while True:
        os.write(fd, b"y" * 1000)
except OSError:
    pass
for _ in range(200):  # of the times, too, some find no room
    os.truncate(log, log.stat().st_size)
    kept.look()
kept.watch_disk()
full = log.stat().st_size
filler.unlink()
os.write(fd, b"\\nthree\\n")
kept.look()
kept.watch_disk()
kept.look()
times = Times(log)
times.refresh()
print([lost.offset for lost in times.lost] == [full], times.lost[0].seconds >= 1)
print(times.seen == log.stat().st_size, (log.with_suffix(".times").stat().st_size % 32) == 0)
"""


def test_a_full_disk_is_noted_with_where_and_how_long(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*unshare, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")

    ran = subprocess.run(
        [*unshare, sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False, cwd=ROOT
    )  # fmt: skip

    assert (ran.stdout, ran.stderr) == ("True True\nTrue True\n", "")


# judging


@pytest.fixture
def add_vm(home: Home, store: Store) -> Callable[..., VMRecord]:
    def add_vm(name: str, *, state: str = "ready", verdict: str = "success", consoles: int = 1) -> VMRecord:
        store.add_lab("lab-1", host="fake:", driver="fake")
        store.add_vm(
            lab="lab-1", name=name, state=state, verdict=verdict, host="fake:", driver="fake", domain=f"d-{name}",
            uuid="u", image="", login="none", network="n", bridge="b", address="", mac="m", serial_number="s", cpus=1,
            memory=1, disk=1, consoles=consoles, flow="login",
        )  # fmt: skip
        home.vm(name).mkdir(parents=True)
        for console in range(consoles):
            home.console_log(name, console).touch()
        return store.vm(name)

    return add_vm


def test_a_machine_that_was_ready_and_panics_is_failed_with_the_evidence(
    home: Home, store: Store, add_vm: Callable[..., VMRecord], start: Callable[..., int]
) -> None:
    add_vm("vm-1")
    add_vm("vm-2", consoles=2)
    add_vm("vm-3")
    add_vm("young", state="creating", verdict="")
    add_vm("broken", verdict="timeout")
    logs = {name: home.console_log(name, 0) for name in ("vm-1", "vm-2", "vm-3", "young", "broken")}
    said = b"Debian GNU/Linux 12 vm-1 ttyS0\r\n\r\nvm-1 login: root\r\n"
    for log in logs.values():
        add(log, said)
    (home.vm("vm-1") / "judged.json").write_text(json.dumps({"0": len(said)}))
    start()
    for log in logs.values():
        noted(log)  # a keeper sees what is to be judged before it times anything

    for name in ("young", "broken", "vm-1"):
        add(logs[name], b"\x1b[1;31m" + PANIC)
    add(home.console_log("vm-2", 1), PANIC)
    soon(lambda: {store.vm(name).verdict for name in ("vm-1", "vm-2")} == {"failed"}, "verdicts")

    judgement = json.loads(store.vm("vm-1").judgement)
    assert (judgement["class"], judgement["console"], judgement["offset"]) == ("kernel-panic", 0, len(said))
    assert "Kernel panic - not syncing: Attempted to kill init!" in judgement["evidence"]
    assert "\x1b" not in judgement["evidence"]
    assert store.vm("vm-1").state == "ready"
    assert json.loads(store.vm("vm-2").judgement)["console"] == 1
    assert (store.vm("vm-3").verdict, store.vm("young").verdict, store.vm("broken").verdict) == (
        "success", "", "timeout",
    )  # fmt: skip


def test_what_was_judged_before_the_verdict_is_not_judged_again(
    home: Home, store: Store, add_vm: Callable[..., VMRecord], start: Callable[..., int]
) -> None:
    add_vm("vm-1")
    add_vm("vm-2")
    add(home.console_log("vm-1", 0), PANIC + b"rebooted; vm-1 login: ")
    (home.vm("vm-1") / "judged.json").write_text(json.dumps({"0": home.console_log("vm-1", 0).stat().st_size}))
    add(home.console_log("vm-2", 0), b"vm-2 login: " + PANIC)
    (home.vm("vm-2") / "judged.json").write_text(json.dumps({"0": 12}))

    start()
    soon(lambda: store.vm("vm-2").verdict == "failed", "verdict on what came after the judgement")
    add(home.console_log("vm-1", 0), b"root\r\n")
    noted(home.console_log("vm-1", 0))
    a_while(0.6)

    assert store.vm("vm-1").verdict == "success"


def test_a_guest_that_is_rebooted_is_not_failed(
    home: Home, store: Store, add_vm: Callable[..., VMRecord], start: Callable[..., int]
) -> None:
    add_vm("vm-1")
    add_vm("vm-2")
    start()
    for _ in range(10):
        add(home.console_log("vm-1", 0), b"vm-1 login: " + BIOS + b"1.16)\r\n")
    noted(home.console_log("vm-1", 0))
    add(home.console_log("vm-2", 0), PANIC)
    soon(lambda: store.vm("vm-2").verdict == "failed", "verdict")

    assert store.vm("vm-1").verdict == "success"


# hosts whose QEMU serves sockets


class Server:
    """QEMU's listening socket, with one client."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(SOON)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._client: socket.socket | None = None

    @property
    def client(self) -> socket.socket:
        if self._client is None:
            self._client, _ = self._listener.accept()
            self._client.settimeout(SOON)
        return self._client

    @property
    def has_client(self) -> bool:
        """Whether somebody has connected."""
        return self._client is not None or bool(select.select([self._listener], [], [], 0)[0])

    def forget(self) -> None:
        """The client is gone; the next one is another."""
        self.client.close()
        self._client = None

    def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            data = self.client.recv(65536)
            assert data, heard[-100:]
            heard += data
        return heard

    def close(self) -> None:
        if self._client:
            self._client.close()
            self._client = None
        self._listener.close()


def has_reader(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as problem:
        assert problem.errno == errno.ENXIO
        return False
    return True


class Driven:
    """A bridge, and the loop that the keeper has."""

    def __init__(self, path: Path, fifo: Path) -> None:
        self.fifo = fifo
        self._selector = selectors.DefaultSelector()
        self.bridge = Bridge(path, fifo, self._selector)
        self.turns = 0
        self._closed = False

    def until(self, probe: Callable[[], bool]) -> None:
        deadline = Deadline(SOON)
        while not probe():
            assert not deadline.expired
            self.turn(0.01)

    def turn(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            self.turns += 1
            key.data.serve()

    def heard_by(self, server: Server, count: int) -> bytes:
        hearing = Call(lambda: server.hear(count))
        self.until(lambda: hearing.ended)
        return hearing.result()

    def type(self, data: bytes) -> int:
        """What the FIFO takes at once."""
        fd = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            return os.write(fd, data)
        except BlockingIOError:
            return 0
        finally:
            os.close(fd)

    @property
    def readable(self) -> bool:
        return has_reader(self.fifo)

    @property
    def bridge_connected(self) -> bool:
        """Whether anything but the FIFO is listened to."""
        return len(self._selector.get_map()) > 1

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.bridge.close()
            self._selector.close()


@pytest.fixture
def port(home: Home, log: Path) -> Path:
    base = home.console_port(1, 0)
    make_port(base, log)
    return base


@pytest.fixture
def driven(port: Path) -> Iterator[Driven]:
    driven = Driven(port.with_name("1-0.sock"), input_path(port))
    yield driven
    driven.close()


@pytest.fixture
def server(port: Path) -> Iterator[Server]:
    server = Server(port.with_name("1-0.sock"))
    yield server
    server.close()


def test_what_is_typed_is_forwarded(server: Server, driven: Driven) -> None:
    driven.type(b"root\r")
    first = driven.heard_by(server, 5)
    driven.type(b"\x03")

    assert first + driven.heard_by(server, 1) == b"root\r\x03"


def test_it_is_connected_only_while_somebody_types(
    server: Server, driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmprov.console.bridge._LINGER", 0.1)
    driven.bridge.rest()
    before = server.has_client
    driven.type(b"x")
    driven.heard_by(server, 1)
    a_while(0.15)
    driven.bridge.rest()
    end = server.client.recv(1)
    server.forget()
    driven.type(b"y")

    assert (before, end) == (False, b"")
    assert driven.heard_by(server, 1) == b"y"
    assert driven.readable


def test_a_guest_that_talks_meanwhile_is_drained(server: Server, driven: Driven) -> None:
    driven.type(b"x")
    driven.heard_by(server, 1)
    talking = Call(lambda: server.client.sendall(b"x" * 5_000_000))

    driven.until(lambda: talking.ended)  # no socket buffers as much

    talking.result()


def test_a_guest_that_talks_and_never_reads_is_drained_and_what_is_typed_waits(server: Server, driven: Driven) -> None:
    typed = 0
    pattern = b"".join(b"%07d," % number for number in range(200_000))
    quiet = 0
    while quiet < 20:  # until neither the socket nor the FIFO takes any more
        took = driven.type(pattern[typed : typed + 4096])
        typed += took
        quiet = 0 if took else quiet + 1
        driven.turn(0.001)
    assert typed >= 65536
    talking = Call(lambda: server.client.sendall(b"x" * 2_000_000))
    driven.until(lambda: talking.ended)
    talking.result()
    for _ in range(100):  # what is left in the buffers
        driven.turn(0)
    driven.turns = 0
    for _ in range(20):
        driven.turn(0.005)
    idle = driven.turns

    assert idle == 0  # it does not spin meanwhile
    assert driven.heard_by(server, typed) == pattern[:typed]


def test_a_socket_that_ends_is_connected_to_anew(port: Path, server: Server, driven: Driven) -> None:
    driven.type(b"x")
    driven.heard_by(server, 1)
    server.client.sendall(b"bye")
    server.close()
    driven.until(lambda: not driven.bridge_connected)
    port.with_name("1-0.sock").unlink()
    again = Server(port.with_name("1-0.sock"))
    driven.type(b"hello again")
    heard = driven.heard_by(again, 11)
    again.close()

    assert heard == b"hello again"


def test_what_is_typed_while_nobody_listens_is_sent_later(port: Path, driven: Driven) -> None:
    driven.type(b"anybody there?")
    for _ in range(20):
        driven.turn(0.001)
    spun = driven.turns
    late = Server(port.with_name("1-0.sock"))
    driven.bridge.rest()
    heard = driven.heard_by(late, 14)
    late.close()

    assert spun == 1
    assert heard == b"anybody there?"


def test_a_fifo_has_a_reader_for_as_long_as_it_is_bridged(driven: Driven) -> None:
    meanwhile = driven.readable
    driven.close()

    assert (meanwhile, driven.readable) == (True, False)


def test_only_sockets_that_are_served_and_have_a_fifo_are_bridged(home: Home, port: Path, server: Server) -> None:
    port.with_name("libvirt").touch()
    Server(port.with_name("2-0.sock")).close()  # a dead one
    make_port(port.with_name("2-0"), home.console_log("vm-1", 1))
    without = Server(port.with_name("3-0.sock"))
    found = bridges_of(home)
    without.close()

    assert found == {input_path(port): port.with_name("1-0.sock")}
    assert bridges_of(Home(home.root / "nowhere")) == {}


def test_the_keeper_bridges_sockets_by_itself(
    home: Home, port: Path, server: Server, log: Path, start: Callable[..., int]
) -> None:
    from vmprov.console.session import open_console

    pid = start()
    soon(lambda: has_reader(input_path(port)), "reader of the FIFO")
    silent = server.has_client
    with open_console(port, log, name="vm-1") as console:
        console.sendline("root")
        heard = server.hear(5)
        server.client.sendall(b"x" * 1_000_000)

    assert (silent, heard) == (False, b"root\r")
    assert server.client.recv(1) == b""  # nobody types any more
    server.close()
    soon(lambda: not has_reader(input_path(port)), "end of the FIFO's reader")
    assert keepers(home) == [pid]
