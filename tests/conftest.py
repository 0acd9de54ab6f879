"""Fixtures of the unit tier: a state directory of its own, and a simulated host."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

import hypothesis
import pytest

from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.store import Store

# How long one example takes says little on a busy machine; a test as a whole has a limit.
hypothesis.settings.register_profile("vmprov", deadline=None)
hypothesis.settings.load_profile("vmprov")


@pytest.fixture(scope="session")
def homes() -> Iterator[Path]:
    """Where the state directories of tests lie: short, as the paths of sockets in them are limited."""
    with tempfile.TemporaryDirectory(prefix="vmprov-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def home(homes: Path) -> Home:
    """An empty state directory."""
    home = Home(Path(tempfile.mkdtemp(dir=homes)) / "home")
    home.create()
    return home


@pytest.fixture
def settings(home: Home) -> Settings:
    """Settings for a simulated host in that state directory."""
    return Settings(
        home=home.root,
        host="fake:",
        runner_image="example/runner:1",
        subnets=IPv4Network("10.87.0.0/16"),
        pool="default",
        keeper=False,
    )


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """An empty database."""
    store = Store(home.database)
    yield store
    store.close()


@pytest.fixture(scope="session", autouse=True)
def no_keeper_stays(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keepers live as long as there are captures; those of tests end with the tests."""
    yield
    bases = (str(homes), str(tmp_path_factory.getbasetemp()))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "vmprov.engine.judging.guard" in words and any(word.startswith(bases) for word in words):
                os.kill(int(process.name), signal.SIGTERM)
