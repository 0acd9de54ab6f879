"""Sizes and durations as people write them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgtp]i?b?|b)", re.IGNORECASE | re.ASCII)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)(ms|s|m|h|d)?", re.ASCII)
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
    number, unit = found.group(1), found.group(2).lower()
    base = 1000 if unit.endswith("b") and "i" not in unit else 1024
    factor: int = 1 if unit == "b" else base ** _POWERS[unit[0]]
    return int(float(number) * factor) if "." in number else int(number) * factor


def format_size(size: int) -> str:
    """The shortest exact or nearly exact way to write a number of bytes.

    >>> format_size(2 * 1024**3), format_size(1536 * 1024**2), format_size(10)
    ('2GiB', '1.5GiB', '10B')
    """
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f}".removesuffix(".0") + unit
    return f"{size}B"


def exact_size(size: int) -> str:
    """The shortest way to write exactly this number of bytes.

    >>> exact_size(2 * 1024**3), exact_size(1536 * 1024**2), exact_size(2 * 10**9), exact_size(1025)
    ('2GiB', '1536MiB', '2GB', '1025B')
    """
    units = [(f"{letter.upper()}iB", 1024**power) for letter, power in reversed(_POWERS.items())]
    units += [(f"{letter.upper()}B", 1000**power) for letter, power in reversed(_POWERS.items())]
    written = [f"{size // factor}{unit}" for unit, factor in [*units, ("B", 1)] if size % factor == 0 and size]
    return min(written, key=len, default="0B")


def exact_duration(seconds: float) -> str:
    """The shortest way to write exactly this number of whole milliseconds, in seconds.

    >>> exact_duration(300.0), exact_duration(5400.0), exact_duration(0.25), exact_duration(86400.0)
    ('5m', '90m', '250ms', '1d')
    """
    thousandths = round(seconds * 1000)
    units = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
    return next(f"{thousandths // factor}{unit}" for unit, factor in units if thousandths % factor == 0)


# Calendars end, and so do what files and databases tell of times.
LONGEST_DURATION = 100 * 365 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds: ``90``, ``90s``, ``5m``, ``1.5h``; 100 years at most. Raises :class:`ValueError` saying what is wrong.

    >>> parse_duration("5m"), parse_duration("90")
    (300.0, 90.0)
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or float(found.group(1)) <= 0:
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 5m or 1h")
    seconds = float(found.group(1)) * _SECONDS[found.group(2)]
    if seconds > LONGEST_DURATION:
        raise ValueError(f"{text!r} is more than 100 years")
    return seconds
