"""Where firmware starts, in what guests really sent."""

from __future__ import annotations

import re

import pytest
import re2

from tests.transcripts import load, names
from vmprov.console.boots import FIRMWARE_START, LONGEST_START, boot_starts

# The recordings whose firmware starts more than once on the first UART; in all others it does once.
STARTS = {
    "debian-12-reset": 2,
    "edge-io-success": 2,
    "edge-ipxe-gave-up": 6,
    "edge-nio-success": 2,
    "kernel-panic-reboot": 2,
    "ovmf-shell": 2,
    "reboot": 2,
    "reboot-loop": 5,
    "tiny-ovmf": 3,
}


def _latin1() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return options


@pytest.mark.parametrize("name", names())
def test_starts_are_counted(name: str) -> None:
    assert len(boot_starts(load(name).data())) == STARTS.get(name, 1)


@pytest.mark.parametrize("name", sorted(STARTS))
def test_the_first_start_is_the_first_byte(name: str) -> None:
    assert boot_starts(load(name).data())[0] == 0


def test_uefi_firmware_starts_on_both_consoles() -> None:
    recorded = load("edge-io-success")
    assert [len(boot_starts(recorded.data(console))) for console in recorded.consoles] == [2, 2]


@pytest.mark.parametrize("name", names())
def test_re2_finds_the_same(name: str) -> None:
    data = load(name).data()
    ours = [match.span() for match in re.finditer(FIRMWARE_START, data)]
    assert [match.span() for match in re2.compile(FIRMWARE_START, _latin1()).finditer(data)] == ours
    assert all(end - start <= LONGEST_START for start, end in ours)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("name", ["tiny-ovmf", "debian-12-reset", "reboot-loop"])
def test_reading_piece_by_piece_with_an_overlap_finds_the_same(name: str, size: int) -> None:
    data = load(name).data()
    ends = []
    for begin in range(0, len(data), size):
        overlap = max(0, begin - (LONGEST_START - 1))
        piece = data[overlap : begin + size]
        ends += [overlap + match.end() for match in re.finditer(FIRMWARE_START, piece) if overlap + match.end() > begin]
    assert ends == [match.end() for match in re.finditer(FIRMWARE_START, data)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H\x1b[2J\x1b[01;01HShell> ",
        b"\x1bc\x1b[?7l\x1b[2J\x1b[0mWelcome to GRUB!\r\n",
        b"[    0.000000] DMI: QEMU Standard PC (i440FX + PIIX, 1996), BIOS 1.16.2-debian-1.16.2-1 04/01/2014\r\n",
    ],
    ids=["mode-change", "video-mode", "kernel"],
)
def test_what_is_not_a_start(data: bytes) -> None:
    assert boot_starts(data) == []


def test_the_longest_start() -> None:
    mode = b"\x1b[2J\x1b[01;01H\x1b[8;031;100t\x1b[2J\x1b[01;01H"
    assert boot_starts(b"..." + mode * 2) == [3]
    assert len(mode * 2) == LONGEST_START
