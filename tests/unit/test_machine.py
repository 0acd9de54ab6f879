"""What the state machine makes of bytes and of time."""

from __future__ import annotations

import textwrap

import pytest

from vmprov.flows.grammar import Expectation, Flow, Input, Stage
from vmprov.flows.load import parse_flow
from vmprov.flows.machine import Action, Decided, Entered, Machine, Send, watch_only

LOGIN = """
stages:
  - stage: boot
    limit: 60
    expect: "Linux version"
  - stage: user
    limit: 30
    expect: {prompt: "login:", send: root}
  - stage: shell
    expect: {prompt: "#"}
"""
FIRMWARE = b"SeaBIOS (version x)\r\nBooting from Hard Disk...\r\n"


class Guest:
    """A machine under a flow, and what it says."""

    def __init__(self, text: str, *, start: float = 0.0, limit: float | None = None) -> None:
        flow = parse_flow("flow: test\n" + textwrap.dedent(text), "test.yaml")
        self.machine = Machine(flow, start=start, limit=limit)
        self.offsets = {0: 0, 1: 0}

    def says(self, at: float, text: bytes | str, console: int = 0) -> list[Action]:
        data = text.encode() if isinstance(text, str) else text
        self.offsets[console] += len(data)
        return self.machine.feed(console, self.offsets[console] - len(data), data, at)

    @property
    def stays(self) -> list[str]:
        return [f"{stay.stage} {stay.start:g}-{stay.end} {stay.outcome}".rstrip() for stay in self.machine.timeline]

    @property
    def end(self) -> str:
        return str(self.machine.verdict)


def sent(actions: list[Action]) -> list[tuple[float, int, tuple[Input, ...]]]:
    return [(one.at, one.console, one.inputs) for one in actions if isinstance(one, Send)]


def test_a_run() -> None:
    guest = Guest(LOGIN, start=1000.0)

    assert guest.machine.tick(1000.0) == [Entered("boot", 1000.0)]
    assert guest.says(1001.0, "Linux version 6.1\r\n") == [Entered("user", 1001.0)]
    assert guest.says(1002.0, "vm login: ") == []
    assert guest.machine.next_tick == 1002.3
    answer = Send(1, 0, (Input(line="root"),), 1002.3, "user", "the prompt 'login:' was seen")
    assert guest.machine.tick(1002.3) == [answer, Entered("shell", 1002.3)]
    assert guest.machine.awaited == ("the prompt '#'",)
    [decided] = guest.says(1003.0, "root\r\nroot@vm:~# ") or guest.machine.tick(1004.0)
    assert isinstance(decided, Decided)
    assert decided.at == 1003.3
    assert decided.verdict == guest.machine.verdict
    assert (decided.verdict.evidence, decided.verdict.offset, guest.end) == ("root@vm:~# ", 35, "success")
    assert decided.verdict.at == pytest.approx(3.3)
    assert [stay.outcome for stay in guest.machine.timeline] == ["passed"] * 3
    assert guest.machine.stage == "shell"
    assert guest.machine.next_tick is None


def test_after_the_verdict_nothing_has_an_effect() -> None:
    guest = Guest("stages: [{stage: a, expect: yes it is}]")
    guest.says(1.0, "yes it is\r\nKernel panic - not syncing: x\r\n")
    before = (guest.machine.verdict, guest.machine.timeline)

    assert (
        guest.says(2.0, "Kernel panic - not syncing: x\r\n") + guest.machine.cancel(3.0) + guest.machine.tick(1e9) == []
    )
    assert (guest.machine.verdict, guest.machine.timeline) == before
    assert guest.end == "success"


def test_time_passes_before_bytes_are_taken() -> None:
    guest = Guest(LOGIN)
    actions = guest.says(61.0, "Linux version 6.1\r\n")

    assert guest.end == "timeout(boot)"
    assert actions[-1].at == 60.0
    verdict = guest.machine.verdict
    assert verdict
    assert verdict.why == "waited 60.0 s for 'Linux version' in stage boot; the limit of the stage boot, 60 s, is up"


def test_a_timeout_says_what_was_awaited_and_what_came() -> None:
    guest = Guest(LOGIN)
    guest.says(1.0, "Linux version 6.1\r\n")
    guest.says(2.0, "".join(f"line {number}\r\n" for number in range(30)) + "\r\nvm Login : \x1b[0m")
    guest.machine.tick(100.0)

    verdict = guest.machine.verdict
    assert verdict
    assert (str(verdict), verdict.at) == ("timeout(user)", 31.0)
    assert verdict.last_lines == (*(f"line {number}" for number in range(11, 30)), "vm Login : ")
    assert "30.0 s for the prompt 'login:'" in verdict.why
    assert verdict.why.endswith("nearest to it came 'vm Login : '")
    assert guest.stays == ["boot 0-1.0 passed", "user 1-31.0 timeout"]


@pytest.mark.parametrize(("given", "end"), [(None, 50.0), (20.0, 20.0), (90.0, 50.0)])
def test_the_shorter_limit_counts(given: float | None, end: float) -> None:
    guest = Guest("limit: 50\nstages: [{stage: a, expect: x}]", limit=given)

    assert guest.machine.next_tick == end
    assert guest.machine.tick(end)[-1].at == end
    assert guest.end == "timeout(a)"


def test_a_prompt_that_settles_at_the_limit_is_in_time() -> None:
    guest = Guest("settle: 0.5\nstages: [{stage: a, expect: {prompt: '#'}, limit: 10}]")
    guest.says(9.5, "# ")
    guest.machine.tick(20.0)

    assert guest.end == "success"


def test_a_clock_that_steps_back_stands_still() -> None:
    guest = Guest("stages: [{stage: a, expect: x, limit: 10}]")
    guest.machine.tick(5.0)
    guest.machine.tick(-100.0)
    guest.says(1.0, "x\r\n")

    assert guest.stays == ["a 0-5.0 passed"]


OPTIONAL = """
stages:
  - {stage: one, optional: true, limit: 10, expect: "1"}
  - {stage: two, optional: true, expect: "2"}
  - {stage: three, expect: "3", fail: {text: broken, class: broken}}
  - {stage: four, expect: "4"}
"""


def test_optional_stages_are_passed_over() -> None:
    guest = Guest(OPTIONAL)

    assert guest.says(1.0, "4\r\n3\r\n") == [Entered("one", 0.0), Entered("three", 1.0), Entered("four", 1.0)]
    assert guest.stays == ["one 0-1.0 skipped", "two 1-1.0 skipped", "three 1-1.0 passed", "four 1-None"]


def test_optional_stages_end_with_their_limit() -> None:
    guest = Guest(OPTIONAL)

    assert guest.machine.tick(30.0) == [Entered("one", 0.0), Entered("two", 10.0)]
    assert guest.says(31.0, "1\r\n") == []
    assert guest.machine.awaited == ("'2'", "'3'")


def test_what_later_stages_fail_on_counts_while_they_may_be_next() -> None:
    guest = Guest(OPTIONAL)
    guest.says(1.0, "broken\r\n")

    assert guest.end == "failed(broken)"


def test_nothing_but_its_own_patterns_passes_the_last_stage() -> None:
    stages = (Stage(stage="last", optional=True, limit=10, expect=(Expectation(text="x"),)),)
    machine = Machine(Flow(flow="made", stages=stages))
    machine.tick(100.0)

    assert str(machine.verdict) == "timeout(last)"


def test_the_rest_of_the_bytes_is_for_the_next_stage() -> None:
    guest = Guest("stages: [{stage: a, expect: x}, {stage: b, expect: x}, {stage: c, expect: x}]")
    guest.says(1.0, "xx\r\nyx\r\n")

    assert guest.machine.stage == "c"


def test_next_leads_to_any_stage() -> None:
    guest = Guest("""
        stages:
          - {stage: a, expect: [{text: jump, next: c}, {text: done, next: success}, b]}
          - {stage: b, expect: x}
          - {stage: c, expect: {text: back, next: a}}
    """)
    guest.says(1.0, "jump\r\nback\r\n")
    assert guest.stays == ["a 0-1.0 passed", "c 1-1.0 passed", "a 1-None"]
    guest.says(2.0, "done\r\n")
    assert (guest.end, guest.machine.stage) == ("success", "a")


def test_the_uart_that_shows_a_prompt_first_is_answered() -> None:
    guest = Guest("""
        consoles: [0, 1]
        stages:
          - {stage: user, expect: {prompt: "login:", send: root}}
          - {stage: password, expect: {prompt: "Password:", send: secret}}
          - {stage: shell, expect: {prompt: "#"}}
    """)
    guest.says(1.0, "vm login: ", 0)
    actions = guest.says(1.1, "vm login: ", 1)
    actions += guest.says(2.0, "Password: ", 1)
    actions += guest.machine.tick(3.0)

    assert sent(actions) == [(1.3, 0, (Input(line="root"),)), (2.3, 1, (Input(line="secret"),))]


def test_a_prompt_that_stands_already_counts_once_it_is_awaited() -> None:
    guest = Guest("""
        consoles: [0, 1]
        stages:
          - {stage: kernel, expect: {text: ready, console: 0}}
          - {stage: user, expect: {prompt: "login:", console: 1, send: root}}
          - {stage: again, expect: {prompt: "login:"}}
    """)
    guest.says(1.0, "vm login: ", 1)
    guest.machine.tick(5.0)

    assert sent(guest.says(6.0, "ready\r\n", 0)) == [(6.0, 1, (Input(line="root"),))]
    guest.machine.tick(60.0)
    assert guest.machine.stage == "again"


def test_other_uarts_are_not_listened_to() -> None:
    guest = Guest("stages: [{stage: a, expect: x}]")
    guest.says(1.0, "x\r\n", 1)

    assert guest.machine.verdict is None


def test_nudges() -> None:
    guest = Guest("consoles: [1, 0]\nstages: [{stage: a, expect: x, nudge: 10}]")
    enter = (Input(line=""),)

    assert guest.machine.next_tick == 10.0
    assert sent(guest.machine.tick(10.0)) == [(10.0, 1, enter)]
    guest.says(15.0, "y", 1)
    guest.says(16.0, "y", 0)
    assert sent(guest.machine.tick(24.9)) == []
    assert sent(guest.machine.tick(25.0)) == [(25.0, 1, enter)]
    assert sent(guest.machine.tick(35.0)) == [(35.0, 1, enter)]
    # A computer that slept does not make up for it.
    assert len(sent(guest.machine.tick(1e9))) == 1


RECOVERY = """
boots: 3
stages:
  - {stage: one, expect: "1"}
  - {stage: two, limit: 20, expect: "2"}
  - {stage: three, expect: "3"}
recover:
  - {name: shell, prompt: "Shell>", send: reset, next: one, budget: 3, during: [one, two], class: gave-up}
"""


def test_recoveries_lead_back_until_their_budget_is_spent() -> None:
    guest = Guest(RECOVERY)
    guest.says(1.0, "1\r\nShell> ")
    actions = guest.machine.tick(2.0)
    assert sent(actions) == [(1.3, 0, (Input(line="reset"),))]
    assert actions[-1] == Entered("one", 1.3)
    assert [one.why for one in actions if isinstance(one, Send)] == ["recovery shell, 1 of 3"]
    assert guest.stays == ["one 0-1.0 passed", "two 1-1.3 recovered", "one 1.3-None"]
    guest.says(15.0, "reset\r\n1\r\n")
    guest.machine.tick(30.0)
    assert guest.machine.stage == "two"
    for at in (31.0, 32.0, 33.0):
        guest.says(at, "1\r\nShell> ")
    guest.machine.tick(40.0)
    assert (guest.end, guest.machine.stage) == ("failed(gave-up)", "two")
    assert guest.machine.verdict
    assert (
        guest.machine.verdict.why == "the prompt 'Shell>' came again after the way out of it (shell) was taken 3 times"
    )


def test_a_trap_that_two_uarts_show_is_left_once() -> None:
    """Firmware whose console is on both, and that echoes what is typed by moving the cursor."""
    guest = Guest("consoles: [0, 1]" + RECOVERY)
    screen = b"1\r\n\x1b[08;01H\x1b[1m\x1b[33m\x1b[40mShell> \x1b[0m\x1b[37m\x1b[40m"
    sends = guest.says(1.0, screen, 0) + guest.says(1.1, screen, 1) + guest.machine.tick(1.35)
    for at, echo in ((1.36, b"\x1b[08;08Hr\x1b[08;09H"), (1.37, b"\x1b[08;09Heset\x1b[08;13H")):
        sends += guest.says(at, echo, 0) + guest.says(at, echo, 1)
    sends += guest.machine.tick(9.0)

    assert sent(sends) == [(1.3, 0, (Input(line="reset"),))]
    assert (guest.machine.stage, guest.machine.verdict) == ("one", None)


def test_a_trap_of_one_uart_leaves_what_stands_on_another() -> None:
    guest = Guest("""
        consoles: [0, 1]
        stages: [{stage: one, expect: {prompt: "Shell>", console: 1}}]
        recover: [{name: shell, prompt: "Shell>", console: 0, send: reset, next: one}]
        """)
    guest.says(1.0, "Shell> ", 0)
    guest.says(1.1, "Shell> ", 1)
    guest.machine.tick(2.0)

    assert guest.end == "success"


def test_what_was_let_pass_is_the_reason_although_a_way_out_was_tried_since() -> None:
    guest = Guest(RECOVERY.replace("budget: 3", "budget: 1") + "ignore: kernel-panic\n")
    guest.says(1.0, "1\r\nKernel panic - not syncing: x\r\nShell> ")
    guest.says(2.0, "reset\r\nShell> ")
    guest.machine.tick(3.0)

    assert guest.end == "failed(kernel-panic)"
    assert guest.machine.verdict
    assert guest.machine.verdict.stage == "two"


def test_recoveries_are_for_their_stages() -> None:
    guest = Guest(RECOVERY + "ignore: uefi-shell\n")
    guest.says(1.0, "1\r\n2\r\nShell> ")
    guest.machine.tick(2.0)

    assert (guest.machine.stage, guest.machine.verdict) == ("three", None)


def test_a_reboot_loop() -> None:
    guest = Guest(RECOVERY)
    guest.says(1.0, FIRMWARE)
    guest.says(2.0, FIRMWARE)
    assert guest.machine.boot == 2
    guest.says(3.0, b"1\r\n" + FIRMWARE)
    assert guest.machine.timeline[1].boot == 2
    guest.says(4.0, FIRMWARE)
    assert guest.machine.verdict is None
    guest.says(5.0, FIRMWARE)
    assert guest.end == "failed(reboot-loop)"
    assert guest.machine.verdict
    assert (guest.machine.verdict.evidence, guest.machine.boot) == ("SeaBIOS (version x)", 5)


def test_resets_that_were_typed_are_no_reboot_loop() -> None:
    guest = Guest(RECOVERY)
    for at in (1.0, 2.0, 3.0):
        guest.says(at, FIRMWARE + b"1\r\nShell> ")
    guest.says(4.0, FIRMWARE)

    assert (guest.machine.verdict, guest.machine.boot) == (None, 4)


def test_two_uarts_show_one_start() -> None:
    guest = Guest("consoles: [0, 1]\nboots: 3\nstages: [{stage: a, expect: never}]")
    for at in (1.0, 2.0):
        guest.says(at, FIRMWARE, 0)
        guest.says(at, FIRMWARE, 1)

    assert (guest.machine.verdict, guest.machine.boot) == (None, 2)


@pytest.mark.parametrize(
    ("more", "said", "end"),
    [
        ("", "Kernel panic - not syncing: x\r\n", "failed(kernel-panic)"),
        ("ignore: kernel-panic", "Kernel panic - not syncing: x\r\n", "None"),
        ("ignore: reboot-loop", FIRMWARE.decode() * 9, "None"),
        # Whoever wrote the flow knows more than the signatures do.
        ("fail: {text: panic, class: mine}", "Kernel panic - not syncing: x\r\n", "failed(mine)"),
        ("fail: {text: panic, class: mine}\nignore: mine", "Kernel panic - not syncing: x\r\n", "failed(kernel-panic)"),
        ("recover: {name: r, text: panic, next: a}", "Kernel panic - not syncing: x\r\n", "None"),
        # But a line that means failure is not passed for what is expected in it.
        ("", "go: Kernel panic - not syncing: x\r\n", "failed(kernel-panic)"),
        ("", "grub> ", "failed(grub-shell)"),
        ("", "Shell> ", "success"),
    ],
)
def test_what_counts_of_several(more: str, said: str, end: str) -> None:
    guest = Guest(f"stages: [{{stage: a, expect: ['go:', {{prompt: '>'}}, {{prompt: 'Shell>'}}]}}]\n{more}\n")
    guest.says(1.0, said)
    guest.machine.tick(2.0)

    assert guest.end == end


def test_a_stage_may_ignore_and_fail_on_its_own() -> None:
    guest = Guest("""
        stages:
          - {stage: a, expect: next, ignore: [kernel-panic, odd]}
          - {stage: b, expect: never, fail: {text: oops, class: own, why: It says oops.}}
        fail: {text: odd, class: odd}
    """)
    guest.says(1.0, "Kernel panic - not syncing: x\r\nodd\r\noops\r\n")
    assert guest.machine.verdict is None
    guest.says(2.0, "next\r\noops\r\n")
    assert guest.machine.verdict
    assert (guest.end, guest.machine.verdict.why) == ("failed(own)", "It says oops.")


def test_the_earliest_line_counts() -> None:
    guest = Guest("stages: [{stage: a, expect: go}]")
    guest.says(1.0, "go\r\nKernel panic - not syncing: x\r\n")

    assert guest.end == "success"


def test_cancelling() -> None:
    guest = Guest(LOGIN)

    assert [type(one) for one in guest.machine.cancel(5.0)] == [Entered, Decided]
    assert (guest.end, guest.stays) == ("cancelled", ["boot 0-5.0 cancelled"])


def test_last_lines_of_all_uarts() -> None:
    guest = Guest("consoles: [0, 1]\nstages: [{stage: a, expect: x}]")
    guest.says(1.0, "one\r\n\r\n\x1b[1mtwo\x1b[0m\r\nthr", 0)
    guest.says(2.0, "1\r\n2\r\n", 1)

    assert guest.machine.last_lines() == ["one", "two", "1", "2", "thr"]
    assert guest.machine.last_lines(2) == ["2", "thr"]


def test_a_long_line_is_shown_in_part() -> None:
    guest = Guest("stages: [{stage: a, expect: needle}]")
    guest.says(1.0, "x" * 5000 + "needle" + "y" * 5000 + "\r\n")

    assert guest.machine.verdict
    assert len(guest.machine.verdict.evidence) == 506
    assert "needle" in guest.machine.verdict.evidence


def test_looking_on() -> None:
    machine = Machine(watch_only((0, 1)))
    assert machine.tick(0.0) == [Entered("watching", 0.0)]
    assert machine.feed(0, 0, b"login: ", 1.0) + machine.tick(1e9) == []
    assert machine.next_tick is None
    assert machine.tick(float("inf")) == []
    machine.feed(1, 0, b"Kernel panic - not syncing: x\n", 2.0)
    assert str(machine.verdict) == "failed(kernel-panic)"
