"""Base volumes: an image's disk in a host's pool, shared by the overlays of all VMs made from it.

A base volume is there while at least one VM needs it. Each of these VMs owns a record of it; whoever removes
the last record removes the volume. One lock per host and image keeps the two from meeting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmprov.drivers import BaseImage
from vmprov.drivers.box import base_volume_name
from vmprov.engine.context import Context
from vmprov.images import Image, Images
from vmprov.locks import exclusive, remove_unheld
from vmprov.store import Owned
from vmprov.waiting import Deadline

KIND = "base volume"
_LIMIT = 1800.0


@contextmanager
def _locked(ctx: Context, volume: str) -> Iterator[None]:
    with exclusive(_lock(ctx, volume), Deadline(_LIMIT), f"the base volume {volume}", cancel=ctx.cancel):
        yield


def _lock(ctx: Context, volume: str) -> Path:
    return ctx.home.lock(f"{ctx.host.slug}-{volume}")


def base_image(images: Images, image: Image, installation: str) -> BaseImage:
    """What a driver has to know of an image.

    Its box carries the installation's id, so that two installations on one host never share a base volume. The
    volume has the name that vagrant-libvirt gives the box's, so that it finds ours and uploads nothing.
    """
    box = f"vmprov-{installation}/{image.name}"
    return BaseImage(
        name=image.name,
        box=box,
        version=image.version,
        volume=base_volume_name(box, image.version),
        disk=images.disk(image.name),
        virtual_size=image.virtual_size,
    )


def is_one(volume: str, installation: str) -> bool:
    """Whether a volume has the name of an image's disk of that installation."""
    return volume.startswith(base_volume_name(f"vmprov-{installation}/", "").partition("_")[0])


def ensure(ctx: Context, image: Image, *, lab: str, vms: list[str]) -> None:
    """Make sure that the pool holds the image, and record that these VMs need it.

    The image's digest is verified before it is uploaded. Raises :class:`vmprov.errors.ImageBroken`.
    """
    name, pool = base_image(ctx.images, image, ctx.store.installation).volume, ctx.host.pool
    with _locked(ctx, name):
        with ctx.store.transaction():
            # One that failed meanwhile is gone.
            for vm in filter(ctx.store.has_vm, vms):
                ctx.store.own(lab=lab, vm=vm, host=ctx.host.name, kind=KIND, name=name, pool=pool)
        if ctx.hypervisor.volume(pool, name) is None:
            with ctx.events.step(f"put image {image.name} on the host"):
                ctx.images.verify(image)
                disk = ctx.images.disk(image.name)
                ctx.hypervisor.upload_volume(pool, name, disk, format="qcow2", capacity=image.virtual_size)


def release(ctx: Context, owned: Owned) -> None:
    """Forget that a VM needs the base volume, and remove it if no other does."""
    with _locked(ctx, owned.name):
        shared = ctx.store.shared(owned)
        if not shared:
            ctx.hypervisor.remove_volume(owned.detail["pool"], owned.name)
        ctx.store.disown(owned.id)
    if not shared:
        remove_unheld(_lock(ctx, owned.name))
