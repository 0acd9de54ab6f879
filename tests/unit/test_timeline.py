"""Where time went: read back, shown as a table, and drawn."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vmprov import CreateRequest, Vmprov
from vmprov.cli import app, main
from vmprov.cli.timeline import show_timelines
from vmprov.engine.context import Context
from vmprov.engine.evidence.chart import chart
from vmprov.engine.evidence.collect import collect
from vmprov.engine.evidence.kept import record_json
from vmprov.engine.evidence.timeline import sentence, verdict_from
from vmprov.errors import Failed, NotFound
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.hosts.fake import FakeHost
from vmprov.hypervisor.fake import BOOT_TRANSCRIPT
from vmprov.paths import Home
from vmprov.views import StageStay, Timeline

SVG = "{http://www.w3.org/2000/svg}"
PANIC = "SeaBIOS (version 1)\r\nKernel panic - not syncing: VFS: Unable to mount root fs\r\n"
STAYS = (
    StageTime("power-on", 0.0, 1.5, "passed"),
    StageTime("firmware", 1.5, 4.0, "passed"),
    StageTime("power-on", 4.0, 5.0, "passed", boot=2),
    StageTime("firmware", 5.0, 12.0, "failed", boot=2),
)
PANICKED = Verdict(
    "failed", "firmware", "kernel-panic", "Kernel panic - <&\x1b>", 0, 12345, why="the kernel panicked", at=12.0
)


@pytest.fixture
def machine(vmprov: Vmprov) -> str:
    """A machine that was ready at its login prompt."""
    return make(vmprov, "vm-1")


def make(vmprov: Vmprov, name: str, *, transcript: str = BOOT_TRANSCRIPT, **words: Any) -> str:
    host = vmprov.host()
    assert isinstance(host, FakeHost)
    host.hypervisor().boot_transcript = transcript
    wanted = {"image": "", "driver": "fake", "flow": "login", "memory": "64MiB", "timeout": 20.0, "lab": "trial"}
    vmprov.create(CreateRequest.parse(**{**wanted, "name": name, **words}))
    return name


def write_down(vmprov: Vmprov, name: str, stays: tuple[StageTime, ...], verdict: Verdict | None) -> None:
    """Replace what the watch wrote down of a machine."""
    directory = vmprov.home.vm(name)
    (directory / "timeline.json").write_text(json.dumps([stay.to_json() for stay in stays]))
    judgement = json.dumps(verdict.to_json()) if verdict else ""
    vmprov.store.update_vm(name, verdict=verdict.kind if verdict else "", judgement=judgement)


def fail(vmprov: Vmprov, name: str, stays: tuple[StageTime, ...] = STAYS, verdict: Verdict = PANICKED) -> Path:
    """Let a machine fail and be removed; returns where its files are kept."""
    write_down(vmprov, name, stays, verdict)
    vm = vmprov.store.vm(name)
    kept = vmprov.home.failed / f"{name}-{vm.id}"
    kept.mkdir(parents=True)
    for file in vmprov.home.vm(name).iterdir():
        if file.is_file():
            (kept / file.name).write_bytes(file.read_bytes())
    collect(context(vmprov), vm, kept)
    vmprov.delete([name])
    return kept


def context(vmprov: Vmprov) -> Context:
    return vmprov.context("fake:", "fake")


# reading it back


def test_a_timeline_is_what_the_watch_saw(vmprov: Vmprov, machine: str) -> None:
    timeline = vmprov.timeline(machine)

    assert (timeline.vm, timeline.lab, timeline.flow, timeline.verdict) == ("vm-1", "trial", "login", "success")
    assert timeline.stages[-1].stage == "login"
    assert timeline.stages[-1].outcome == "passed"
    starts = [stay.start for stay in timeline.stages]
    assert starts == sorted(starts)
    assert timeline.seconds == pytest.approx(max(stay.start + stay.seconds for stay in timeline.stages), abs=1.0)


def test_a_timeline_tells_limits_boots_and_the_verdict(vmprov: Vmprov, machine: str) -> None:
    write_down(vmprov, machine, STAYS, PANICKED)
    flow = {"flow": "mine", "stages": [{"stage": "power-on", "limit": 30.0}, {"stage": "firmware"}]}
    (vmprov.home.vm(machine) / "flow.json").write_text(json.dumps(flow))

    timeline = vmprov.timeline(machine)

    assert (timeline.verdict, timeline.seconds) == ("failed(kernel-panic)", 12.0)
    assert timeline.judgement == PANICKED.to_json()
    assert timeline.stages[0] == StageStay("power-on", 0.0, 1.5, 1.5, "passed", 1, 30.0)
    assert [stay.boot for stay in timeline.stages] == [1, 1, 2, 2]
    assert [stay.limit for stay in timeline.stages] == [30.0, None, 30.0, None]


def test_a_stage_that_lasts_runs_up_to_now(vmprov: Vmprov, machine: str) -> None:
    write_down(vmprov, machine, (STAYS[0], StageTime("firmware", 1.5)), None)
    watched = vmprov.home.vm(machine) / "watch.json"
    began = json.loads(watched.read_text())
    watched.write_text(json.dumps({**began, "wall": began["wall"] - 100}))

    timeline = vmprov.timeline(machine)

    assert (timeline.verdict, timeline.stages[1].end, timeline.stages[1].outcome) == ("", None, "")
    assert timeline.stages[1].seconds == pytest.approx(timeline.seconds - 1.5)
    assert timeline.seconds > 100


def test_a_machine_that_was_never_watched_has_no_stages(vmprov: Vmprov, machine: str) -> None:
    for name in ("timeline.json", "flow.json", "watch.json"):
        (vmprov.home.vm(machine) / name).unlink()

    assert vmprov.timeline(machine).stages == ()


def test_a_machine_that_failed_and_was_removed_keeps_its_timeline(vmprov: Vmprov, machine: str) -> None:
    fail(vmprov, machine)

    timeline = vmprov.timeline(machine)

    assert vmprov.vms() == []
    assert (timeline.lab, timeline.verdict, len(timeline.stages)) == ("trial", "failed(kernel-panic)", 4)


def test_of_several_failures_of_one_name_the_last_one_counts(vmprov: Vmprov) -> None:
    fail(vmprov, make(vmprov, "vm-1"))
    fail(vmprov, make(vmprov, "vm-1"), STAYS[:2], replace(PANICKED, failure_class="kernel-oops"))

    assert vmprov.timeline("vm-1").verdict == "failed(kernel-oops)"


def test_files_kept_without_a_record_still_tell_their_stages(vmprov: Vmprov, machine: str) -> None:
    kept = fail(vmprov, machine)
    (kept / "record.json").write_text("{")

    timeline = vmprov.timeline(machine)

    assert (timeline.vm, timeline.lab, timeline.verdict, len(timeline.stages)) == ("vm-1", "", "", 4)


def test_a_machine_that_never_was_is_unknown(vmprov: Vmprov) -> None:
    with pytest.raises(NotFound, match="no VM called 'nope'"):
        vmprov.timeline("nope")
    with pytest.raises(NotFound, match="no VM or lab called 'nope'"):
        vmprov.timelines(["nope"])


def test_a_lab_has_the_timelines_of_all_its_machines(vmprov: Vmprov) -> None:
    for name in ("a", "b", "c"):
        make(vmprov, name)
    fail(vmprov, "b")

    assert [one.vm for one in vmprov.timelines(["trial"])] == ["a", "b", "c"]
    assert [one.vm for one in vmprov.timelines(["c", "trial", "a"])] == ["c", "a", "b"]
    assert [one.vm for one in vmprov.timelines()] == ["a", "c"]


def test_a_lab_that_is_gone_has_the_timelines_of_its_last_failures(vmprov: Vmprov) -> None:
    fail(vmprov, make(vmprov, "old"))
    for name in ("a", "b"):
        make(vmprov, name)
    fail(vmprov, "a")
    fail(vmprov, "b")

    assert vmprov.store.labs() == []
    assert [one.vm for one in vmprov.timelines(["trial"])] == ["a", "b"]


def test_an_earlier_lab_of_the_same_name_does_not_count(vmprov: Vmprov) -> None:
    fail(vmprov, make(vmprov, "old"))
    make(vmprov, "new")

    assert [one.vm for one in vmprov.timelines(["trial"])] == ["new"]


def test_a_record_is_written_and_read_without_loss(vmprov: Vmprov, machine: str) -> None:
    vm = vmprov.store.vm(machine)

    written = json.loads(json.dumps(record_json(vm, vmprov.store.lab("trial"))))

    assert json.loads(vm.judgement) == written["judgement"]
    assert written["lab_created"] > 0


# verdicts in words


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verdict("success", "login", evidence="vm-1 login:", console=0, offset=7),
         "success in stage login: 'vm-1 login:' (console 0, byte 7)"),
        (Verdict("success", "ssh"), "success in stage ssh"),
        (Verdict("timeout", "kernel", why="nothing came"), "timeout(kernel): nothing came"),
        (Verdict("cancelled", why="interrupted"), "cancelled: interrupted"),
        (Verdict("failed", "", "libvirt", why="no network"), "failed(libvirt): no network"),
    ],
)  # fmt: skip
def test_a_verdict_is_one_sentence(verdict: Verdict, told: str) -> None:
    assert sentence(verdict) == told
    assert sentence(verdict_from(json.loads(json.dumps(verdict.to_json())))) == told


def test_fields_that_are_not_known_any_more_are_passed_over() -> None:
    assert verdict_from({**PANICKED.to_json(), "mood": "bad"}) == PANICKED


# drawing


def some(vm: str, verdict: str, *seconds: float) -> Timeline:
    stays, start = [], 0.0
    for number, length in enumerate(seconds):
        stays.append(StageStay(f"stage-{number}", start, start + length, length, "passed"))
        start += length
    return Timeline(vm, "lab-1", "login", verdict, start, tuple(stays), {"why": "<&>", "evidence": "panic \x1b\ud800"})


def bars(drawing: str) -> dict[str, list[ET.Element]]:
    machines = ET.fromstring(drawing).iterfind(f"{SVG}g[@class='machine']")
    return {one.get("data-vm", ""): list(one.iterfind(f"{SVG}rect")) for one in machines}


def number(element: ET.Element, name: str) -> float:
    return float(element.get(name, ""))


def test_bars_add_up_to_the_time_that_passed() -> None:
    drawn = bars(chart([some("vm-1", "success", 1.25, 30.5, 8.25), some("vm-2", "timeout(login)", 20.0, 60.0)]))

    lengths = {vm: sum(number(rect, "width") for rect in rects) for vm, rects in drawn.items()}
    assert lengths["vm-1"] == pytest.approx(lengths["vm-2"] / 2, rel=1e-4)
    for rects in drawn.values():
        for before, after in pairwise(rects):
            assert number(before, "x") + number(before, "width") == pytest.approx(number(after, "x"), abs=0.01)


def test_bars_lie_on_the_axis() -> None:
    drawing = chart([some("vm-1", "success", 10.0, 20.0)])

    ticks = {
        float(tick.text or ""): number(tick, "x")
        for tick in ET.fromstring(drawing).iterfind(f"{SVG}text")
        if "tick" in tick.get("class", "")
    }
    first, second = bars(drawing)["vm-1"]
    assert ticks[0.0] == pytest.approx(number(first, "x"), abs=0.1)
    assert ticks[10.0] == pytest.approx(number(second, "x"), abs=0.1)
    assert ticks[30.0] == pytest.approx(number(second, "x") + number(second, "width"), abs=0.1)


def test_a_stage_has_one_colour_in_all_bars_and_in_the_legend() -> None:
    drawing = chart([some("vm-1", "success", 1, 2, 3), some("vm-2", "success", 3, 2)])

    first, second = bars(drawing).values()
    legend = {
        entry.findtext(f"{SVG}text"): entry.find(f"{SVG}rect").get("class")  # type: ignore[union-attr]
        for entry in ET.fromstring(drawing).iterfind(f"{SVG}g[@class='legend']")
    }
    assert list(legend) == ["stage-0", "stage-1", "stage-2"]
    for rect in (*first, *second):
        assert legend[rect.get("data-stage")] in rect.get("class", "").split()


def test_what_failed_is_marked_and_says_why() -> None:
    drawing = ET.fromstring(chart([some("good", "success", 1.0), some("bad", "failed(x)", 1.0), some("on", "", 1.0)]))

    good, bad, running = drawing.iterfind(f"{SVG}g[@class='machine']")
    assert [len(list(one.iterfind(f"{SVG}path"))) for one in (good, bad, running)] == [0, 1, 0]
    told = bad.find(f"{SVG}text[@class='verdict bad']")
    assert told is not None
    assert (told.text, told.findtext(f"{SVG}title")) == ("failed(x)", "<&> - panic \ufffd\ufffd")


def test_hostile_names_stay_text() -> None:
    hostile = "</text><script>alert('&\"')</script>\x00\ufffe"

    drawing = ET.fromstring(chart([Timeline(hostile, "l", hostile, hostile, 1.0, (StageStay(hostile, 0, 1, 1, ""),))]))

    assert [element.tag for element in drawing.iter() if element.tag.endswith("script")] == []
    assert hostile[:20] in "".join(drawing.itertext())


def test_a_drawing_is_readable_in_the_dark_too() -> None:
    drawing = chart([some("vm-1", "success", 1.0)])

    assert "prefers-color-scheme: dark" in drawing
    assert drawing.count(".s0 {") == 2


@pytest.mark.parametrize("timelines", [[], [some("vm-1", "")], [some("vm-1", "success", 0.0)]])
def test_nothing_at_all_can_be_drawn(timelines: list[Timeline]) -> None:
    assert ET.fromstring(chart(timelines)).tag == f"{SVG}svg"


def test_hundreds_of_machines_and_hours_can_be_drawn() -> None:
    drawn = bars(chart([some(f"vm-{count}", "success", *[400.0] * 30) for count in range(300)]))

    assert (len(drawn), {len(rects) for rects in drawn.values()}) == (300, {30})


# the command line


@pytest.fixture
def run(home: Home, vmprov: Vmprov) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        environ = {"VMPROV_HOME": str(home.root), "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off"}
        with CliRunner().isolation(env=environ) as (out, err, _):
            with pytest.raises(SystemExit) as left:
                main(list(words))
            return int(left.value.code or 0), out.getvalue().decode(), err.getvalue().decode()

    return run


def test_show_tells_the_judgement_in_words(vmprov: Vmprov, machine: str, run: Any) -> None:
    write_down(vmprov, machine, STAYS, replace(PANICKED, evidence="Kernel panic - not syncing"))

    _, out, _ = run("show", machine)

    told = "failed(kernel-panic) in stage firmware: 'Kernel panic - not syncing' (console 0, byte 12345)"
    assert f"judgement      {told}\n" in out


def test_show_of_a_lab_shows_each_of_its_machines(vmprov: Vmprov, run: Any) -> None:
    make(vmprov, "a")
    make(vmprov, "b")

    assert [vm["name"] for vm in json.loads(run("show", "trial", "--json")[1])] == ["a", "b"]
    assert [block.split()[1] for block in run("show", "trial")[1].split("\n\n")] == ["a", "b"]


def test_a_timeline_is_a_table_with_a_bar(vmprov: Vmprov, machine: str, run: Any) -> None:
    write_down(vmprov, machine, STAYS, PANICKED)

    code, out, _ = run("show", machine, "--timeline")

    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("vm-1: failed(kernel-panic) in stage firmware: 'Kernel panic")
    assert lines[0].endswith("(console 0, byte 12345), after 12.0 s")
    assert lines[1].split() == ["STAGE", "START", "SECONDS", "OUTCOME"]
    assert lines[3].split()[:4] == ["firmware", "1.5", "2.5", "passed"]
    assert lines[5].split()[:5] == ["firmware", "5.0", "7.0", "failed", "(boot"]
    assert 38 <= sum(line.count("#") for line in lines[2:6]) <= 42


def test_a_timeout_shows_the_last_lines(vmprov: Vmprov, machine: str, run: Any) -> None:
    write_down(vmprov, machine, STAYS, Verdict("timeout", "login", why="nothing came", last_lines=("one", "two")))

    assert run("show", machine, "--timeline")[1].endswith("last lines:\n  one\n  two\n")


def test_a_timeline_is_a_document(vmprov: Vmprov, machine: str, run: Any) -> None:
    assert json.loads(run("show", machine, "--timeline", "--json")[1]) == vmprov.timeline(machine).to_json()
    assert json.loads(run("show", "trial", "--timeline", "--json")[1]) == [vmprov.timeline(machine).to_json()]


def test_a_timeline_is_drawn_into_a_file(vmprov: Vmprov, run: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(vmprov, name)
    fail(vmprov, "b")

    code, out, _ = run("show", "trial", "--timeline", str(tmp_path / "out.svg"))

    assert (code, out) == (0, f"timelines of 2 machines: {tmp_path}/out.svg\n")
    assert list(bars((tmp_path / "out.svg").read_text())) == ["a", "b"]


def test_a_drawing_has_to_be_svg(machine: str, run: Any) -> None:
    assert run("show", machine, "--timeline", "out.png")[::2] == (
        2, "vmprov: --timeline draws SVG, not 'out.png'; name a file that ends in .svg, or none\n"
    )  # fmt: skip


def test_show_of_a_machine_that_failed_names_what_was_kept(vmprov: Vmprov, machine: str, run: Any) -> None:
    fail(vmprov, machine)

    code, out, err = run("show", machine)

    assert (code, out) == (2, "")
    assert err.startswith("vmprov: no VM called 'vm-1' any more: failed(kernel-panic); its logs were kept")


def test_the_flow_of_a_machine_that_panics_ends_in_its_timeline(vmprov: Vmprov, run: Any) -> None:
    make(vmprov, "vm-1", transcript=PANIC, keep_on_failure=True)

    code, out, _ = run("show", "vm-1", "--timeline")

    assert code == 0
    assert out.startswith("vm-1: failed(kernel-panic)")
    assert "Kernel panic - not syncing" in out


def test_the_option_may_stand_without_a_file() -> None:
    command = app.get_command(None, "show")  # type: ignore[arg-type]
    assert command is not None
    for words, file in (([], "-"), (["--json"], "-"), (["a.svg"], "a.svg")):
        assert command.make_context("show", ["vm-1", "--timeline", *words]).params["timeline"] == file


@pytest.mark.parametrize("name", ["timeline.json", "watch.json", "flow.json"])
@pytest.mark.parametrize("text", ["", "junk", "[]", "{}", "7", '[{"a": 1}]', '{"stages": [1], "wall": "x"}'])
def test_a_file_in_which_something_else_is_breaks_no_timeline(vmprov: Vmprov, name: str, text: str) -> None:
    vm = make(vmprov, "vm-1")
    vmprov.store.update_vm(vm, judgement="")
    (vmprov.home.vm(vm) / name).write_text(text)

    assert vmprov.timeline(vm).vm == "vm-1"


def test_a_drawing_that_cannot_be_written_is_one_line(vmprov: Vmprov, tmp_path: Path) -> None:
    make(vmprov, "vm-1")

    with pytest.raises(Failed, match=r"none/x\.svg cannot be written: no such file or directory"):
        show_timelines(vmprov, "vm-1", str(tmp_path / "none" / "x.svg"), as_json=False)


def test_list_and_watch_tell_a_failure_with_its_class_and_its_line(run: Any, vmprov: Vmprov, machine: str) -> None:
    vmprov.store.update_vm(machine, why="the kernel panicked")
    write_down(vmprov, machine, STAYS, replace(PANICKED, evidence="Kernel panic - not syncing"))

    assert "failed(kernel-panic)" in run("list")[1]
    code, out, _ = run("watch")
    assert code == 1
    assert "failed(kernel-panic)  the kernel panicked 'Kernel panic - not syncing'" in out
