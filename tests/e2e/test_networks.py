"""Networks other than one per machine: shared by a lab, isolated, and one that somebody else made."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Cli
from vmprov.hypervisor.libvirt import LibvirtHypervisor

pytestmark = pytest.mark.usefixtures("left_behind")
TINY = ("--image", "tiny", "--memory", "256MiB", "--json")
FOREIGN = (
    "<network><name>theirs</name><bridge name='foreign2'/><ip address='10.200.0.1' netmask='255.255.255.0'>"
    "<dhcp><range start='10.200.0.10' end='10.200.0.20'/></dhcp></ip></network>"
)


def test_machines_of_a_lab_meet_on_a_shared_network(cli: Cli) -> None:
    made = cli("create", "--count", "2", "--name", "met", "--network", "shared", *TINY).json["vms"]

    greeting = cli("ssh", "met-1", "--", f"nc -w 5 {made[1]['address']} 22 </dev/null | head -n 1").out

    assert {vm["bridge"] for vm in made} == {made[0]["bridge"]}
    assert greeting.startswith("SSH-2.0-dropbear")
    cli("delete", made[0]["lab"], "--yes")


def test_an_isolated_machine_has_no_way_out(cli: Cli) -> None:
    (vm,) = cli("create", "--name", "alone", "--network", "isolated", *TINY).json["vms"]

    routes = cli("ssh", "alone", "--", "ip", "route").out

    assert "default" not in routes
    cli("delete", vm["name"], "--yes")


def test_a_network_that_somebody_else_made_is_used_and_left(cli: Cli, hypervisor: LibvirtHypervisor) -> None:
    theirs = hypervisor.create_network(FOREIGN)

    (vm,) = cli("create", "--name", "guest", "--network", "theirs", *TINY).json["vms"]
    cli("delete", "guest", "--yes")

    assert vm["address"].startswith("10.200.0.")
    assert theirs in hypervisor.networks()
    hypervisor.remove_network("theirs")
