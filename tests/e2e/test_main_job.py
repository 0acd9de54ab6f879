"""``create --count 3`` gives three real machines; ``delete`` leaves nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cli, connect
from vmprov.console.tail import clean, shows_login_prompt
from vmprov.hypervisor import DomainState
from vmprov.hypervisor.libvirt import LibvirtHypervisor

FOREIGN_DOMAIN = (
    "<domain type='qemu'><name>somebody-elses</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
)
FOREIGN_NETWORK = (
    "<network><name>somebody-elses</name><bridge name='foreign0'/>"
    "<ip address='10.87.0.1' netmask='255.255.255.0'/></network>"
)


@pytest.fixture(scope="module")
def three(cli: Cli) -> Any:
    """Three machines from the default image, beside a foreign domain and a network that sits on our first subnets."""
    other = connect(cli)
    other.define_domain(FOREIGN_DOMAIN)
    other.create_network(FOREIGN_NETWORK)
    yield cli("create", "--count", "3", "--json").json
    result = cli("delete", "--all", "--yes", "--json").json
    assert (sorted(result["deleted"]), result["failed"]) == (["vm-1", "vm-2", "vm-3"], [])
    assert {domain.name for domain in other.domains()} == {"somebody-elses"}
    assert {network.name for network in other.networks() if network.active} == {"somebody-elses"}
    assert other.volumes("default") == []
    assert cli("list", "--json").json == []
    assert [*(cli.root / "vms").iterdir(), *(cli.root / "labs").iterdir(), *(cli.root / "run/console").iterdir()] == []
    again = cli("delete", "--all", "--yes", "--json").json
    assert again == {"deleted": [], "failed": []}
    other.remove_domain("somebody-elses")
    other.remove_network("somebody-elses")
    other.close()


def test_all_three_are_ready(three: Any) -> None:
    assert three["ok"] is True
    assert [(vm["state"], vm["verdict"]) for vm in three["vms"]] == [("running", "success")] * 3


@pytest.mark.parametrize("field", ["name", "address", "mac", "network", "bridge", "serial_number", "console_log"])
def test_each_has_its_own(three: Any, field: str) -> None:
    assert len({vm[field] for vm in three["vms"]} - {""}) == 3


def test_list_tells_the_same(cli: Cli, three: Any) -> None:
    listed = cli("list", "--json").json

    assert listed == three["vms"]


def test_ssh_reaches_each_as_itself(cli: Cli, three: Any) -> None:
    names = [cli("ssh", vm["name"], "--", "uname", "-a").out.split()[1] for vm in three["vms"]]

    assert names == ["vm-1", "vm-2", "vm-3"]


def test_ssh_hands_on_the_commands_exit_code_and_quoting(cli: Cli, three: Any) -> None:
    ran = cli.try_("ssh", "vm-1", "--", "sh", "-c", "echo 'two  blanks'; exit 7")

    assert (ran.code, ran.out) == (7, "two  blanks\n")


def test_each_console_log_runs_from_firmware_to_the_login_prompt(three: Any) -> None:
    logs = [Path(vm["console_log"]) for vm in three["vms"]]

    assert all(clean(log.read_bytes()[:400]).lstrip().startswith(("SeaBIOS", "GRUB", "Booting")) for log in logs)
    assert all(shows_login_prompt(log) for log in logs)
    assert {log.stat().st_mode & 0o077 for log in logs} == {0}


def test_the_serial_number_is_what_the_guest_sees(cli: Cli, three: Any) -> None:
    seen = cli("ssh", "vm-2", "--", "sudo", "cat", "/sys/class/dmi/id/product_serial").out.strip()

    assert seen == three["vms"][1]["serial_number"]


def test_no_account_in_the_guest_has_a_password(cli: Cli, three: Any) -> None:
    shadow = cli("ssh", "vm-1", "--", "sudo", "cat", "/etc/shadow").out.splitlines()

    assert {line.split(":")[1][:1] for line in shadow} <= {"*", "!"}


def test_logs_of_all_are_prefixed(cli: Cli, three: Any) -> None:
    said = cli("logs", "--tail", "1").out.splitlines()

    # In the order in which they were sent.
    assert sorted(line.split(" | ")[0].strip() for line in said) == ["vm-1", "vm-2", "vm-3"]


def test_a_machine_stops_and_comes_back_with_its_log_going_on(
    cli: Cli, three: Any, hypervisor: LibvirtHypervisor
) -> None:
    log = Path(three["vms"][2]["console_log"])
    before = log.read_bytes()

    cli("stop", "vm-3")
    stopped = cli("show", "vm-3", "--json").json["state"]
    cli("start", "vm-3")

    assert (stopped, cli("show", "vm-3", "--json").json["state"]) == ("stopped", "running")
    assert log.read_bytes().startswith(before)
    assert cli("ssh", "vm-3", "--", "hostname").out == "vm-3\n"


def test_a_name_that_is_taken_is_refused(cli: Cli, three: Any) -> None:
    ran = cli.try_("create", "--name", "vm", "--count", "1")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1].startswith("vmprov: there is a VM called 'vm-1' already")


def test_an_image_in_use_cannot_be_deleted(cli: Cli, three: Any) -> None:
    ran = cli.try_("image", "delete", "debian-12")

    assert (ran.code, "in use by vm-1" in ran.err) == (1, True)


def test_a_host_that_holds_machines_is_not_taken_down(cli: Cli, three: Any, hypervisor: LibvirtHypervisor) -> None:
    ran = cli.try_("host", "down")

    assert (ran.code, "holds 3 VMs" in ran.err) == (1, True)
    assert hypervisor.domain(three["vms"][0]["domain"]).state is DomainState.RUNNING


def test_list_and_help_are_quick_enough_to_feel_instant(cli: Cli, three: Any) -> None:
    start = time.monotonic()
    cli("list")

    # The figures to quote come from scripts/bench; this only catches a command that loads the world.
    assert time.monotonic() - start < 3
