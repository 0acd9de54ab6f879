from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from vmprov.addressing import Subnet
from vmprov.drivers import BaseImage, DataDisk, Firmware, Order, Uart
from vmprov.drivers.definition import fragment_xml
from vmprov.drivers.fake import domain_xml
from vmprov.drivers.vagrant import machine_values
from vmprov.errors import HostNotReady
from vmprov.hypervisor import Mark
from vmprov.hypervisor.definitions import find_mark
from vmprov.networks import (
    Boot,
    NetworkPlan,
    Reservation,
    adopted_xml,
    adopter,
    given_back_xml,
    same_definition,
)
from vmprov.render import render, ruby
from vmprov.store import Nic

CASES = Path(__file__).parents[1] / "cases" / "machines"
DNSMASQ = "{http://libvirt.org/schemas/network/dnsmasq/1.0}"
HOSTILE = "#{`id`} ' \" < > & \\ \\' \n#$0 -%>{{ 7 * 7 }}{% raw %}]]>"
XML_TEXT = HOSTILE.replace("\n", " ")

IMAGE = BaseImage("tiny", "vmprov/tiny", "0.0.7", "volume", Path("/images/tiny/disk.qcow2"), 512 * 1024**2)
ORDER = Order(
    vm="web-1", lab="trial", domain="vmprov-3f0a-web-1", uuid="7802e9c0-b97a-4ecf-b845-e5dec890048d",
    mark=Mark("3f0a", "trial", "web-1"), cpus=2, memory=1024**3, disk_volume="vmprov-3f0a-web-1.img",
    disk_size=1024**3, pool="default", image=IMAGE, seed="/pool/seed.iso",
    nics=(Nic("vmprov-web-1", "vp3f0av1", "52:54:00:00:00:01"),), serial_number="VP1", boot=("disk",),
    consoles=(
        Uart("pipe", Path("/run/1-0"), Path("/vms/console-0.log")),
        Uart("unix", Path("/run/1-1.sock"), Path("/vms/console-1.log")),
    ),
)  # fmt: skip
PLAN = NetworkPlan(
    name="vmprov-web-1",
    bridge="vp3f0av1",
    mode="per-vm",
    subnet=Subnet(IPv4Network("10.87.0.0/28")),
    reservations=[Reservation("52:54:00:00:00:01", "web-1", "10.87.0.2")],
    mark=Mark("3f0a", "trial", "web-1"),
)
MACHINE = machine_values(ORDER, acceleration="tcg", fragment=Path("/vms/web-1/domain-fragment.xml"))


def ruby_string_value(literal: str) -> str:
    """What Ruby makes of a single-quoted literal: only ``\\\\`` and ``\\'`` are escapes."""
    assert literal[0] == literal[-1] == "'"
    value, rest = [], list(literal[1:-1])
    while rest:
        character = rest.pop(0)
        assert character != "'", "the literal ends early"
        if character == "\\" and rest and rest[0] in "\\'":
            character = rest.pop(0)
        value.append(character)
    return "".join(value)


@pytest.mark.parametrize("text", [HOSTILE, "'", "\\", "\\\\'", "a\\", "#{x}", ""])
def test_a_ruby_literal_means_the_text_itself(text: str) -> None:
    assert ruby_string_value(ruby(text)) == text


def test_every_text_in_the_vagrantfile_is_quoted() -> None:
    hostile = {key: HOSTILE if isinstance(value, str) else value for key, value in MACHINE.items()}

    text = render("vagrantfiles/Vagrantfile.j2", machines=[hostile])

    assert text.count(HOSTILE) == 0, "it stands there unquoted"
    strings = sum(isinstance(value, str) for key, value in MACHINE.items() if key != "disk_volume")
    assert text.count(ruby(HOSTILE)) == strings


def test_the_vagrantfile_defines_every_machine() -> None:
    blank = machine_values(replace(ORDER, vm="web-2", image=None), acceleration="kvm", fragment=Path("/f.xml"))

    text = render("vagrantfiles/Vagrantfile.j2", machines=[MACHINE, blank])

    first, second = text.split("config.vm.define 'web-2'")
    assert "config.vm.define 'web-1'" in first
    assert "node.vm.box = 'vmprov/tiny'" in first
    assert "libvirt.storage :file" not in first
    assert "libvirt.cpu_mode = 'maximum'" in first
    assert "node.vm.box " not in second
    assert "path: 'vmprov-3f0a-web-1.img', size: '1073741824B'" in second
    assert "libvirt.driver = 'kvm'" in second


def test_the_values_of_a_machine_survive_json() -> None:
    assert json.loads(json.dumps(MACHINE)) == MACHINE


def test_the_prefix_and_the_vm_are_the_domains_name() -> None:
    assert MACHINE["prefix"] + MACHINE["vm"] == ORDER.domain


@pytest.mark.parametrize("missing", sorted(MACHINE.keys() - {"disk_volume"}))
def test_a_machine_without_one_of_its_values_is_refused(missing: str) -> None:
    machine = {key: value for key, value in MACHINE.items() if key != missing}

    with pytest.raises(HostNotReady, match="has no attribute"):
        render("vagrantfiles/Vagrantfile.j2", machines=[machine])


def test_a_fragment_holds_what_the_order_names() -> None:
    fragment = ET.fromstring(fragment_xml(ORDER))

    assert find_mark(fragment) == ORDER.mark
    assert fragment.findtext("sysinfo/system/entry[@name='serial']") == "VP1"
    assert [boot.get("dev") for boot in fragment.iterfind("os/boot")] == ["hd"]
    assert [source.get("file") for source in fragment.iterfind("devices/disk/source")] == ["/pool/seed.iso"]
    assert [mac.get("address") for mac in fragment.iterfind("devices/interface/mac")] == ["52:54:00:00:00:01"]
    assert [log.get("file") for log in fragment.iterfind("devices/serial/log")] == [
        "/vms/console-0.log",
        "/vms/console-1.log",
    ]
    assert {log.get("append") for log in fragment.iterfind("devices/serial/log")} == {"on"}


def test_a_serial_port_is_a_fifo_that_qemu_reads_or_a_socket_that_it_serves() -> None:
    fragment = ET.fromstring(fragment_xml(ORDER))

    assert [serial.get("type") for serial in fragment.iterfind("devices/serial")] == ["pipe", "unix"]
    assert [source.attrib for source in fragment.iterfind("devices/serial/source")] == [
        {"path": "/run/1-0"},
        {"mode": "bind", "path": "/run/1-1.sock"},
    ]
    assert [target.get("port") for target in fragment.iterfind("devices/serial/target")] == ["0", "1"]


def test_a_machine_with_a_blank_disk_tries_the_network_next() -> None:
    fragment = ET.fromstring(fragment_xml(replace(ORDER, image=None, seed="", boot=("disk", "network"))))

    assert [boot.get("dev") for boot in fragment.iterfind("os/boot")] == ["hd", "network"]
    assert fragment.find("devices/disk") is None
    assert fragment.find("devices/interface/rom") is None


def test_hostile_values_stay_text_in_a_fragment() -> None:
    fragment = ET.fromstring(
        fragment_xml(
            replace(
                ORDER,
                serial_number=XML_TEXT,
                mark=Mark(XML_TEXT, XML_TEXT, XML_TEXT),
                seed=XML_TEXT,
                manufacturer=XML_TEXT,
                nics=(Nic(XML_TEXT, "", XML_TEXT), Nic("", XML_TEXT, XML_TEXT)),
                firmware=Firmware(XML_TEXT, XML_TEXT),
                disks=(DataDisk(XML_TEXT, XML_TEXT),),
                consoles=(Uart(XML_TEXT, Path(f"/{XML_TEXT}"), Path(f"/log{XML_TEXT}")),),
            )
        )
    )

    assert find_mark(fragment) == Mark(XML_TEXT, XML_TEXT, XML_TEXT)
    assert [entry.text for entry in fragment.iterfind("sysinfo/system/entry")] == [XML_TEXT, XML_TEXT]
    assert [fragment.findtext(f"os/{name}") for name in ("loader", "nvram")] == [XML_TEXT, XML_TEXT]
    assert fragment.findtext("devices/disk/serial") == XML_TEXT
    assert [source.attrib for source in fragment.iterfind("devices/interface/source")] == [
        {"network": XML_TEXT},
        {"bridge": XML_TEXT},
    ]
    assert [log.get("file") for log in fragment.iterfind("devices/serial/log")] == [f"/log{XML_TEXT}"]
    plain = replace(
        ORDER, consoles=ORDER.consoles[:1], manufacturer="m", nics=ORDER.nics * 2, firmware=Firmware("l", "n"),
        disks=(DataDisk("/d", "d"),),
    )  # fmt: skip
    assert len(list(fragment.iter())) == len(list(ET.fromstring(fragment_xml(plain)).iter()))


EDGE = replace(
    ORDER, image=None, seed="", boot=("disk", "network"), firmware=Firmware("/f/CODE.fd", "/pool/nvram"), tpm=True,
    product="Edge Node", disks=(DataDisk("/pool/a", "data-1"), DataDisk("/pool/b", "logs")),
    nics=(*ORDER.nics, Nic("", "br0", "52:54:00:00:00:02")),
)  # fmt: skip


@pytest.mark.parametrize(
    "name, order",
    [
        ("bios", ORDER),
        ("edge", EDGE),
        ("edge-pxe", replace(EDGE, pxe=True)),
        ("secure-boot", replace(EDGE, firmware=Firmware("/f/CODE.secboot.fd", "/pool/nvram", secure=True))),
        ("screen", replace(ORDER, screen_password=Path("/vms/web-1/vnc-password"))),
        ("seed-and-disks", replace(EDGE, seed="/pool/seed.iso")),
    ],
)
def test_the_fragment_of_a_machine_is_as_it_was_reviewed(name: str, order: Order) -> None:
    made = fragment_xml(order)
    expected = CASES / f"{name}.xml"
    if os.environ.get("VMPROV_REGENERATE"):
        expected.write_text(made)

    assert made == expected.read_text()


def test_every_machine_of_uefi_is_a_q35() -> None:
    assert machine_values(EDGE, acceleration="tcg", fragment=Path("/f"))["machine_type"] == "q35"
    assert MACHINE["machine_type"] == "pc"


def test_the_password_of_a_screen_is_in_no_file_of_ours_but_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "vnc-password"
    secret.write_text("hush-hush")
    order = replace(ORDER, screen_password=secret)

    assert "hush" not in fragment_xml(order) + json.dumps(machine_values(order, acceleration="tcg", fragment=tmp_path))
    screen = ET.fromstring(domain_xml(order, "/pool/disk")).find("devices/graphics")
    assert screen is not None
    assert (screen.get("passwd"), screen.get("listen")) == ("hush-hush", "127.0.0.1")


FRAGMENT_INPUTS: dict[str, Any] = {
    "installation": "3f0a", "lab": "trial", "vm": "web-1", "smbios": {"serial": "VP1"}, "boot": ["hd"],
    "netboot": False, "nics": [Nic("net", "br", "52:54:00:00:00:01")], "seed": None, "consoles": [], "disks": [],
    "firmware": Firmware("/l", "/n"), "pxe": False, "tpm": False, "screen": False,
}  # fmt: skip


@pytest.mark.parametrize("missing", sorted(FRAGMENT_INPUTS))
def test_a_fragment_without_one_of_its_inputs_is_refused(missing: str) -> None:
    inputs = {key: value for key, value in FRAGMENT_INPUTS.items() if key != missing}

    with pytest.raises(HostNotReady, match="undefined"):
        render("vagrantfiles/domain-fragment.xml.j2", **inputs)


@pytest.mark.parametrize(("mode", "forwards"), [("per-vm", ["nat"]), ("shared", ["nat"]), ("isolated", [])])
def test_a_network_holds_what_its_plan_names(mode: str, forwards: list[str]) -> None:
    network = ET.fromstring(replace(PLAN, mode=mode).to_xml())

    assert network.findtext("name") == "vmprov-web-1"
    assert find_mark(network) == PLAN.mark
    assert [forward.get("mode") for forward in network.iterfind("forward")] == forwards
    assert [bridge.attrib for bridge in network.iterfind("bridge")] == [
        {"name": "vp3f0av1", "stp": "off", "delay": "0"}
    ]
    assert [ip.attrib for ip in network.iterfind("ip")] == [{"address": "10.87.0.1", "netmask": "255.255.255.240"}]
    assert [hosts.attrib for hosts in network.iterfind("ip/dhcp/range")] == [
        {"start": "10.87.0.2", "end": "10.87.0.14"}
    ]
    assert [host.attrib for host in network.iterfind("ip/dhcp/host")] == [
        {"mac": "52:54:00:00:00:01", "name": "web-1", "ip": "10.87.0.2"}
    ]
    assert network.find("domain") is None


@pytest.mark.parametrize("mode", ["per-vm", "isolated"])
def test_hostile_values_stay_text_in_a_network(mode: str) -> None:
    hostile = replace(
        PLAN,
        mode=mode,
        name=XML_TEXT,
        bridge=XML_TEXT,
        reservations=[Reservation(XML_TEXT, XML_TEXT, XML_TEXT)],
        mark=Mark(XML_TEXT, XML_TEXT),
    )

    network = ET.fromstring(hostile.to_xml())

    assert network.findtext("name") == XML_TEXT
    assert find_mark(network) == Mark(XML_TEXT, XML_TEXT)
    assert [host.get("name") for host in network.iterfind("ip/dhcp/host")] == [XML_TEXT]
    assert len(list(network.iter())) == len(list(ET.fromstring(replace(PLAN, mode=mode).to_xml()).iter()))


BOOT = Boot("https://boot.test/x.efi?a=1&b=2", {"boot.test": "10.0.0.9", "api.test": "10.0.0.9", "c.test": "10.0.0.8"})


def test_a_network_tells_uefi_firmware_what_to_boot() -> None:
    network = ET.fromstring(replace(PLAN, boot=BOOT).to_xml())

    values = [option.get("value") for option in network.iter(f"{DNSMASQ}option")]
    assert values == [
        "no-ping",
        "dhcp-vendorclass=set:efi-http,HTTPClient:Arch:00016",
        "dhcp-option-force=tag:efi-http,60,HTTPClient",
        "dhcp-match=set:ipxe,175",
        'dhcp-boot=tag:efi-http,"https://boot.test/x.efi?a=1&b=2"',
    ]
    hosts = {host.get("ip"): [name.text for name in host] for host in network.iterfind("dns/host")}
    assert hosts == {"10.0.0.9": ["api.test", "boot.test"], "10.0.0.8": ["c.test"]}


def test_a_network_without_dhcp_hands_out_nothing() -> None:
    network = ET.fromstring(replace(PLAN, dhcp=False).to_xml())

    assert network.find("ip") is not None
    assert network.find("ip/dhcp") is None


THEIRS = """<network>
  <name>theirs</name>
  <uuid>42f02c6d-d452-4318-8968-7815665b682c</uuid>
  <bridge name='virbr7' stp='on' delay='0'/>
  <dns>
    <host ip='10.0.0.7'>
      <hostname>seven</hostname>
    </host>
  </dns>
  <ip address='10.0.0.1' netmask='255.255.255.0'/>
</network>
"""


@pytest.mark.parametrize("original", [THEIRS, THEIRS.replace("dns>", "title>").replace("host", "x")])
def test_what_is_added_to_a_network_can_be_taken_away_again(original: str) -> None:
    adopted = adopted_xml(original, BOOT, "3f0a")

    assert adopter(adopted) == "3f0a"
    assert find_mark(ET.fromstring(adopted)) is None
    assert len(list(ET.fromstring(adopted).iter(f"{DNSMASQ}option"))) == 4
    assert same_definition(given_back_xml(adopted, BOOT), original)
    assert not same_definition(given_back_xml(adopted.replace("virbr7", "virbr8"), BOOT), original)


NETWORK_INPUTS: dict[str, Any] = {
    "name": "net", "bridge": "br", "gateway": "10.0.0.1", "netmask": "255.255.255.0", "first": "10.0.0.2",
    "last": "10.0.0.254", "hosts": [], "installation": "3f0a", "lab": "trial", "vm": "", "dhcp": True, "options": [],
    "dns": {},
}  # fmt: skip


@pytest.mark.parametrize("missing", sorted(NETWORK_INPUTS))
@pytest.mark.parametrize("mode", ["nat", "isolated"])
def test_a_network_without_one_of_its_inputs_is_refused(mode: str, missing: str) -> None:
    inputs = {key: value for key, value in NETWORK_INPUTS.items() if key != missing}

    with pytest.raises(HostNotReady, match="undefined"):
        render(f"network-xml/{mode}.xml.j2", **inputs)


def test_a_network_can_have_a_dns_domain() -> None:
    network = ET.fromstring(render("network-xml/nat.xml.j2", **NETWORK_INPUTS, domain="lab.example"))

    assert [domain.get("name") for domain in network.iterfind("domain")] == ["lab.example"]
