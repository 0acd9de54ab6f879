"""The API of the orchestrator: projects, hosts, instances, OS profiles, providers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel

from .inventory import Host, Inventory, Profile, Provider, Refused
from .service import Service

# What an OS can do; whether it is asked for is said by the provider.
_FEATURE = "SECURITY_FEATURE_SECURE_BOOT_AND_FULL_DISK_ENCRYPTION"
_PAGE, _MOST = 20, 100


class Registration(BaseModel):
    """What registers a host."""

    name: str = ""
    serialNumber: str
    uuid: str = ""
    autoOnboard: bool = False


class NewProvider(BaseModel):
    """What makes a provider; ``config`` is JSON in a string."""

    providerKind: str = "PROVIDER_KIND_BAREMETAL"
    name: str
    apiEndpoint: str = ""
    apiCredentials: list[str] = []
    config: str = "{}"


def routes(service: Service) -> APIRouter:
    """``/v1/projects/...``."""
    router = APIRouter(prefix="/v1/projects/{project}", dependencies=[Depends(service.admit)])
    _project_routes(router, service)
    _compute_routes(router, service)
    _provider_routes(router, service)
    return router


def _project_routes(router: APIRouter, service: Service) -> None:
    @router.get("")
    async def project(project: str) -> Response:
        status = {
            "projectStatus": {"statusIndicator": "STATUS_INDICATION_IDLE", "message": f"Project {project} is ready"}
        }
        return service.reply({"name": project, "spec": {"description": "A project to practise in"}, "status": status})


def _compute_routes(router: APIRouter, service: Service) -> None:
    inventory = service.inventory

    @router.post("/compute/hosts/register")
    async def register(body: Registration) -> Response:
        host = inventory.register(body.name, body.serialNumber, body.uuid)
        return service.reply(_host(inventory, host), 201)

    @router.get("/compute/hosts")
    async def hosts(pageSize: int = _PAGE, offset: int = 0) -> Response:
        return service.reply(_page("hosts", [_host(inventory, host) for host in inventory.hosts], pageSize, offset))

    @router.get("/compute/hosts/{host_id}")
    async def host(host_id: str) -> Response:
        return service.reply(_host(inventory, inventory.host(host_id)))

    @router.delete("/compute/hosts/{host_id}")
    async def remove_host(host_id: str) -> Response:
        inventory.remove_host(host_id)
        return Response(status_code=204)

    @router.get("/compute/instances")
    async def instances(pageSize: int = _PAGE, offset: int = 0) -> Response:
        shown = [_instance(inventory, host) for host in inventory.hosts if host.instance]
        return service.reply(_page("instances", shown, pageSize, offset))

    @router.delete("/compute/instances/{instance_id}")
    async def remove_instance(instance_id: str) -> Response:
        inventory.remove_instance(instance_id)
        return Response(status_code=204)

    @router.get("/compute/os")
    async def profiles(pageSize: int = _PAGE, offset: int = 0) -> Response:
        shown = [_profile(profile) for profile in inventory.profiles]
        return service.reply(_page("OperatingSystemResources", shown, pageSize, offset))


def _provider_routes(router: APIRouter, service: Service) -> None:
    inventory = service.inventory

    @router.get("/providers")
    async def providers(pageSize: int = _PAGE, offset: int = 0) -> Response:
        shown = [_provider(provider) for provider in inventory.providers]
        return service.reply(_page("providers", shown, pageSize, offset))

    @router.post("/providers")
    async def add_provider(body: NewProvider) -> Response:
        added = inventory.add_provider(
            body.providerKind, body.name, body.apiEndpoint, list(body.apiCredentials), body.config
        )
        return service.reply(_provider(added), 201)

    @router.delete("/providers/{provider_id}")
    async def remove_provider(provider_id: str) -> Response:
        inventory.remove_provider(provider_id)
        return Response(status_code=204)


def _page(key: str, items: list[dict[str, Any]], size: int, offset: int) -> dict[str, Any]:
    """A page of a collection, as the real one hands them out."""
    if not 1 <= size <= _MOST or offset < 0:
        raise Refused(400, f"pageSize has to be 1 to {_MOST}, and offset not negative")
    end = offset + size
    return {key: items[offset:end], "totalElements": len(items), "hasNext": end < len(items)}


def _host(inventory: Inventory, host: Host) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "resourceId": host.resource_id,
        "name": host.name,
        "serialNumber": host.serial,
        "uuid": host.uuid,
        "hostStatus": host.status,
        "registrationStatus": host.registration,
        "onboardingStatus": host.onboarding,
    }
    if host.instance is not None:
        shown["instance"] = _instance(inventory, host)
    return shown


def _instance(inventory: Inventory, host: Host) -> dict[str, Any]:
    instance = host.instance
    if instance is None:
        return {}
    profile = _profile(inventory.profile(instance.os))
    return {
        "resourceId": instance.resource_id,
        "instanceID": instance.resource_id,
        "name": f"{host.name}-instance",
        "hostID": host.resource_id,
        "os": profile,
        "desiredOs": profile,
        "securityFeature": _FEATURE if instance.secure_boot else "SECURITY_FEATURE_NONE",
        "provisioningStatus": instance.status,
        "provisioningStatusIndicator": instance.indicator,
    }


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "resourceId": profile.resource_id,
        "osResourceID": profile.resource_id,
        "profileName": profile.profile,
        "name": profile.name,
        "imageUrl": f"/tink-stack/images/{profile.image}",
        "sha256": profile.sha256,
        "securityFeature": _FEATURE,
    }


def _provider(provider: Provider) -> dict[str, Any]:
    return {
        "resourceId": provider.resource_id,
        "providerID": provider.resource_id,
        "providerKind": provider.kind,
        "name": provider.name,
        "apiEndpoint": provider.endpoint,
        "apiCredentials": provider.credentials,
        "config": provider.config,
    }
