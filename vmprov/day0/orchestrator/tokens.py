"""Tokens as Keycloak gives them: signed, with an end, for a user or a node."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any


class BadToken(ValueError):
    """The token was not issued here, or has expired."""


@dataclass(frozen=True)
class Claims:
    """Who a token is for: a user with roles, or a node (``serial``)."""

    subject: str
    kind: str
    roles: tuple[str, ...] = ()


class Tokens:
    """Issues tokens and reads them again."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def issue(self, claims: Claims, lifetime: float) -> str:
        """A token that is good for so many seconds."""
        now = time.time()
        body = {
            "sub": claims.subject, "typ": claims.kind, "iat": int(now), "exp": now + lifetime,
            "realm_access": {"roles": list(claims.roles)},
        }  # fmt: skip
        signed = f"{_pack({'alg': 'HS256', 'typ': 'JWT'})}.{_pack(body)}"
        return f"{signed}.{self._signature(signed)}"

    def read(self, token: str, kind: str) -> Claims:
        """Whom it is for; raises :class:`BadToken`."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise BadToken("not a token of this orchestrator")
        body = _unpack(signed.partition(".")[2])
        if body["typ"] != kind:
            raise BadToken(f"a {body['typ']} token in place of a {kind} token")
        if body["exp"] < time.time():
            raise BadToken("the token has expired")
        return Claims(body["sub"], body["typ"], tuple(body["realm_access"]["roles"]))

    def _signature(self, signed: str) -> str:
        return _text(hmac.new(self._key, signed.encode(), hashlib.sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _pack(document: dict[str, Any]) -> str:
    return _text(json.dumps(document, separators=(",", ":")).encode())


def _unpack(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return document
