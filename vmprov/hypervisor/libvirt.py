"""libvirt behind the :class:`vmprov.hypervisor.Hypervisor` protocol; nothing else imports libvirt.

Objects can vanish between being looked up and being used, since others work on the same host. A look-up or a
removal takes that for an answer; everything else reports it like any refusal.
"""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt

from vmprov.errors import Failed, HostNotReady, LibvirtFailed, NameTaken, VmprovError
from vmprov.hypervisor import Domain, DomainState, Lease, Network, Node, Pool, Volume
from vmprov.hypervisor.definitions import (
    find_mark,
    interface_networks,
    parse_definition,
    read_network,
    refuse_taken,
)
from vmprov.waiting import Deadline, wait_until

# Without a handler of its own, the library prints every error to stderr as well as raising it.
libvirt.registerErrorHandler(lambda _context, _error: None, None)

_STATES = {
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}

_NO_CONNECTION = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}

# It was busy, or did not answer in time.
_PASSING = {
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_RESOURCE_BUSY,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_RPC,
}

# What libvirt, the kernel and dnsmasq say when a name, bridge or subnet is somebody else's.
_TAKEN = (
    "already exists",
    "already in use",
    "File exists",
    "failed to create listening socket",
    "Address already in use",
)

_HINTS = {
    "No space left on device": "free some disk space on the host",
    "Cannot allocate memory": "stop some machines, or ask for smaller ones",
    "Could not access KVM": "KVM does not work on this host: see vmprov doctor",
    "Permission denied": "the user that QEMU runs as may not use this file",
}

# From the newest flags to the oldest; a daemon refuses the whole call for one that it does not know.
_UNDEFINE_WITH = [
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE,
    libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA,
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM,
    libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA,
    getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0),
]

# One message of libvirt's protocol carries this much of a stream.
_CHUNK = 256 * 1024
_RELEASE_LIMIT = 10.0


class LibvirtHypervisor:
    """One libvirt, by its URI; it is connected to at first use, and again after the connection broke."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._connection: Any = None
        self._closed = False

    # the connection

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(libvirt.libvirtError):
                self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        with self._lock:
            if self._closed:
                raise HostNotReady(f"the connection to libvirt at {self._uri} was closed")
            if self._connection is not None and not _alive(self._connection):
                self._drop()
            if self._connection is None:
                try:
                    self._connection = libvirt.open(self._uri)
                except libvirt.libvirtError as problem:
                    raise self._unreachable(problem) from problem
            return self._connection

    def _unreachable(self, problem: libvirt.libvirtError) -> HostNotReady:
        said = _message(problem)
        hint = "start libvirtd, or give another --host"
        if "Permission denied" in said or "authentication" in said.lower():
            hint = "run: sudo usermod -aG libvirt $USER, then log in again"
        return HostNotReady(f"libvirt does not answer at {self._uri}: {said}", hint=hint)

    @contextmanager
    def _trying(self, doing: str) -> Iterator[Any]:
        """The connection, and our exceptions in place of libvirt's, saying that it could not do ``doing``."""
        connection = self._connect()
        try:
            yield connection
        except libvirt.libvirtError as problem:
            raise self._explain(problem, doing, connection) from problem

    def _explain(self, problem: libvirt.libvirtError, doing: str, connection: Any) -> VmprovError:
        if problem.get_error_code() in _NO_CONNECTION or not _alive(connection):
            return self._unreachable(problem)
        said = _message(problem)
        hint = next((hint for sign, hint in _HINTS.items() if sign in said), "")
        return LibvirtFailed(f"could not {doing}: {said}", hint=hint, passing=problem.get_error_code() in _PASSING)

    def node(self) -> Node:
        """What the machine has, as its kernel counts it."""
        with self._trying("ask what the host has") as connection:
            # The memory in getInfo() is a sum over NUMA nodes, and wrong where the kernel does not report them all.
            memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            qemu = 0
            with _tolerating(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INTERNAL_ERROR):
                qemu = connection.getVersion()
            return Node(
                cpus=connection.getInfo()[2],
                memory=memory["total"] * 1024,
                free_memory=sum(memory.get(part, 0) for part in ("free", "buffers", "cached")) * 1024,
                libvirt=_version(connection.getLibVersion()),
                qemu=_version(qemu),
            )

    def loaders(self) -> list[str]:
        """The firmware in the capabilities of domains."""
        with self._trying("ask for the host's firmware") as connection:
            found = ET.fromstring(connection.getDomainCapabilities(None, "x86_64", "q35", None, 0))
            return [value.text or "" for value in found.findall("os/loader/value")]

    # domains

    def domains(self) -> list[Domain]:
        """All domains."""
        with self._trying("list the domains") as connection:
            found = []
            for domain in connection.listAllDomains(0):
                with _tolerating(libvirt.VIR_ERR_NO_DOMAIN):
                    found.append(_read_domain(domain))
            return found

    def domain(self, name: str) -> Domain:
        """One domain, or one that is ``MISSING``."""
        with self._trying(f"look up domain {name}") as connection:
            with _tolerating(libvirt.VIR_ERR_NO_DOMAIN):
                return _read_domain(connection.lookupByName(name))
            return Domain(name, "", DomainState.MISSING, None)

    def domain_xml(self, name: str) -> str:
        """The definition as libvirt prints it."""
        with self._trying(f"read the definition of domain {name}") as connection:
            return str(connection.lookupByName(name).XMLDesc(0))

    def domain_definition(self, name: str) -> str:
        """The definition that was given, as far as libvirt keeps it."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with self._trying(f"read the definition of domain {name}") as connection:
            return str(connection.lookupByName(name).XMLDesc(flags))

    def define_domain(self, xml: str) -> Domain:
        """Define, or redefine a domain that has the name and the uuid."""
        name = parse_definition(xml, "domain").findtext("name")
        with self._trying(f"define domain {name}") as connection:
            return _read_domain(connection.defineXML(xml))

    def start_domain(self, name: str) -> None:
        """Power on."""
        with self._trying(f"start domain {name}") as connection:
            domain = connection.lookupByName(name)
            try:
                domain.create()
            except libvirt.libvirtError as problem:
                if problem.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
                    raise

    def shutdown_domain(self, name: str) -> None:
        """Ask the guest to stop."""
        with self._trying(f"shut down domain {name}") as connection:
            domain = connection.lookupByName(name)
            try:
                domain.shutdown()
            except libvirt.libvirtError as problem:
                if problem.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or domain.isActive():
                    raise

    def reboot_domain(self, name: str) -> None:
        """Ask the guest to reboot."""
        with self._trying(f"reboot domain {name}") as connection:
            connection.lookupByName(name).reboot(0)

    def reset_domain(self, name: str) -> None:
        """Press the reset button."""
        with self._trying(f"reset domain {name}") as connection:
            connection.lookupByName(name).reset(0)

    def power_off_domain(self, name: str) -> None:
        """Pull the plug."""
        with self._trying(f"power off domain {name}") as connection, _tolerating(libvirt.VIR_ERR_NO_DOMAIN):
            _power_off(connection.lookupByName(name))

    def resume_domain(self, name: str) -> None:
        """Let it run on."""
        with self._trying(f"resume domain {name}") as connection:
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

    def remove_domain(self, name: str) -> bool:
        """Power off and undefine, with everything that libvirt keeps beside the definition."""
        with self._trying(f"remove domain {name}") as connection:
            domain = _look_up(connection.lookupByName, name, libvirt.VIR_ERR_NO_DOMAIN)
            if domain is None:
                return False
            # A transient domain, or one that somebody else removes, is gone as soon as it is off.
            with _tolerating(libvirt.VIR_ERR_NO_DOMAIN):
                _power_off(domain)
                _undefine(domain)
            return True

    def domain_addresses(self, name: str, mac: str) -> list[str]:
        """The network's leases for the interface, newest first, or else what the host's ARP table knows."""
        with self._trying(f"ask for the addresses of domain {name}") as connection:
            domain = _look_up(connection.lookupByName, name, libvirt.VIR_ERR_NO_DOMAIN)
            if domain is None:
                return []
            for ask in (_leases, _leases_by_domain, _neighbours):
                try:
                    found = ask(connection, domain, mac.lower())
                except libvirt.libvirtError:
                    # Stopped, its network gone, or no such question on this host: nobody knows an address.
                    if not _alive(connection):
                        raise
                    continue
                if found:
                    return found
            return []

    # networks

    def networks(self) -> list[Network]:
        """All networks."""
        with self._trying("list the networks") as connection:
            return _networks(connection)

    def create_network(self, xml: str) -> Network:
        """Define and start, or leave nothing behind."""
        wanted = read_network(parse_definition(xml, "network"), active=True)
        with self._trying(f"create network {wanted.name}") as connection:
            refuse_taken(wanted, _networks(connection))
            try:
                network = connection.networkDefineXML(xml)
                try:
                    network.create()
                except BaseException:
                    with suppress(libvirt.libvirtError):
                        network.undefine()
                    raise
            except libvirt.libvirtError as problem:
                if any(sign in _message(problem) for sign in _TAKEN):
                    raise NameTaken(f"could not create network {wanted.name}: {_message(problem)}") from problem
                raise
            return read_network(ET.fromstring(network.XMLDesc(0)), active=True)

    def start_network(self, name: str) -> None:
        """Start it."""
        with self._trying(f"start network {name}") as connection:
            network = connection.networkLookupByName(name)
            try:
                network.create()
            except libvirt.libvirtError:
                if not network.isActive():
                    raise

    def remove_network(self, name: str) -> bool:
        """Stop and undefine."""
        with self._trying(f"remove network {name}") as connection:
            network = _look_up(connection.networkLookupByName, name, libvirt.VIR_ERR_NO_NETWORK)
            if network is None:
                return False
            with _tolerating(libvirt.VIR_ERR_NO_NETWORK):
                # Not active is fine.
                with _tolerating(libvirt.VIR_ERR_OPERATION_INVALID):
                    network.destroy()
                network.undefine()
            return True

    def network_xml(self, name: str) -> str:
        """The definition as libvirt prints it."""
        with self._trying(f"read the definition of network {name}") as connection:
            return str(connection.networkLookupByName(name).XMLDesc(0))

    def network_definition(self, name: str) -> str:
        """The persistent definition."""
        with self._trying(f"read the definition of network {name}") as connection:
            return str(connection.networkLookupByName(name).XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))

    def redefine_network(self, xml: str) -> bool:
        """Define, and restart what has no connections."""
        name = parse_definition(xml, "network").findtext("name", "")
        with self._trying(f"change network {name}") as connection:
            network = connection.networkLookupByName(name)
            running = bool(network.isActive())
            used = running and int(ET.fromstring(network.XMLDesc(0)).get("connections", "0")) > 0
            before = network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
            network = connection.networkDefineXML(xml)
            if used:
                return False
            if running:
                network.destroy()
            try:
                network.create()
            except libvirt.libvirtError:
                connection.networkDefineXML(before)
                if running:
                    network.create()
                raise
            return True

    def network_leases(self, name: str) -> list[Lease]:
        """What dnsmasq handed out."""
        with self._trying(f"ask for the leases of network {name}") as connection:
            found = connection.networkLookupByName(name).DHCPLeases(None, 0)
        leases = [
            Lease((lease["mac"] or "").lower(), lease["ipaddr"], lease["hostname"] or "", float(lease["expirytime"]))
            for lease in found
        ]
        return sorted(leases, key=lambda lease: lease.address)

    # storage

    def pool(self, name: str) -> Pool:
        """An active pool, freshly measured."""
        with self._trying(f"look up pool {name}") as connection:
            return _read_pool(_refreshed(_pool(connection, name)))

    def create_pool(self, name: str, path: str) -> Pool:
        """Make sure that a directory pool exists and is active."""
        target = ET.Element("pool", type="dir")
        ET.SubElement(target, "name").text = name
        ET.SubElement(ET.SubElement(target, "target"), "path").text = path
        with self._trying(f"create pool {name} in {path}") as connection:
            pool = _look_up(connection.storagePoolLookupByName, name, libvirt.VIR_ERR_NO_STORAGE_POOL)
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
        with self._trying(f"list the volumes of pool {pool}") as connection:
            found = []
            for volume in _refreshed(_pool(connection, pool)).listAllVolumes(0):
                with _tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                    found.append(_read_volume(volume))
            return found

    def volume(self, pool: str, name: str) -> Volume | None:
        """One volume, or ``None``."""
        with self._trying(f"look up volume {name} in pool {pool}") as connection:
            with _tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                found = _find_volume(_pool(connection, pool), name)
                return None if found is None else _read_volume(found)
            return None

    def create_volume(self, pool: str, name: str, *, size: int, format: str = "qcow2", backing: str = "") -> Volume:
        """Make an empty volume or an overlay."""
        with self._trying(f"create volume {name} in pool {pool}") as connection:
            xml = _volume_xml(name, size=size, format=format, backing=backing)
            return _read_volume(_create_volume(_pool(connection, pool), name, xml))

    def upload_volume(self, pool: str, name: str, source: Path, *, format: str, capacity: int) -> Volume:
        """Make a volume and fill it from a file."""
        with self._trying(f"upload {source} as volume {name} to pool {pool}") as connection:
            try:
                with source.open("rb") as contents:
                    xml = _volume_xml(name, size=capacity, format=format)
                    volume = _create_volume(_pool(connection, pool), name, xml)
                    try:
                        _send(connection, contents.read, volume, source.stat().st_size)
                        return _read_volume(volume)
                    except BaseException:
                        _remove_half_made(volume)
                        raise
            except OSError as problem:
                raise Failed(f"could not read {source}: {problem.strerror}") from problem

    def grow_volume(self, pool: str, name: str, size: int) -> Volume:
        """Make it larger."""
        with self._trying(f"grow volume {name} in pool {pool}") as connection:
            volume = _find_volume(_pool(connection, pool), name)
            if volume is None:
                raise LibvirtFailed(f"could not grow volume {name} in pool {pool}: there is none of that name")
            if volume.info()[1] < size:
                volume.resize(size)
            return _read_volume(volume)

    def remove_volume(self, pool: str, name: str) -> bool:
        """Delete a volume."""
        with self._trying(f"remove volume {name} from pool {pool}") as connection:
            there = _look_up(connection.storagePoolLookupByName, pool, libvirt.VIR_ERR_NO_STORAGE_POOL)
            volume = None if there is None else _find_volume(there, name)
            if volume is None:
                return False
            try:
                with _tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                    volume.delete(0)
            except libvirt.libvirtError as problem:
                # libvirt still knows it, and the file is gone: undefining a domain takes its NVRAM away, for example.
                if "No such file or directory" not in _message(problem):
                    raise
                _refreshed(there)
                return False
            return True


# errors


def _alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _message(problem: libvirt.libvirtError) -> str:
    return " ".join((problem.get_error_message() or str(problem)).split())


@contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    """Go on after the block if it fails with one of these of libvirt's error codes."""
    try:
        yield
    except libvirt.libvirtError as problem:
        if problem.get_error_code() not in codes:
            raise


def _look_up(find: Callable[[str], Any], name: str, missing: int) -> Any | None:
    with _tolerating(missing):
        return find(name)
    return None


def _version(number: int) -> str:
    """libvirt's way to write 9.0.0 is 9000000.

    >>> _version(9000000), _version(7002022)
    ('9.0.0', '7.2.22')
    """
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


# domains


def _read_domain(domain: Any) -> Domain:
    code, reason = domain.state(0)
    state = _STATES.get(code, DomainState.RUNNING)
    if code == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
        state = DomainState.CRASHED
    return Domain(domain.name(), domain.UUIDString(), state, find_mark(ET.fromstring(domain.XMLDesc(0))))


def _power_off(domain: Any) -> None:
    # Not running is fine.
    with _tolerating(libvirt.VIR_ERR_OPERATION_INVALID):
        domain.destroy()


def _undefine(domain: Any) -> None:
    for known in range(len(_UNDEFINE_WITH), -1, -1):
        try:
            domain.undefineFlags(sum(_UNDEFINE_WITH[:known]))
            return
        except libvirt.libvirtError as problem:
            refused = problem.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT)
            if not refused or known == 0:
                raise


def _leases(connection: Any, domain: Any, mac: str) -> list[str]:
    network = interface_networks(ET.fromstring(domain.XMLDesc(0))).get(mac)
    if network is None:
        return []
    leases = connection.networkLookupByName(network).DHCPLeases(mac, 0)
    newest_first = sorted(leases, key=lambda lease: lease["expirytime"], reverse=True)
    return [lease["ipaddr"] for lease in newest_first if lease["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4]


def _leases_by_domain(_connection: Any, domain: Any, mac: str) -> list[str]:
    return _interface_addresses(domain, mac, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)


def _neighbours(_connection: Any, domain: Any, mac: str) -> list[str]:
    return _interface_addresses(domain, mac, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP)


def _interface_addresses(domain: Any, mac: str, source: int) -> list[str]:
    return [
        address["addr"]
        for interface in domain.interfaceAddresses(source, 0).values()
        if (interface["hwaddr"] or "").lower() == mac
        for address in interface["addrs"] or []
        if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4
    ]


# networks


def _networks(connection: Any) -> list[Network]:
    found = []
    for network in connection.listAllNetworks(0):
        with _tolerating(libvirt.VIR_ERR_NO_NETWORK):
            definition = ET.fromstring(network.XMLDesc(0))
            found.append(read_network(definition, active=bool(network.isActive())))
    return found


# storage


def _pool(connection: Any, name: str) -> Any:
    """An active pool; raises :class:`HostNotReady` where there is none."""
    pool = _look_up(connection.storagePoolLookupByName, name, libvirt.VIR_ERR_NO_STORAGE_POOL)
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
        if "asynchronous jobs running" not in _message(problem):
            raise
    return pool


def _find_volume(pool: Any, name: str) -> Any | None:
    """A volume that libvirt knows, or that turns out to lie in the pool's directory."""
    missing = libvirt.VIR_ERR_NO_STORAGE_VOL
    found = _look_up(pool.storageVolLookupByName, name, missing)
    return found or _look_up(_refreshed(pool).storageVolLookupByName, name, missing)


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
        if problem.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST and "already exists" not in _message(problem):
            raise
        raise NameTaken(f"there is a volume called {name!r} in pool {pool.name()} already") from problem


def _send(connection: Any, read: Callable[[int], bytes], volume: Any, length: int) -> None:
    stream = connection.newStream(0)
    volume.upload(stream, 0, length, 0)
    try:
        while chunk := read(_CHUNK):
            while chunk:
                chunk = chunk[stream.send(chunk) :]
        stream.finish()
    except BaseException:
        with suppress(libvirt.libvirtError):
            stream.abort()
        raise


def _remove_half_made(volume: Any) -> None:
    """Delete a volume as soon as libvirt, which may still be closing the stream, lets go of it."""

    def deleted() -> bool:
        with _tolerating(libvirt.VIR_ERR_OPERATION_INVALID):
            with _tolerating(libvirt.VIR_ERR_NO_STORAGE_VOL):
                volume.delete(0)
            return True
        return False

    wait_until(deleted, Deadline(_RELEASE_LIMIT), f"release of volume {volume.name()}", interval=0.05)
