"""Where the secrets of a flow come from: the environment, a file, or whoever sits at the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import SecretStr

from vmprov import settings
from vmprov.errors import SpecError
from vmprov.flows.grammar import Flow, Secret


class Secrets:
    """The secrets of a flow; a person is asked once for each, whatever the number of VMs."""

    def __init__(
        self, flow: Flow, *, ask: Callable[[str], str] | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._flow = flow
        self._ask = ask
        self._environ = environ
        self._answers: dict[str, SecretStr] = {}

    def of(self, vm: str) -> dict[str, SecretStr]:
        """Every secret for a VM, by name; people are asked last, when nothing else is missing.

        Raises :class:`SpecError` with all that are missing.
        """
        found: dict[str, SecretStr] = {}
        questions: dict[str, str] = {}
        problems: list[str] = []
        for name, secret in self._flow.secrets.items():
            value, why = _without_asking(secret, vm, self._environ)
            if value:
                found[name] = SecretStr(value)
            elif secret.ask and (self._ask or name in self._answers):
                questions[name] = secret.ask
            else:
                problems.append(f"flow {self._flow.flow} needs the secret {name!r}: {why}")
        if problems:
            raise SpecError("; ".join(problems), problems=problems)
        for name, question in questions.items():
            if name not in self._answers and self._ask:
                self._answers[name] = SecretStr(self._ask(question))
            found[name] = self._answers[name]
        return found


def _without_asking(secret: Secret, vm: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The value, or why there is none."""
    missing = []
    variable, file = ((text or "").replace("{vm}", vm) for text in (secret.env, secret.file))
    if variable:
        value, _ = settings.variable(variable, environ)
        if value:
            return value, ""
        missing.append(f"{variable} is not set")
    if file:
        try:
            lines = Path(file).expanduser().read_text().splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            missing.append(f"{file} cannot be read: {getattr(problem, 'strerror', None) or 'not text'}")
        else:
            if lines and lines[0]:
                return lines[0], ""
            missing.append(f"{file} is empty")
    if secret.ask:
        missing.append("nobody can be asked")
    return "", " and ".join(missing)
