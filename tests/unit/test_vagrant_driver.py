from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from vmprov.containers.engine import Engine
from vmprov.drivers import Order, Uart
from vmprov.drivers.vagrant import VagrantDriver
from vmprov.hosts import Acceleration, Host
from vmprov.hypervisor import Mark
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.store import Nic


class StubHost:
    """Just what the driver's work on files asks for."""

    name = slug = "stub"

    def __init__(self) -> None:
        self.removed: list[str] = []

    def acceleration(self) -> Acceleration:
        return Acceleration("tcg", "a stub")

    def hypervisor(self) -> Any:
        return self

    def remove_domain(self, name: str) -> bool:
        self.removed.append(name)
        return False


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def host() -> StubHost:
    return StubHost()


@pytest.fixture
def driver(home: Home, host: StubHost) -> VagrantDriver:
    settings = Settings.from_environ({"VMPROV_HOME": str(home.root)})
    return VagrantDriver(cast("Host", host), home, settings, "3f0a", Engine())


def order(home: Home, vm: str) -> Order:
    return Order(
        vm=vm, lab="trial", domain=f"trial-{vm}", uuid=str(uuid.uuid4()), mark=Mark("3f0a", "trial", vm), cpus=1,
        memory=1024**3, disk_volume=f"trial-{vm}.img", disk_size=1024**3, pool="default", image=None, seed="",
        nics=(Nic("net", "br", "52:54:00:00:00:01"),), serial_number="VP1", boot=("disk", "network"),
        consoles=(Uart("pipe", home.console_port(1, 0), home.console_log(vm, 0)),),
    )  # fmt: skip


def prepare(driver: VagrantDriver, *orders: Order) -> None:
    for one in orders:
        driver._prepare(one)
    driver._write_vagrantfile("trial")


def test_the_vagrantfile_holds_the_machines_of_its_lab_only(driver: VagrantDriver, home: Home) -> None:
    prepare(driver, order(home, "web-1"), order(home, "web-2"), replace(order(home, "db"), lab="other"))

    text = (home.lab("trial") / "Vagrantfile").read_text()

    assert "define 'web-1'" in text
    assert "define 'web-2'" in text
    assert "'db'" not in text


def test_destroying_one_machine_leaves_the_others(driver: VagrantDriver, home: Home, host: StubHost) -> None:
    prepare(driver, order(home, "web-1"), order(home, "web-2"))

    driver.destroy(lab="trial", vm="web-1", domain="trial-web-1")

    text = (home.lab("trial") / "Vagrantfile").read_text()
    assert "define 'web-1'" not in text
    assert "define 'web-2'" in text
    assert host.removed == ["trial-web-1"]


def test_destroying_the_last_machine_leaves_nothing_of_vagrant(driver: VagrantDriver, home: Home) -> None:
    prepare(driver, order(home, "web-1"))
    lab = home.lab("trial")
    (lab / ".vagrant/machines/web-1/libvirt").mkdir(parents=True)
    locks = home.vagrant_home("stub") / "data"
    locks.mkdir(parents=True)
    name = hashlib.md5(f"{lab}{lab}/.vagrantweb-1".encode(), usedforsecurity=False).hexdigest()
    (locks / f"lock.machine-action-{name}.lock").touch()

    driver.destroy(lab="trial", vm="web-1", domain="trial-web-1")

    assert list(lab.iterdir()) == []
    assert list(locks.iterdir()) == []
    assert list(home.vm("web-1").iterdir()) == []


def test_gone_is_success(driver: VagrantDriver, home: Home) -> None:
    driver.destroy(lab="trial", vm="web-1", domain="trial-web-1")
    driver.destroy(lab="trial", vm="web-1", domain="trial-web-1")

    assert not home.lab("trial").exists()
