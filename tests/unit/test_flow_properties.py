"""What must hold whatever consoles send: cutting, noise and intruders never change what comes out."""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmprov.flows import matcher
from vmprov.flows.grammar import Flow
from vmprov.flows.load import parse_flow
from vmprov.flows.machine import Action, Machine, watch_only
from vmprov.flows.matcher import LONGEST_SEGMENT
from vmprov.flows.normal import clean

FLOW = parse_flow(
    r"""
    flow: dialogue
    consoles: [0, 1]
    limit: 100
    stages:
      - stage: firmware
        optional: true
        expect: "SeaBIOS (version"
      - stage: kernel
        expect: {regex: '^\[ +[\d.]+\] Linux version \d'}
      - stage: units
        optional: true
        expect: {regex: 'Reached target .*Login'}
      - stage: banner
        expect: "Debian GNU/Linux 12 häst"
      - stage: user
        expect: {prompt: "login:", send: root}
        nudge: 20
      - stage: password
        limit: 30
        expect: {prompt: "Password:", send: {secret: password}}
      - stage: shell
        expect: {prompt: "#"}
    recover:
      - {name: again, text: "Login incorrect", next: user, budget: 1}
    secrets:
      password: {ask: Password}
    """,
    "dialogue.yaml",
)

# One second lies between two of these.
DIALOGUES = {
    "success": [
        b"SeaBIOS (version 1.16.2)\r\n\r\nBooting from Hard Disk...\r\n",
        b"[    0.000000] Linux version 6.1.0 (gcc)\r\n[    1.000000] eth0: up\r\n",
        b"[  OK  ] Reached target Login Prompts.\r\n  10%\r  20%\r 100%\r\n",
        "\r\nDebian GNU/Linux 12 häst ttyS0\r\n\r\nhaest login: ".encode(),
        b"root\r\nPassword: ",
        b"\r\nLogin incorrect\r\n\r\nhaest login: ",
        b"root\r\nPassword: ",
        b"\r\nroot@haest:~# ",
    ],
    "failed(kernel-panic)": [
        b"[    0.000000] Linux version 6.1.0 (gcc)\r\n",
        b"Loading, please wait...\r\n[    3.000000] Kernel panic - not syncing: VFS\r\n",
        b"[    3.100000] CPU: 0\r\n",
    ],
    "failed(again)": [
        b"[    0.000000] Linux version 6.1.0 (gcc)\r\n",
        "Debian GNU/Linux 12 häst ttyS0\r\n\r\nhaest login: ".encode(),
        b"root\r\nPassword: ",
        b"\r\nLogin incorrect\r\nhaest login: ",
        b"root\r\nPassword: ",
        b"\r\nLogin incorrect\r\n",
    ],
    "failed(initramfs-shell)": [b"[    0.000000] Linux version 6.1.0 (gcc)\r\n", b"BusyBox v1.35\r\n\r\n(initramfs) "],
    "timeout(units)": [b"[    0.000000] Linux version 6.1.0 (gcc)\r\nfoo\r\n", b"bar log", b"in: "],
    "failed(reboot-loop)": [b"SeaBIOS (version 1.16.2)\r\nBooting from Hard Disk...\r\n"] * 5,
}

INVISIBLE = [
    b"\x00", b"\x07", b"\x0e", b"\x7f", b"\x1b[0m", b"\x1b[1;31m", b"\x1b[K", b"\x1b[?25l", b"\x1b[?2004h", b"\x1b[6n",
    b"\x1b(B", b"\x1b)0", b"\x1b=", b"\x1b]0;a title\x07", b"\x1b]8;;http://x\x1b\\", b"\x1bP1$r0m\x1b\\",
    b"\x1b]P1a0b0c0", b"\x1b7\x1b[r\x1b[999;999H\x1b[6n\x1b8",
]  # fmt: skip
INTRUDERS = [
    b"[   12.345678] random: crng init done\r\n",
    b"[   12.345678][    T1] eth0: link becomes ready\r\n",
    b"<6>[   12.345678] usb 1-1: new device\r\n",
    b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mgetty@tty1.service\x1b[0m.\r\n",
    b"[\x1b[0;1;31mFAILED\x1b[0m] Failed to start X.\r\n",
    b"[  *** ] A start job is running (3s / no limit)\r\n",
]

Burst = tuple[float, int, bytes]


class Result(NamedTuple):
    actions: list[Action]
    machine: Machine

    @property
    def essence(self) -> tuple[object, ...]:
        """What noise never changes."""
        verdict = self.machine.verdict
        assert verdict is not None
        stays = [(stay.stage, stay.outcome, stay.boot) for stay in self.machine.timeline]
        return str(verdict), verdict.stage, verdict.evidence, verdict.console, stays

    @property
    def all(self) -> tuple[object, ...]:
        """What cutting never changes."""
        return self.actions, self.machine.timeline, self.machine.last_lines(), self.machine.boot


def run(bursts: list[Burst], flow: Flow = FLOW) -> Result:
    machine = Machine(flow)
    actions: list[Action] = []
    offsets = {0: 0, 1: 0}
    for at, console, data in bursts:
        actions += machine.feed(console, offsets[console], data, at)
        offsets[console] += len(data)
    actions += machine.tick(1000.0)
    return Result(actions, machine)


def bursts(name: str, console: int = 0) -> list[Burst]:
    return [(float(number), console, data) for number, data in enumerate(DIALOGUES[name], 1)]


def places(data: bytes) -> list[int]:
    """Where something can be put between two characters."""
    return [place for place in range(len(data) + 1) if place == len(data) or data[place] & 0xC0 != 0x80]


@st.composite
def noisy(draw: st.DrawFn, noise: list[bytes], most: int, *, inside: bool = False) -> tuple[str, list[Burst]]:
    name = draw(st.sampled_from(sorted(DIALOGUES)))
    made = []
    for at, console, data in bursts(name):
        free = range(len(data) + 1) if inside else places(data)
        for place in sorted(draw(st.lists(st.sampled_from(free), max_size=most)), reverse=True):
            data = data[:place] + draw(st.sampled_from(noise)) + data[place:]
        made.append((at, console, data))
    return name, made


@st.composite
def cut(draw: st.DrawFn, whole: list[Burst]) -> list[Burst]:
    """The same bytes at the same times in other pieces."""
    made = []
    for at, console, data in whole:
        if draw(st.booleans()):
            marks = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
        else:
            marks = list(range(0, len(data), draw(st.integers(1, 4))))
        made += [(at, console, data[a:b]) for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]
    return made


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_dialogues_end_as_they_say(name: str) -> None:
    for console in (0, 1):
        assert str(run(bursts(name, console)).machine.verdict) == name


@settings(max_examples=80)
@given(st.data())
def test_cutting_changes_nothing(data: st.DataObject) -> None:
    _, whole = data.draw(
        noisy(INVISIBLE + INTRUDERS + [b"\r", b"\n", b"\xc3", b"\x1b[", b"\x1b[2J", b"["], 6, inside=True)
    )

    assert run(data.draw(cut(whole))).all == run(whole).all


@settings(max_examples=80)
@given(noisy(INVISIBLE, 12, inside=True))
def test_invisible_bytes_change_nothing(given_: tuple[str, list[Burst]]) -> None:
    name, noise = given_

    assert run(noise).essence == run(bursts(name)).essence


@settings(max_examples=120)
@given(noisy(INTRUDERS, 3))
def test_intruders_change_nothing(given_: tuple[str, list[Burst]]) -> None:
    name, noise = given_

    assert run(noise).essence == run(bursts(name)).essence


@settings(max_examples=80)
@given(noisy([b"\xff", b"\xfe", b"\x80\x80", b"x\b \b"], 8))
def test_broken_and_erased_characters_change_nothing(given_: tuple[str, list[Burst]]) -> None:
    name, noise = given_

    assert run(noise).essence == run(bursts(name)).essence


@settings(max_examples=50)
@given(st.data())
def test_a_clock_that_steps_back_changes_nothing(data: st.DataObject) -> None:
    whole = bursts("success")
    back = data.draw(st.lists(st.floats(0, 50), min_size=len(whole), max_size=len(whole)))
    stepped = []
    for (at, console, piece), step in zip(whole, back, strict=True):
        stepped += [(at, console, piece[:5]), (at - step, console, piece[5:])]

    assert run(stepped).all == run(whole).all


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=300)), max_size=20), st.data())
def test_garbage_is_only_garbage(pieces: list[tuple[int, bytes]], data: st.DataObject) -> None:
    whole = [(float(number), console, piece) for number, (console, piece) in enumerate(pieces)]

    assert run(data.draw(cut(whole))).all == run(whole).all


@given(st.binary(max_size=200))
def test_lines_are_cleaned_one_by_one_as_in_blocks(raw: bytes) -> None:
    assert clean(raw).split(b"\n") == [
        line for segment in raw.replace(b"\r", b"\n").split(b"\n") for line in clean(segment).split(b"\n")
    ]


@settings(max_examples=20)
@given(st.integers(0, 300_000), st.integers(1000, 200_000))
def test_long_lines_are_searched_too_and_alike_however_cut(place: int, size: int) -> None:
    data = b"x" * place + b"Kernel panic - not syncing" + b"y" * (300_000 - place) + b"\r\n"
    found = []
    for step in (len(data), size):
        machine = Machine(watch_only())
        for start in range(0, len(data), step):
            machine.feed(0, start, data[start : start + step], 1.0)
        found.append(machine.verdict)

    assert found[0] == found[1]
    assert found[0] is not None
    assert "Kernel panic - not syncing" in found[0].evidence


@pytest.mark.parametrize(("block", "part"), [(1, 1), (24, 8), (100, 10)])
def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int, part: int) -> None:
    filler = b"".join(b"[    1.%06d] line\r\n\x1b[1mother\x1b[0m li[  OK  ] X.\r\nne\r\n" % n for n in range(900))
    whole = [(at, console, filler + data) for at, console, data in bursts("success")]
    expected = run(whole).all
    monkeypatch.setattr(matcher, "_BLOCK", block)
    monkeypatch.setattr(matcher, "_PART", part)

    assert run(whole).all == expected


def test_memory_is_bounded() -> None:
    machine = Machine(watch_only())
    machine.feed(0, 0, b"warm up\r\n", 0.0)
    piece = b"0123456789" * 20_000
    tracemalloc.start()
    for number in range(50):
        machine.feed(0, 9 + number * len(piece), piece, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 20 * LONGEST_SEGMENT
