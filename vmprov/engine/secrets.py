"""Where the secrets of a flow come from: the environment, a file, or whoever sits at the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import SecretStr

from vmprov.errors import SpecError
from vmprov.flows.grammar import Flow, Secret


def resolve(
    flow: Flow, *, ask: Callable[[str], str] | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, SecretStr]:
    """Every secret of a flow by name; people are asked last, when nothing else is missing.

    Raises :class:`SpecError` with all that are missing.
    """
    found: dict[str, SecretStr] = {}
    questions: dict[str, str] = {}
    problems: list[str] = []
    for name, secret in flow.secrets.items():
        value, why = _without_asking(secret, environ)
        if value:
            found[name] = SecretStr(value)
        elif secret.ask and ask:
            questions[name] = secret.ask
        else:
            problems.append(f"flow {flow.flow} needs the secret {name!r}: {why}")
    if problems:
        raise SpecError("; ".join(problems), problems=problems)
    for name, question in questions.items():
        assert ask is not None
        found[name] = SecretStr(ask(question))
    return found


def _without_asking(secret: Secret, environ: Mapping[str, str]) -> tuple[str, str]:
    """The value, or why there is none."""
    missing = []
    if secret.env:
        if value := environ.get(secret.env, ""):
            return value, ""
        missing.append(f"{secret.env} is not set")
    if secret.file:
        try:
            lines = Path(secret.file).expanduser().read_text().splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            missing.append(f"{secret.file} cannot be read: {getattr(problem, 'strerror', None) or 'not text'}")
        else:
            if lines and lines[0]:
                return lines[0], ""
            missing.append(f"{secret.file} is empty")
    if secret.ask:
        missing.append("nobody can be asked")
    return "", " and ".join(missing)
