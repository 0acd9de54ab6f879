"""What machines of every shape are made of on a simulated host, and that nothing of it is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.certificates import certificate, pem, private_key
from vmprov import CreateRequest, Settings, Vmprov
from vmprov.errors import HostNotReady, LibvirtFailed, SpecError
from vmprov.events import Note
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.networks import adopter
from vmprov.spec.machine import Machine

MIB = 1024**2
GIB = 1024**3
URL = "https://boot.test/signed_ipxe.efi"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(pem(certificate("ours")))
    return path


def wanted(**words: Any) -> CreateRequest:
    return CreateRequest.parse(**{"image": "", "driver": "fake", "memory": "64MiB", "timeout": 20.0, **words})


def definition(fake: FakeHypervisor, vmprov: Vmprov, vm: str) -> ET.Element:
    return ET.fromstring(fake.domain_xml(vmprov.store.vm(vm).domain))


def left(vmprov: Vmprov, fake: FakeHypervisor) -> list[object]:
    root = vmprov.home.root
    return [
        *vmprov.store.vms(),
        *vmprov.store.owned(),
        *fake.domains(),
        *(network for network in fake.networks() if network.mark),
        *fake.volumes("default"),
        *(path for kind in ("vms", "labs", "hosts/fake/adopted") for path in (root / kind).glob("*")),
    ]


def test_a_uefi_machine_with_everything_is_made_and_removed(vmprov: Vmprov, fake: FakeHypervisor, ca: Path) -> None:
    request = wanted(
        name="edge", firmware="uefi", tpm=True, disk="110GiB", disks=["1GiB", {"name": "logs", "size": "2GiB"}],
        networks=["per-vm", "isolated", "bridge:br0"],
        http_boot={"url": URL, "ca": [ca], "dns": {"boot.test": "10.0.0.9"}},
        smbios={"manufacturer": "Ours", "product": "Edge Node"}, consoles=2, graphics="vnc",
    )  # fmt: skip

    result = vmprov.create(request)

    assert result.ok, result.vms[0].why
    domain, record = definition(fake, vmprov, "edge"), vmprov.store.vm("edge")
    sizes = {volume.name.removeprefix(record.domain): volume.capacity for volume in fake.volumes("default")}
    assert sizes == {".img": 110 * GIB, ".data-1.img": GIB, ".logs.img": 2 * GIB, ".nvram": 540_672}
    assert domain.findtext("os/loader") == "/fake/OVMF_CODE_4M.fd"
    assert domain.findtext("os/nvram") == f"/fake/default/{record.domain}.nvram"
    assert domain.find("devices/tpm/backend[@type='emulator'][@version='2.0']") is not None
    assert [target.get("dev") for target in domain.iterfind("devices/disk/target")] == ["vda", "vdb", "vdc"]
    assert {entry.get("name"): entry.text for entry in domain.iterfind("sysinfo/system/entry")} == {
        "manufacturer": "Ours", "product": "Edge Node", "serial": record.serial_number,
    }  # fmt: skip
    assert [(nic.network, nic.bridge) for nic in record.nics] == [
        (f"vmprov-{vmprov.store.installation}-edge", record.bridge),
        (f"vmprov-{vmprov.store.installation}-isolated.lab-1", record.nics[1].bridge),
        ("", "br0"),
    ]
    assert len({nic.mac for nic in record.nics}) == 3
    assert all(getattr(record.machine, name) == getattr(request, name) for name in Machine.model_fields)
    assert vmprov.home.screen_password("edge").stat().st_mode & 0o777 == 0o600
    assert vmprov.home.screen_password("edge").read_text() not in "".join(
        path.read_text(errors="replace")
        for path in vmprov.home.vm("edge").glob("*")
        if path.is_file() and path != vmprov.home.screen_password("edge")
    )

    vmprov.delete(everything=True)

    assert left(vmprov, fake) == []


def test_only_the_first_network_tells_what_to_boot(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(name="a", firmware="uefi", networks=["per-vm", "per-vm"], http_boot={"url": URL}))

    telling = [nic.network for nic in vmprov.store.vm("a").nics if "dhcp-boot" in fake.network_xml(nic.network)]
    assert telling == [vmprov.store.vm("a").network]
    assert [network.name for network in fake.networks()] == [nic.network for nic in vmprov.store.vm("a").nics]
    assert all(nic.address for nic in vmprov.store.vm("a").nics)


def test_a_network_without_dhcp_is_made_on_demand(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    vmprov.create(wanted(name="a", dhcp=False))

    assert vmprov.store.vm("a").address == ""
    assert "<dhcp" not in fake.network_xml(vmprov.store.vm("a").network)


def test_a_lab_has_one_answer_to_what_is_booted(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    def more(url: str) -> bool:
        return vmprov.create(
            wanted(lab="trial", network="shared", firmware="uefi", http_boot={"url": url}, count=1)
        ).ok  # fmt: skip

    assert [more("http://a/x"), more("http://a/x"), more("http://a/y")] == [True, True, False]
    assert len(vmprov.vms("trial")) == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"nonsense", "there is no certificate in"),
        (private_key(), "is a private key"),
        (
            pem(
                certificate(
                    "old",
                    first=datetime.now(UTC) - timedelta(days=9),
                    last=datetime.now(UTC) - timedelta(days=1),
                )
            ),
            "expired on",
        ),
    ],
)
def test_a_bad_authority_is_refused_before_anything_is_made(
    vmprov: Vmprov, fake: FakeHypervisor, tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)

    with pytest.raises(SpecError, match=why):
        vmprov.create(wanted(firmware="uefi", http_boot={"url": URL, "ca": path}))
    assert left(vmprov, fake) == []


def test_secure_boot_with_a_certificate_of_ours(vmprov: Vmprov, fake: FakeHypervisor, ca: Path) -> None:
    assert vmprov.create(wanted(name="a", firmware="secure-boot", boot_certificates=[ca])).ok

    loader = definition(fake, vmprov, "a").find("os/loader")
    assert loader is not None
    assert (loader.text, loader.get("secure")) == ("/fake/OVMF_CODE_4M.secboot.fd", "yes")


def test_a_host_without_firmware_is_told_before_anything_is_made(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.fail("loaders", HostNotReady("nothing answers"))

    with pytest.raises(HostNotReady):
        vmprov.create(wanted(firmware="uefi"))
    assert left(vmprov, fake) == []


@pytest.mark.parametrize(
    "fault", ["upload_volume", "create_volume", "define_domain", "start_domain", "create_network", "loaders"]
)
def test_whatever_fails_nothing_is_left(vmprov: Vmprov, fake: FakeHypervisor, fault: str) -> None:
    request = wanted(firmware="uefi", disks=["1GiB", "1GiB"], networks=["per-vm", "shared"], graphics="vnc")
    if fault == "loaders":  # the first time, it is asked whether there are any
        seen: list[int] = []
        fake.fail(fault, LibvirtFailed("not now"), when=lambda: seen.append(1) or len(seen) > 1)
    else:
        fake.fail(fault, LibvirtFailed("not now"))

    result = vmprov.create(request)

    assert (result.exit_code, result.vms[0].verdict, left(vmprov, fake)) == (1, "failed", [])
    assert not list(vmprov.home.failed.rglob("vnc-password"))


def test_a_flow_brings_defaults_and_what_is_asked_for_wins(
    vmprov: Vmprov, fake: FakeHypervisor, tmp_path: Path
) -> None:
    flow = tmp_path / "edge.yaml"
    flow.write_text(
        "flow: edge\nconsoles: [0, 1]\nmachine: {image: '', firmware: uefi, tpm: true, memory: 64MiB, cpus: 4}\n"
        "stages: {stage: a, expect: 'login:'}\n"
    )

    assert vmprov.create(CreateRequest.parse(name="a", driver="fake", cpus=2, flow=str(flow))).ok

    machine = vmprov.store.vm("a").machine
    assert (machine.image, machine.firmware, machine.tpm, machine.cpus, machine.consoles) == ("", "uefi", True, 2, 2)


# adoption

THEIRS = """<network>
  <name>theirs</name>
  <uuid>42f02c6d-d452-4318-8968-7815665b682c</uuid>
  <bridge name="br-theirs" stp="on" delay="0" />
  <ip address="192.168.77.1" netmask="255.255.255.0">
    <dhcp>
      <range start="192.168.77.2" end="192.168.77.254" />
    </dhcp>
  </ip>
</network>"""


def adopting(**words: Any) -> CreateRequest:
    return wanted(**{"firmware": "uefi", "network": "theirs", "adopt": True, "http_boot": {"url": URL}, **words})


def test_an_adopted_network_is_restored_with_the_last_machine(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    before = fake.network_definition("theirs")

    assert vmprov.create(adopting(name="a", count=2)).ok
    assert vmprov.create(adopting(name="b")).ok
    adopted = fake.network_definition("theirs")
    vmprov.delete(["a-1", "b"])
    meanwhile = fake.network_definition("theirs")
    vmprov.delete(["a-2"])

    assert f"dhcp-boot=tag:efi-http,&quot;{URL}&quot;" in adopted
    assert (adopter(adopted), meanwhile == adopted) == (vmprov.store.installation, True)
    assert fake.network_definition("theirs") == before
    assert left(vmprov, fake) == []


def test_without_adoption_a_network_of_others_is_left_alone(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    before = fake.network_definition("theirs")

    assert vmprov.create(wanted(name="a", firmware="uefi", network="theirs")).ok
    with pytest.raises(SpecError, match="let it be adopted"):
        vmprov.create(adopting(adopt=False))

    assert fake.network_definition("theirs") == before


def test_a_network_that_is_in_use_is_not_adopted(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    before = fake.network_definition("theirs")
    vmprov.create(wanted(name="user", network="theirs"))

    result = vmprov.create(adopting(name="a"))

    assert "cannot be adopted while machines run on it" in result.vms[0].why
    assert fake.network_definition("theirs") == before
    assert [owned.kind for owned in vmprov.store.owned(vm="a")] == []


def test_a_network_has_one_answer_to_what_is_booted(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    vmprov.create(adopting(name="a"))

    result = vmprov.create(adopting(name="b", http_boot={"url": "http://elsewhere/x"}))

    assert "tells the machines of a to boot from another URL" in result.vms[0].why
    vmprov.delete(everything=True)
    assert left(vmprov, fake) == []


def test_what_others_changed_meanwhile_stays(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    vmprov.create(adopting(name="a"))
    fake.redefine_network(fake.network_definition("theirs").replace("192.168.77.254", "192.168.77.99"))

    vmprov.delete(everything=True)

    now = fake.network_definition("theirs")
    assert ("192.168.77.99" in now, "dhcp-boot" in now, adopter(now)) == (True, False, "")


def test_a_network_that_is_gone_needs_no_restoring(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    vmprov.create(adopting(name="a"))
    fake.remove_network("theirs")

    assert vmprov.delete(everything=True).failed == []
    assert left(vmprov, fake) == []


def test_a_network_on_which_others_run_is_restored_without_a_restart(vmprov: Vmprov, fake: FakeHypervisor) -> None:
    fake.create_network(THEIRS)
    before = fake.network_definition("theirs")
    vmprov.create(adopting(name="a"))
    vmprov.create(wanted(name="user", network="theirs"))
    notes: list[str] = []
    vmprov.events.listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None)

    vmprov.delete(["a"])

    assert fake.network_definition("theirs") == before
    assert any("is restored, but machines of others run on it" in note for note in notes)


DIES = """
import os, signal, sys
from vmprov import CreateRequest, Vmprov
from vmprov.hypervisor.fake import FakeHypervisor

point, real = sys.argv[1], FakeHypervisor.redefine_network

def redefine(self, xml):
    if point == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(self, xml)
    os.kill(os.getpid(), signal.SIGKILL)

FakeHypervisor.redefine_network = redefine
with Vmprov() as vmprov:
    vmprov.create(CreateRequest.parse(
        image="", driver="fake", memory="64MiB", name="a", firmware="uefi", network="theirs", adopt=True,
        http_boot={"url": "http://boot.test/x"},
    ))
"""


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_network_is_restored_after_vmprov_was_killed(
    vmprov: Vmprov, fake: FakeHypervisor, settings: Settings, point: str
) -> None:
    fake.create_network(THEIRS)
    before = fake.network_definition("theirs")
    environment = {"VMPROV_HOME": str(settings.home), "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off"}

    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(DIES), point], env=environment, check=False, timeout=60)

    assert ran.returncode == -signal.SIGKILL
    assert ("dhcp-boot" in fake.network_definition("theirs")) == (point == "after")
    assert vmprov.delete(everything=True).failed == []
    assert fake.network_definition("theirs") == before
    assert left(vmprov, fake) == []


def test_a_request_as_recorded_can_be_made_again(vmprov: Vmprov, ca: Path) -> None:
    from vmprov.engine.evidence.repeat import create_command

    request = wanted(
        name="edge", firmware="secure-boot", tpm=True, pxe=True, disks=["1GiB"], networks=["shared", "isolated"],
        boot=["network", "disk"], boot_certificates=[ca], smbios={"product": "It's"}, graphics="vnc",
        http_boot={"url": URL, "ca": [ca], "dns": {"boot.test": "10.0.0.9"}},
    )  # fmt: skip
    vmprov.create(request)

    line = create_command(vmprov.store.vm("edge"), vmprov.home.vm("edge"), vmprov.store.installation)

    for words in (
        "--firmware secure-boot", "--tpm", "--pxe", "--extra-disk data-1=1GiB", "--network shared --network isolated",
        "--boot network,disk", f"--boot-certificate {ca}", """--product 'It'"'"'s'""", f"--boot-url {URL}",
        f"--ca {ca}", "--boot-dns boot.test=10.0.0.9", "--graphics vnc",
    ):  # fmt: skip
        assert words in line
    assert "--manufacturer" not in line


def test_a_machine_of_an_older_vmprov_still_has_a_shape(vmprov: Vmprov) -> None:
    vmprov.create(wanted(name="a", cpus=2))
    vmprov.store.update_vm("a", spec="", nics="[]")

    record = vmprov.store.vm("a")

    assert (record.machine.cpus, record.machine.networks, len(record.nics)) == (2, (record.network,), 1)
    assert vmprov.delete(everything=True).failed == []


def test_the_view_tells_of_every_nic(vmprov: Vmprov) -> None:
    view = vmprov.create(wanted(name="a", networks=["per-vm", "shared"])).vms[0]

    assert [nic["network"] for nic in view.nics] == [nic.network for nic in vmprov.store.vm("a").nics]
    assert json.dumps(view.to_json())
