"""The server as a whole."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from . import api, boot, control, keycloak, nodes
from .inventory import Inventory, Profile, Refused
from .service import Service, User
from .tokens import Tokens


def make_app(service: Service) -> FastAPI:
    """The application: identity provider, API, boot files, and what is private to the lab."""
    app = FastAPI(title="Day-0 lab", docs_url=None, redoc_url=None, openapi_url=None)
    for part in (keycloak, api, boot, nodes, control):
        app.include_router(part.routes(service))

    @app.exception_handler(Refused)
    async def refused(_request: Request, problem: Refused) -> JSONResponse:
        return JSONResponse({"code": problem.status, "message": problem.why}, problem.status)

    return app


def open_service(directory: Path, *, behind_proxy: bool = True) -> Service:
    """The service of a lab's directory: ``config.json``, ``profiles.json``, ``state.json``, ``files``, ``tls``."""
    config = json.loads((directory / "config.json").read_text())
    profiles = [Profile(**one) for one in json.loads((directory / "profiles.json").read_text())]
    return Service(
        inventory=Inventory.load(directory / "state.json", profiles),
        tokens=Tokens(config["token_key"]),
        users={one["name"]: User(one["name"], one["password"], tuple(one["roles"])) for one in config["users"]},
        project=config["project"],
        lifetime=float(config["token_lifetime"]),
        files=directory / "files",
        tls=directory / "tls",
        behind_proxy=behind_proxy,
    )
