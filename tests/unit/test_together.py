"""Many processes on one state directory and one simulated host, and many that are killed; see scripts/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def told(*words: str) -> Any:
    ran = subprocess.run(
        [sys.executable, SCRIPTS / words[0], *words[1:], "--json"], capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


def test_twenty_commands_at_once_do_not_collide() -> None:
    result = told("paralleltest.py", "--simulator", "--commands", "20")

    assert (result["failures"], result["collisions"], result["machines"]) == ([], [], 20)
    assert (result["not_deleted"], result["left_behind"]) == ([], [])


@pytest.mark.parametrize("seed", [101, 102])
def test_whatever_is_killed_nothing_is_lost_and_nothing_leaks(seed: int) -> None:
    result = told("killtest.py", "--simulator", "--points", "20", "--seed", str(seed), "--jobs", "2")

    assert result["problems"] == []
    assert (result["points"], result["clean"], result["killed"] > 10) == (20, 20, True)
