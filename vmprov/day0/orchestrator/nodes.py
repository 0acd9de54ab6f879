"""What the micro-OS and the installed OS of a node ask; lines of ``key=value``, which a shell can read.

Private to the lab: the real orchestrator speaks gRPC here.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from .faults import Faults
from .inventory import STEPS, Host, Profile, Refused
from .service import Service
from .tokens import Claims

_NODE_LIFETIME = 7 * 24 * 3600.0
# More than any disk has.
_TOO_LARGE = 1 << 60


class Device(BaseModel):
    """What a node found out about itself."""

    serial: str
    uuid: str
    mac: str


def routes(service: Service) -> APIRouter:
    """``/lab/node/...``."""
    router = APIRouter(prefix="/lab/node")
    _discovery_routes(router, service)
    _workflow_routes(router, service)
    return router


def _discovery_routes(router: APIRouter, service: Service) -> None:
    inventory = service.inventory

    @router.post("/discover")
    async def discover(device: Device) -> PlainTextResponse:
        """Onboard a node that is registered (``ONBOARDED``), or say that it is not (``NOTFOUND``)."""
        host = inventory.by_serial(device.serial)
        told = [f"fault={line}" for line in _node_faults(inventory.faults, device.serial)]
        if host is None or inventory.faults.find("unregistered", device.serial) is not None:
            return _lines("state=NOTFOUND", *told)
        if host.uuid and host.uuid.lower() != device.uuid.lower():
            inventory.mistaken(host)
            raise Refused(409, f"serial number {device.serial} is registered with another UUID")
        return _lines(
            "state=ONBOARDED", *told, *_admitted(service, inventory.onboard(host.serial, device.uuid, device.mac))
        )

    @router.post("/onboard")
    async def onboard(device: Device, request: HttpRequest) -> PlainTextResponse:
        """Onboard a node in whose name somebody logged in."""
        claims = service.claims(request, "Bearer")
        if "onboarding" not in claims.roles:
            raise Refused(403, f"{claims.subject} may not onboard edge nodes")
        return _lines(*_admitted(service, inventory.onboard(device.serial, device.uuid, device.mac)))


def _workflow_routes(router: APIRouter, service: Service) -> None:
    inventory = service.inventory

    def host_of(request: HttpRequest) -> Host:
        host = inventory.by_serial(service.claims(request, "Node").subject)
        if host is None or host.instance is None:
            raise Refused(410, "this node was removed from the inventory")
        return host

    @router.get("/workflow")
    async def workflow(request: HttpRequest) -> PlainTextResponse:
        """What is to be installed, and how."""
        host = host_of(request)
        profile = inventory.profile(host.instance.os if host.instance else "")
        return _lines(*_workflow(inventory.faults, profile, host))

    @router.post("/step/{step}")
    async def step(step: int, request: HttpRequest) -> PlainTextResponse:
        if not 1 <= step <= len(STEPS):
            raise Refused(400, f"there is no step {step}")
        inventory.progress(host_of(request), step)
        return _lines()

    @router.post("/failed")
    async def failed(request: HttpRequest) -> PlainTextResponse:
        inventory.failed(host_of(request), (await request.body()).decode(errors="replace")[:200])
        return _lines()

    @router.post("/running")
    async def running(request: HttpRequest) -> PlainTextResponse:
        inventory.running(host_of(request))
        return _lines()


def _admitted(service: Service, host: Host) -> list[str]:
    token = service.tokens.issue(Claims(host.serial, "Node"), _NODE_LIFETIME)
    return [f"token={token}", f"name={host.name.lower()}"]


def _node_faults(faults: Faults, serial: str) -> list[str]:
    found = (faults.find(name, serial) for name in ("hang", "reboot-loop", "panic", "secure-boot-unknown"))
    return [str(fault) for fault in found if fault is not None]


def _workflow(faults: Faults, profile: Profile, host: Host) -> list[str]:
    wrong = faults.find("digest-wrong", host.serial) is not None
    large = faults.find("disk-too-small", host.serial) is not None
    wants = host.instance is not None and host.instance.secure_boot
    if faults.find("mismatch", host.serial) is not None:
        wants = not wants
    return [
        f"os={profile.profile}",
        f"entry={profile.entry}",
        f"image=/tink-stack/images/{profile.image}",
        f"sha256={profile.sha256[::-1] if wrong else profile.sha256}",
        f"size={_TOO_LARGE if large else profile.size}",
        f"secure_boot={'on' if wants else 'off'}",
    ]


def _lines(*lines: str) -> PlainTextResponse:
    return PlainTextResponse("".join(f"{line}\n" for line in lines))
