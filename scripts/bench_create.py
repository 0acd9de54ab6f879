"""How long creation and removal take, beside raw QEMU processes and plain Vagrant on the same host and image."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmprov import ssh
from vmprov.drivers import BaseImage
from vmprov.drivers.box import base_volume_name, ensure_box
from vmprov.drivers.runner_container import RunnerContainer
from vmprov.events import Events
from vmprov.hosts import Host
from vmprov.images import Image
from vmprov.lab import Vmprov
from vmprov.runner import LocalRunner
from vmprov.seeds import LOGIN_USER, write_seed
from vmprov.waiting import Cancel, Deadline

MEMORY_MIB = 1024
LIMIT = 900.0
STOCK_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.box = "{box}"
  config.vm.box_version = "{version}"
  config.vm.box_check_update = false
  config.ssh.username = "{user}"
  config.ssh.private_key_path = "{key}"
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = "{domain_type}"
    libvirt.cpu_mode = "{cpu_mode}"
    libvirt.memory = {memory}
    libvirt.storage_pool_name = "{pool}"
    libvirt.graphics_type = "none"
  end
{machines}end
"""
STOCK_MACHINE = """\
  config.vm.define "{name}" do |machine|
    machine.vm.provider :libvirt do |libvirt|
      libvirt.storage :file, device: :cdrom, path: "{seed}"
    end
  end
"""


@dataclass(frozen=True)
class Place:
    """What all contestants share: one host, one image, one key."""

    vmprov: Vmprov
    host: Host
    image: Image
    key: Path
    scratch: Path
    count: int

    @property
    def login_user(self) -> str:
        """The account that the seed makes."""
        return self.image.user or LOGIN_USER

    @property
    def box(self) -> str:
        """The box for plain Vagrant."""
        return f"bench/{self.image.name}"

    @property
    def base_volume(self) -> str:
        """That box's volume."""
        return base_volume_name(self.box, self.image.version)

    def seed(self, name: str) -> Path:
        """A seed for one machine."""
        path = self.scratch / f"{name}-seed.iso"
        public = self.key.with_name(self.key.name + ".pub").read_text().strip()
        write_seed(path, hostname=name, instance_id=name, public_key=public)
        return path


def vmprov_command(*words: str) -> list[str]:
    """The command line as a user has it."""
    return [str(Path(sys.executable).with_name("vmprov")), *words]


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def run(*argv: str) -> tuple[float, int]:
    """Run a command that must succeed; returns seconds and the peak of its memory in bytes."""
    start = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} exited with {process.returncode}\n{said}")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def raw_qemu(place: Place) -> float:
    """Boot as many QEMU processes as machines on overlays of the same disk, to SSH on all."""
    accelerator = place.host.acceleration().kind
    inside = Inside(place)
    names = [f"floor-{number}" for number in range(place.count)]
    for name in names:
        place.seed(name)
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
        inside.run(*overlay, str(place.vmprov.images.disk(place.image.name)), f"{place.scratch}/{name}.qcow2")
    start = time.monotonic()
    for number, name in enumerate(names):
        inside.run(
            "qemu-system-x86_64", "-daemonize", "-pidfile", f"{place.scratch}/{name}.pid", "-display", "none",
            "-machine", "pc", "-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi",
            "-cpu", "host" if accelerator == "kvm" else "max", "-m", str(MEMORY_MIB), "-smp", "1",
            "-serial", f"file:{place.scratch}/{name}.log",
            "-drive", f"file={place.scratch}/{name}.qcow2,if=virtio",
            "-drive", f"file={place.scratch}/{name}-seed.iso,if=virtio,format=raw,readonly=on",
            "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{2300 + number}-:22", "-device", "virtio-net-pci,netdev=n",
            "-device", "virtio-rng-pci",
        )  # fmt: skip
    for number, name in enumerate(names):
        wait_for_ssh(place, "127.0.0.1", 2300 + number, name)
    seconds = time.monotonic() - start
    for name in names:
        inside.run("sh", "-c", f"kill $(cat {place.scratch}/{name}.pid)")
    return seconds


class Inside:
    """Runs programs in the embedded host's container."""

    def __init__(self, place: Place) -> None:
        self._engine = place.vmprov.engine
        self._container = f"vmprov-host-{place.vmprov.store.installation}"

    def run(self, *argv: str) -> None:
        """Run to the end, which must be a good one."""
        said: list[str] = []
        code = self._engine.exec(self._container, argv, on_line=said.append, deadline=Deadline(LIMIT))
        if code:
            raise SystemExit(f"{argv[0]} exited with {code}: {said}")


def wait_for_ssh(place: Place, address: str, port: int, name: str) -> None:
    """Until one can log in."""
    login = ssh.Login(
        address=address, user=place.login_user, key=place.key, known_hosts=place.scratch / "known_hosts", alias=name,
        port=port,
    )  # fmt: skip
    ssh.wait_for_ssh(place.host, login, LocalRunner(), Deadline(LIMIT), cancel=Cancel())


@contextmanager
def plain_vagrant(place: Place) -> Iterator[Callable[..., None]]:
    """A directory with a stock Vagrantfile for the same machines, and a way to run vagrant in it."""
    directory = place.vmprov.home.root / "labs" / f"bench-{os.getpid()}"
    directory.mkdir(parents=True)
    image, pool = place.image, place.host.pool
    home = place.vmprov.home.vagrant_home(place.host.slug)
    disk = place.vmprov.images.disk(image.name)
    base = BaseImage(image.name, place.box, image.version, place.base_volume, disk, image.virtual_size)
    ensure_box(home, base)
    names = [f"plain-{number}" for number in range(place.count)]
    machines = "".join(STOCK_MACHINE.format(name=name, seed=place.seed(name)) for name in names)
    kvm = place.host.acceleration().kind == "kvm"
    text = STOCK_VAGRANTFILE.format(
        box=place.box, version=image.version, user=place.login_user, key=place.key, machines=machines, pool=pool,
        domain_type="kvm" if kvm else "qemu", cpu_mode="host-passthrough" if kvm else "maximum", memory=MEMORY_MIB,
    )  # fmt: skip
    (directory / "Vagrantfile").write_text(text)
    installation = place.vmprov.store.installation
    runner = RunnerContainer(place.vmprov.engine, place.host, place.vmprov.home, place.vmprov.settings, installation)
    runner.ensure(Events())

    def vagrant(*words: str) -> None:
        said: list[str] = []
        code = runner.run(["vagrant", *words], workdir=directory, env={}, on_line=said.append, deadline=Deadline(LIMIT))
        if code:
            raise SystemExit(f"vagrant {' '.join(words)} exited with {code}\n" + "\n".join(said[-30:]))

    try:
        yield vagrant
    except BaseException:
        vagrant("destroy", "-f")
        raise
    finally:
        shutil.rmtree(directory)


def contest(place: Place) -> dict[str, float]:
    """One round of everything, in turn."""
    figures = {"raw QEMU to SSH": raw_qemu(place)}
    hypervisor, pool = place.host.hypervisor(), place.host.pool
    base = place.base_volume
    create = vmprov_command(
        "create", "--count", str(place.count), "--image", place.image.name, "--lab", "bench", "--json"
    )
    figures["vmprov create"], figures["vmprov create: peak memory"] = run(*create)
    figures["vmprov delete"], _ = run(*vmprov_command("delete", "bench", "--yes", "--json"))
    # Vagrant finds its box's volume in the pool, as on every run but the first.
    disk = place.vmprov.images.disk(place.image.name)
    hypervisor.upload_volume(pool, base, disk, format="qcow2", capacity=place.image.virtual_size)
    try:
        with plain_vagrant(place) as vagrant:
            figures["vagrant up"] = timed(lambda: vagrant("up"))
            figures["vagrant destroy -f"] = timed(lambda: vagrant("destroy", "-f"))
    finally:
        hypervisor.remove_volume(pool, base)
    for words in (("--help",), ("list",)):
        name = f"vmprov {' '.join(words)}"
        figures[name] = statistics.median(run(*vmprov_command(*words))[0] for _ in range(11))
    return figures


def summarise(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and the ratios that matter; each ratio is the median over rounds, not of medians."""
    ratios = {
        "create : vagrant up": ("vmprov create", "vagrant up", 0.65),
        "create : raw QEMU": ("vmprov create", "raw QEMU to SSH", 1.35),
        "delete : vagrant destroy": ("vmprov delete", "vagrant destroy -f", 0.5),
    }
    return {
        "median": {name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        "ratios": {
            name: {"ratio": round(statistics.median(one[a] / one[b] for one in rounds), 3), "at most": bar}
            for name, (a, b, bar) in ratios.items()
        },
    }


def measure(image: str, count: int, rounds: int) -> dict[str, Any]:
    """All rounds, in the state directory of the settings."""
    with Vmprov() as vmprov, tempfile.TemporaryDirectory(dir=vmprov.home.host("embedded"), prefix="bench-") as scratch:
        host = vmprov.host("embedded")
        host.up(vmprov.events)
        key = Path(scratch) / "key"
        ssh.make_key(key, LocalRunner(), comment="bench")
        place = Place(vmprov, host, vmprov.images.get(image), key, Path(scratch), count)
        found = []
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", file=sys.stderr)
            found.append(contest(place))
    return {**summarise(found), "rounds": found}


def show(found: dict[str, Any]) -> None:
    """Print a table."""
    for name, value in found["median"].items():
        print(f"{name:<28} {value / 1024**2:8.0f} MiB" if "memory" in name else f"{name:<28} {value:8.2f} s")
    for name, entry in found["ratios"].items():
        print(f"{name:<28} {entry['ratio']:8.2f}   (at most {entry['at most']})")
