"""Base volumes: an image's disk in a host's pool, shared by the overlays of all VMs made from it.

A base volume is there while at least one VM needs it. Each of these VMs owns a record of it; whoever removes
the last record removes the volume. One lock per host and image keeps the two from meeting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmprov.drivers.box import base_volume_name
from vmprov.engine.context import Context
from vmprov.images import Image
from vmprov.locks import exclusive
from vmprov.store import Owned
from vmprov.waiting import Deadline

KIND = "base volume"
_LIMIT = 1800.0


@contextmanager
def _locked(ctx: Context, volume: str) -> Iterator[None]:
    lock = ctx.home.lock(f"{ctx.host.slug}-{volume}")
    with exclusive(lock, Deadline(_LIMIT), f"the base volume {volume}", cancel=ctx.cancel):
        yield


def box_name(ctx: Context, image: Image) -> str:
    """The Vagrant box that is made from an image; another installation's has another name."""
    return f"vmprov-{ctx.store.installation}/{image.name}"


def volume_name(ctx: Context, image: Image) -> str:
    """What vagrant-libvirt calls the volume of the image's box, so that it finds ours and uploads nothing."""
    return base_volume_name(box_name(ctx, image), image.version)


def ensure(ctx: Context, image: Image, *, lab: str, vms: list[str]) -> None:
    """Make sure that the pool holds the image, and record that these VMs need it.

    The image's digest is verified before it is uploaded. Raises :class:`vmprov.errors.ImageBroken`.
    """
    name, pool = volume_name(ctx, image), ctx.host.pool
    with _locked(ctx, name):
        with ctx.store.transaction():
            for vm in vms:
                ctx.store.own(lab=lab, vm=vm, host=ctx.host.name, kind=KIND, name=name, pool=pool)
        if ctx.hypervisor.volume(pool, name) is None:
            with ctx.events.step(f"put image {image.name} on the host"):
                ctx.images.verify(image)
                disk = ctx.images.disk(image.name)
                ctx.hypervisor.upload_volume(pool, name, disk, format="qcow2", capacity=image.virtual_size)


def release(ctx: Context, owned: Owned) -> None:
    """Forget that a VM needs the base volume, and remove it if no other does."""
    with _locked(ctx, owned.name):
        others = [
            other
            for other in ctx.store.owned(kind=KIND)
            if other.id != owned.id and (other.host, other.name) == (owned.host, owned.name)
        ]
        if not others:
            ctx.hypervisor.remove_volume(owned.detail["pool"], owned.name)
        ctx.store.disown(owned.id)
