"""Secrets do not belong into a lab: what is in one is recorded, compared and shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from vmprov.documents import Problem, Steps, dotted
from vmprov.spec.compose import Branch

# Names of secrets, whatever stands before the word.
_NAME = re.compile(r"(?:pass(?:word|wd|phrase|code)|secret|token|api[-_]?key|private[-_]?key|credential)s?(?![a-z])")
_VALUE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@")
_ENVIRONMENT = re.compile(r"\$\{env:([^}:]*)")
_HINT = "let the flow ask for it (its secrets, from env: or file:), or put it into the file that seed.user_data names"


def names_a_secret(key: str) -> bool:
    """Whether a key is called as secrets are."""
    return _NAME.search(key.lower()) is not None


def holds_a_secret(text: str) -> bool:
    """Whether a text has a private key in it, or a URL with a password."""
    return _VALUE.search(text) is not None


def inline_secrets(tree: Branch, path: Steps = ()) -> Iterator[Problem]:
    """Secrets that are written down or would be put in; their values are not shown."""
    if isinstance(tree.content, dict):
        names_of_things = path in (("vms",), ("networks",)) or path[-1:] == ("dns",)
        for key, (place, inner) in tree.content.items():
            if names_a_secret(key) and not names_of_things:
                yield _problem(replace(inner, place=place), (*path, key), "this looks like a secret")
            else:
                yield from inline_secrets(inner, (*path, key))
    elif isinstance(tree.content, list):
        for index, inner in enumerate(tree.content):
            yield from inline_secrets(inner, (*path, index))
    elif isinstance(tree.content, str):
        if holds_a_secret(tree.content):
            yield _problem(tree, path, "there is a secret in this text")
        for name in _ENVIRONMENT.findall(tree.content):
            if names_a_secret(name):
                yield _problem(tree, path, f"${{env:{name[:60]}}} looks like a secret")


def _problem(tree: Branch, path: Steps, what: str) -> Problem:
    text = f"{dotted(path)}: {what}, and what is in a lab is recorded and shown; {_HINT}"
    return replace(tree.problem(text), path=path)
