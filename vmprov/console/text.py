"""From the bytes that a console sends to the lines that a person would read."""

from __future__ import annotations

import codecs
import re

# Characters after which an unfinished line is cut.
LONGEST_LINE = 64 * 1024
# Characters after which an unfinished escape sequence is no longer believed to be one.
_LONGEST_SEQUENCE = 4096

# ECMA-48 5.3 and 5.4, ISO 2022 for the charset selects, and the Linux console's own palette sequences
# (console_codes(4)), which are OSCs without an end. A string sequence ends at the latest at a control character:
# a guest that is reset in the middle of one must not swallow everything that follows.
_ESCAPE = re.compile(
    r"""\x1b(?:
        \[ (?P<csi>[0-?]*[ -/]*[@-~])
      | \] (?:P[0-9A-Fa-f]{7} | R)
      | [\]PX^_] [^\x00-\x1f\x7f]* (?:\x07|\x1b\\)?
      | [ -/]+ [0-~]
      | (?P<single>[0-~])
    )""",
    re.VERBOSE,
)
# What may still become one of the above when more arrives.
_UNFINISHED = re.compile(
    r"""\x1b(?:
        \[ [0-?]*[ -/]*
      | (?! \] (?:P[0-9A-Fa-f]{7} | R)) [\]PX^_] [^\x00-\x1f\x7f]* \x1b?
      | [ -/]*
    )\Z""",
    re.VERBOSE,
)
# Kept are tab, line feed, and the two that move within the line: backspace and carriage return.
_CONTROLS = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Stripper:
    """Decodes UTF-8 and removes escape sequences and control characters, whatever the chunking.

    A jump of the cursor to another place on the screen (firmware set-up, boot menus) becomes a line feed where
    it would otherwise glue together two texts that do not stand side by side.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._in_line = False
        self._jumped = False

    def feed(self, data: bytes) -> str:
        """The text in ``data``; what may be the start of a sequence is held back until more arrives."""
        return self._strip(self._held + self._decoder.decode(data))

    @property
    def at_start(self) -> bool:
        """Whether nothing is held back, and the cursor stands where it is expected."""
        return not self._held and not self._jumped and not self._in_line and not self._decoder.getstate()[0]

    def finish(self) -> str:
        """What was held back, as far as it is text; nothing may be fed after this."""
        return self._strip(self._held + self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        self._held = ""
        out: list[str] = []
        done = 0
        while (start := text.find("\x1b", done)) >= 0:
            out.append(self._plain(text[done:start]))
            unfinished = _UNFINISHED.match(text, start)
            if unfinished and len(text) - start <= _LONGEST_SEQUENCE:
                self._held = text[start:]
                return "".join(out)
            sequence = _ESCAPE.match(text, start)
            if sequence:
                self._move(sequence)
            done = sequence.end() if sequence else start + 1
        out.append(self._plain(text[done:]))
        return "".join(out)

    def _move(self, sequence: re.Match[str]) -> None:
        final = (sequence["csi"] or "")[-1:]
        if final in ("H", "f"):
            self._jumped = self._in_line
        elif final == "u" or sequence["single"] == "8":  # back to where it was before the jump
            self._jumped = False

    def _plain(self, text: str) -> str:
        text = _CONTROLS.sub("", text)
        if not text:
            return ""
        if self._jumped:
            self._jumped = False
            if text[0] not in "\r\n":
                text = "\n" + text
        self._in_line = text[-1] != "\n"
        return text


class _Row:
    """The unfinished line as a screen would show it."""

    def __init__(self) -> None:
        # Parts are joined late: a long line that arrives byte by byte must not be copied for every byte.
        self._parts: list[str] = []
        self._width = 0
        self._cursor = 0
        self._returned = False
        self._backed = False

    def write(self, text: str) -> None:
        if "\r" not in text and "\b" not in text:
            self._put(text)
            return
        for token in re.split(r"([\r\b])", text):
            if token == "\r":
                self._returned = True
                self._cursor = 0
            elif token == "\b":
                self._backed = True
                self._cursor = max(0, self._cursor - 1)
            else:
                self._put(token)

    def _put(self, text: str) -> None:
        if not text:
            return
        if self._returned:  # a repaint replaces the whole line, however short it is
            self._parts, self._width = [], 0
            self._backed = False
        if self._cursor == self._width:
            self._parts.append(text)
        else:
            shown = "".join(self._parts)
            end = self._cursor + len(text)
            self._parts = [shown[: self._cursor] + text + shown[end:]]
        self._cursor += len(text)
        self._width = max(self._width, self._cursor)
        self._returned = False

    @property
    def width(self) -> int:
        return self._width

    @property
    def text(self) -> str:
        shown = "".join(self._parts)
        self._parts = [shown]
        if self._backed and not self._returned:  # "\b \b" erases
            return shown[: self._cursor] + shown[self._cursor :].rstrip(" ")
        return shown


class LineReader:
    """Makes lines of a console's bytes as they arrive, in bounded memory.

    A carriage return repaints the line: of ``"10%\\r20%\\n"`` remains ``20%``.

    >>> reader = LineReader()
    >>> reader.feed(b"one\\r\\nvm-1 lo"), reader.pending
    (['one'], 'vm-1 lo')
    """

    def __init__(self, *, longest: int = LONGEST_LINE) -> None:
        """``longest``: characters after which a line without an end is cut."""
        self._longest = longest
        self._stripper = Stripper()
        self._row = _Row()

    def feed(self, data: bytes) -> list[str]:
        """Every line that ``data`` completes, cleaned and without its end."""
        return self._take(self._stripper.feed(data))

    @property
    def at_start(self) -> bool:
        """Whether nothing of a line has arrived."""
        return not self._row.width and self._stripper.at_start

    @property
    def pending(self) -> str:
        """The line that has no end yet, cleaned: a prompt, for example."""
        return self._row.text

    def finish(self) -> list[str]:
        """Take what was held back as the start of a sequence; nothing may be fed after this."""
        return self._take(self._stripper.finish())

    def _take(self, text: str) -> list[str]:
        lines: list[str] = []
        start = 0
        while start < len(text):
            if self._row.width >= self._longest and text[start] not in "\r\n\b":
                lines.append(self._row.text)
                self._row = _Row()
            end = text.find("\n", start)
            # However a piece repaints the row, it never takes it over the limit.
            room = max(1, self._longest - self._row.width)
            stop = min(end if end >= 0 else len(text), start + room)
            self._row.write(text[start:stop])
            start = stop
            if stop == end:
                lines.append(self._row.text)
                self._row = _Row()
                start += 1
        return lines


def clean(data: bytes) -> str:
    """All of ``data`` as text: no escape sequences, no control characters but tabs, repaints collapsed.

    >>> clean(b"\\x1b[1;32mok\\x1b[0m\\r\\n10%\\r20%\\r\\n")
    'ok\\n20%\\n'
    """
    reader = LineReader(longest=len(data) + 1)
    lines = reader.feed(data) + reader.finish()
    return "\n".join([*lines, reader.pending])
