"""The end-to-end tier: the command line as a user types it, with real Docker, libvirt, Vagrant and QEMU guests.

One state directory (and so one embedded host) serves the whole session. Its images are hard links to those that
scripts/setup built; what is missing is built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vmprov import Settings
from vmprov.hypervisor.libvirt import LibvirtHypervisor
from vmprov.lab import Vmprov
from vmprov.paths import Home

IMAGES = ("tiny", "debian-12")
# A hung command must not hang the whole run.
LIMIT = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is of the end-to-end tier."""
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """The vmprov command with a state directory of its own."""

    root: Path
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which it runs."""
        return {**os.environ, "VMPROV_HOME": str(self.root), **dict(self.extra)}

    @property
    def home(self) -> Home:
        """The state directory."""
        return Home(self.root)

    def with_environ(self, **extra: str) -> Cli:
        """The same with further environment variables."""
        return Cli(self.root, (*self.extra, *extra.items()))

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "vmprov", *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run it in the background."""
        return subprocess.Popen(
            self.argv(*words), env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def try_(self, *words: str) -> Ran:
        """Run it to its end, whatever that is."""
        ended = subprocess.run(
            self.argv(*words), env=self.environ, capture_output=True, text=True, timeout=LIMIT, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def __call__(self, *words: str) -> Ran:
        """Run it to its end, which must be a good one."""
        ran = self.try_(*words)
        assert ran.code == 0, f"vmprov {' '.join(words)} exited with {ran.code}\n{ran.out}\n{ran.err}"
        return ran


@pytest.fixture(scope="session")
def cli() -> Iterator[Cli]:
    """vmprov with a fresh state directory; its host is taken down at the end, and nothing may be left then."""
    root = Path(tempfile.mkdtemp(prefix="vmprov-e2e-"))
    cli = Cli(root / "h")
    try:
        _take_images(cli)
        cli("host", "up")
        yield cli
        left = cli("delete", "--all", "--yes", "--json").json
        assert left["failed"] == []
    finally:
        cli.try_("host", "down", "--force")
        shutil.rmtree(root, ignore_errors=True)


def _take_images(cli: Cli) -> None:
    built = Home(Settings.from_environ().home)
    cli.home.create()
    for name in IMAGES:
        if built.image(name).is_dir():
            shutil.copytree(built.image(name), cli.home.image(name), copy_function=_link)
        else:
            cli("image", "build", name)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def connect(cli: Cli) -> LibvirtHypervisor:
    """A connection of the test's own to the embedded host's libvirt."""
    socket = cli.home.run / "embedded" / "libvirt" / "libvirt-sock"
    return LibvirtHypervisor(f"qemu+unix:///system?socket={socket}")


@pytest.fixture
def hypervisor(cli: Cli) -> Iterator[LibvirtHypervisor]:
    """See :func:`connect`."""
    connection = connect(cli)
    yield connection
    connection.close()


@pytest.fixture
def left_behind(cli: Cli) -> Iterator[None]:
    """Whatever the test did: afterwards, what was there before is there, and nothing else."""
    before = _everything(cli)
    yield
    assert _everything(cli) == before


def _everything(cli: Cli) -> dict[str, set[str]]:
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        records = {vm.name for vm in vmprov.store.vms()} | {lab.name for lab in vmprov.store.labs()}
        owned = {f"{thing.kind} {thing.name}" for thing in vmprov.store.owned()}
    files = {
        str(path.relative_to(cli.root))
        for directory in ("vms", "labs", "run/console", "hosts/embedded/lib/qemu/nvram", "hosts/embedded/lib/swtpm")
        for path in (cli.root / directory).glob("*")
        # The next one to type replaces the lock of one that was killed.
        if path.suffix != ".lock"
    }
    hypervisor = connect(cli)
    try:
        return {
            "domains": {domain.name for domain in hypervisor.domains()},
            "networks": {network.name for network in hypervisor.networks()},
            "volumes": {volume.name for volume in hypervisor.volumes("default")},
            "records": records,
            "owned": owned,
            "files": files,
        }
    finally:
        hypervisor.close()
