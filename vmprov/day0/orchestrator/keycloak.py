"""The identity provider: tokens for user name and password, and for refresh tokens."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from .service import Service, User
from .tokens import BadToken, Claims

CLIENT = "system-client"
# Which node asks; a header of ours, so that logins can be refused one node at a time.
SERIAL_HEADER = "x-day0-serial"
_REFRESH_LIFETIME = 1800.0


def routes(service: Service) -> APIRouter:
    """``/realms/...``."""
    router = APIRouter()

    @router.post("/realms/master/protocol/openid-connect/token")
    async def token(request: Request) -> JSONResponse:
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        if form.get("client_id") != CLIENT:
            return _refuse("invalid_client", "Invalid client or Invalid client credentials")
        if form.get("grant_type") == "password":
            user = service.login(form.get("username", ""), form.get("password", ""))
            serial = request.headers.get(SERIAL_HEADER, "")
            if user is None or (serial and service.inventory.faults.strikes("wrong-credentials", serial)):
                return _refuse("invalid_grant", "Invalid user credentials")
            return _grant(service, user)
        if form.get("grant_type") == "refresh_token":
            return _refresh(service, form.get("refresh_token", ""))
        return _refuse("unsupported_grant_type", "Unsupported grant_type", status=400)

    return router


def _refresh(service: Service, token: str) -> JSONResponse:
    try:
        name = service.tokens.read(token, "Refresh").subject
    except BadToken as problem:
        return _refuse("invalid_grant", str(problem), status=400)
    return _grant(service, service.users[name])


def _grant(service: Service, user: User) -> JSONResponse:
    short = service.inventory.faults.find("token-expires")
    lifetime = short.number if short else service.lifetime
    access = service.tokens.issue(Claims(user.name, "Bearer", user.roles), lifetime)
    refresh = service.tokens.issue(Claims(user.name, "Refresh"), _REFRESH_LIFETIME)
    return JSONResponse(
        {
            "access_token": access,
            "expires_in": int(lifetime),
            "refresh_token": refresh,
            "refresh_expires_in": int(_REFRESH_LIFETIME),
            "token_type": "Bearer",
            "scope": "openid profile email groups",
        }
    )


def _refuse(error: str, why: str, status: int = 401) -> JSONResponse:
    return JSONResponse({"error": error, "error_description": why}, status)
