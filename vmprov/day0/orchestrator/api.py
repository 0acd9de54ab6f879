"""The API of the orchestrator: projects, hosts, instances, OS profiles, providers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel

from .inventory import Host, Inventory, Profile, Provider
from .service import Service

# What an OS can do; whether it is asked for is said by the provider.
_FEATURE = "SECURITY_FEATURE_SECURE_BOOT_AND_FULL_DISK_ENCRYPTION"


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
    async def hosts() -> Response:
        shown = [_host(inventory, host) for host in inventory.hosts]
        return service.reply({"hosts": shown, "totalElements": len(shown), "hasNext": False})

    @router.get("/compute/hosts/{host_id}")
    async def host(host_id: str) -> Response:
        return service.reply(_host(inventory, inventory.host(host_id)))

    @router.delete("/compute/hosts/{host_id}")
    async def remove_host(host_id: str) -> Response:
        inventory.remove_host(host_id)
        return Response(status_code=204)

    @router.get("/compute/instances")
    async def instances() -> Response:
        shown = [_instance(inventory, host) for host in inventory.hosts if host.instance]
        return service.reply({"instances": shown, "totalElements": len(shown), "hasNext": False})

    @router.delete("/compute/instances/{instance_id}")
    async def remove_instance(instance_id: str) -> Response:
        inventory.remove_instance(instance_id)
        return Response(status_code=204)

    @router.get("/compute/os")
    async def profiles() -> Response:
        shown = [_profile(profile) for profile in inventory.profiles]
        return service.reply({"OperatingSystemResources": shown, "totalElements": len(shown), "hasNext": False})


def _provider_routes(router: APIRouter, service: Service) -> None:
    inventory = service.inventory

    @router.get("/providers")
    async def providers() -> Response:
        shown = [_provider(provider) for provider in inventory.providers]
        return service.reply({"providers": shown, "totalElements": len(shown), "hasNext": False})

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
