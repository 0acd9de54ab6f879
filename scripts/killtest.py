"""Kills vmprov at random moments; see scripts/killtest.

A point is a command, run in a process of its own that is killed (SIGKILL) at a moment drawn from the seed: after a
random time, or at a random call of one of vmprov's own functions that touch the outside world or the records, or at a
return from one. Then, in another process: ``gc``, a look at everything there is that does not rely on ``gc``, the same
command again, and the removal of everything.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from types import FrameType
from typing import Any

import vmprov
from vmprov import CreateRequest, Settings, Vmprov
from vmprov.errors import VmprovError
from vmprov.flows.load import flow_machine
from vmprov.hypervisor import Hypervisor, Mark
from vmprov.hypervisor.definitions import mark_element
from vmprov.images import sha256_of
from vmprov.spec.load import load_lab
from vmprov.views import VMView

LAB = "k"
PACKAGE = str(Path(vmprov.__file__).parent)
# Where the outside world and the records are touched.
TOUCHING = tuple(
    f"{PACKAGE}/{part}"
    for part in (
        "store/", "hypervisor/", "drivers/", "containers/", "hosts/", "console/ports", "locks", "engine/alter",
        "engine/judging/watch", "engine/objects/",
    )
)  # fmt: skip
FOREIGN = "somebody-elses"
OTHER = "ffff"  # another installation
STARTED_AT_MOST = 1800.0
# What guests say in emulation on a machine that has too much to do.
OVERLOADED = ("kernel-panic", "soft-lockup", "hard-lockup", "rcu-stall", "hung-task")
# So often a command is tried again because guests panicked.
_PATIENCE = 4


@dataclass(frozen=True)
class Scenario:
    """A command; what is there before it; and how to do it, which is also how to do it again."""

    name: str
    before: Callable[[Vmprov, Any], None]
    do: Callable[[Vmprov, Any], None]
    # Whether the data disk of the machine db, which is there before, must be there whatever is killed.
    keeps_data: bool = False


@dataclass(frozen=True)
class World:
    """Where it happens."""

    real: bool
    directory: Path
    image: str = "tiny"

    @property
    def settings(self) -> Settings:
        """Those of its state directory."""
        return Settings(
            home=self.directory / "h", host="embedded" if self.real else "fake:",
            runner_image=Settings.from_environ({}).runner_image, subnets=IPv4Network("10.87.0.0/16"), pool="default",
            keeper=self.real,
        )  # fmt: skip

    @property
    def driver(self) -> str:
        """The driver that goes with it."""
        return "vagrant" if self.real else "fake"

    @property
    def memory(self) -> str:
        """What the image tiny boots with."""
        return "128MiB"


@dataclass
class Point:
    """One kill and what came of it."""

    number: int
    scenario: str
    moment: str
    killed: bool = False
    problems: list[str] = field(default_factory=list)
    collected: int = 0
    panics: int = 0
    seconds: float = 0.0


# the commands


class GuestPanicked(AssertionError):
    """A guest's kernel gave up, or complained that it was not let run."""


def see_well(vms: Sequence[VMView]) -> None:
    """Raise AssertionError for machines that did not become ready."""
    bad = [vm for vm in vms if vm.verdict not in ("success", "")]
    told = "; ".join(f"{vm.name}: {vm.verdict}: {vm.why}" for vm in bad)
    if bad and all((vm.judgement or {}).get("class") in OVERLOADED for vm in bad):
        raise GuestPanicked(told)
    if bad:
        raise AssertionError(told)


def patiently(action: Callable[[Vmprov, World], None], facade: Vmprov, world: World) -> int:
    """Do it, again where guests panicked; returns how often."""
    for panics in range(_PATIENCE):
        try:
            action(facade, world)
        except GuestPanicked:
            continue
        return panics
    action(facade, world)
    return _PATIENCE


def _create(network: str, **more: Any) -> Scenario:
    def do(vmprov: Vmprov, world: World) -> None:
        request = CreateRequest.parse(
            image=world.image,
            driver=world.driver,
            memory=world.memory,
            count=2,
            lab=LAB,
            network=network,
            timeout=600.0,
            **more,
        )
        result = vmprov.create(request)
        see_well(result.vms)

    return Scenario(f"create ({network}{', disks, TPM, UEFI' if more else ''})", _nothing, do)


def _nothing(vmprov: Vmprov, world: World) -> None:
    """Nothing is there before."""


def _spec(vmprov: Vmprov, world: World, vms: str) -> Any:
    file = world.directory / "lab.yaml"
    defaults = f"image: '{world.image}', driver: {world.driver}, memory: {world.memory}, timeout: 600s"
    file.write_text(f"lab: {LAB}\ndefaults: {{{defaults}}}\nvms:\n{vms}")
    return load_lab(file, flows=flow_machine)


def _apply(vms: str) -> Callable[[Vmprov, World], None]:
    def do(vmprov: Vmprov, world: World) -> None:
        lab = _spec(vmprov, world, vms)
        result = vmprov.apply(lab)
        see_well(result.vms)
        if again := vmprov.plan(lab):
            raise AssertionError(f"after apply, there is still to do: {again.to_json()['changes']}")

    return do


def _delete(vmprov: Vmprov, world: World) -> None:
    result = vmprov.delete([LAB])
    if result.failed:
        raise AssertionError("; ".join(f"{one.name}: {one.why}" for one in result.failed))
    if vmprov.store.vms():
        raise AssertionError("delete left machines")


def _rebuild(vmprov: Vmprov, world: World) -> None:
    see_well(vmprov.rebuild(["db", "web-1"]).vms)


def _stopped(vmprov: Vmprov, world: World) -> None:
    _apply("  db: {disks: [{name: data, size: 1GiB}]}\n")(vmprov, world)
    if failures := vmprov.stop(["db"], force=True):
        raise AssertionError(failures[0].why)


def _rename(vmprov: Vmprov, world: World) -> None:
    vmprov.rename("db", "renamed")


PLAIN = "  web: {count: 2}\n  db: {disks: [{name: data, size: 1GiB}]}\n"
ALTERED = (
    "  web: {count: 1, memory: 160MiB}\n"
    "  db: {disks: [{name: data, size: 2GiB}, {name: more, size: 1GiB}]}\n"
    "  new: {}\n"
)
REPLACED = "  web: {count: 2, networks: [shared]}\n  db: {networks: [isolated], disks: [{name: data, size: 1GiB}]}\n"
SCENARIOS = (
    _create("per-vm"),
    _create("shared"),
    Scenario("apply (new)", _nothing, _apply(PLAIN)),
    Scenario("apply (changes)", _apply(PLAIN), _apply(ALTERED), keeps_data=True),
    Scenario("apply (replaces)", _apply(PLAIN), _apply(REPLACED), keeps_data=True),
    Scenario("rebuild", _apply(PLAIN), _rebuild, keeps_data=True),
    Scenario("rename", _stopped, _rename, keeps_data=True),
    Scenario("delete", _apply(PLAIN), _delete),
)
ONLY_SIMULATED = (_create("per-vm", disks=("2GiB",), tpm=True, firmware="uefi", consoles=2),)


# in a process of its own


def in_child(action: Callable[[], Any], *, limit: float, killed_after: float | None = None) -> tuple[str, Any]:
    """Run it in a forked process: ``("ended", result)``, ``("failed", text)``, or ``("killed", None)``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, json.dumps(["ended", action()]).encode())
            status = 0
        except BaseException as problem:  # noqa: BLE001 - told to the parent
            text = f"{type(problem).__name__}: {problem}"
            if not isinstance(problem, VmprovError | AssertionError):
                text += "\n" + traceback.format_exc()
            os.write(writer, json.dumps(["failed", text[-3500:]]).encode())
        finally:
            os._exit(status)
    os.close(writer)
    deadline = time.monotonic() + (limit if killed_after is None else min(limit, killed_after))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.001 if killed_after is not None else 0.005)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status) and not said:
        return ("killed", None)
    kind, value = json.loads(said)
    return kind, value


class Trigger:
    """Counts calls of, and returns from, functions that touch the outside; kills its process at the chosen one."""

    def __init__(self, at: int = 0) -> None:
        self.count = 0
        self._at = at

    def __enter__(self) -> Trigger:
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "return") and frame.f_code.co_filename.startswith(TOUCHING):
            self.count += 1
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def opened(world: World) -> Iterator[Vmprov]:
    """The facade on it."""
    with Vmprov(world.settings) as facade:
        yield facade


def run(world: World, action: Callable[[Vmprov, World], None], at: int | None = None) -> int:
    """Do it; returns how many calls it took. ``at``: the one at which to die."""
    if at is None:
        with opened(world) as facade:
            return patiently(action, facade, world)
    with Trigger(at) as trigger, opened(world) as facade:
        action(facade, world)
    return trigger.count


# what there is


def foreign_objects(hypervisor: Hypervisor) -> dict[str, str]:
    """Objects of others as they are, as text."""
    told = {}
    for domain in hypervisor.domains():
        if domain.name.startswith((FOREIGN, f"vmprov-{OTHER}-")):
            told[f"domain {domain.name}"] = hypervisor.domain_xml(domain.name)
    for network in hypervisor.networks():
        if network.name.startswith((FOREIGN, f"vmprov-{OTHER}-")):
            told[f"network {network.name}"] = hypervisor.network_xml(network.name)
    for volume in hypervisor.volumes("default"):
        if volume.name.startswith((FOREIGN, f"vmprov-{OTHER}-")):
            told[f"volume {volume.name}"] = repr(volume)
    return told


def place_foreign_objects(world: World) -> dict[str, str]:
    """A domain, a network and a volume of somebody else, and of another installation."""
    with opened(world) as facade:
        hypervisor = facade.host().hypervisor()
        for number, (name, mark) in enumerate(
            [(FOREIGN, None), (f"vmprov-{OTHER}-theirs", Mark(OTHER, "trial", "theirs"))]
        ):
            if hypervisor.volume("default", f"{name}.img") is None:
                hypervisor.create_volume("default", f"{name}.img", size=1 << 20)
            if name not in {network.name for network in hypervisor.networks()}:
                hypervisor.create_network(_network_xml(name, number, mark))
            if hypervisor.domain(name).uuid == "":
                hypervisor.define_domain(_domain_xml(name, mark))
        return foreign_objects(hypervisor)


def remove_foreign_objects(world: World) -> None:
    """What :func:`place_foreign_objects` made."""
    with opened(world) as facade:
        hypervisor = facade.host().hypervisor()
        for told in foreign_objects(hypervisor):
            kind, _, name = told.partition(" ")
            if kind == "volume":
                hypervisor.remove_volume("default", name)
            else:
                getattr(hypervisor, f"remove_{kind}")(name)


def _domain_xml(name: str, mark: Mark | None) -> str:
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "metadata").extend([mark_element(mark)] if mark else [])
    ET.SubElement(domain, "memory", unit="MiB").text = "16"
    ET.SubElement(ET.SubElement(domain, "os"), "type", arch="x86_64").text = "hvm"
    ET.SubElement(domain, "devices")
    return ET.tostring(domain, encoding="unicode")


def _network_xml(name: str, number: int, mark: Mark | None) -> str:
    network = ET.Element("network")
    ET.SubElement(network, "name").text = name
    ET.SubElement(network, "metadata").extend([mark_element(mark)] if mark else [])
    ET.SubElement(network, "bridge", name=f"theirs{number}")
    ET.SubElement(network, "ip", address=f"10.250.{number}.1", netmask="255.255.255.0")
    return ET.tostring(network, encoding="unicode")


def left_over(facade: Vmprov, world: World) -> list[str]:
    """Everything of ours that no machine in a settled state needs, without asking ``gc``."""
    store, home, hypervisor = facade.store, facade.home, facade.host().hypervisor()
    vms = {vm.name: vm for vm in store.vms()}
    labs = {lab.name for lab in store.labs()}
    owned = {(thing.kind, thing.name) for thing in store.owned()}
    volumes = {name for kind, name in owned if kind in ("volume", "base volume")}
    networks = {name for kind, name in owned if kind == "network"}
    numbers = {str(vm.id) for vm in vms.values()}
    left = [f"record of {vm.name} in state {vm.state}" for vm in vms.values() if vm.state not in ("ready", "failed")]
    left += [f"record of lab {name} without machines" for name in labs if not store.vms(name)]
    left += [f"record of {thing.kind} {thing.name}" for thing in store.owned() if thing.vm and thing.vm not in vms]
    uuids = {vm.uuid for vm in vms.values()}
    ours = f"vmprov-{store.installation}-"
    left += [
        f"domain {one.name}" for one in hypervisor.domains() if one.name.startswith(ours) and one.uuid not in uuids
    ]
    left += [
        f"network {one.name}" for one in hypervisor.networks() if one.name.startswith(ours) and one.name not in networks
    ]
    left += [
        f"volume {one.name}"
        for one in hypervisor.volumes("default")
        if one.name.startswith(ours) and one.name not in volumes
    ]
    if not vms:
        left += [f"record of {kind} {name}" for kind, name in owned]
        left += [f"lease of {kind}" for kind in ("subnet",) if store.leased(host=facade.host().name, kind=kind)]
        left += ["lease of a serial number"] * bool(store.leased(host="", kind="serial number"))
    left += [f"directory {path.name}" for path in home.vms.glob("*") if path.name not in vms]
    left += [f"directory of lab {path.name}" for path in (home.root / "labs").glob("*") if path.name not in labs]
    left += [f"file {path.name}" for path in home.consoles.glob("*") if path.name.split("-")[0] not in numbers]
    left += [f"{path.name}" for path in home.root.glob(".*")]
    for path in (home.root / "locks").glob("*.lock"):
        kind, _, name = path.stem.partition("-")
        if path.stem.startswith("at-work-"):
            kind, name = "lab", path.stem.removeprefix("at-work-")
        if (
            (kind in ("lab", "vagrantfile") and name not in labs)
            or (kind == "watch" and name not in vms)
            or ("VAGRANTSLASH" in path.name and not any(vm.image for vm in vms.values()))
        ):
            left.append(f"lock {path.name}")
    return left + (_left_over_on_embedded(facade, uuids, networks) if world.real else [])


def _left_over_on_embedded(facade: Vmprov, uuids: set[str], networks: set[str]) -> list[str]:
    """Containers, TPM state, NVRAM, bridges and files of networks on the embedded host."""
    home, installation = facade.home, facade.store.installation
    lib = home.host("embedded") / "lib"
    left = [f"TPM state {path.name}" for path in lib.glob("swtpm/*") if path.name not in uuids]
    left += [f"NVRAM {path.name}" for path in lib.glob("qemu/nvram/*")]
    names = {vm.domain for vm in facade.store.vms()}
    left += [
        f"log {path.name}"
        for path in lib.glob(f"log/qemu/vmprov-{installation}-*")
        if path.name.split(".log")[0] not in names
    ]
    left += [f"file {path.name} of dnsmasq" for path in lib.glob(f"dnsmasq/vmprov-{installation}-*")
             if path.name.rpartition(".")[0] not in networks]  # fmt: skip
    roles = Counter(
        one.labels.get("vmprov.role", "") for one in facade.engine.find({"vmprov.installation": installation})
    )
    left += [f"{count} containers: {role}" for role, count in roles.items() if count > (role in ("host", "runner"))]
    lines: list[str] = []
    from vmprov.waiting import Deadline

    facade.engine.exec(
        f"vmprov-host-{installation}", ["ls", "/sys/class/net"], on_line=lines.append, deadline=Deadline(30)
    )
    bridges = {one.bridge for one in facade.host().hypervisor().networks() if one.name in networks}
    left += [f"bridge {line}" for line in lines if line.startswith(f"vp{installation}") and line not in bridges]
    # vagrant goes on in its container when whoever asked for it is killed.
    lines.clear()
    facade.engine.exec(
        f"vmprov-runner-{installation}-embedded", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"],
        on_line=lines.append, deadline=Deadline(30),
    )  # fmt: skip
    return left + ["vagrant still runs"] * any("vagrant up" in line for line in lines)


# one point


def settle(world: World, scenario: Scenario, foreign: dict[str, str]) -> dict[str, Any]:
    """``gc``, a look, the same again, and removal of everything: what went wrong, and how much was collected."""
    problems: list[str] = []
    panics = 0
    with opened(world) as facade:
        hypervisor = facade.host().hypervisor()

        def look(when: str) -> None:
            problems.extend(f"{when}: {what}" for what in left_over(facade, world))
            if foreign_objects(hypervisor) != foreign:
                problems.append(f"{when}: objects of others changed")

        result = facade.gc()
        problems += [f"gc: {one.kind} {one.name}: {one.problem}" for one in result.leftovers if one.state == "failed"]
        problems += [f"gc skipped {one.name}: {one.why}" for one in result.skipped]
        look("after gc")
        disks = [volume.name for volume in hypervisor.volumes("default") if volume.name.endswith("-db.data.img")]
        if scenario.keeps_data and not disks:
            problems.append("after gc: the data disk of db is lost")
        again = facade.gc()
        problems += [f"second gc: {one.state} {one.kind} {one.name}" for one in again.leftovers]
        try:
            panics = patiently(scenario.do, facade, world)
        except (VmprovError, AssertionError) as problem:
            problems.append(f"the same again: {problem}")
        look("after the same again")
        deleted = facade.delete(everything=True)
        problems += [f"delete: {one.name}: {one.why}" for one in deleted.failed]
        facade.gc()
        look("after delete")
        problems += [f"record of {vm.name} after delete" for vm in facade.store.vms()]
    return {"problems": problems, "collected": len(result.leftovers), "panics": panics}


def make_image(world: World) -> None:
    """The simulator's image: a disk with nothing in it, whose machines are ready at their login prompt."""
    directory = world.settings.home / "images" / "tiny"
    directory.mkdir(parents=True)
    disk = directory / "disk.qcow2"
    header = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQ", 3, 0, 0, 16, 1 << 20, 0, 1, 512, 0, 0, 0, 0)
    disk.write_bytes(header + struct.pack(">QQQII", 0, 0, 0, 4, 104) + bytes(1024))
    described = {
        "name": "tiny", "sha256": sha256_of(disk), "size": disk.stat().st_size, "virtual_size": 1 << 20,
        "login": "console", "user": "root", "source": "killtest", "created": 0.0,
    }  # fmt: skip
    (directory / "image.json").write_text(json.dumps(described))


@dataclass(frozen=True)
class Size:
    """How long a command takes when nobody kills it: seconds, and calls."""

    seconds: float
    calls: int


def measure(world: World, scenario: Scenario) -> Size:
    """Let it run to its end once."""

    def both() -> list[float]:
        run(world, scenario.before)
        started = time.monotonic()
        calls = run(world, scenario.do, at=0)
        took = time.monotonic() - started
        run(world, lambda facade, _: facade.delete(everything=True) and None)
        return [took, calls]

    for _ in range(_PATIENCE):
        kind, said = in_child(both, limit=STARTED_AT_MOST)
        if kind == "ended":
            break
        in_child(lambda: run(world, lambda facade, _: facade.delete(everything=True) and None), limit=STARTED_AT_MOST)
    if kind != "ended":
        raise SystemExit(f"killtest: {scenario.name} does not work at all: {said}")
    return Size(said[0], int(said[1]))


def do_point(world: World, scenario: Scenario, size: Size, point: Point, draw: random.Random) -> None:
    """Kill it once, and write down what came of it."""
    started = time.monotonic()
    foreign = in_child(lambda: place_foreign_objects(world), limit=STARTED_AT_MOST)[1]
    kind, said = in_child(lambda: run(world, scenario.before), limit=STARTED_AT_MOST)
    if kind != "ended":
        point.problems.append(f"before: {said}")
    if draw.random() < 0.5:
        after = draw.uniform(0.0, 1.05 * size.seconds)
        point.moment = f"after {after:.3f} s"
        kind, said = in_child(lambda: run(world, scenario.do), limit=STARTED_AT_MOST, killed_after=after)
    else:
        at = draw.randint(1, size.calls)
        point.moment = f"at call {at} of {size.calls}"
        kind, said = in_child(lambda: run(world, scenario.do, at), limit=STARTED_AT_MOST)
    point.killed = kind == "killed"
    if kind == "failed" and not said.startswith(GuestPanicked.__name__):
        point.problems.append(f"before it could be killed: {said}")
    kind, said = in_child(lambda: settle(world, scenario, foreign), limit=STARTED_AT_MOST)
    if kind == "ended":
        point.problems += said["problems"]
        point.collected = said["collected"]
        point.panics = said["panics"]
    else:
        point.problems.append(f"settling {kind}: {said}")
    point.seconds = round(time.monotonic() - started, 2)


# all points


def chosen(seed: int, number: int, scenarios: tuple[Scenario, ...]) -> tuple[random.Random, Scenario]:
    """The command of a point, and what its moment is drawn with; the same for a seed in every run."""
    draw = random.Random(f"{seed}/{number}")
    return draw, draw.choice(scenarios)


def simulate(options: argparse.Namespace, log: Log) -> None:
    """Each point in a state directory of its own, in a process per job: processes that fork have no threads."""
    scenarios = (*SCENARIOS, *ONLY_SIMULATED)
    sizes = {}
    for scenario in scenarios:
        with fresh_world() as world:
            sizes[scenario.name] = measure(world, scenario)

    def share(job: int) -> list[dict[str, Any]]:
        points = []
        for number in log.missing[job :: options.jobs]:
            draw, scenario = chosen(options.seed, number, scenarios)
            point = Point(number, scenario.name, "")
            with fresh_world() as world:
                do_point(world, scenario, sizes[scenario.name], point, draw)
            points.append(asdict(point))
            if point.problems:
                print(
                    f"killtest: point {number}: {point.scenario}, {point.moment}: {point.problems[0]}", file=sys.stderr
                )
        return points

    with in_processes(share, options.jobs) as shares:
        for points in shares:
            for point in points:
                log.add(Point(**point))


@contextmanager
def in_processes(share: Callable[[int], list[dict[str, Any]]], jobs: int) -> Iterator[list[list[dict[str, Any]]]]:
    """Results of the shares of so many forked processes, through files: pipes would fill."""
    with tempfile.TemporaryDirectory(prefix="vmprov-killtest-") as directory:
        children = []
        for job in range(jobs):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    (Path(directory) / str(job)).write_text(json.dumps(share(job)))
                    status = 0
                except BaseException:  # noqa: BLE001 - told, and then it ends
                    traceback.print_exc()
                finally:
                    os._exit(status)
            children.append(child)
        failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
        if failed:
            raise SystemExit(f"killtest: {len(failed)} of its own processes failed")
        yield [json.loads((Path(directory) / str(job)).read_text()) for job in range(jobs)]


@contextmanager
def fresh_world() -> Iterator[World]:
    """A simulated one that nobody used, for a while."""
    with tempfile.TemporaryDirectory(prefix="vmprov-killtest-", ignore_cleanup_errors=True) as directory:
        world = World(real=False, directory=Path(directory))
        make_image(world)
        yield world


def on_embedded_host(options: argparse.Namespace, log: Log) -> None:
    """All points one after the other, on one host."""
    directory = Path(options.state or tempfile.mkdtemp(prefix="vmprov-kt-"))
    world = World(real=True, directory=directory, image=options.image)
    take_image(world)
    kind, said = in_child(lambda: run(world, lambda facade, _: facade.host_up() and None), limit=STARTED_AT_MOST)
    if kind != "ended":
        raise SystemExit(f"killtest: the embedded host does not come up: {said}")
    sizes: dict[str, Size] = {}
    # Where an earlier run was stopped.
    in_child(lambda: run(world, clean_up), limit=STARTED_AT_MOST)
    try:
        for number in log.missing:
            draw, scenario = chosen(options.seed, number, SCENARIOS)
            if scenario.name not in sizes:
                sizes[scenario.name] = measure(world, scenario)
            point = Point(number, scenario.name, "")
            do_point(world, scenario, sizes[scenario.name], point, draw)
            log.add(point)
            print(
                f"{number}: {point.scenario}, {'killed' if point.killed else 'ended'} {point.moment}, "
                f"{point.collected} collected, {point.seconds:.0f} s: {'; '.join(point.problems) or 'clean'}",
                flush=True,
            )
    finally:
        in_child(lambda: remove_foreign_objects(world), limit=STARTED_AT_MOST)
        in_child(lambda: run(world, clean_up), limit=STARTED_AT_MOST)
        in_child(lambda: run(world, lambda facade, _: facade.host_down(force=True) and None), limit=STARTED_AT_MOST)
        if not options.state:
            shutil.rmtree(directory, ignore_errors=True)


def clean_up(facade: Vmprov, _: World) -> None:
    """Remove all machines, and what was left behind."""
    facade.delete(everything=True)
    facade.gc()


def take_image(world: World) -> None:
    """The image that scripts/setup built, as hard links; else one is built."""
    target = world.settings.home / "images" / "tiny"
    source = Settings.from_environ().home / "images" / "tiny"
    if target.is_dir():
        return
    if source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(source, target, copy_function=os.link)
        except OSError:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        return

    def build(facade: Vmprov, _: World) -> None:
        facade.images.build("tiny", events=facade.events, cancel=facade.cancel)

    in_child(lambda: run(world, build), limit=STARTED_AT_MOST)


class Log:
    """Points that are done, in memory and perhaps in a file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._file = Path(options.log) if options.log else None
        self.points: dict[int, Point] = {}
        if self._file and self._file.exists():
            for line in self._file.read_text().splitlines():
                point = Point(**json.loads(line))
                self.points[point.number] = point
        wanted = range(options.first, options.first + options.points)
        self.missing = [number for number in wanted if number not in self.points]

    def add(self, point: Point) -> None:
        """One more is done."""
        self.points[point.number] = point
        if self._file:
            with self._file.open("a") as file:
                file.write(json.dumps(asdict(point)) + "\n")


def summary(options: argparse.Namespace, log: Log, seconds: float) -> dict[str, Any]:
    """What came of all points."""
    points = list(log.points.values())
    bad = [point for point in points if point.problems]
    by_scenario = Counter(point.scenario for point in points)
    return {
        "where": "simulator"
        if options.simulator
        else f"embedded host, {f'guests of image {options.image}' if options.image else 'guests without system'}",
        "seed": options.seed,
        "points": len(points),
        "killed": sum(point.killed for point in points),
        "ended_before": sum(not point.killed for point in points),
        "collected": sum(point.collected for point in points),
        "panics": sum(point.panics for point in points),
        "clean": len(points) - len(bad),
        "scenarios": dict(sorted(by_scenario.items())),
        "seconds": round(seconds, 1),
        "problems": [
            {"point": point.number, "scenario": point.scenario, "moment": point.moment, "problems": point.problems}
            for point in sorted(bad, key=lambda point: point.number)
        ],
    }


def preload() -> None:
    """Import everything once, so that children need not."""
    for module in pkgutil.walk_packages(vmprov.__path__, "vmprov."):
        if "_dial" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
    import docker  # noqa: F401
    import jinja2.ext  # noqa: F401


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/killtest")
    parser.add_argument("--simulator", action="store_true")
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=4 * (os.cpu_count() or 1))
    parser.add_argument("--log", default="")
    parser.add_argument("--state", default="")
    parser.add_argument("--image", default="tiny")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.points = options.points or (1000 if options.simulator else 100)
    # In the background, an interrupt is ignored; this ends it as cleanly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    preload()
    log, started = Log(options), time.monotonic()
    (simulate if options.simulator else on_embedded_host)(options, log)
    told = summary(options, log, time.monotonic() - started)
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        for problem in told["problems"]:
            print(f"point {problem['point']} ({problem['scenario']}, killed {problem['moment']}):")
            for what in problem["problems"]:
                print(f"    {what}")
        print(
            f"{told['where']}: {told['points']} points (seed {told['seed']}), {told['killed']} killed, "
            f"{told['ended_before']} had ended before; {told['collected']} leftovers collected; {told['clean']} clean "
            f"afterwards; {told['panics']} commands again, since guests panicked; {told['seconds']} s"
        )
    return 1 if told["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
