"""A hypervisor in memory (or in one JSON file), for tests and for trying things out without any machine.

It takes the XML that libvirt takes and refuses what libvirt refuses: names, bridges and subnets in use, machines
whose network or disk is not there. A machine that starts "boots": each console log that its definition names
gets a short transcript, up to a login prompt. Any call can be told to fail or to be slow:

>>> fake = FakeHypervisor()
>>> fake.fail("create_volume", LibvirtFailed("the disk is full"))
>>> fake.create_volume("default", "disk", size=2**30)
Traceback (most recent call last):
...
vmprov.errors.LibvirtFailed: the disk is full
>>> fake.create_volume("default", "disk", size=2**30).path
'/fake/default/disk'
"""

from __future__ import annotations

import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vmprov.errors import Failed, HostNotReady, LibvirtFailed, NameTaken, VmprovError
from vmprov.hypervisor import Domain, DomainState, Lease, Network, Node, Pool, Volume
from vmprov.hypervisor.definitions import (
    find_mark,
    interface_networks,
    parse_definition,
    read_network,
    with_name,
    with_note,
)
from vmprov.hypervisor.dhcp import address_for
from vmprov.hypervisor.occupied import Occupied
from vmprov.hypervisor.world import Change, Values, World
from vmprov.settings import Settings
from vmprov.waiting import Cancel

CPUS = 64
LOADERS = ["/fake/OVMF_CODE_4M.fd", "/fake/OVMF_CODE_4M.secboot.fd"]
# What an empty qcow2 file takes.
_EMPTY_VOLUME = 196 * 1024
# Definitions that are not parsed again.
_REMEMBERED = 100_000

BOOT_TRANSCRIPT = """\
\r
SeaBIOS (version 1.16.2-fake)\r
Booting from Hard Disk...\r
GRUB loading.\r
Welcome to GRUB!\r
[    0.000000] Linux version 6.1.0-fake (fake@vmprov) #1 SMP\r
[    0.000000] Command line: console=ttyS0\r
[    1.234567] Run /sbin/init as init process\r
\r
Fake GNU/Linux 1 {name} ttyS0\r
\r
{name} login: """

_UNITS = {"b": 1, "bytes": 1, "KiB": 1024, "k": 1024, "MiB": 1024**2, "M": 1024**2, "GiB": 1024**3, "G": 1024**3}


# Kinds of values: domains {"xml", "state"}, networks {"xml", "leases": {MAC: address}, "active"}, pools {"path"}, and
# volumes {"pool", "capacity", "allocation"}, which are called POOL/NAME.
_START: Values = {"domains": {}, "networks": {}, "pools": {"default": {"path": "/fake/default"}}, "volumes": {}}


@dataclass
class _Fault:
    method: str
    error: VmprovError
    times: int
    when: Callable[..., bool]


class FakeHypervisor:
    """See the module. With a ``path``, every process that names the same file sees the same world.

    ``boot_transcript`` is what a booting machine prints (``{name}`` stands for its name); without its login prompt,
    machines hang.
    """

    def __init__(
        self, path: Path | None = None, *, memory: int = Settings.fake_memory, pool_capacity: int = Settings.fake_pool
    ) -> None:
        """``memory`` and ``pool_capacity``: what the host has, and what each of its pools holds, in bytes."""
        self.boot_transcript = BOOT_TRANSCRIPT
        self._memory = memory
        self._pool_capacity = pool_capacity
        self._occupied = Occupied()
        self._world = World(path, _START, self._note)
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._delays: dict[str, float] = {}

    def _note(self, kind: str, name: str, value: Mapping[str, Any] | None) -> None:
        """Something of the world changed."""
        if kind == "networks" and value is None:
            self._occupied.remove(name)
        elif kind == "networks" and value is not None:
            self._occupied.put(_read_network(value))

    # faults

    def fail(
        self, method: str, error: VmprovError, *, times: int = 1, when: Callable[..., bool] = lambda *_: True
    ) -> None:
        """Let the next ``times`` calls of ``method`` for which ``when(*arguments)`` is true raise ``error``.

        >>> fake = FakeHypervisor()
        >>> fake.fail("remove_volume", LibvirtFailed("busy"), when=lambda pool, name: name == "a")
        >>> fake.remove_volume("default", "b")
        False
        >>> fake.remove_volume("default", "a")
        Traceback (most recent call last):
        ...
        vmprov.errors.LibvirtFailed: busy
        """
        with self._lock:
            self._faults.append(_Fault(method, error, times, when))

    def delay(self, method: str, seconds: float) -> None:
        """Let every call of ``method`` take so long.

        >>> fake = FakeHypervisor()
        >>> fake.delay("networks", 0.01)
        >>> fake.networks()
        []
        """
        with self._lock:
            self._delays[method] = seconds

    def _enter(self, method: str, *arguments: object) -> None:
        """What every call begins with: being late, or failing, if so ordered."""
        with self._lock:
            seconds = self._delays.get(method, 0.0)
        if seconds:
            Cancel().sleep(seconds)
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.times > 0 and fault.when(*arguments):
                    fault.times -= 1
                    raise fault.error

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def node(self) -> Node:
        """A large machine, whose memory running domains use up."""
        self._enter("node")
        with self._world.changing() as world:
            used = sum(_memory(_definition(domain)) for domain in world.all("domains").values() if _active(domain))
        return Node(CPUS, self._memory, max(0, self._memory - used), "9.0.0", "7.2.0")

    def loaders(self) -> list[str]:
        """Firmware with and without Secure Boot."""
        self._enter("loaders")
        return list(LOADERS)

    # domains

    def domains(self) -> list[Domain]:
        """All domains."""
        self._enter("domains")
        with self._world.changing() as world:
            return [_read_domain(domain) for domain in world.all("domains").values()]

    def domain(self, name: str) -> Domain:
        """One domain, or one that is ``MISSING``."""
        self._enter("domain", name)
        with self._world.changing() as world:
            domain = world.get("domains", name)
            return Domain(name, "", DomainState.MISSING, None) if domain is None else _read_domain(domain)

    def domain_xml(self, name: str) -> str:
        """The definition as it was given, with its uuid, and without passwords."""
        self._enter("domain_xml", name)
        with self._world.changing() as world:
            domain = _domain(world, name, "read the definition of")
            definition = deepcopy(_definition(domain))
        for screen in definition.findall("devices/graphics"):
            screen.attrib.pop("passwd", None)
            if _active(domain) and screen.get("autoport") == "yes":
                screen.set("port", "5900")
        return ET.tostring(definition, encoding="unicode")

    def domain_definition(self, name: str) -> str:
        """The definition as it was given, with its uuid; a fake's running domains have no other one."""
        self._enter("domain_definition", name)
        with self._world.changing() as world:
            return str(_domain(world, name, "read the definition of")["xml"])

    def define_domain(self, xml: str) -> Domain:
        """Define, or redefine a domain that has the name and the uuid."""
        self._enter("define_domain", xml)
        definition = parse_definition(xml, "domain")
        name = definition.findtext("name", "")
        if definition.find("memory") is None or definition.find("os/type") is None:
            raise LibvirtFailed(f"could not define domain {name}: memory or os type missing")
        if definition.find("uuid") is None:
            ET.SubElement(definition, "uuid").text = str(uuid.uuid4())
        with self._world.changing() as world:
            state = DomainState.STOPPED
            if (there := world.get("domains", name)) is not None:
                existing = _read_domain(there)
                if existing.uuid != definition.findtext("uuid"):
                    raise LibvirtFailed(f"could not define domain {name}: it already exists with uuid {existing.uuid}")
                state = existing.state
            domain = {"xml": ET.tostring(definition, encoding="unicode"), "state": state.value}
            world.put("domains", name, domain)
            return _read_domain(domain)

    def annotate_domain(self, name: str, text: str) -> None:
        """Keep a text with it."""
        self._enter("annotate_domain", name)
        with self._world.changing() as world:
            domain = _domain(world, name, "annotate")
            xml = ET.tostring(with_note(_definition(domain), text), encoding="unicode")
            world.put("domains", name, {**domain, "xml": xml})

    def rename_domain(self, name: str, new: str) -> Domain:
        """Give it another name."""
        self._enter("rename_domain", name, new)
        with self._world.changing() as world:
            domain = _domain(world, name, "rename")
            if world.get("domains", new) is not None:
                raise NameTaken(f"there is a domain called {new!r} already")
            if _active(domain):
                raise LibvirtFailed(f"could not rename domain {name}: it is running")
            renamed = {**domain, "xml": with_name(domain["xml"], new)}
            world.remove("domains", name)
            world.put("domains", new, renamed)
            return _read_domain(renamed)

    def start_domain(self, name: str) -> None:
        """Power on: interfaces get their addresses, console logs a boot transcript."""
        self._enter("start_domain", name)
        with self._world.changing() as world:
            domain = _domain(world, name, "start")
            if DomainState(domain["state"]).is_on:
                return
            definition = _definition(domain)
            _check_disks(world, definition, name)
            for mac, network in interface_networks(definition).items():
                there = world.get("networks", network)
                if there is None:
                    raise LibvirtFailed(f"could not start domain {name}: there is no network {network!r}")
                if not there["active"]:
                    raise LibvirtFailed(f"could not start domain {name}: network {network!r} is not active")
                if address := address_for(mac, _definition(there), there["leases"]):
                    world.put("networks", network, {**there, "leases": {**there["leases"], mac: address}})
            _put_state(world, name, DomainState.RUNNING)
            self._boot(definition)

    def shutdown_domain(self, name: str) -> None:
        """Stop at once: a fake guest obeys."""
        self._enter("shutdown_domain", name)
        with self._world.changing() as world:
            _domain(world, name, "shut down")
            _put_state(world, name, DomainState.STOPPED)

    def reboot_domain(self, name: str) -> None:
        """Boot again."""
        self._enter("reboot_domain", name)
        self._boot_again(name, "reboot")

    def reset_domain(self, name: str) -> None:
        """Boot again."""
        self._enter("reset_domain", name)
        self._boot_again(name, "reset")

    def _boot_again(self, name: str, doing: str) -> None:
        with self._world.changing() as world:
            domain = _domain(world, name, doing)
            if not _active(domain):
                raise LibvirtFailed(f"could not {doing} domain {name}: domain is not running")
            self._boot(_definition(domain))

    def _boot(self, definition: ET.Element) -> None:
        mark = find_mark(definition)
        name = mark.vm if mark and mark.vm else definition.findtext("name", "")
        try:
            for log in definition.findall("devices/serial/log"):
                with Path(log.get("file", "")).open("ab") as file:
                    file.write(self.boot_transcript.replace("{name}", name).encode())
        except OSError as problem:
            raise LibvirtFailed(f"could not open the console log of domain {name}: {problem}") from problem

    def power_off_domain(self, name: str) -> None:
        """Pull the plug."""
        self._enter("power_off_domain", name)
        with self._world.changing() as world:
            if world.get("domains", name) is not None:
                _put_state(world, name, DomainState.STOPPED)

    def pause_domain(self, name: str) -> None:
        """Stop its CPUs, as somebody else might."""
        with self._world.changing() as world:
            _domain(world, name, "pause")
            _put_state(world, name, DomainState.PAUSED)

    def resume_domain(self, name: str) -> None:
        """Let it run on."""
        self._enter("resume_domain", name)
        with self._world.changing() as world:
            if _domain(world, name, "resume")["state"] == DomainState.PAUSED:
                _put_state(world, name, DomainState.RUNNING)

    def remove_domain(self, name: str) -> bool:
        """Power off and undefine."""
        self._enter("remove_domain", name)
        with self._world.changing() as world:
            domain = world.get("domains", name)
            if domain is None:
                return False
            nvram = _definition(domain).findtext("os/nvram", "")
            for key, pool in world.all("pools").items():
                if nvram.startswith(f"{pool['path']}/"):
                    world.remove("volumes", f"{key}/{nvram.removeprefix(pool['path'] + '/')}")
            return world.remove("domains", name)

    def domain_addresses(self, name: str, mac: str) -> list[str]:
        """What the interface's network leased to it."""
        self._enter("domain_addresses", name, mac)
        with self._world.changing() as world:
            domain = world.get("domains", name)
            if domain is None:
                return []
            network = interface_networks(_definition(domain)).get(mac.lower(), "")
            leases = (world.get("networks", network) or {"leases": {}})["leases"]
            return [leases[mac.lower()]] if mac.lower() in leases else []

    def domain_at(self, address: str) -> Domain | None:
        """The running domain that has this address, or ``None``; only a fake can tell."""
        with self._world.changing() as world:
            for domain in filter(_active, world.all("domains").values()):
                for mac, network in interface_networks(_definition(domain)).items():
                    if (world.get("networks", network) or {"leases": {}})["leases"].get(mac) == address:
                        return _read_domain(domain)
        return None

    # networks

    def networks(self) -> list[Network]:
        """All networks."""
        self._enter("networks")
        with self._world.changing() as world:
            return [_read_network(network) for network in world.all("networks").values()]

    def network(self, name: str) -> Network | None:
        """One network, or ``None``."""
        self._enter("network", name)
        with self._world.changing() as world:
            network = world.get("networks", name)
            return None if network is None else _read_network(network)

    def create_network(self, xml: str) -> Network:
        """Define and start."""
        self._enter("create_network", xml)
        definition = parse_definition(xml, "network")
        wanted = read_network(definition, active=True)
        with self._world.changing() as world:
            self._occupied.refuse(wanted)
            if definition.find("uuid") is None:
                ET.SubElement(definition, "uuid").text = str(uuid.uuid4())
            xml = ET.tostring(definition, encoding="unicode")
            world.put("networks", wanted.name, {"xml": xml, "leases": {}, "active": True})
            return wanted

    def stop_network(self, name: str) -> None:
        """Stop a network, as somebody else might."""
        with self._world.changing() as world:
            world.put("networks", name, {**_network(world, name, "stop"), "active": False})

    def start_network(self, name: str) -> None:
        """Start it."""
        self._enter("start_network", name)
        with self._world.changing() as world:
            world.put("networks", name, {**_network(world, name, "start"), "active": True})

    def remove_network(self, name: str) -> bool:
        """Stop and undefine."""
        self._enter("remove_network", name)
        with self._world.changing() as world:
            return world.remove("networks", name)

    def network_xml(self, name: str) -> str:
        """The definition as it was given, with its uuid."""
        self._enter("network_xml", name)
        with self._world.changing() as world:
            return str(_network(world, name, "read the definition of")["xml"])

    def network_definition(self, name: str) -> str:
        """The same as its definition."""
        self._enter("network_definition", name)
        with self._world.changing() as world:
            return str(_network(world, name, "read the definition of")["xml"])

    def redefine_network(self, xml: str) -> bool:
        """Change the definition; what runs on it keeps the old one, and nothing is told when it starts anew."""
        self._enter("redefine_network", xml)
        name = parse_definition(xml, "network").findtext("name", "")
        with self._world.changing() as world:
            world.put("networks", name, {**_network(world, name, "change"), "xml": xml})
            running = [_definition(domain) for domain in world.all("domains").values() if _active(domain)]
            return not any(name in interface_networks(domain).values() for domain in running)

    def network_leases(self, name: str) -> list[Lease]:
        """What interfaces got; fake guests have no host names, and keep their addresses for ever."""
        self._enter("network_leases", name)
        with self._world.changing() as world:
            leases = _network(world, name, "ask for the leases of")["leases"]
        return sorted((Lease(mac, address, "", 0.0) for mac, address in leases.items()), key=lambda one: one.address)

    # storage

    def pool(self, name: str) -> Pool:
        """A pool."""
        self._enter("pool", name)
        with self._world.changing() as world:
            return self._read_pool(world, name)

    def create_pool(self, name: str, path: str) -> Pool:
        """Make sure that a pool exists."""
        self._enter("create_pool", name, path)
        with self._world.changing() as world:
            if world.get("pools", name) is None:
                world.put("pools", name, {"path": path})
            there = _pool(world, name)["path"]
            if there != path:
                raise NameTaken(f"there is a pool called {name!r} already, in {there} instead of {path}")
            return self._read_pool(world, name)

    def _read_pool(self, world: Change, name: str) -> Pool:
        used = sum(volume["allocation"] for volume in world.all("volumes").values() if volume["pool"] == name)
        return Pool(name, _pool(world, name)["path"], self._pool_capacity, max(0, self._pool_capacity - used))

    def volumes(self, pool: str) -> list[Volume]:
        """All volumes of a pool."""
        self._enter("volumes", pool)
        with self._world.changing() as world:
            return [_read_volume(world, pool, name) for name in _volumes(world, pool)]

    def volume(self, pool: str, name: str) -> Volume | None:
        """One volume, or ``None``."""
        self._enter("volume", pool, name)
        with self._world.changing() as world:
            _pool(world, pool)
            return None if world.get("volumes", f"{pool}/{name}") is None else _read_volume(world, pool, name)

    def create_volume(self, pool: str, name: str, *, size: int, format: str = "qcow2", backing: str = "") -> Volume:
        """Make an empty volume or an overlay."""
        self._enter("create_volume", pool, name)
        with self._world.changing() as world:
            if backing and not _is_volume(world, backing):
                raise LibvirtFailed(f"could not create volume {name} in pool {pool}: there is no {backing}")
            allocation = 0 if format == "raw" else _EMPTY_VOLUME
            return _add_volume(world, pool, name, capacity=size, allocation=allocation)

    def upload_volume(self, pool: str, name: str, source: Path, *, format: str, capacity: int) -> Volume:
        """Make a volume as large as a file; the contents are read, so that errors show, but not kept."""
        self._enter("upload_volume", pool, name, source)
        with self._world.changing() as world:
            try:
                length = len(source.read_bytes())
            except OSError as problem:
                raise Failed(f"could not read {source}: {problem.strerror}") from problem
            size = max(capacity, length) if format == "raw" else capacity
            return _add_volume(world, pool, name, capacity=size, allocation=length)

    def grow_volume(self, pool: str, name: str, size: int) -> Volume:
        """Make it larger."""
        self._enter("grow_volume", pool, name, size)
        with self._world.changing() as world:
            volume = world.get("volumes", f"{pool}/{name}")
            if volume is None:
                raise LibvirtFailed(f"could not grow volume {name} in pool {pool}: there is none of that name")
            world.put("volumes", f"{pool}/{name}", {**volume, "capacity": max(size, volume["capacity"])})
            return _read_volume(world, pool, name)

    def remove_volume(self, pool: str, name: str) -> bool:
        """Delete a volume."""
        self._enter("remove_volume", pool, name)
        with self._world.changing() as world:
            return world.remove("volumes", f"{pool}/{name}")


# domains


def _domain(world: Change, name: str, doing: str) -> Mapping[str, Any]:
    domain = world.get("domains", name)
    if domain is None:
        raise LibvirtFailed(f"could not {doing} domain {name}: there is no domain of that name")
    return domain


def _put_state(world: Change, name: str, state: DomainState) -> None:
    world.put("domains", name, {**_domain(world, name, "change"), "state": state.value})


def _definition(thing: Mapping[str, Any]) -> ET.Element:
    """What must not be changed: others get the same."""
    return _parsed(thing["xml"])


@lru_cache(maxsize=_REMEMBERED)
def _parsed(xml: str) -> ET.Element:
    return ET.fromstring(xml)


def _active(domain: Mapping[str, Any]) -> bool:
    return bool(domain["state"] == DomainState.RUNNING)


def _read_domain(domain: Mapping[str, Any]) -> Domain:
    definition = _definition(domain)
    return Domain(
        name=definition.findtext("name", ""),
        uuid=definition.findtext("uuid", ""),
        state=DomainState(domain["state"]),
        mark=find_mark(definition),
    )


def _memory(definition: ET.Element) -> int:
    memory = definition.find("memory")
    if memory is None:
        return 0
    return int(memory.text or 0) * _UNITS.get(memory.get("unit", "KiB"), 1024)


def _check_disks(world: Change, definition: ET.Element, name: str) -> None:
    for source in definition.findall("devices/disk/source[@file]"):
        if not _is_volume(world, source.get("file", "")):
            raise LibvirtFailed(f"could not start domain {name}: there is no {source.get('file')}")


# networks


def _network(world: Change, name: str, doing: str) -> Mapping[str, Any]:
    network = world.get("networks", name)
    if network is None:
        raise LibvirtFailed(f"could not {doing} network {name}: there is no network of that name")
    return network


def _read_network(network: Mapping[str, Any]) -> Network:
    return _parsed_network(network["xml"], network["active"])


@lru_cache(maxsize=_REMEMBERED)
def _parsed_network(xml: str, active: bool) -> Network:
    return read_network(_parsed(xml), active=active)


# storage


def _pool(world: Change, name: str) -> Mapping[str, Any]:
    pool = world.get("pools", name)
    if pool is None:
        raise HostNotReady(f"the host has no storage pool called {name!r}")
    return pool


def _volumes(world: Change, pool: str) -> list[str]:
    _pool(world, pool)
    return [key.partition("/")[2] for key in world.all("volumes") if key.startswith(f"{pool}/")]


def _read_volume(world: Change, pool: str, name: str) -> Volume:
    volume = world.get("volumes", f"{pool}/{name}") or {}
    return Volume(name, f"{_pool(world, pool)['path']}/{name}", volume["capacity"], volume["allocation"])


def _is_volume(world: Change, path: str) -> bool:
    """Whether a pool's volume lies there."""
    directory, _, name = path.rpartition("/")
    return any(
        pool["path"] == directory and world.get("volumes", f"{key}/{name}") is not None
        for key, pool in world.all("pools").items()
    )


def _add_volume(world: Change, pool: str, name: str, *, capacity: int, allocation: int) -> Volume:
    _pool(world, pool)
    if world.get("volumes", f"{pool}/{name}") is not None:
        raise NameTaken(f"there is a volume called {name!r} in pool {pool} already")
    world.put("volumes", f"{pool}/{name}", {"pool": pool, "capacity": capacity, "allocation": allocation})
    return _read_volume(world, pool, name)
