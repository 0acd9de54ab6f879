"""How long stages took: median, 95th percentile and verdicts of past runs."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner

from vmprov import CreateRequest, Vmprov
from vmprov.cli import main
from vmprov.engine.evidence.statistics import nearest_rank, stage_statistics
from vmprov.paths import Home
from vmprov.store import Run, Store


def run(
    *stays: tuple[str, float, str], verdict: str = "success", seconds: float = 0.0, image: str = "tiny", flow: str = "f"
) -> Run:
    """A run whose stages follow each other."""
    stages, start = [], 0.0
    for stage, length, outcome in stays:
        stages.append((stage, start, length, outcome))
        start += length
    return Run("vm-1", "lab-1", image, flow, verdict, "", "", time.time(), seconds or start, tuple(stages))


def passed(*lengths: float, **words: Any) -> Run:
    return run(*((f"s{number}", length, "passed") for number, length in enumerate(lengths)), **words)


def test_the_middle_and_the_worst_of_twenty_are_real_times() -> None:
    rows = stage_statistics(passed(float(length), 1.0) for length in range(1, 21))

    assert [(row.stage, row.n, row.median, row.p95) for row in rows] == [
        ("s0", 20, 10.5, 19.0), ("s1", 20, 1.0, 1.0), ("", 20, 11.5, 20.0),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 100, 1000])
def test_the_nearest_rank_is_the_first_that_enough_do_not_exceed(count: int) -> None:
    values = [float((7919 * number) % 1009) for number in range(count)]

    found = nearest_rank(values, 0.95)

    assert found in values
    assert sum(value <= found for value in values) >= 0.95 * count
    assert sum(value < found for value in values) < 0.95 * count


def test_only_stages_that_were_passed_count() -> None:
    rows = stage_statistics(
        [
            run(("a", 1.0, "passed"), ("b", 50.0, "failed"), verdict="failed"),
            run(("a", 3.0, "passed"), ("b", 0.0, "skipped"), ("c", 2.0, "passed")),
            run(("a", 2.0, "recovered"), ("a", 5.0, "passed"), ("b", 9.0, "timeout"), verdict="timeout"),
        ]
    )

    assert [(row.stage, row.n, row.median, row.p95) for row in rows] == [
        ("a", 3, 3.0, 5.0), ("b", 0, None, None), ("c", 1, 2.0, 2.0), ("", 1, 5.0, 5.0),
    ]  # fmt: skip


def test_the_whole_run_counts_successes_and_tells_all_verdicts() -> None:
    runs = [passed(10.0), passed(30.0), passed(99.0, verdict="failed"), passed(99.0, verdict="timeout")]

    *stages, whole = stage_statistics(runs)

    assert (whole.stage, whole.n, whole.median, whole.p95) == ("", 2, 20.0, 30.0)
    assert whole.verdicts == {"failed": 1, "success": 2, "timeout": 1}
    assert [dict(row.verdicts) for row in stages] == [{}]


def test_without_any_success_the_whole_run_has_no_time() -> None:
    (whole,) = stage_statistics([run(verdict="cancelled")])

    assert (whole.n, whole.median, whole.p95, whole.verdicts) == (0, None, None, {"cancelled": 1})


def test_images_and_flows_are_told_apart() -> None:
    rows = stage_statistics([passed(1.0, image="b"), passed(2.0, image="a", flow="g"), passed(3.0, image="a")])

    assert [(row.image, row.flow, row.stage, row.median) for row in rows] == [
        ("a", "f", "s0", 3.0), ("a", "f", "", 3.0), ("a", "g", "s0", 2.0), ("a", "g", "", 2.0),
        ("b", "f", "s0", 1.0), ("b", "f", "", 1.0),
    ]  # fmt: skip


def test_thousands_of_runs_take_no_time_to_speak_of(store: Store, vmprov: Vmprov) -> None:
    with store.transaction():
        for number in range(3000):
            store.add_run(passed(*(float(number % 97 + stage) for stage in range(8))))

    began = time.monotonic()
    rows = vmprov.stats()

    assert time.monotonic() - began < 5
    assert rows[0].median == median(float(number % 97) for number in range(3000))


def test_runs_of_an_image_and_a_flow_can_be_picked(vmprov: Vmprov) -> None:
    for chosen in (passed(1.0), passed(2.0, image="other"), passed(4.0, flow="g"), passed(8.0, image="")):
        vmprov.store.add_run(chosen)

    assert [row.median for row in vmprov.stats(image="other")] == [2.0, 2.0]
    assert [row.median for row in vmprov.stats(flow="g")] == [4.0, 4.0]
    assert [row.median for row in vmprov.stats(image="")] == [8.0, 8.0]
    assert [row.median for row in vmprov.stats("tiny", "f")] == [1.0, 1.0]
    assert vmprov.stats("tiny", "nope") == []


def test_machines_that_are_made_are_counted(vmprov: Vmprov) -> None:
    vmprov.create(CreateRequest.parse(count=2, image="", driver="fake", flow="login", memory="64MiB", timeout=20.0))

    *stages, whole = vmprov.stats()

    assert (whole.flow, whole.n, whole.verdicts) == ("login", 2, {"success": 2})
    assert stages[-1].stage == "login"
    assert stages[-1].n == 2


# the command line


def cli(home: Home, *words: str) -> tuple[int, str, str]:
    with CliRunner().isolation(env={"VMPROV_HOME": str(home.root), "VMPROV_HOST": "fake:"}) as (out, err, _):
        with pytest.raises(SystemExit) as left:
            main(list(words))
        return int(left.value.code or 0), out.getvalue().decode(), err.getvalue().decode()


def test_stats_are_a_table(home: Home, vmprov: Vmprov) -> None:
    for chosen in (passed(1.0, 2.0), passed(2.0, verdict="failed"), passed(8.0, image="", flow="g")):
        vmprov.store.add_run(chosen)

    code, out, err = cli(home, "stats")

    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["IMAGE", "FLOW", "STAGE", "N", "MEDIAN", "P95", "VERDICTS"],
        ["-", "g", "s0", "1", "8.0", "8.0"],
        ["-", "g", "(total)", "1", "8.0", "8.0", "1", "success"],
        ["tiny", "f", "s0", "2", "1.5", "2.0"],
        ["tiny", "f", "s1", "1", "2.0", "2.0"],
        ["tiny", "f", "(total)", "1", "3.0", "3.0", "1", "failed,", "1", "success"],
    ]


def test_stats_are_a_document(home: Home, vmprov: Vmprov) -> None:
    vmprov.store.add_run(passed(1.0))

    assert json.loads(cli(home, "stats", "--image", "tiny", "--json")[1]) == [row.to_json() for row in vmprov.stats()]
    assert json.loads(cli(home, "stats", "--flow", "nope", "--json")[1]) == []


def test_without_any_run_stats_say_so(home: Home) -> None:
    code, out, err = cli(home, "stats")

    assert (code, out) == (0, "")
    assert err.startswith("no runs to tell of")
