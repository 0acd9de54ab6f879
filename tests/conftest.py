"""Fixtures of the unit tier: a state directory of its own, and a simulated host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty state directory."""
    home = Home(tmp_path / "home")
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
def no_keeper_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keepers live as long as there are captures; those of tests end with the tests."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "vmprov.engine.guard" in words and any(word.startswith(base) for word in words):
                os.kill(int(process.name), signal.SIGTERM)
