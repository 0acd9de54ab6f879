r"""Where in a console's raw bytes firmware starts: at power-on and after each reset.

Worked out from recordings of QEMU 7.2 guests (``tests/transcripts/``), at power-on and after resets in several states:

SeaBIOS
    writes ``ESC c``, ``ESC [?7l``, ``ESC [2J`` and its banner. It writes these escapes again whenever a boot loader or
    a kernel sets a video mode, so the banner is the mark; it comes once, before any option ROM speaks (iPXE's too).
UEFI firmware made from EDK II (OVMF)
    clears the screen, writes ``ESC [=3h``, and clears it again for each setting of the text mode; and sets it twice
    with nothing in between when it connects a console. The shell's ``mode`` sets it once; boot manager, iPXE, GRUB,
    and a kernel that leaves boot services do not set it. Later versions of EDK II write ``ESC [8;rows;columns t`` in
    the place of ``ESC [=3h`` for other modes than the first (TerminalConOutSetMode in TerminalDxe/TerminalConOut.c).

A guest whose firmware is mute on this UART shows no start. With two UARTs, UEFI firmware starts on both, SeaBIOS on the
first: count by console.
"""

from __future__ import annotations

import re

_SEABIOS = rb"(?:\x1bc\x1b\[\?7l\x1b\[2J(?:\x0c)?(?:\x1b\[0m)?)?SeaBIOS \(version "
_CLEAR = rb"\x1b\[2J\x1b\[01;01H"
_UEFI = rb"(?:" + _CLEAR + rb"\x1b\[(?:=3h|8;[0-9]{3};[0-9]{3}t)" + _CLEAR + rb"){2}"

# Source of a regular expression over bytes, for Python's re and for RE2 (latin-1) alike.
FIRMWARE_START: bytes = _SEABIOS + b"|" + _UEFI

# The longest match. Who reads piece by piece looks at LONGEST_START - 1 bytes before each new piece as well, and counts
# the matches that end within the new piece.
LONGEST_START = 72

_START = re.compile(FIRMWARE_START)


def boot_starts(data: bytes, *, known: int = 0) -> list[int]:
    """The offsets in ``data`` at which firmware starts, but for starts that the first ``known`` bytes show already."""
    return [match.start() for match in _START.finditer(data) if match.end() > known]
