"""Sizes and durations as people write them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgtp]i?b?|b)", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def parse_size(text: str) -> int:
    """Bytes: ``2GiB``, ``2G`` and ``2g`` count in 1024, ``2GB`` counts in 1000, as in SI and IEC 80000-13.

    Raises :class:`ValueError` saying what is wrong; a number without a unit is ambiguous and refused.

    >>> parse_size("2GiB"), parse_size("1.5G"), parse_size("2GB")
    (2147483648, 1610612736, 2000000000)
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, for example 512MiB or 2GiB")
    number, unit = float(found.group(1)), found.group(2).lower()
    if unit == "b":
        return int(number)
    base = 1000 if unit.endswith("b") and "i" not in unit else 1024
    return int(number * float(base ** _POWERS[unit[0]]))


def format_size(size: int) -> str:
    """The shortest exact or nearly exact way to write a number of bytes.

    >>> format_size(2 * 1024**3), format_size(1536 * 1024**2), format_size(10)
    ('2GiB', '1.5GiB', '10B')
    """
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f}".removesuffix(".0") + unit
    return f"{size}B"


def parse_duration(text: str) -> float:
    """Seconds: ``90``, ``90s``, ``5m``, ``1.5h``. Raises :class:`ValueError` saying what is wrong.

    >>> parse_duration("5m"), parse_duration("90")
    (300.0, 90.0)
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or float(found.group(1)) <= 0:
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 5m or 1h")
    return float(found.group(1)) * _SECONDS[found.group(2)]
