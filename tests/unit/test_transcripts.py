"""The transcripts themselves, and what flows make of them however the bytes are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.transcripts import Chunk, Transcript, load, names
from vmprov.flows.grammar import Flow
from vmprov.flows.load import load_flow, parse_flow
from vmprov.flows.machine import Machine
from vmprov.flows.verdict import Verdict

# Longer than the longest transcript, shorter than what flows would wait.
LIMIT = 2400.0
TREE = Path(__file__).parent.parent / "transcripts"
LARGEST_FILE = 300_000
LARGEST_TREE = 3_000_000
# Transcripts of more bytes are not fed byte by byte.
SMALL = 12_000


class Expected(NamedTuple):
    """What comes out: the verdict, the stage in which it ended, and a part of the line that decided."""

    flow: str
    verdict: str
    stage: str
    evidence: str


EXPECTED = {
    "tiny-seabios": Expected("login", "success", "login", "tiny login:"),
    "tiny-ovmf": Expected("login", "success", "login", "tiny login:"),
    "debian-12-seabios-grub": Expected("login", "success", "login", "debian login:"),
    "debian-12-reset": Expected("login", "success", "login", "debian login:"),
    "debian-12-no-seed": Expected("login", "success", "login", "localhost login:"),
    "ovmf-no-boot": Expected("login", "failed(uefi-shell)", "bootloader", "Shell>"),
    "ovmf-shell": Expected("login", "failed(uefi-shell)", "bootloader", "Shell>"),
    "ovmf-boot-menu": Expected("login", "timeout(bootloader)", "bootloader", ""),
    "ovmf-pxe-fail": Expected("login", "failed(pxe-error)", "power-on", "PXE-E"),
    "ovmf-ipxe-fail": Expected(
        "login",
        "failed(ipxe-error)",
        "power-on",
        "Nothing to boot: No such file or directory (http://ipxe.org/2d03e18e)",
    ),
    "seabios-ipxe-fail": Expected(
        "login",
        "failed(ipxe-error)",
        "firmware",
        "Nothing to boot: No such file or directory (http://ipxe.org/2d03e13b)",
    ),
    "seabios-ipxe-timeout": Expected("login", "failed(ipxe-error)", "firmware", "ipxe.org/"),
    "ipxe-shell": Expected("login", "failed(ipxe-error)", "firmware", "Connection reset (http://ipxe.org/0f0a6039)"),
    "ovmf-http-boot": Expected("login", "success", "login", "tiny login:"),
    "ovmf-http-boot-404": Expected("login", "failed(http-boot-error)", "power-on", "Client Error: 404 Not Found"),
    "grub-rescue": Expected("login", "failed(grub-rescue)", "bootloader", "grub rescue>"),
    "grub-shell": Expected("login", "failed(grub-shell)", "bootloader", "grub>"),
    "grub-no-kernel": Expected("login", "failed(grub-no-kernel)", "bootloader", "you need to load the kernel first"),
    "kernel-panic-sysrq": Expected(
        "login", "failed(kernel-panic)", "login", "Kernel panic - not syncing: sysrq triggered crash"
    ),
    "kernel-panic-reboot": Expected(
        "login", "failed(kernel-panic)", "login", "Kernel panic - not syncing: sysrq triggered crash"
    ),
    "kernel-panic-no-root": Expected("login", "failed(kernel-panic)", "kernel", "Unable to mount root fs"),
    "initramfs-shell": Expected("login", "failed(initramfs-shell)", "login", "Gave up waiting for root file system"),
    "initramfs-mount-failed": Expected("login", "failed(mount-failed)", "login", "Structure needs cleaning"),
    "tiny-no-root": Expected("login", "timeout(login)", "login", ""),
    "oom-kill": Expected("login", "failed(out-of-memory)", "login", "Killed process"),
    "disk-full": Expected("login", "failed(disk-full)", "login", "No space left on device"),
    "poweroff": Expected("login", "timeout(login)", "login", ""),
    "reboot": Expected("login", "timeout(login)", "login", ""),
    "emergency-mode": Expected("login", "failed(emergency-mode)", "login", "You are in emergency mode"),
    "fsck-stop": Expected("login", "failed(fsck-stop)", "login", "File System Check on /dev/vdb"),
    "debian-installer": Expected("debian-installer", "failed(installer-question)", "kernel", "Choose the language"),
    "reboot-loop": Expected("login", "failed(reboot-loop)", "kernel", "SeaBIOS (version"),
    "torn-prompt": Expected("login", "success", "login", "debian login:"),
    "edge-io-success": Expected("edge-io", "success", "login", "edge-node login:"),
    "edge-mismatch": Expected("edge-io", "failed(secure-boot-mismatch)", "onboarding", "Secure Boot Status MISMATCH"),
    "edge-ipxe-gave-up": Expected("edge-io", "failed(ipxe-error)", "network", "https://ipxe.org/040ee119"),
    "edge-nio-success": Expected("edge-nio", "success", "login", "edge-node login:"),
    "edge-nio-fallback": Expected(
        "edge-nio", "failed(not-registered)", "onboarding", "Provide Username and password for the IDP"
    ),
}


# Somebody who logs in with a password.
PASSWORD_FLOW = """
flow: password
stages:
  - stage: login
    expect: {prompt: "login:", send: root}
  - stage: password
    expect: {prompt: "Password:", send: secret}
  - stage: shell
    expect: {prompt: "#"}
"""


def replay(transcript: Transcript, flow: Flow, cut: Callable[[list[Chunk]], Iterator[Chunk]]) -> Verdict:
    machine = Machine(flow, start=0.0, limit=LIMIT)
    offsets = dict.fromkeys(transcript.consoles, 0)
    for at, console, data in cut(transcript.chunks):
        machine.feed(console, offsets[console], data, at)
        offsets[console] += len(data)
    while machine.verdict is None:
        assert machine.next_tick is not None
        machine.tick(machine.next_tick)
    return machine.verdict


def recorded(chunks: list[Chunk]) -> Iterator[Chunk]:
    yield from chunks


def by_byte(chunks: list[Chunk]) -> Iterator[Chunk]:
    for at, console, data in chunks:
        for place in range(len(data)):
            yield at, console, data[place : place + 1]


def coarse(chunks: list[Chunk]) -> Iterator[Chunk]:
    """What one UART said within 50 ms, at once, at the end of them."""
    begun, at, console, data = 0.0, 0.0, 0, b""
    for when, where, piece in chunks:
        if data and (where != console or when - begun > 0.05):
            yield at, console, data
            data = b""
        if not data:
            begun = when
        at, console, data = when, where, data + piece
    yield at, console, data


@pytest.mark.parametrize("name", names())
def test_transcripts_are_whole(name: str) -> None:
    transcript = load(name)
    times = [at for at, _, _ in transcript.chunks]
    assert transcript.name == name
    assert transcript.about
    assert times == sorted(times)
    assert times[0] >= 0
    assert all(data for _, _, data in transcript.chunks)
    assert {console for _, console, _ in transcript.chunks} <= set(transcript.consoles)


def test_each_has_a_verdict() -> None:
    assert sorted(EXPECTED) == names()


def test_there_are_few_bytes_of_them() -> None:
    sizes = [path.stat().st_size for path in TREE.glob("*.transcript")]
    assert max(sizes) < LARGEST_FILE
    assert sum(sizes) < LARGEST_TREE


@pytest.mark.parametrize("name", EXPECTED)
def test_verdicts(name: str) -> None:
    expected = EXPECTED[name]
    transcript = load(name)
    flow = load_flow(expected.flow)
    verdict = replay(transcript, flow, recorded)
    assert (str(verdict), verdict.stage) == (expected.verdict, expected.stage)
    assert expected.evidence in verdict.evidence
    size = sum(len(data) for _, _, data in transcript.chunks)
    for cut in (coarse, by_byte) if size <= SMALL else (coarse,):
        again = replay(transcript, flow, cut)
        assert _same(again) == _same(verdict), cut.__name__


@pytest.mark.parametrize("cut", [recorded, coarse, by_byte])
def test_torn_prompts_are_seen(cut: Callable[[list[Chunk]], Iterator[Chunk]]) -> None:
    verdict = replay(load("torn-prompt"), parse_flow(PASSWORD_FLOW, "password.yaml"), cut)
    assert (str(verdict), verdict.evidence) == ("success", "root@debian:~# ")


def _same(verdict: Verdict) -> tuple[object, ...]:
    return str(verdict), verdict.stage, verdict.evidence, verdict.console, verdict.offset
