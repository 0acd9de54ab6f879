"""Where the orchestrator is and who asks: options win over the environment, that over the file ``vmprov.toml``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from vmprov.documents import MOST_PROBLEMS, Place, Problem, read_bytes, unknown
from vmprov.errors import SpecError
from vmprov.settings import variable

FILE = "vmprov.toml"
TABLE = "orchestrator"
PASSWORD = "EDGE_API_PASSWORD"
QUESTION = "Password of the orchestrator's API user {username}"
CLIENT_ID = "system-client"
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")
_SECRET_KEY = re.compile(r"pass(?!word_file\b)|secret|token(?!_url\b)", re.I)
_KEY = re.compile(r"""^[ \t]*(?:"([^"\n]+)"|'([^'\n]+)'|([A-Za-z0-9_-]+))[ \t]*[=.]""", re.M)

# Field -> variable. The names that earlier scripts used are in vmprov.settings.
VARIABLES = {
    "cluster": "EDGE_CLUSTER",
    "api_url": "EDGE_API_URL",
    "token_url": "EDGE_TOKEN_URL",
    "client_id": "EDGE_CLIENT_ID",
    "project": "EDGE_PROJECT",
    "username": "EDGE_API_USERNAME",
    "password_file": "EDGE_API_PASSWORD_FILE",
    "ca_file": "EDGE_CA_FILE",
    "connect_to": "EDGE_CONNECT_TO",
}


@dataclass(frozen=True)
class OrchestratorSettings:
    """Where an orchestrator is and who asks; the password is apart, see :func:`password_of`.

    ``cluster`` -- its domain, from which the two URLs follow where they are not given: ``https://api.CLUSTER`` and
    ``https://keycloak.CLUSTER/realms/master/protocol/openid-connect/token``.
    ``project``, ``username`` -- whose hosts, and who asks. ``client_id`` -- the client that Keycloak knows us as.
    ``password_file`` -- a file whose first line is the password, or ``None``.
    ``ca_file`` -- the CA certificates (PEM) with which it is verified; ``None``: those that the system trusts.
    ``connect_to`` -- an address (``ADDRESS`` or ``ADDRESS:PORT``) for all its names, for those that DNS does not know.
    """

    api_url: str
    token_url: str
    project: str
    username: str
    cluster: str = ""
    client_id: str = CLIENT_ID
    password_file: Path | None = None
    ca_file: Path | None = None
    connect_to: str = ""

    def to_json(self) -> dict[str, str]:
        """As text, to be written down; :meth:`from_json` reads it."""
        return {field.name: str(getattr(self, field.name) or "") for field in fields(self)}

    @classmethod
    def from_json(cls, written: Mapping[str, str]) -> OrchestratorSettings:
        """The settings that :meth:`to_json` wrote down."""
        return cls(**_typed(written))


def _typed(values: Mapping[str, str]) -> Any:
    known = {field.name: values.get(field.name, "") for field in fields(OrchestratorSettings)}
    paths = {name: _path(known[name]) if known[name] else None for name in ("password_file", "ca_file")}
    return {**known, "client_id": known["client_id"] or CLIENT_ID, **paths}


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


@dataclass(frozen=True)
class _Given:
    """A value and who gave it: an option, a variable, or a line of the file."""

    value: str
    source: str


def settings_file(home: Path, *, directory: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The one file that counts: VMPROV_CONFIG, else the current directory's, else the state directory's."""
    named = environ.get("VMPROV_CONFIG", "")
    if named:
        return Path(named).expanduser().absolute()
    places = ((directory or Path.cwd()) / FILE, home / FILE)
    return next((place for place in places if place.exists()), None)


def read_settings(
    options: Mapping[str, str] | None = None,
    *,
    home: Path,
    directory: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> OrchestratorSettings:
    """The settings of the orchestrator; an empty value counts as not given.

    ``options``: by field, from the command line. ``home``: the state directory. ``directory``: the current one.
    Raises :class:`SpecError` with every problem found, those of the CA file included.
    """
    problems: list[str] = []
    file = settings_file(home, directory=directory, environ=environ)
    given = _from_file(file, problems) if file else {}
    for field, name in VARIABLES.items():
        value, told = variable(name, environ)
        if value:
            given[field] = _Given(value, told)
    for field, value in (options or {}).items():
        if value:
            given[field] = _Given(value, f"--{field.replace('_', '-')}")
    problems += [f"{one.source}: {why}" for field, one in given.items() if (why := _wrong(field, one.value))]
    values = {field: one.value for field, one in given.items()}
    problems += _missing(values)
    if cluster := values.get("cluster"):
        values.setdefault("api_url", f"https://api.{cluster}")
        values.setdefault("token_url", f"https://keycloak.{cluster}/realms/master/protocol/openid-connect/token")
    if problems:
        raise SpecError("; ".join(problems[:MOST_PROBLEMS]), problems=problems)
    values["api_url"] = values["api_url"].rstrip("/")
    return OrchestratorSettings(**_typed(values))


def password_of(
    settings: OrchestratorSettings,
    *,
    ask: Callable[[str], str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> SecretStr:
    """The password: from the environment, the file, or whoever sits at the terminal, who is asked last.

    Call it once all else is known to be right. Raises :class:`SpecError` where there is none.
    """
    value, _ = variable(PASSWORD, environ)
    missing = [f"{PASSWORD} is not set"]
    if not value and settings.password_file:
        try:
            lines = settings.password_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            why = getattr(problem, "strerror", None) or "not text"
            raise SpecError(f"the password file {settings.password_file} cannot be read: {why}") from None
        value = lines[0] if lines else ""
        missing.append(f"{settings.password_file} is empty")
    if not value and ask:
        value = ask(QUESTION.format(username=settings.username))
    if not value:
        raise SpecError(
            f"there is no password for the orchestrator's API user {settings.username!r}: {' and '.join(missing)}",
            hint=f"set {PASSWORD}, or name a file in password_file",
        )
    return SecretStr(value)


def _missing(values: Mapping[str, str]) -> list[str]:
    found = []
    if not values.get("cluster") and not (values.get("api_url") and values.get("token_url")):
        found.append(_nothing_says("where the orchestrator is", "cluster"))
    if not values.get("project"):
        found.append(_nothing_says("which project", "project"))
    if not values.get("username"):
        found.append(_nothing_says("who asks the orchestrator", "username"))
    return found


def _nothing_says(what: str, field: str) -> str:
    return (
        f"nothing says {what}; give --{field.replace('_', '-')}, {VARIABLES[field]}, or {field} in [{TABLE}] of {FILE}"
    )


def _wrong(field: str, value: str) -> str:
    """What is the matter with a value; nothing where all is well."""
    if not value.isprintable():
        return f"{field} holds characters that cannot be printed"
    check = _CHECKS.get(field)
    return check(value) if check else ""


def _no_host_name(value: str) -> str:
    if "://" in value:
        return f"{value!r} is a URL; give the domain alone, or use api_url and token_url"
    return "" if _HOST_NAME.fullmatch(value) else f"{value!r} is not a domain name; for example kind.internal"


def _no_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"{value[:100]!r} is not a URL"
    if parts.username or parts.password:
        return "a URL with a user name or password in it is not allowed; use username and password_file"
    if parts.scheme == "http":
        return f"{value!r} is not encrypted; use https://"
    if parts.scheme != "https" or not host or parts.query or parts.fragment:
        return f"{value!r} is not a URL such as https://api.kind.internal"
    return ""


def _no_project(value: str) -> str:
    return "" if _PROJECT.fullmatch(value) else f"{value[:60]!r} is not a project's name"


def _no_address(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if not found or not 0 < int(found["port"] or 443) < 65536:
        return f"{value[:60]!r} is not an address; write ADDRESS or ADDRESS:PORT, IPv6 in brackets"
    return ""


def _no_ca(value: str) -> str:
    from vmprov.day0.https import trust

    try:
        trust(_path(value))
    except SpecError as problem:
        return str(problem)
    return ""


def _no_file(value: str) -> str:
    return "" if _path(value).is_file() else f"there is no file {value}"


_CHECKS: dict[str, Callable[[str], str]] = {
    "cluster": _no_host_name,
    "api_url": _no_url,
    "token_url": _no_url,
    "project": _no_project,
    "password_file": _no_file,
    "ca_file": _no_ca,
    "connect_to": _no_address,
}


def _from_file(file: Path, problems: list[str]) -> dict[str, _Given]:
    """The values in a file; adds to ``problems``."""
    try:
        text = read_bytes(file).decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError:
        problems.append(f"{file}: not UTF-8")
        return {}
    except tomllib.TOMLDecodeError as broken:
        problems.append(_not_toml(file, str(broken)))
        return {}
    except SpecError as problem:
        problems += problem.problems
        return {}
    table = document.get(TABLE, {})
    problems += [
        _told(file, text, (key,), _about_unknown("table" if isinstance(document[key], dict) else "key", key, (TABLE,)))
        for key in document
        if key != TABLE
    ]
    if not isinstance(table, dict):
        problems.append(_told(file, text, (TABLE,), f"must be a table, [{TABLE}]"))
        return {}
    found: dict[str, _Given] = {}
    for key, value in table.items():
        path = (TABLE, key)
        if key not in VARIABLES:
            problems.append(_told(file, text, path, _about_unknown("key", key, VARIABLES)))
        elif not isinstance(value, str):
            problems.append(_told(file, text, path, "must be text in quotes"))
        elif value:
            relative = key.endswith("_file")
            shown = str((file.parent / Path(value).expanduser()).absolute()) if relative else value
            found[key] = _Given(shown, _told(file, text, path, "").removesuffix(": "))
    return found


def _about_unknown(what: str, key: str, known: Any) -> str:
    if _SECRET_KEY.search(key):
        return (
            f"a password does not belong in this file; set {PASSWORD}, or name another file in password_file, "
            "and remove this"
        )
    text, hint = unknown(what, key, known)
    return f"{text}; {hint}"


def _told(file: Path, text: str, path: tuple[str, ...], what: str) -> str:
    """``file:line:column: what``, as far as the place can be found: tomllib does not tell."""
    return str(Problem(_place(text, path), f"{'.'.join(path)}: {what}", str(file)))


def _place(text: str, path: tuple[str, ...]) -> Place:
    start = 0
    header = re.search(rf"^[ \t]*\[[ \t]*[\"']?{re.escape(path[0])}[\"']?[ \t]*[\].]", text, re.M)
    if header:
        start = header.start()
        if len(path) == 1:
            return Place(text.count("\n", 0, start) + 1, 1)
    for found in _KEY.finditer(text, start):
        if next(group for group in found.groups() if group) == path[-1]:
            return Place(text.count("\n", 0, found.start()) + 1, 1)
    return Place(text.count("\n", 0, start) + 1, 1)


def _not_toml(file: Path, said: str) -> str:
    found = re.search(r" \(at line (\d+), column (\d+)\)$", said)
    if not found:
        return f"{file}: not valid TOML: {said}"
    words = said[: found.start()]
    return f"{file}:{found[1]}:{found[2]}: not valid TOML: {words[:1].lower()}{words[1:]}"
