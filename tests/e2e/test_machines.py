"""Machines of other shapes than the usual one, through vagrant: firmware, TPM, disks, NICs, and booting from HTTPS."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.boot_server import HOST, SAID, BootServer, boot_server
from tests.e2e.conftest import Cli
from vmprov.hypervisor.libvirt import LibvirtHypervisor

pytestmark = pytest.mark.usefixtures("left_behind")

FLOW = f"""
flow: hello
limit: 3m
machine: {{image: "", firmware: uefi, memory: 256MiB, disk: 2GiB}}
stages:
  - stage: firmware
    expect: "Start HTTP Boot over IPv4"
    fail:
      - {{text: "Start PXE", class: pxe}}
  - stage: hello
    expect: "{SAID}"
"""
THEIRS = """<network>
  <name>theirs</name>
  <forward mode='nat'/>
  <bridge name='br-theirs' stp='off' delay='0'/>
  <dns><host ip='192.168.77.9'><hostname>nine.test</hostname></host></dns>
  <ip address='192.168.77.1' netmask='255.255.255.0'><dhcp><range start='192.168.77.2' end='192.168.77.99'/></dhcp></ip>
</network>"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BootServer]:
    with boot_server(tmp_path) as serving:
        yield serving


@pytest.fixture
def flow(tmp_path: Path) -> str:
    path = tmp_path / "hello.yaml"
    path.write_text(FLOW)
    return str(path)


def test_a_uefi_machine_with_tpm_disks_and_nics_has_them_inside(cli: Cli, hypervisor: LibvirtHypervisor) -> None:
    made = cli(
        "create", "--name", "edge", "--image", "tiny", "--memory", "256MiB", "--firmware", "uefi", "--tpm",
        "--extra-disk", "1GiB", "--extra-disk", "logs=2GiB", "--network", "per-vm", "--network", "shared",
        "--manufacturer", "Ours", "--product", "Edge Node", "--graphics", "vnc", "--json",
    ).json  # fmt: skip
    (vm,) = made["vms"]

    inside = cli(
        "ssh", "edge", "--",
        "ls -d /sys/firmware/efi /dev/tpm0; cat /sys/class/tpm/tpm0/tpm_version_major; "
        "for disk in vdb vdc; do cat /sys/block/$disk/serial; echo; cat /sys/block/$disk/size; done; "
        "cd /sys/class/dmi/id; cat sys_vendor product_name product_serial product_uuid; "
        "cat /sys/class/net/eth*/address",
    ).out.split("\n")  # fmt: skip

    domain = hypervisor.domain(vm["domain"])
    assert inside[:3] == ["/dev/tpm0", "/sys/firmware/efi", "2"]
    assert inside[3:7] == ["data-1", str(2**30 // 512), "logs", str(2**31 // 512)]
    assert inside[7:11] == ["Ours", "Edge Node", vm["serial_number"], domain.uuid]
    assert sorted(inside[11:13]) == sorted(nic["mac"] for nic in vm["nics"])
    assert {nic["network"] for nic in vm["nics"]} == {network.name for network in hypervisor.networks()}
    password = (cli.root / "vms/edge/vnc-password").read_text()
    assert password in hypervisor.domain_definition(vm["domain"])
    assert password not in hypervisor.domain_xml(vm["domain"])
    cli("delete", "edge", "--yes")


def test_firmware_boots_at_once_over_https_from_an_adopted_network_that_is_restored(
    cli: Cli, hypervisor: LibvirtHypervisor, server: BootServer, flow: str
) -> None:
    hypervisor.create_network(THEIRS)
    before = hypervisor.network_definition("theirs")

    made = cli(
        "create", "--name", "node", "--flow", flow, "--network", "theirs", "--adopt", "--boot-url", server.url,
        "--ca", server.ca, "--boot-dns", f"{HOST}={server.address}", "--json",
    ).json  # fmt: skip
    adopted = ET.fromstring(hypervisor.network_definition("theirs"))
    cli("delete", "node", "--yes")

    assert [vm["verdict"] for vm in made["vms"]] == ["success"]
    assert any(line.startswith('"GET /hello.efi') for line in server.asked)
    assert {name.text for name in adopted.iter("hostname")} == {"nine.test", HOST}
    assert hypervisor.network_definition("theirs") == before
    assert next(network.active for network in hypervisor.networks() if network.name == "theirs")
    hypervisor.remove_network("theirs")


def test_under_secure_boot_an_unsigned_file_is_refused_and_the_verdict_says_so(
    cli: Cli, server: BootServer, flow: str
) -> None:
    ran = cli.try_(
        "create", "--name", "node", "--flow", flow, "--firmware", "secure-boot", "--boot-url", server.url,
        "--ca", server.ca, "--boot-dns", f"{HOST}={server.address}", "--json",
    )  # fmt: skip
    (vm,) = ran.json["vms"]

    assert ran.code == 1
    assert (vm["verdict"], vm["judgement"]["class"], vm["state"]) == ("failed", "secure-boot-refused", "removed")
    assert re.search("failed to load.*Access Denied", vm["judgement"]["evidence"])


def test_a_server_of_another_authority_is_not_booted_from(
    cli: Cli, server: BootServer, flow: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with boot_server(other) as stranger:
        ran = cli.try_(
            "create", "--name", "node", "--flow", flow, "--boot-url", server.url, "--ca", stranger.ca,
            "--boot-dns", f"{HOST}={server.address}", "--json",
        )  # fmt: skip
    (vm,) = ran.json["vms"]

    assert (ran.code, vm["judgement"]["class"]) == (1, "http-boot-error")
    assert not any("200" in line for line in server.asked)
