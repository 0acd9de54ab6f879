"""Serial numbers as people give them: in a list, or in a file with one a line or a column of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vmprov.documents import MOST_PROBLEMS, read_bytes
from vmprov.errors import SpecError
from vmprov.spec.names import check_serial_number

# What the column may be called, in small letters and without anything else.
_HEADERS = frozenset(("serial", "serialnumber", "serialno", "sn"))
_SEPARATORS = ",;\t"
_FILE = "@"


def read_serial_numbers(given: str) -> tuple[str, ...]:
    """``A,B,C``, or those in a file: ``@FILE``.

    A file has one a line, or is a CSV file (separated by comma, semicolon or tab) whose first line calls a column
    ``serial``, ``serial_number``, ``serialNumber`` or ``SN``. Empty lines, and those that begin with ``#``, are passed
    over. Raises :class:`SpecError` with every problem and its place.

    >>> read_serial_numbers("AB001, AB002")
    ('AB001', 'AB002')
    """
    if given.startswith(_FILE):
        return _checked(_in_file(Path(given[1:]).expanduser()))
    words = [word.strip() for word in given.split(",")]
    if any("/" in word for word in words):
        raise SpecError(f"{given!r} looks like a file", hint=f"write {_FILE} before its name: {_FILE}{given}")
    return _checked((f"serial number {place}", word) for place, word in enumerate(words, start=1) if word)


def _checked(numbers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    problems: list[str] = []
    for place, number in numbers:
        try:
            check_serial_number(number)
        except ValueError as problem:
            problems.append(f"{place}: {problem}")
            continue
        if number in first:
            problems.append(f"{place}: {number} is there already, as {first[number]}")
        first.setdefault(number, place)
    if problems:
        raise SpecError("; ".join(problems[:MOST_PROBLEMS]), problems=problems)
    return tuple(first)


def _in_file(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SpecError(f"{path}: not UTF-8", hint="save the file as UTF-8") from problem
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise SpecError(f"{path}: there are no serial numbers in it")
    header = lines[0][1]
    separator = next((one for one in _SEPARATORS if one in header), "")
    if separator:
        yield from _in_column(path, lines, separator)
        return
    for number, line in lines[1:] if _is_header(header) else lines:
        yield f"{path}:{number}", line.strip("\"'")


def _in_column(path: Path, lines: list[tuple[int, str]], separator: str) -> Iterator[tuple[str, str]]:
    rows = list(csv.reader((line for _, line in lines), delimiter=separator, skipinitialspace=True))
    columns = [place for place, title in enumerate(rows[0]) if _is_header(title)]
    if len(columns) != 1:
        what = "none of its columns" if not columns else "more than one of its columns"
        raise SpecError(
            f"{path}:{lines[0][0]}: {what} is called serial or serial_number",
            hint="the first line names the columns; a file without columns has one serial number a line",
        )
    if len(rows) != len(lines):
        raise SpecError(f"{path}: a quote is not closed, or a line ends within quotes")
    for (number, _), row in zip(lines[1:], rows[1:], strict=True):
        yield f"{path}:{number}", row[columns[0]].strip() if columns[0] < len(row) else ""


def _is_header(title: str) -> bool:
    return re.sub(r"[^a-z]", "", title.lower()) in _HEADERS
