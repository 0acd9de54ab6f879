"""What nodes boot: files, sent by the proxy in front of us, unless a fault has something else happen."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from .inventory import Refused
from .service import FOR_EVER, Service

BOOT_FILE = "signed_ipxe.efi"
_UNSIGNED = "unsigned_ipxe.efi"
_STAGES = {
    BOOT_FILE: "http-download",
    "boot.ipxe": "boot-script",
    "vmlinuz-x86_64": "kernel-download",
    "initramfs-x86_64": "initramfs-download",
}


def routes(service: Service) -> APIRouter:
    """``/tink-stack/...``."""
    router = APIRouter()

    @router.api_route("/tink-stack/{path:path}", methods=["GET", "HEAD"])
    async def file(path: str) -> Response:
        faults = service.inventory.faults
        hang = faults.find("hang")
        if hang is not None and hang.argument == _STAGES.get(path, ""):
            await asyncio.sleep(FOR_EVER)
        if path == BOOT_FILE and faults.find("boot-file-404") is not None:
            raise Refused(404, f"no file {path}")
        if path == BOOT_FILE and faults.find("unsigned-boot-file") is not None:
            path = _UNSIGNED
        return _send(service, path)

    return router


def _send(service: Service, path: str) -> Response:
    file = service.files / path
    if ".." in path.split("/") or not file.is_file():
        raise Refused(404, f"no file {path}")
    if not service.behind_proxy:
        return FileResponse(str(file), media_type="application/octet-stream")
    headers = {"X-Accel-Redirect": f"/files/{path}", "Content-Type": "application/octet-stream"}
    slow = service.inventory.faults.find("slow-download")
    if slow is not None and not path.startswith("images/"):
        headers["X-Accel-Limit-Rate"] = slow.argument
    return Response(headers=headers)
