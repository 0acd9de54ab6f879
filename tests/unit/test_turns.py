"""Turns to boot: so many VMs of all processes boot at once on a host, and no more."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.unit.simulated import hypervisor_of, wanted
from vmprov import Settings, Vmprov
from vmprov.engine.scheduling.turns import BootTurns
from vmprov.errors import Interrupted
from vmprov.events import Event, Note
from vmprov.paths import Home

pytestmark = pytest.mark.usefixtures("image")


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how many VMs may boot at once."""

    def say(number: int) -> None:
        monkeypatch.setattr("vmprov.engine.scheduling.turns.sensible_parallelism", lambda *_, **__: number)

    return say


def turns(vmprov: Vmprov, most: int) -> BootTurns:
    return BootTurns(vmprov.context("", ""), most)


def locks(home: Home) -> list[str]:
    return sorted(path.name for path in home.lock("").parent.glob("boot-*"))


def test_a_machine_waits_while_those_of_another_process_boot(
    settings: Settings, vmprov: Vmprov, home: Home, most: Callable[[int], None]
) -> None:
    most(2)
    others = turns(vmprov, 2)
    others.take("a")
    others.take("b")
    told = threading.Event()

    def listener(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("vm-1 waits: "):
            told.set()

    with Vmprov(settings) as second:
        second.events.listen(listener)
        thread = threading.Thread(target=lambda: second.create(wanted(count=1)))
        thread.start()
        assert told.wait(20)
        # It has all that it needs but for its turn.
        assert (len(hypervisor_of(second).networks()), hypervisor_of(second).domains()) == (1, [])
        others.give_back("a")
        thread.join(20)

    assert [vm.state for vm in vmprov.store.vms()] == ["ready"]
    others.give_back("b")
    assert locks(home) == []


def test_all_get_their_turn_and_none_is_kept(vmprov: Vmprov, home: Home, most: Callable[[int], None]) -> None:
    most(1)
    assert vmprov.create(wanted(count=4)).exit_code == 0
    hypervisor_of(vmprov).boot_transcript = "nothing\r\n"
    assert [vm.verdict for vm in vmprov.create(wanted(count=2, timeout=0.2)).vms] == ["timeout"] * 2
    assert locks(home) == []


def test_one_who_wants_more_at_once_may(vmprov: Vmprov, most: Callable[[int], None]) -> None:
    most(1)
    others = turns(vmprov, 1)
    others.take("a")
    assert vmprov.create(wanted(count=2, parallel=3)).exit_code == 0
    others.give_back("a")


def test_waiting_ends_with_the_operation(vmprov: Vmprov, most: Callable[[int], None]) -> None:
    most(1)
    others = turns(vmprov, 1)
    others.take("a")
    threading.Timer(0.3, vmprov.cancel.set).start()
    with pytest.raises(Interrupted):
        turns(vmprov, 1).take("b")
    assert turns(vmprov, 2).take("c") is None
    others.give_back("a")


def test_the_turn_of_who_died_is_free(vmprov: Vmprov, home: Home) -> None:
    lock = home.lock("boot-fake-0")
    dies = "import os, sys; from pathlib import Path; from vmprov.locks import Turn; Turn(Path(sys.argv[1])).take()"
    subprocess.run([sys.executable, "-c", f"{dies}; os._exit(9)", str(lock)], check=False)
    assert locks(home) == [lock.name]

    turns(vmprov, 1).take("b")

    assert vmprov.gc().leftovers == []


def test_a_turn_that_was_left_behind_is_collected(vmprov: Vmprov, home: Home) -> None:
    home.lock("boot-fake-0").parent.mkdir(exist_ok=True)
    home.lock("boot-fake-0").touch()
    assert [(one.kind, one.state) for one in vmprov.gc().leftovers] == [("lock", "removed")]
    assert locks(home) == []
