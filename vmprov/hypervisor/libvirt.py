"""libvirt behind the :class:`vmprov.hypervisor.Hypervisor` protocol; only this and what it is made of import libvirt.

Objects can vanish between being looked up and being used, since others work on the same host. A look-up or a
removal takes that for an answer; everything else reports it like any refusal.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import ExitStack, suppress
from typing import Any

import libvirt

from vmprov.errors import NameTaken
from vmprov.hypervisor import NOTE_URI, Domain, DomainState, Lease, Network, Node
from vmprov.hypervisor.connection import alive, look_up, message_of, tolerating
from vmprov.hypervisor.definitions import (
    find_mark,
    interface_networks,
    note_element,
    parse_definition,
    read_network,
)
from vmprov.hypervisor.occupied import Occupied
from vmprov.hypervisor.storage import Storage

_STATES = {
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}

# What libvirt, the kernel and dnsmasq say when a name, bridge or subnet is somebody else's.
_TAKEN = (
    "already exists",
    "already in use",
    "File exists",
    "failed to create listening socket",
    "Address already in use",
)

# From the newest flags to the oldest; a daemon refuses the whole call for one that it does not know.
_UNDEFINE_WITH = [
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE,
    libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA,
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM,
    libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA,
    getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0),
]


class LibvirtHypervisor(Storage):
    """One libvirt, by its URI: what the machine has, domains and networks; for the rest, see what it is made of."""

    def node(self) -> Node:
        """What the machine has, as its kernel counts it."""
        with self.trying("ask what the host has") as connection:
            # The memory in getInfo() is a sum over NUMA nodes, and wrong where the kernel does not report them all.
            memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            qemu = 0
            with tolerating(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INTERNAL_ERROR):
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
        with self.trying("ask for the host's firmware") as connection:
            found = ET.fromstring(connection.getDomainCapabilities(None, "x86_64", "q35", None, 0))
            return [value.text or "" for value in found.findall("os/loader/value")]

    # domains

    def domains(self) -> list[Domain]:
        """All domains."""
        with self.trying("list the domains") as connection:
            found = []
            for domain in connection.listAllDomains(0):
                with tolerating(libvirt.VIR_ERR_NO_DOMAIN):
                    found.append(_read_domain(domain))
            return found

    def domain(self, name: str) -> Domain:
        """One domain, or one that is ``MISSING``."""
        with self.trying(f"look up domain {name}") as connection:
            with tolerating(libvirt.VIR_ERR_NO_DOMAIN):
                return _read_domain(connection.lookupByName(name))
            return Domain(name, "", DomainState.MISSING, None)

    def domain_xml(self, name: str) -> str:
        """The definition as libvirt prints it."""
        with self.trying(f"read the definition of domain {name}") as connection:
            return str(connection.lookupByName(name).XMLDesc(0))

    def domain_definition(self, name: str) -> str:
        """The definition that was given, as far as libvirt keeps it."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with self.trying(f"read the definition of domain {name}") as connection:
            return str(connection.lookupByName(name).XMLDesc(flags))

    def define_domain(self, xml: str) -> Domain:
        """Define, or redefine a domain that has the name and the uuid."""
        name = parse_definition(xml, "domain").findtext("name")
        with self.trying(f"define domain {name}") as connection:
            return _read_domain(connection.defineXML(xml))

    def annotate_domain(self, name: str, text: str) -> None:
        """Keep a text in its metadata, now and from its next start on."""
        note = ET.tostring(note_element(text), encoding="unicode")
        with self.trying(f"annotate domain {name}") as connection:
            domain = connection.lookupByName(name)
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, note, "vmprov-note", NOTE_URI, flags)

    def rename_domain(self, name: str, new: str) -> Domain:
        """Give it another name."""
        with self.trying(f"rename domain {name} to {new}") as connection:
            domain = connection.lookupByName(name)
            if look_up(connection.lookupByName, new, libvirt.VIR_ERR_NO_DOMAIN) is not None:
                raise NameTaken(f"there is a domain called {new!r} already")
            domain.rename(new, 0)
            return _read_domain(domain)

    def start_domain(self, name: str) -> None:
        """Power on."""
        with self.trying(f"start domain {name}") as connection:
            domain = connection.lookupByName(name)
            try:
                domain.create()
            except libvirt.libvirtError as problem:
                if problem.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
                    raise

    def shutdown_domain(self, name: str) -> None:
        """Ask the guest to stop."""
        with self.trying(f"shut down domain {name}") as connection:
            domain = connection.lookupByName(name)
            try:
                domain.shutdown()
            except libvirt.libvirtError as problem:
                if problem.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or domain.isActive():
                    raise

    def reboot_domain(self, name: str) -> None:
        """Ask the guest to reboot."""
        with self.trying(f"reboot domain {name}") as connection:
            connection.lookupByName(name).reboot(0)

    def reset_domain(self, name: str) -> None:
        """Press the reset button."""
        with self.trying(f"reset domain {name}") as connection:
            connection.lookupByName(name).reset(0)

    def power_off_domain(self, name: str) -> None:
        """Pull the plug."""
        with self.trying(f"power off domain {name}") as connection, tolerating(libvirt.VIR_ERR_NO_DOMAIN):
            _power_off(connection.lookupByName(name))

    def resume_domain(self, name: str) -> None:
        """Let it run on."""
        with self.trying(f"resume domain {name}") as connection:
            domain = connection.lookupByName(name)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

    def remove_domain(self, name: str) -> bool:
        """Power off and undefine, with everything that libvirt keeps beside the definition."""
        with self.trying(f"remove domain {name}") as connection:
            domain = look_up(connection.lookupByName, name, libvirt.VIR_ERR_NO_DOMAIN)
            if domain is None:
                return False
            # A transient domain, or one that somebody else removes, is gone as soon as it is off.
            with tolerating(libvirt.VIR_ERR_NO_DOMAIN):
                _power_off(domain)
                _undefine(domain)
            return True

    def domain_addresses(self, name: str, mac: str) -> list[str]:
        """The network's leases for the interface, newest first, or else what the host's ARP table knows."""
        with self.trying(f"ask for the addresses of domain {name}") as connection:
            domain = look_up(connection.lookupByName, name, libvirt.VIR_ERR_NO_DOMAIN)
            if domain is None:
                return []
            for ask in (_leases, _leases_by_domain, _neighbours):
                try:
                    found = ask(connection, domain, mac.lower())
                except libvirt.libvirtError:
                    # Stopped, its network gone, or no such question on this host: nobody knows an address.
                    if not alive(connection):
                        raise
                    continue
                if found:
                    return found
            return []

    # networks

    def networks(self) -> list[Network]:
        """All networks."""
        with self.trying("list the networks") as connection:
            return _networks(connection)

    def network(self, name: str) -> Network | None:
        """One network, or ``None``."""
        with self.trying(f"look for network {name}") as connection:
            network = look_up(connection.networkLookupByName, name, libvirt.VIR_ERR_NO_NETWORK)
            return None if network is None else _read_network(network)

    def create_network(self, xml: str) -> Network:
        """Define and start, or leave nothing behind."""
        wanted = read_network(parse_definition(xml, "network"), active=True)
        with self.trying(f"create network {wanted.name}") as connection:
            Occupied(_networks(connection)).refuse(wanted)
            try:
                network = connection.networkDefineXML(xml)
                with ExitStack() as undo:
                    undo.callback(_undefine_network, network)
                    network.create()
                    undo.pop_all()
            except libvirt.libvirtError as problem:
                if any(sign in message_of(problem) for sign in _TAKEN):
                    raise NameTaken(f"could not create network {wanted.name}: {message_of(problem)}") from problem
                raise
            return read_network(ET.fromstring(network.XMLDesc(0)), active=True)

    def start_network(self, name: str) -> None:
        """Start it."""
        with self.trying(f"start network {name}") as connection:
            network = connection.networkLookupByName(name)
            try:
                network.create()
            except libvirt.libvirtError:
                if not network.isActive():
                    raise

    def remove_network(self, name: str) -> bool:
        """Stop and undefine."""
        with self.trying(f"remove network {name}") as connection:
            network = look_up(connection.networkLookupByName, name, libvirt.VIR_ERR_NO_NETWORK)
            if network is None:
                return False
            with tolerating(libvirt.VIR_ERR_NO_NETWORK):
                # Not active is fine.
                with tolerating(libvirt.VIR_ERR_OPERATION_INVALID):
                    network.destroy()
                network.undefine()
            return True

    def network_xml(self, name: str) -> str:
        """The definition as libvirt prints it."""
        with self.trying(f"read the definition of network {name}") as connection:
            return str(connection.networkLookupByName(name).XMLDesc(0))

    def network_definition(self, name: str) -> str:
        """The persistent definition."""
        with self.trying(f"read the definition of network {name}") as connection:
            return str(connection.networkLookupByName(name).XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))

    def redefine_network(self, xml: str) -> bool:
        """Define, and restart what has no connections."""
        name = parse_definition(xml, "network").findtext("name", "")
        with self.trying(f"change network {name}") as connection:
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
        with self.trying(f"ask for the leases of network {name}") as connection:
            found = connection.networkLookupByName(name).DHCPLeases(None, 0)
        leases = [
            Lease((lease["mac"] or "").lower(), lease["ipaddr"], lease["hostname"] or "", float(lease["expirytime"]))
            for lease in found
        ]
        return sorted(leases, key=lambda lease: lease.address)


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
    with tolerating(libvirt.VIR_ERR_OPERATION_INVALID):
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


def _undefine_network(network: Any) -> None:
    """Forget a network that could not be started."""
    with suppress(libvirt.libvirtError):
        network.undefine()


def _networks(connection: Any) -> list[Network]:
    return [found for network in connection.listAllNetworks(0) if (found := _read_network(network)) is not None]


def _read_network(network: Any) -> Network | None:
    """``None`` if it is gone by now."""
    with tolerating(libvirt.VIR_ERR_NO_NETWORK):
        return read_network(ET.fromstring(network.XMLDesc(0)), active=bool(network.isActive()))
    return None
