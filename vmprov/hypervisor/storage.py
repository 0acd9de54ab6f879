"""Pools and volumes of a libvirt."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import libvirt

from vmprov.errors import Failed, HostNotReady, LibvirtFailed, NameTaken
from vmprov.hypervisor import Pool, Volume
from vmprov.hypervisor.connection import Connection, look_up, message_of, tolerating
from vmprov.waiting import Deadline, wait_until

# One message of libvirt's protocol carries this much of a stream.
_CHUNK = 256 * 1024
_RELEASE_LIMIT = 10.0


class Storage(Connection):
    """The part of a hypervisor that is about disks."""

    def pool(self, name: str) -> Pool:
        """An active pool, freshly measured."""
        with self.trying(f"look up pool {name}") as connection:
            return _read_pool(_refreshed(_pool(connection, name)))

    def create_pool(self, name: str, path: str) -> Pool:
        """Make sure that a directory pool exists and is active."""
        target = ET.Element("pool", type="dir")
        ET.SubElement(target, "name").text = name
        ET.SubElement(ET.SubElement(target, "target"), "path").text = path
        with self.trying(f"create pool {name} in {path}") as connection:
            pool = look_up(connection.storagePoolLookupByName, name, libvirt.VIR_ERR_NO_STORAGE_POOL)
            if pool is None:
                pool = connection.storagePoolDefineXML(ET.tostring(target, encoding="unicode"), 0)
                pool.build(0)
            there = _pool_path(pool)
            if there != path:
                raise NameTaken(f"there is a pool called {name!r} already, in {there} instead of {path}")
            pool.setAutostart(1)
            try:
                pool.create(0)
            except libvirt.libvirtError:
                if not pool.isActive():
                    raise
            return _read_pool(_refreshed(pool))

    def volumes(self, pool: str) -> list[Volume]:
        """All volumes of a pool, also those that others put into its directory."""
        with self.trying(f"list the volumes of pool {pool}") as connection:
            found = []
            for volume in _refreshed(_pool(connection, pool)).listAllVolumes(0):
                with tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                    found.append(_read_volume(volume))
            return found

    def volume(self, pool: str, name: str) -> Volume | None:
        """One volume, or ``None``."""
        with self.trying(f"look up volume {name} in pool {pool}") as connection:
            with tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                found = _find_volume(_pool(connection, pool), name)
                return None if found is None else _read_volume(found)
            return None

    def create_volume(self, pool: str, name: str, *, size: int, format: str = "qcow2", backing: str = "") -> Volume:
        """Make an empty volume or an overlay."""
        with self.trying(f"create volume {name} in pool {pool}") as connection:
            xml = _volume_xml(name, size=size, format=format, backing=backing)
            return _read_volume(_create_volume(_pool(connection, pool), name, xml))

    def upload_volume(self, pool: str, name: str, source: Path, *, format: str, capacity: int) -> Volume:
        """Make a volume and fill it from a file."""
        with self.trying(f"upload {source} as volume {name} to pool {pool}") as connection:
            try:
                with source.open("rb") as contents:
                    xml = _volume_xml(name, size=capacity, format=format)
                    volume = _create_volume(_pool(connection, pool), name, xml)
                    with ExitStack() as undo:
                        undo.callback(_remove_half_made, volume)
                        _send(connection, contents.read, volume, source.stat().st_size)
                        made = _read_volume(volume)
                        undo.pop_all()
                    return made
            except OSError as problem:
                raise Failed(f"could not read {source}: {problem.strerror}") from problem

    def grow_volume(self, pool: str, name: str, size: int) -> Volume:
        """Make it larger."""
        with self.trying(f"grow volume {name} in pool {pool}") as connection:
            volume = _find_volume(_pool(connection, pool), name)
            if volume is None:
                raise LibvirtFailed(f"could not grow volume {name} in pool {pool}: there is none of that name")
            if volume.info()[1] < size:
                volume.resize(size)
            return _read_volume(volume)

    def remove_volume(self, pool: str, name: str) -> bool:
        """Delete a volume."""
        with self.trying(f"remove volume {name} from pool {pool}") as connection:
            there = look_up(connection.storagePoolLookupByName, pool, libvirt.VIR_ERR_NO_STORAGE_POOL)
            volume = None if there is None else _find_volume(there, name)
            if volume is None:
                return False
            # libvirt does not mind that the file is gone already, as that of NVRAM is with its domain.
            with tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                volume.delete(0)
            return True


def _pool(connection: Any, name: str) -> Any:
    """An active pool; raises :class:`HostNotReady` where there is none."""
    pool = look_up(connection.storagePoolLookupByName, name, libvirt.VIR_ERR_NO_STORAGE_POOL)
    if pool is None:
        known = ", ".join(sorted(pool.name() for pool in connection.listAllStoragePools(0))) or "none"
        raise HostNotReady(
            f"the host has no storage pool called {name!r}",
            hint=f"make one with virsh pool-define-as, or name another in VMPROV_POOL (there are: {known})",
        )
    if not pool.isActive():
        raise HostNotReady(f"storage pool {name!r} is not active", hint=f"run: virsh pool-start {name}")
    return pool


def _refreshed(pool: Any) -> Any:
    """The pool, after it looked at its directory anew (unless it is busy making volumes)."""
    try:
        pool.refresh(0)
    except libvirt.libvirtError as problem:
        if "asynchronous jobs running" not in message_of(problem):
            raise
    return pool


def _find_volume(pool: Any, name: str) -> Any | None:
    """A volume that libvirt knows, or that turns out to lie in the pool's directory."""
    missing = libvirt.VIR_ERR_NO_STORAGE_VOL
    found = look_up(pool.storageVolLookupByName, name, missing)
    return found or look_up(_refreshed(pool).storageVolLookupByName, name, missing)


def _pool_path(pool: Any) -> str:
    return ET.fromstring(pool.XMLDesc(0)).findtext("target/path", "")


def _read_pool(pool: Any) -> Pool:
    _, capacity, _, available = pool.info()
    return Pool(pool.name(), _pool_path(pool), capacity, available)


def _read_volume(volume: Any) -> Volume:
    _, capacity, allocation = volume.info()
    return Volume(volume.name(), volume.path(), capacity, allocation)


def _volume_xml(name: str, *, size: int, format: str, backing: str = "") -> str:
    volume = ET.Element("volume")
    ET.SubElement(volume, "name").text = name
    ET.SubElement(volume, "capacity", unit="bytes").text = str(size)
    ET.SubElement(volume, "allocation", unit="bytes").text = "0"
    ET.SubElement(ET.SubElement(volume, "target"), "format", type=format)
    if backing:
        store = ET.SubElement(volume, "backingStore")
        ET.SubElement(store, "path").text = backing
        ET.SubElement(store, "format", type="qcow2")
    return ET.tostring(volume, encoding="unicode")


def _create_volume(pool: Any, name: str, xml: str) -> Any:
    try:
        return pool.createXML(xml, 0)
    except libvirt.libvirtError as problem:
        if problem.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST and "already exists" not in message_of(
            problem
        ):
            raise
        raise NameTaken(f"there is a volume called {name!r} in pool {pool.name()} already") from problem


def _send(connection: Any, read: Callable[[int], bytes], volume: Any, length: int) -> None:
    stream = connection.newStream(0)
    volume.upload(stream, 0, length, 0)
    with ExitStack() as undo:
        undo.callback(_abort, stream)
        while chunk := read(_CHUNK):
            while chunk:
                chunk = chunk[stream.send(chunk) :]
        stream.finish()
        undo.pop_all()


def _abort(stream: Any) -> None:
    with suppress(libvirt.libvirtError):
        stream.abort()


def _remove_half_made(volume: Any) -> None:
    """Delete a volume as soon as libvirt, which may still be closing the stream, lets go of it."""

    def deleted() -> bool:
        with tolerating(libvirt.VIR_ERR_OPERATION_INVALID):
            with tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                volume.delete(0)
            return True
        return False

    wait_until(deleted, Deadline(_RELEASE_LIMIT), f"release of volume {volume.name()}", interval=0.05)
