"""How serial consoles fare: with guests of ``tiny`` in a state directory that is made for this and removed again."""

from __future__ import annotations

import hashlib
import os
import random
import selectors
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_labgrid
import bench_matching
from bench_inotify import Growth

from vmprov.paths import Home
from vmprov.settings import Settings

_LIMIT = 1800.0
_MEMORY = "128MiB"
_LAB = "bench"
# Seconds without another byte after which a guest is taken to have nothing more to say.
_SILENCE = 15.0
# Seconds that a reader lives under fire; and machines that panic, one after the other.
_SHORTEST_LIFE, _LONGEST_LIFE = 0.3, 4.0
_PANICS = 5
_PANICS_IN_FLOW = 3
_PANIC = b"Kernel panic - not syncing"
# Nobody else writes to the port: getty stands still, and the kernel speaks up in emergencies only.
_ALONE = "kill -STOP $(pidof getty); dmesg -n 1; stty -F /dev/ttyS0 raw -echo 2>/dev/null\n"
_TICKS = (
    _ALONE
    + """i=0
while [ $i -lt {count} ]; do
    i=$((i + 1))
    echo "tick $(hostname) $i" >/dev/ttyS0
    usleep $((200000 + RANDOM % 800 * 1000))
done
"""
)
_AWAKE = "dmesg -n 4; kill -CONT $(pidof getty)\n"
_CRASH = "echo c >/proc/sysrq-trigger\n"
_WAITING_FLOW = """\
flow: bench
stages:
  - stage: boot
    expect:
      - prompt: "login:"
  - stage: work
    limit: 10m
    expect:
      - "this is never said"
"""
_FOLLOWER = """\
import sys
from vmprov import Vmprov
with Vmprov() as vmprov:
    for line in vmprov.vm(sys.argv[1]).console.follow(tail=10):
        pass
"""


def emit_script(size: int) -> str:
    """For the guest's shell: print so many bytes of printable noise as fast as it goes, say their checksum."""
    return f"{_ALONE}head -c {size} /dev/urandom | base64 | head -c {size} | tee /dev/ttyS0 | sha256sum\n"


@dataclass(frozen=True)
class Sizes:
    """How much to measure: machines, bytes from each, seconds of looking on."""

    guests: int
    size: int
    seconds: float


@dataclass(frozen=True)
class Place:
    """A state directory of our own, and the command line with it."""

    root: Path
    sizes: Sizes

    @property
    def home(self) -> Home:
        """Its tree."""
        return Home(self.root)

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which commands run; captures are never trimmed."""
        limit = f"{4 * self.sizes.size + 64 * 1024**2}B"
        return {**os.environ, "VMPROV_HOME": str(self.root), "VMPROV_CONSOLE_LIMIT": limit}

    def argv(self, *words: str) -> list[str]:
        """The command as a user has it."""
        return [sys.executable, "-m", "vmprov", *words]

    def start(self, *words: str, **where: Any) -> subprocess.Popen[bytes]:
        """Run it in the background."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **where}
        return subprocess.Popen(self.argv(*words), env=self.environ, **streams)

    def run(self, *words: str) -> str:
        """Run it to an end that must be a good one; returns what it printed."""
        done = subprocess.run(
            self.argv(*words), env=self.environ, capture_output=True, text=True, timeout=_LIMIT, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"vmprov {' '.join(words)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def in_guest(self, vm: str, script: str) -> str:
        """Run a shell script in a guest."""
        done = subprocess.run(
            self.argv("ssh", vm, "--", "sh", "-s"), env=self.environ, input=script, capture_output=True, text=True,
            timeout=_LIMIT, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{vm}: {done.stdout}{done.stderr}")
        return done.stdout

    def in_guests(self, vms: Sequence[str], script: str) -> list[str]:
        """Run a shell script in several guests at once."""
        with ThreadPoolExecutor(max_workers=len(vms)) as pool:
            return list(pool.map(lambda vm: self.in_guest(vm, script), vms))

    def log(self, vm: str) -> Path:
        """The capture of a machine's first serial port."""
        return self.home.console_log(vm, 0)

    def size(self, vm: str) -> int:
        """How long it is."""
        return self.log(vm).stat().st_size

    def keeper(self) -> int | None:
        """The process that looks after the captures."""
        wanted = [b"-m", b"vmprov.engine.judging.guard", os.fsencode(self.root)]
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:4] == wanted:
                return int(entry.name)
        return None


@contextmanager
def a_place(sizes: Sizes) -> Iterator[Place]:
    """A host and a state directory of our own, with the image; all of it is removed."""
    built = Home(Settings.from_environ().home)
    root = Path(tempfile.mkdtemp(prefix="vmprov-bench-"))
    place = Place(root / "h", sizes)
    try:
        place.home.create()
        shutil.copytree(built.image("tiny"), place.home.image("tiny"), copy_function=_link)
        place.run("host", "up")
        yield place
        place.run("delete", "--all", "--yes")
    finally:
        place.start("host", "down", "--force").wait(_LIMIT)
        shutil.rmtree(root, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def machines(place: Place) -> Iterator[list[str]]:
    """As many guests as wanted, at their login prompts."""
    say(f"{place.sizes.guests} guests")
    count = place.sizes.guests
    names = [f"{_LAB}-{number}" for number in range(1, count + 1)]
    words = ("--count", str(count), "--name", _LAB, "--lab", _LAB)
    place.run("create", "--image", "tiny", "--memory", _MEMORY, "--network", "shared", *words)
    yield names
    place.run("delete", _LAB, "--yes")


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End it, whatever happens."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def say(what: str) -> None:
    """Tell a person."""
    print(what, file=sys.stderr, flush=True)


# a. every byte, whoever reads


class Fire:
    """Readers that are killed and started again all the time, each in a thread of its own; and the keeper, at times."""

    def __init__(self, place: Place, vms: Sequence[str]) -> None:
        self.killed = 0
        self._place = place
        self._chance = random.Random(0)
        self._stop = threading.Event()
        follower = [sys.executable, "-c", _FOLLOWER]
        self._kinds: list[tuple[Callable[[], list[str]], int]] = [
            (lambda: place.argv("logs", "-f"), subprocess.DEVNULL),
            # Whose output nobody takes: it stands still until it is killed.
            (lambda: place.argv("logs", "-f", self._chance.choice(vms), "--json"), subprocess.PIPE),
            (lambda: place.argv("watch", "-f", _LAB), subprocess.DEVNULL),
            (lambda: [*follower, self._chance.choice(vms)], subprocess.DEVNULL),
        ]
        self._threads = [threading.Thread(target=self._burn, args=kind) for kind in self._kinds]

    def _burn(self, argv: Callable[[], list[str]], stdout: int) -> None:
        while not self._stop.is_set():
            process = subprocess.Popen(
                argv(), env=self._place.environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL
            )
            self._stop.wait(self._chance.uniform(_SHORTEST_LIFE, _LONGEST_LIFE))
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
            self.killed += 1

    def __enter__(self) -> Fire:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def kill_keeper(self) -> bool:
        """Kill it, if there is one; whoever reads next starts another."""
        keeper = self._place.keeper()
        if keeper is not None:
            os.kill(keeper, signal.SIGKILL)
        return keeper is not None


def capture(place: Place, vms: Sequence[str]) -> dict[str, Any]:
    """Bytes in the captures for each byte that guests sent while readers and keepers died."""
    size = place.sizes.size
    say(f"{len(vms)} guests print {size} bytes each")
    with ThreadPoolExecutor(max_workers=len(vms)) as pool, ExitStack() as running:
        place.in_guests(vms, _ALONE)
        begin = {vm: place.size(vm) for vm in vms}
        path = place.root.parent / "steady"
        steady = running.enter_context(path.open("wb"))
        running.enter_context(ended(place.start("logs", "-f", "--raw", "--tail", "0", vms[0], stdout=steady)))
        time.sleep(2)
        fire = running.enter_context(Fire(place, vms))
        start = time.monotonic()
        sums = {vm: pool.submit(place.in_guest, vm, emit_script(size)) for vm in vms}
        keepers, seconds = _wait_for_bytes(place, begin, fire, lambda: all(one.done() for one in sums.values()))
        seconds -= start
        expected = {vm: one.result().split()[0] for vm, one in sums.items()}
        time.sleep(2)
    captured, identical = 0, 0
    for vm in vms:
        with place.log(vm).open("rb") as file:
            file.seek(begin[vm])
            data = file.read(size)
        captured += len(data)
        identical += hashlib.sha256(data).hexdigest() == expected[vm]
    emitted = size * len(vms)
    return {
        "emitted": emitted, "captured": captured, "percent": round(100 * captured / emitted, 6), "guests": len(vms),
        "identical": identical, "readers killed": fire.killed, "keepers killed": keepers,
        "seconds": round(seconds, 1), "kB/s": round(captured / seconds / 1e3, 1),
        "logs -f --raw saw the same": hashlib.sha256(path.read_bytes()).hexdigest() == expected[vms[0]],
    }  # fmt: skip


def _wait_for_bytes(place: Place, begin: dict[str, int], fire: Fire, done: Callable[[], bool]) -> tuple[int, float]:
    """Until all has arrived, or nothing more does; kills the keeper at a third and at two thirds of it."""
    wanted = place.sizes.size * len(begin)
    keepers, last, grew = 0, -1, time.monotonic()
    while True:
        arrived = sum(place.size(vm) - start for vm, start in begin.items())
        if arrived > last:
            last, grew = arrived, time.monotonic()
        if keepers < 2 and arrived >= wanted * (keepers + 1) / 3:
            keepers += fire.kill_keeper()
        if done() and (arrived >= wanted or time.monotonic() - grew > _SILENCE):
            return keepers, grew
        time.sleep(0.2)


# b. from the capture to the screen


def latency(place: Place, vms: Sequence[str]) -> dict[str, Any]:
    """Seconds from the moment at which a line is in the capture file until ``logs -f`` has written it to its stdout."""
    seconds = place.sizes.seconds
    say(f"latency of logs -f for {seconds:g} s")
    place.in_guests(vms, _ALONE)
    count = max(3, round(seconds / 0.6))
    with (
        ended(place.start("logs", "-f", "--tail", "0", stdout=subprocess.PIPE)) as reader,
        Growth({vm: place.log(vm) for vm in vms}) as growth,
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        assert reader.stdout is not None
        time.sleep(2)
        ticking = pool.submit(place.in_guests, vms, _TICKS.format(count=count))
        written, shown = _times(reader.stdout.fileno(), growth, ticking.done)
        ticking.result()
    waits = sorted(max(0.0, shown[line] - at) for line, at in written.items() if line in shown)
    return {"lines": len(waits), "never shown": len(written) - len(waits), **spread(waits)}


def _times(stdout: int, growth: Growth, done: Callable[[], bool]) -> tuple[dict[bytes, float], dict[bytes, float]]:
    """When each tick was in its capture, and when it was on the reader's stdout."""
    written: dict[bytes, float] = {}
    shown: dict[bytes, float] = {}
    rest, end = b"", 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(growth, selectors.EVENT_READ)
        selector.register(stdout, selectors.EVENT_READ)
        while not end or time.monotonic() < end:
            ready = [key.fd for key, _ in selector.select(0.2)]
            now = time.monotonic()
            if growth.fileno() in ready:
                for _, line in growth.lines():
                    written.setdefault(line, now)
            if stdout in ready:
                *lines, rest = (rest + os.read(stdout, 1 << 16)).split(b"\n")
                for line in lines:
                    shown.setdefault(line.partition(b" | ")[2].strip() or line.strip(), now)
            if not end and done():
                end = now + 2
    return {line: at for line, at in written.items() if line.startswith(b"tick ")}, shown


def spread(waits: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum, in milliseconds."""
    ordered = sorted(waits)
    if not ordered:
        return {}
    named = {"p50": statistics.median(ordered), "p95": ordered[round(0.95 * (len(ordered) - 1))], "max": ordered[-1]}
    return {f"{name} ms": round(1e3 * value, 1) for name, value in named.items()}


# c. from the failure line to the verdict


def verdict(place: Place, vms: Sequence[str]) -> dict[str, Any]:
    """Seconds from the moment at which a panic is in the capture until the verdict is there."""
    say("verdict on machines that were ready")
    ready = [_after_panic(place, vm, ["watch", "-f", vm]) for vm in list(vms)[-_PANICS:]]
    return {
        "ready: database": spread([one[0] for one in ready]),
        "ready: watch -f": spread([one[1] for one in ready]),
    }


def verdict_in_flow(place: Place) -> dict[str, Any]:
    """The same for machines that are still being made, by a flow."""
    say("verdict on machines in a flow")
    flow = place.root.parent / "bench.yaml"
    flow.write_text(_WAITING_FLOW)
    found = []
    for number in range(1, _PANICS_IN_FLOW + 1):
        name = f"flow-{number}"
        words = ["--name", name, "--lab", "flow", "--flow", str(flow), "--keep-on-failure", "--timeout", "10m"]
        # The address on a network of its own is known while the machine is being made.
        create = ["create", "--image", "tiny", "--memory", _MEMORY, "--network", "per-vm", *words]
        found.append(_after_panic(place, name, create, at_login=True))
    place.run("delete", "flow", "--yes")
    return {
        "flow: database": spread([one[0] for one in found]),
        "flow: create": spread([one[1] for one in found]),
    }


def _after_panic(place: Place, vm: str, watcher: list[str], *, at_login: bool = False) -> tuple[float, float]:
    """Let a machine panic; seconds until its verdict is in the database, and until ``watcher`` says it on stderr."""
    with ended(place.start(*watcher, stderr=subprocess.PIPE)) as watching, ExitStack() as stack:
        assert watching.stderr is not None
        if at_login:
            _until(lambda: place.log(vm).exists() and b" login: " in place.log(vm).read_bytes())
            _until(lambda: place.start("ssh", vm, "--", "true").wait() == 0)
        time.sleep(2)
        growth = stack.enter_context(Growth({vm: place.log(vm)}))
        crash = stack.enter_context(ended(place.start("ssh", vm, "--", "sh", "-s", stdin=subprocess.PIPE)))
        assert crash.stdin is not None
        crash.stdin.write(_CRASH.encode())
        crash.stdin.close()
        said, judged, told = _wait_for_verdict(place, vm, growth, watching.stderr.fileno())
    place.run("stop", "--force", vm)
    return judged - said, told - said


def _wait_for_verdict(place: Place, vm: str, growth: Growth, stderr: int) -> tuple[float, float, float]:
    said = judged = told = 0.0
    heard = b""
    os.set_blocking(stderr, False)
    deadline = time.monotonic() + 120
    with sqlite3.connect(f"file:{place.home.database}?mode=ro", uri=True) as database:
        while not (said and judged and told):
            time.sleep(0.002)
            now = time.monotonic()
            if now > deadline:
                raise SystemExit(f"{vm}: no verdict: line at {said}, database {judged}, told {told}: {heard!r}")
            if not said and any(_PANIC in line for _, line in growth.lines()):
                said = now
            if not judged:
                row = database.execute("SELECT verdict FROM vms WHERE name = ?", (vm,)).fetchone()
                judged = now if row and row[0] == "failed" else 0.0
            try:
                heard += os.read(stderr, 1 << 16)
            except BlockingIOError:
                continue
            if f"{vm}: failed".encode() in heard:
                told = told or now
    return said, judged, told


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("a guest did not come up")
        time.sleep(0.3)


# d. the price of looking on


def idle(place: Place, vms: Sequence[str]) -> dict[str, Any]:
    """Per cent of a core that readers of quiet consoles take."""
    seconds = place.sizes.seconds
    say(f"CPU of readers for {seconds:g} s")
    place.in_guests(vms, _AWAKE)
    with ended(place.start("logs", "-f")) as logs, ended(place.start("watch", "-f", _LAB)) as watch:
        time.sleep(8)
        keeper = place.keeper()
        if keeper is None:
            raise SystemExit("there is no keeper")
        processes = {"logs -f": logs.pid, "keeper": keeper, "watch -f": watch.pid}
        start, before = time.monotonic(), {name: _cpu(pid) for name, pid in processes.items()}
        time.sleep(seconds)
        wall = time.monotonic() - start
        return {name: round(100 * (_cpu(pid) - before[name]) / wall, 2) for name, pid in processes.items()}


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


# all of it

_WITH_GUESTS: dict[str, Callable[[Place, Sequence[str]], dict[str, Any]]] = {
    "latency": latency, "idle": idle, "capture": capture, "verdict": verdict,
}  # fmt: skip
MEASUREMENTS = ("latency", "idle", "capture", "verdict", "labgrid", "matching")


def measure(wanted: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """Everything that is wanted, one after the other."""
    found: dict[str, Any] = {}
    if "matching" in wanted:
        say("matching")
        found["matching"] = bench_matching.measure()
    if set(wanted) - {"matching"}:
        with a_place(sizes) as place:
            if set(wanted) & set(_WITH_GUESTS):
                with machines(place) as vms:
                    for name, action in _WITH_GUESTS.items():
                        if name in wanted:
                            found[name] = action(place, vms)
                            say(f"  {found[name]}")
            if "verdict" in wanted:
                found["verdict"] |= verdict_in_flow(place)
                say(f"  {found['verdict']}")
            if "labgrid" in wanted:
                say("labgrid")
                found["labgrid"] = bench_labgrid.measure(place.environ, emit_script(bench_labgrid.SIZE))
    return {"sizes": {"guests": sizes.guests, "bytes": sizes.size, "seconds": sizes.seconds}, **found}


def show(found: dict[str, Any]) -> None:
    """Print a table: what, the figure, the bar."""
    rows: list[tuple[str, str, str]] = []
    if one := found.get("capture"):
        what = f"captured of what was sent, {one['readers killed']} readers and {one['keepers killed']} keepers killed"
        rows.append((what, f"{one['percent']:g} %, {one['identical']} of {one['guests']} identical", "100 %"))
        rows.append(("  the rate", f"{one['kB/s']} kB/s in all", ""))
    if one := found.get("labgrid"):
        rows += bench_labgrid.rows(one)
    if one := found.get("latency"):
        rows.append(("line in the capture to logs -f", _spread(one), "p95 50 ms"))
    for name, one in found.get("verdict", {}).items():
        rows.append((f"panic in the capture to verdict, {name}", _spread(one), "1 s"))
    for name, value in found.get("idle", {}).items():
        rows.append((f"CPU of {name}, quiet consoles", f"{value} %", "2 %"))
    if one := found.get("matching"):
        for name, value in one["MB/s"].items():
            rows.append((f"matching, flow {name}", f"{value} MB/s", "50 MB/s"))
    width = max(len(what) for what, _, _ in rows)
    for what, figure, bar in rows:
        print(f"{what:<{width}}  {figure}" + (f"   (bar: {bar})" if bar else ""))


def _spread(one: dict[str, float]) -> str:
    return ", ".join(f"{name.removesuffix(' ms')} {one[name]:g} ms" for name in ("p50 ms", "p95 ms", "max ms"))
