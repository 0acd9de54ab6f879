from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vmprov.errors import Interrupted, WaitTimeout
from vmprov.locks import exclusive
from vmprov.waiting import Cancel, Deadline, wait_until


def test_a_wait_ends_with_what_the_probe_found() -> None:
    answers = iter([None, None, "found"])

    assert wait_until(lambda: next(answers), Deadline(5), "answer", interval=0.001) == "found"


def test_a_late_wait_says_what_it_waited_for() -> None:
    with pytest.raises(WaitTimeout, match="no miracle within 0 s"):
        wait_until(lambda: False, Deadline(0.02), "miracle", interval=0.001)


def test_a_cancelled_wait_ends_at_once() -> None:
    cancel = Cancel()
    threading.Timer(0.05, cancel.set).start()

    with pytest.raises(Interrupted):
        wait_until(lambda: False, Deadline(30), "anything", cancel=cancel, interval=20)


def test_a_nested_deadline_never_outlives_its_parent() -> None:
    assert Deadline(0.0).at_most(100).expired


def test_a_lock_held_by_another_process_is_waited_for_and_named(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()

        with (
            pytest.raises(WaitTimeout, match="works on the thing for more than 0 s"),
            exclusive(path, Deadline(0.1), "the thing"),
        ):
            pytest.fail("the lock was given out twice")

        holder.kill()
    with exclusive(path, Deadline(5), "the thing"):
        pass
