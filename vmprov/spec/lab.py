"""A lab as it is wanted: every machine by its name, with nothing left to be looked up in files or variables.

``load.py`` makes one of a file, :func:`lab_of` of the options of ``vmprov create``, ``write.py`` a file of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vmprov.documents import shown
from vmprov.spec.machine import NETWORK_MODES
from vmprov.spec.names import check_domain_name, check_name, check_network_name, check_serial_number
from vmprov.spec.request import CreateRequest
from vmprov.spec.wishes import Part, Wishes

MOST_VMS = 10_000


def _network(name: str) -> str:
    if name in NETWORK_MODES:
        raise ValueError(f"a network cannot be called {name!r}; every lab knows what that is")
    return check_network_name(name)


def _subnet(text: object) -> object:
    if isinstance(text, IPv4Network | None):
        return text
    if not isinstance(text, str):
        raise ValueError(f"must be a network such as 10.20.0.0/24, not {shown(text)}")
    try:
        loose = IPv4Network(text, strict=False)
    except ValueError as wrong:
        raise ValueError(f"{text[:60]!r} is not an IPv4 network; write for example 10.20.0.0/24") from wrong
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length; write for example {text}/24")
    if str(loose.network_address) != text.partition("/")[0]:
        raise ValueError(f"{text!r} is an address within a network; the network is {loose}")
    return loose


def _subnet_size(network: IPv4Network) -> IPv4Network:
    if not 16 <= network.prefixlen <= 30:
        raise ValueError(f"{network} is too {'large' if network.prefixlen < 16 else 'small'}; use /16 to /30")
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
        raise ValueError(f"{network} is no network that machines can be on")
    return network


def is_path(flow: str) -> bool:
    """Whether a flow is a file, and no name."""
    return "/" in flow or flow.endswith((".yaml", ".yml"))


NetworkName = Annotated[str, AfterValidator(_network)]
LabName = Annotated[str, AfterValidator(lambda name: check_name(name, "lab name"))]
VMName = Annotated[str, AfterValidator(check_name)]
DomainName = Annotated[str, AfterValidator(lambda name: check_domain_name(name) if name else name)]
SerialNumber = Annotated[str, AfterValidator(check_serial_number)]


class VMSpec(Wishes):
    """One VM. ``group`` is what the file calls it: ``web`` for ``web-1``; the same as ``name`` where there is no count.

    ``after``: names of groups and VMs that have to be ready first. ``serial_number``: empty for a generated one.
    ``domain``: one that somebody made, which becomes this VM as it is; then its machine does not count.
    """

    name: VMName
    group: VMName
    after: tuple[str, ...] = ()
    serial_number: Annotated[str, AfterValidator(lambda number: check_serial_number(number) if number else "")] = ""
    domain: DomainName = ""


class Network(Part):
    """A network of the lab. ``nat``: with a way out. ``isolated``: without one. ``existing``: the host has it already.

    ``subnet``: ``None`` for one that is free.
    """

    mode: Literal["nat", "isolated", "existing"] = "nat"
    subnet: Annotated[IPv4Network, BeforeValidator(_subnet), AfterValidator(_subnet_size)] | None = None


class NetworkSpec(Network):
    """A network of the lab, by its name."""

    name: NetworkName


class LabSpec(Part):
    """A lab. ``host`` and ``driver`` may be empty: the default ones. VMs in the order of the file.

    The VMs of one group follow each other, are numbered from 1, and differ in name and serial number only.
    """

    lab: LabName
    host: str = ""
    driver: str = ""
    networks: tuple[NetworkSpec, ...] = ()
    vms: Annotated[tuple[VMSpec, ...], Field(min_length=1, max_length=MOST_VMS)]

    @model_validator(mode="after")
    def _groups_are_alike(self) -> LabSpec:
        for group, vms in self.groups.items():
            numbered = [vm.name for vm in vms] == [f"{group}-{number}" for number in range(1, len(vms) + 1)]
            if not numbered and [vm.name for vm in vms] != [group]:
                raise ValueError(f"the VMs of group {group!r} are not called {group}-1, {group}-2, ...")
            if any(not _alike(vms[0], vm) for vm in vms[1:]):
                raise ValueError(f"the VMs of group {group!r} differ")
        if len({vm.name for vm in self.vms}) < len(self.vms):
            raise ValueError("two VMs have the same name")
        return self

    @cached_property
    def groups(self) -> dict[str, list[VMSpec]]:
        """The VMs of each group, in order."""
        groups: dict[str, list[VMSpec]] = {}
        for vm in self.vms:
            groups.setdefault(vm.group, []).append(vm)
        return groups

    @property
    def made_networks(self) -> dict[str, NetworkSpec]:
        """The networks that are made for the lab, by name."""
        return {network.name: network for network in self.networks if network.mode != "existing"}

    def waits_for(self, vm: VMSpec) -> list[str]:
        """Names of the VMs that have to be ready before this one is started."""
        found: list[str] = []
        for name in vm.after:
            found += [one.name for one in self.groups[name]] if name in self.groups else [name]
        return found


def _alike(one: VMSpec, other: VMSpec) -> bool:
    return one.model_fields_set == other.model_fields_set and all(
        getattr(one, field) is getattr(other, field) or getattr(one, field) == getattr(other, field)
        for field in VMSpec.model_fields
        if field not in ("name", "serial_number")
    )


def lab_of(request: CreateRequest, *, lab: str, names: Sequence[str], host: str = "", driver: str = "") -> LabSpec:
    """The lab that ``vmprov create`` would make: as wanted, under the names that the lab and its VMs get."""
    machine = request.wishes.given()
    if is_path(request.flow):
        machine["flow"] = str(Path(request.flow).expanduser().absolute())
    prefix = names[0].removesuffix("-1")
    counted = [f"{prefix}-{number}" for number in range(1, len(names) + 1)] == list(names)
    grouped = counted and (request.count is not None or len(names) > 1)
    numbers = request.serial_numbers or ("",) * len(names)
    vms = [
        VMSpec(name=name, group=prefix if grouped else name, serial_number=number, **machine)
        for name, number in zip(names, numbers, strict=True)
    ]
    modes = {network for network in request.networks if network not in NETWORK_MODES and ":" not in network}
    networks = [NetworkSpec(name=name, mode="existing") for name in sorted(modes)]
    return LabSpec(lab=lab, host=host, driver=driver or request.driver, networks=tuple(networks), vms=tuple(vms))
