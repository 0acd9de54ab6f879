"""Taking secrets out of what is handed on: values that are known, private keys, and passwords in URLs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote
from xml.sax.saxutils import escape

MARK = b"***"
_LONGEST_KEY = 32 * 1024
# What a terminal may have put between two characters that were typed one after the other: a line break where the screen
# ended, a colour, a step back.
_GAP = rb"(?:\x1b\[[0-?]{0,16}[ -/]{0,4}[@-~]| ?\r\n?|\x08){0,3}"
_LONGEST_GAP = 3 * 24
_KEY = rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]{0,%d}?-----END [A-Z ]{0,40}PRIVATE KEY-----" % _LONGEST_KEY
_LOGIN = rb"(?<=://)[^/\s:@]{0,256}:[^/\s@]{1,256}(?=@)"
_GENERIC = re.compile(rb"%s|%s" % (_KEY, _LOGIN))


class Redactor:
    """Replaces secrets by ``***``, also where they stand quoted, escaped or torn by control sequences.

    ``count`` says how many were replaced so far.

    >>> Redactor(["s3cret"]).text("it was s3cret, see http://me:pw@proxy")
    'it was ***, see http://***@proxy'
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """``secrets``: values that must not be seen; empty ones are passed over."""
        self.count = 0
        known = {part for secret in secrets for part in (secret, *secret.splitlines()) if part.strip()}
        longest = max((len(_bytes(secret)) for secret in known), default=0)
        # Bytes that are held back, so that nothing that stands across two blocks is missed.
        self._keep = 2 * _LONGEST_KEY + longest * (_LONGEST_GAP + 6)
        self._patterns = [_GENERIC]
        if known:
            written = sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True)
            torn = [_GAP.join(re.escape(bytes([byte])) for byte in _bytes(secret)) for secret in known]
            self._patterns.insert(0, re.compile(b"|".join([*map(re.escape, written), *torn])))

    def text(self, text: str) -> str:
        """Text without secrets."""
        return b"".join(self.blocks([_bytes(text)])).decode("utf-8", "surrogateescape")

    def blocks(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Bytes that come in blocks, without secrets."""
        replaced: Iterable[bytes] = blocks
        for pattern in self._patterns:
            replaced = self._replaced(pattern, replaced)
        yield from replaced

    def _replaced(self, pattern: re.Pattern[bytes], blocks: Iterable[bytes]) -> Iterator[bytes]:
        held: list[bytes] = []
        size = 0
        for block in blocks:
            held.append(block)
            size += len(block)
            if size >= 2 * self._keep:
                done, rest = self._step(pattern, b"".join(held), size - self._keep)
                held, size = [rest], len(rest)
                yield done
        done, _ = self._step(pattern, b"".join(held), size)
        yield done

    def _step(self, pattern: re.Pattern[bytes], data: bytes, cut: int) -> tuple[bytes, bytes]:
        """What is done of ``data``, and the rest, which begins at ``cut`` or behind a secret that ends later."""
        done, place = [], 0
        for found in pattern.finditer(data):
            if found.start() >= cut:
                break
            done += [data[place : found.start()], MARK]
            place = found.end()
            self.count += 1
        end = max(cut, place)
        return b"".join([*done, data[place:end]]), data[end:]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _forms(secret: str) -> Iterator[bytes]:
    """How a secret may stand in the files of a report: as it is, in JSON, XML, Python, shell, or a URL."""
    quoting: list[Callable[[str], str]] = [
        str,
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        escape,
        lambda text: escape(text, {"'": "&apos;", '"': "&quot;"}),
        lambda text: repr(text)[1:-1],
        lambda text: json.dumps(repr(text)[1:-1])[1:-1],
        lambda text: shlex.quote(text).strip("'"),
        lambda text: quote(text, safe=""),
    ]
    for form in quoting:
        yield _bytes(form(secret))
