"""What networks occupy - names, bridges and subnets - and whether another network may have it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from vmprov.errors import NameTaken
from vmprov.hypervisor import Network


class Occupied:
    """Asking costs the same among ten networks as among ten thousand, unless subnets of many sizes are mixed."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks: dict[str, Network] = {}
        self._bridges: dict[str, str] = {}
        # Prefix length -> network address -> the name of the network.
        self._subnets: dict[int, dict[int, str]] = {}
        for network in networks:
            self.put(network)

    def put(self, network: Network) -> None:
        """Add a network, or replace the one of its name."""
        self.remove(network.name)
        self._networks[network.name] = network
        if network.bridge:
            self._bridges[network.bridge] = network.name
        for subnet in network.subnets:
            self._subnets.setdefault(subnet.prefixlen, {})[int(subnet.network_address)] = network.name

    def remove(self, name: str) -> None:
        """Forget a network; one that is not there is fine."""
        network = self._networks.pop(name, None)
        if network is None:
            return
        if self._bridges.get(network.bridge) == name:
            del self._bridges[network.bridge]
        for subnet in network.subnets:
            owners, address = self._subnets[subnet.prefixlen], int(subnet.network_address)
            if owners.get(address) == name:
                del owners[address]

    def refuse(self, wanted: Network) -> None:
        """Raise :class:`NameTaken` if another network has the name, the bridge or a part of the subnets.

        libvirt itself sees subnets only where they are equal, and takes a known name with its uuid for a change.
        """
        if wanted.name in self._networks:
            raise NameTaken(f"there is a network called {wanted.name!r} already")
        if wanted.bridge in self._bridges:
            raise NameTaken(f"bridge {wanted.bridge} belongs to network {self._bridges[wanted.bridge]!r} already")
        for subnet in wanted.subnets:
            if (owner := self._owner(subnet)) is not None:
                raise NameTaken(f"subnet {subnet} belongs to network {owner!r} already")

    def _owner(self, subnet: IPv4Network) -> str | None:
        """The network that has a part of a subnet."""
        first = int(subnet.network_address)
        for prefix, owners in self._subnets.items():
            if prefix <= subnet.prefixlen:
                found = owners.get(first >> (32 - prefix) << (32 - prefix))
            else:
                last = first + subnet.num_addresses - 1
                found = next((owner for address, owner in owners.items() if first <= address <= last), None)
            if found is not None:
                return found
        return None
