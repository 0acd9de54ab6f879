"""What all parts of the server share: the inventory, the users, the tokens, and how a request is answered."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from .inventory import Inventory, Refused
from .tokens import BadToken, Claims, Tokens

# What is left of a connection that nobody answers on.
FOR_EVER = 24 * 3600.0


@dataclass(frozen=True)
class User:
    """Somebody who may log in; ``roles``: ``onboarding`` (edge nodes), ``project`` (the API)."""

    name: str
    password: str
    roles: tuple[str, ...]


@dataclass
class Service:
    """See the module. ``files``: what nodes boot; ``behind_proxy``: files are sent by the proxy in front of us."""

    inventory: Inventory
    tokens: Tokens
    users: dict[str, User]
    project: str
    lifetime: float
    files: Path
    tls: Path
    behind_proxy: bool = True

    def login(self, name: str, password: str) -> User | None:
        """The user, if that is the password."""
        user = self.users.get(name)
        if user is None or not hmac.compare_digest(user.password.encode(), password.encode()):
            return None
        return user

    def claims(self, request: Request, kind: str) -> Claims:
        """Whose token a request carries; raises :class:`Refused` (401)."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(401, "no bearer token")
        try:
            return self.tokens.read(token, kind)
        except BadToken as problem:
            raise Refused(401, str(problem)) from problem

    async def admit(self, request: Request) -> None:
        """Let a request to the API in, unless it lacks a token or role, or a fault turns it down."""
        faults = self.inventory.faults
        slow = faults.find("api-slow")
        if slow is not None:
            await asyncio.sleep(slow.number)
        for name, status, why in (
            ("api-401", 401, "the token is not valid"),
            ("api-403", 403, "the user lacks the role that this needs"),
            ("api-500", 500, "internal error"),
        ):
            if faults.find(name) is not None:
                raise Refused(status, why)
        claims = self.claims(request, "Bearer")
        if "project" not in claims.roles:
            raise Refused(403, f"{claims.subject} has no role in a project")
        project = request.path_params.get("project", self.project)
        if project != self.project:
            raise Refused(404, f"no project {project}")

    def reply(self, document: Any, status: int = 200) -> Response:
        """An answer of the API, unless a fault spoils it."""
        faults = self.inventory.faults
        if faults.find("api-not-json") is not None:
            return HTMLResponse("<html><body><h1>Welcome to the proxy</h1></body></html>")
        if faults.find("api-null") is not None:
            document = _without_strings(document)
        return JSONResponse(document, status)


def _without_strings(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_strings(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_without_strings(value) for value in document]
    return None if isinstance(document, str) else document
