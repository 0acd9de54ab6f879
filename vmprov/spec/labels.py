"""Labels: key and value, by which VMs are told apart and chosen.

>>> labels = {"role": "edge", "env": "test"}
>>> [Selector.parse(text).matches(labels) for text in ("role=edge", "role=edge,env!=test", "!zone", "zone!=a")]
[True, False, True, True]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vmprov.spec.secrecy import names_a_secret

MOST_LABELS = 50
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_REQUIREMENT = re.compile(r"(?P<absent>!?)(?P<key>[^=!]*)(?P<sign>!=|==?)?(?P<value>.*)", re.S)


def check_label(key: str) -> str:
    """A label's key, or :class:`ValueError`."""
    if not _LABEL.fullmatch(key):
        raise ValueError(f"label {key[:60]!r} is not allowed; use at most 63 letters, digits, '.', '_', '-' and '/'")
    if names_a_secret(key):
        raise ValueError(f"label {key!r} looks like a secret, and labels are shown")
    return key


def check_value(value: str) -> str:
    """A label's value, which may be empty, or :class:`ValueError`."""
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"{value[:60]!r} is not allowed as a label's value; use at most 63 letters, digits, '.', '_' and '-'"
        )
    return value


def parse_label(text: str) -> tuple[str, str]:
    """``key=value``, or :class:`ValueError`.

    >>> parse_label("role=edge")
    ('role', 'edge')
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text[:60]!r} is not KEY=VALUE")
    return check_label(key), check_value(value)


def parse_changes(texts: Iterable[str]) -> dict[str, str | None]:
    """Changes of labels: ``key=value`` sets one, ``key-`` (``None``) takes it away; else :class:`ValueError`.

    >>> parse_changes(["role=edge", "env-"])
    {'role': 'edge', 'env': None}
    """
    changes: dict[str, str | None] = {}
    for text in texts:
        if "=" not in text and not text.endswith("-"):
            raise ValueError(f"{text[:60]!r} is neither KEY=VALUE nor KEY-")
        key, value = parse_label(text) if "=" in text else (check_label(text.removesuffix("-")), None)
        if key in changes:
            raise ValueError(f"label {key!r} is changed twice")
        changes[key] = value
    return changes


@dataclass(frozen=True)
class _Requirement:
    """What a label must be: one of ``=``, ``!=``, there (``+``), and not there (``-``)."""

    key: str
    sign: str
    value: str = ""

    def holds(self, labels: Mapping[str, str]) -> bool:
        there = labels.get(self.key)
        if self.sign in "+-":
            return (there is not None) == (self.sign == "+")
        return (there == self.value) == (self.sign == "=")


@dataclass(frozen=True)
class Selector:
    """Which VMs are meant: those of which every requirement holds. Its text is what was parsed."""

    text: str
    requirements: tuple[_Requirement, ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """``key=value``, ``key!=value``, ``key`` (it has one) and ``!key`` (it has none), separated by commas.

        VMs without the label pass ``key!=value``. Raises :class:`ValueError` saying what is wrong.
        """
        return cls(text, tuple(_requirement(part.strip()) for part in text.split(",")))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a VM with these labels is meant."""
        return all(requirement.holds(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return self.text


def _requirement(text: str) -> _Requirement:
    found = _REQUIREMENT.fullmatch(text)
    if not text or found is None or (found["absent"] and found["sign"]) or (not found["sign"] and found["value"]):
        raise ValueError(f"{text[:60]!r} chooses no VMs; write for example role=edge,env!=test")
    key, sign = check_label(found["key"].strip()), found["sign"]
    if not sign:
        return _Requirement(key, "-" if found["absent"] else "+")
    return _Requirement(key, "!=" if sign == "!=" else "=", check_value(found["value"].strip()))
