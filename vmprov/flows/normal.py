r"""Console bytes without what no person reads: escape sequences, control characters, broken UTF-8, erased characters.

Everything in here is a function of the bytes alone, and works on many lines at once: no expression reaches over the
end of a line, so a block of lines is cleaned to what its lines are cleaned to one by one.

Sources: ECMA-48 5.3 and 5.4 (control sequences and strings), ISO 2022 (character sets), console_codes(4) (the Linux
console's palette sequences and ``ESC [ [``, which have other ends), RFC 3629 (UTF-8).
"""

from __future__ import annotations

import re

# Which bytes a terminal takes no notice of, even amid a sequence, and those that are never a part of UTF-8. BEL stays
# for now, since it ends control strings.
_IGNORED = bytes(
    code for code in (*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF5, 0x100)) if code not in b"\a\b\t\n\r\x1b"
)
_RETURN_TO_LINE_FEED = bytes.maketrans(b"\r", b"\n")

# Excursions: the cursor is saved, terminals are asked for their size from the far corner, the cursor is restored.
_EXCURSION = re.compile(
    rb"""\x1b(?: 7 (?:\x1b\[[0-?]*[ -/]*[@-~])* \x1b8
               | \[s (?:\x1b\[[0-?]*[ -/]*[@-rtv-~])* \x1b\[u )""",
    re.VERBOSE,
)
# Colours and erased ends of lines, most of what there is.
_COMMON = re.compile(rb"\x1b\[[0-9;]*[mK]")
# To another place on the screen, or a cleared one: what follows does not stand beside what was before.
_JUMP = re.compile(rb"\x1b(?:\[[0-9;]*[HfdEFJ]|c)")
_SEQUENCE = re.compile(
    rb"""\x1b(?:
        \[\[ [^\r\n]?
      | \[ [0-?]* [ -/]* [@-~]?
      | \] (?:P[0-9A-Fa-f]{7} | R)
      | [\]PX^_] [^\x00-\x1f\x7f]* (?:\x07|\x1b\\)?
      | [ -/]* [0-~]?
    )""",
    re.VERBOSE,
)
# The end of what has arrived may be the beginning of a sequence or of a character.
_UNFINISHED = re.compile(
    rb"""(?:
        \x1b (?: \[ [0-?]* [ -/]* | [ -/]* | \[\[ )
      | \x1b [\]PX^_] [^\x00-\x1f\x7f]* \x1b?
      | [\xc2-\xdf] | [\xe0-\xef][\x80-\xbf]? | [\xf0-\xf4][\x80-\xbf]{0,2}
    )\Z""",
    re.VERBOSE,
)
_CONTROL_CHARACTER = re.compile(rb"\xc2[\x80-\x9f]")
_ERASING_LINE = re.compile(rb"(?<![^\n\v])[^\n\v\x08]*\x08[^\n\v]*")
# Kernel lines, with printk's caller and level as far as they are there, and systemd's status lines.
INTRUDER = (
    rb"(?:<[0-9]{1,3}>)?\[(?: {0,5}[0-9]{1,7}\.[0-9]{1,9}"
    rb"| {2}OK {2}|FAILED|DEPEND| INFO | WARN | TIME | SKIP |ASSERT|UNSUPP|[* ]{0,5}\*[* ]{0,5})\]"
)
_INTRUDER = re.compile(INTRUDER)
_BEGUN_INTRUDER = re.compile(
    rb"(?:<[0-9]{1,3}>)?\[(?: *[0-9.]*| {1,2}[OIWTS]?[A-Z]{0,3} {0,2}|[FDAU][A-Z]{0,5}|[* ]+)\Z"
)


def clean(raw: bytes, *, jump: bytes = b"\n") -> bytes:
    """The text in ``raw`` as UTF-8; carriage returns have become line feeds, and jumps of the cursor ``jump``.

    Each becomes one character. ``jump`` may be VT, which does not occur otherwise: the text is the same but for that.

    >>> clean(b"Pass\\x00wo\\x1b[0mrd: \\xff\\n10%\\r\\x1b[2J20%")
    b'Password: \\n10%\\n\\n20%'
    """
    text = raw.translate(_RETURN_TO_LINE_FEED, _IGNORED)
    if b"\x1b" in text:
        text = _COMMON.sub(b"", text)
    if b"\x1b" in text:
        text = _EXCURSION.sub(b"", text)
        text = _SEQUENCE.sub(b"", _JUMP.sub(jump, text))
    if b"\a" in text:
        text = text.replace(b"\a", b"")
    if not text.isascii():
        text = _CONTROL_CHARACTER.sub(b"", text.decode("utf-8", "ignore").encode())
    if b"\b" in text:
        text = _ERASING_LINE.sub(lambda line: _erase(line[0]), text)
    return text


def without_noise(raw: bytes) -> bytes:
    """``raw`` with its escape sequences, but without the bytes of which a terminal takes no notice."""
    return raw.translate(None, _IGNORED)


def unfinished(raw: bytes) -> int:
    """How many bytes at the end of ``raw`` may turn out to be the beginning of a sequence or of a character."""
    found = _UNFINISHED.search(raw, max(0, len(raw) - 256))
    return len(raw) - found.start() if found else 0


def intruders(line: bytes) -> list[int]:
    """Where in a clean line the kernel or systemd begin to speak.

    >>> intruders(b"Pass[   12.345678] eth0: up"), intruders(b"[  OK  ] Started X."), intruders(b"[sudo] password:")
    ([4], [0], [])
    """
    return [found.start() for found in _INTRUDER.finditer(line)] if b"[" in line else []


def begun_intruder(line: bytes) -> int:
    """Where in an unfinished clean line an intruder may just begin; its length where none does."""
    found = _BEGUN_INTRUDER.search(line, max(0, len(line) - 24))
    return found.start() if found else len(line)


def _erase(line: bytes) -> bytes:
    """A line as a screen shows it after backspaces, which move, and what is written over what was there."""
    shown: list[str] = []
    cursor = 0
    for part in re.split("(\b+)", line.decode()):
        if part.startswith("\b"):
            cursor = max(0, cursor - len(part))
        else:
            shown[cursor : cursor + len(part)] = part
            cursor += len(part)
    # "BS blank BS" erases.
    while len(shown) > cursor and shown[-1] == " ":
        shown.pop()
    return "".join(shown).encode()
