"""The lab's own controls: what it knows, which faults are on, starting afresh.

The proxy lets only ``GET /lab/state`` through; the rest is for whoever is inside the container.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from .faults import BadFault, Faults, parse
from .inventory import Refused, state_document
from .service import Service

# The certificates in use are links to directories beside them, exchanged by these faults.
_CERTIFICATES = {"boot": "bad-certificate", "api": "api-certificate"}
_GOOD = "good"


class Order(BaseModel):
    """A fault as it is asked for."""

    fault: str
    serial: str = ""
    off: bool = False


def routes(service: Service) -> APIRouter:
    """``/lab/...``."""
    router = APIRouter(prefix="/lab")
    inventory = service.inventory
    choose_certificates(service.tls, inventory.faults)

    def changed() -> dict[str, Any]:
        inventory.save()
        choose_certificates(service.tls, inventory.faults)
        return state_document(inventory)

    @router.get("/state")
    async def state() -> dict[str, Any]:
        return state_document(inventory)

    @router.post("/fault")
    async def fault(order: Order) -> dict[str, Any]:
        """Switch a fault on, or off; ``none`` switches all off, or those of one serial number."""
        if order.fault == "none":
            inventory.faults.clear(order.serial)
        else:
            try:
                wanted = parse(order.fault, order.serial)
            except BadFault as problem:
                raise Refused(400, str(problem)) from problem
            (inventory.faults.remove if order.off else inventory.faults.add)(wanted)
        return changed()

    @router.post("/reset")
    async def reset() -> dict[str, Any]:
        """Forget all hosts, providers and faults."""
        inventory.reset()
        return changed()

    return router


def choose_certificates(tls: Path, faults: Faults) -> None:
    """Have the proxy show the certificates that the faults ask for, from its next connection on."""
    for link, name in _CERTIFICATES.items():
        fault = faults.find(name)
        new = tls / f"{link}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(fault.argument if fault else _GOOD)
        new.replace(tls / link)
