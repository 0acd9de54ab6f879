"""What was awaited, in words, and which of the lines that came is most like it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from vmprov.flows.grammar import Pattern

# Below this, two texts are not alike but for people who look for a reason (1 is equality).
_ALIKE = 0.75
# Of shorter texts, too much is alike.
_SHORTEST = 4
# Shorter parts than this are found anywhere.
_PART = 3
# Looking at more, or at longer ones, takes longer than a moment.
_LINES = 200
_WIDTH = 400

# What stands for a variable part of a line, and what only groups.
_VARIABLE = re.compile(r"\\[dDsSwWbBpPAzQE]|\[[^\]]*\]|\.|\(\?[^:)]*[:)]|[*+?^$()|]|\{[0-9,]*\}")


def in_words(pattern: Pattern) -> str:
    """A pattern for people, with the UART where it has to be a certain one.

    >>> in_words(Pattern(prompt="login:", console=1))
    "the prompt 'login:' on console 1"
    """
    if pattern.prompt is not None:
        words = f"the prompt {pattern.prompt!r}"
    else:
        words = repr(pattern.text) if pattern.text is not None else f"/{pattern.regex}/"
    return words if pattern.console is None else f"{words} on console {pattern.console}"


def nearest(patterns: Iterable[Pattern], lines: Sequence[str]) -> str:
    """That of ``lines`` which is most like one of ``patterns``, the last of several; "" where none is like any of them.

    >>> nearest([Pattern(prompt="login:")], ["Welcome", "vm-1 Login :", "bye"])
    'vm-1 Login :'
    """
    texts = {text for text in map(_plain, patterns) if len(text) >= _SHORTEST}
    found = [(_likeness(text, line), number, line) for text in texts for number, line in enumerate(lines[-_LINES:])]
    likeness, _, line = max(found, default=(0.0, 0, ""))
    return line if likeness >= _ALIKE else ""


def _plain(pattern: Pattern) -> str:
    text = pattern.text or pattern.prompt
    if text is None:
        text = re.sub(r"\\(.)", r"\1", _VARIABLE.sub(" ", pattern.regex or ""))
    return " ".join(text.lower().split())


def _likeness(text: str, line: str) -> float:
    """From 0 to 1: how much of ``text`` is in ``line``, or how like it the part of it is that is most like it."""
    line = " ".join(line[:_WIDTH].lower().split())
    if text in line:
        return 1.0
    matcher = SequenceMatcher(None, line, text, autojunk=False)
    if matcher.real_quick_ratio() == 0:
        return 0.0
    blocks = matcher.get_matching_blocks()
    covered = sum(block.size for block in blocks if block.size >= _PART) / len(text)
    best = max(blocks, key=lambda block: block.size)
    start = max(0, best.a - best.b)
    matcher.set_seq1(line[start : start + len(text) + 2])
    return min(0.99, max(covered, matcher.ratio()))
