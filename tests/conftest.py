"""Fixtures of the unit tier: a state directory of its own, and a simulated host."""

from __future__ import annotations

from collections.abc import Iterator
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
