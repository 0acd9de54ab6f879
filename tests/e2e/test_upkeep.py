"""Real guests that are rebuilt, resized, renamed and imported: their data disks keep what is on them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cli, connect
from vmprov.hypervisor import DomainState
from vmprov.hypervisor.hardware import read_hardware
from vmprov.hypervisor.libvirt import LibvirtHypervisor

TINY = ("--image", "tiny", "--memory", "128MiB")
MOUNT = "mkdir -p /d && mount /dev/vdb /d && "
# With two data disks, the second one keeps what is on it, and the first one is to be blank.
KEPT = "mkdir -p /d && mount /dev/vdc /d && echo precious > /d/kept && umount /d"
BLANK = "head -c 4096 /dev/vdb | tr -d '\\0' | grep -q . || echo blank"


@pytest.fixture(scope="module")
def before(cli: Cli) -> Iterator[Any]:
    """A machine with a file on its data disk, and one on its system disk, as it was at first."""
    made = cli("create", "--name", "keep-1", "--lab", "keep", "--extra-disk", "data=64MiB", *TINY, "--json").json
    write = "busybox mke2fs /dev/vdb && " + MOUNT + "echo precious > /d/kept && umount /d && touch /of-the-old-system"
    cli("ssh", "keep-1", "--", f"{write} && sync")
    yield made["vms"][0]
    result = cli("delete", "keep", "--yes", "--json").json
    assert result["failed"] == []


def read_back(cli: Cli, name: str) -> list[str]:
    """What the data disk holds, whether the old system is still there, and the host's name."""
    told = cli("ssh", name, "--", MOUNT + "cat /d/kept && umount /d; ls /of-the-old-system; hostname").out
    return told.split()


def test_a_rebuilt_machine_has_a_new_system_and_its_old_data(cli: Cli, before: Any) -> None:
    after = cli("rebuild", "keep-1", "--yes", "--json").json["vms"][0]

    same = ("name", "mac", "address", "serial_number", "network", "bridge", "domain")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert read_back(cli, "keep-1") == ["precious", "keep-1"]


def test_a_protected_machine_is_neither_rebuilt_nor_deleted(cli: Cli, before: Any) -> None:
    cli("protect", "keep-1")

    rebuilt, deleted = cli.try_("rebuild", "keep-1", "--yes"), cli.try_("delete", "keep-1", "--yes", "--json")

    cli("protect", "keep-1", "--off")
    assert (rebuilt.code, deleted.code, deleted.json["deleted"]) == (1, 1, [])
    assert "it is protected" in rebuilt.err
    assert read_back(cli, "keep-1") == ["precious", "keep-1"]


def test_a_resized_machine_has_what_was_asked_for_and_its_data(cli: Cli, before: Any) -> None:
    refused = cli.try_("resize", "keep-1", "--memory", "192MiB")
    cli("resize", "keep-1", "--cpus", "2", "--memory", "192MiB", "--disk", "data=96MiB", "--yes")

    told = cli("ssh", "keep-1", "--", "nproc; cat /sys/block/vdb/size; grep MemTotal /proc/meminfo").out.split()
    assert (refused.code, "use --yes" in refused.err) == (2, True)
    assert told[:2] == ["2", str(96 * 2048)]
    assert 128 * 1024 < int(told[3]) < 192 * 1024
    assert read_back(cli, "keep-1") == ["precious", "keep-1"]


def test_a_renamed_machine_goes_on_under_its_new_name(cli: Cli, before: Any, hypervisor: LibvirtHypervisor) -> None:
    log = cli.home.console_log("keep-1", 0).read_bytes()

    running = cli.try_("rename", "keep-1", "kept")
    cli("rename", "keep-1", "kept", "--restart")

    assert (running.code, "is running" in running.err) == (1, True)
    assert cli.home.console_log("kept", 0).read_bytes().startswith(log)
    assert cli.home.console_log("kept", 0).stat().st_size > len(log)
    assert not cli.home.vm("keep-1").exists()
    assert read_back(cli, "kept") == ["precious", "keep-1"]
    ours = [domain for domain in hypervisor.domains() if domain.name == before["domain"].replace("keep-1", "kept")]
    assert [(domain.state, domain.mark and domain.mark.vm) for domain in ours] == [(DomainState.RUNNING, "kept")]
    assert cli("status", "kept", "--json").json[0]["drift"] == []


def test_its_guest_learns_of_the_name_when_it_is_rebuilt(cli: Cli, before: Any) -> None:
    after = cli("rebuild", "kept", "--yes", "--json").json["vms"][0]

    assert (after["mac"], after["address"]) == (before["mac"], before["address"])
    assert read_back(cli, "kept") == ["precious", "kept"]


@pytest.fixture
def theirs() -> str:
    """The definition of a domain of others, with a NIC on libvirt's network ``theirs``."""
    return (
        "<domain type='qemu'><name>Legacy</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type>hvm</type><boot dev='hd'/></os><devices><serial type='pty'/></devices></domain>"
    )


def test_a_domain_of_others_is_imported_and_not_touched(
    cli: Cli, hypervisor: LibvirtHypervisor, theirs: str, left_behind: None
) -> None:
    hypervisor.define_domain(theirs)
    definition = hypervisor.domain_definition("Legacy")
    try:
        imported = cli("import", "Legacy", "--name", "legacy", "--lab", "old", "--json").json["vms"][0]
        cli("start", "legacy")
        started = hypervisor.domain("Legacy").state
        listed = cli("list", "--lab", "old", "--json").json
        logs = cli.try_("logs", "legacy")
        cli("stop", "legacy", "--force")
        again = cli.try_("import", "Legacy", "--name", "twice")
        deleted = cli("delete", "old", "--yes")

        assert (imported["state"], imported["adopted"], imported["memory"]) == ("stopped", True, 64 << 20)
        assert (started, listed[0]["state"]) == (DomainState.RUNNING, "running")
        assert (logs.code, "console Legacy" in logs.err) == (1, True)
        assert (again.code, "imported already" in again.err) == (2, True)
        assert "is left alone" in deleted.err
        assert hypervisor.domain_definition("Legacy") == definition
    finally:
        hypervisor.remove_domain("Legacy")


FILE = """
lab: torn
defaults: {image: tiny, memory: 256MiB}
vms:
  db: {firmware: uefi, disks: [{name: logs, size: 64MiB}, {name: data, size: 64MiB}]}
  legacy: {domain: Legacy, after: [db]}
"""


def test_what_was_lost_is_made_again_and_the_rest_stays(
    cli: Cli, hypervisor: LibvirtHypervisor, theirs: str, tmp_path: Path, left_behind: None
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(FILE)
    hypervisor.define_domain(theirs)
    apply = ("apply", "-f", str(file), "--auto-approve", "--json")
    try:
        first = cli(*apply).json
        started = hypervisor.domain("Legacy").state
        again = cli("plan", "-f", str(file), "--json").json["changes"]
        cli("ssh", "db", "--", f"busybox mke2fs /dev/vdc && {KEPT} && touch /of-this-system && sync")
        domain = cli("show", "db", "--json").json["domain"]
        lost = [f"{domain}{ending}" for ending in (".logs.img", ".nvram", "-seed.iso")]
        for volume in lost:
            assert hypervisor.remove_volume("default", volume)

        (planned,) = cli("plan", "-f", str(file), "--json").json["changes"]
        mended = cli(*apply).json
        found = cli("ssh", "db", "--", f"ls /of-this-system; mkdir -p /d; mount /dev/vdc /d; cat /d/kept; {BLANK}").out

        assert [vm["state"] for vm in first["vms"]] == ["running", "running"]
        assert (started, again) == (DomainState.RUNNING, [])
        assert (planned["action"], planned["reboot"], planned["data_lost"]) == ("mend", True, ["logs"])
        assert [reason["field"] for reason in planned["reasons"]] == ["disks", "nvram", "seed"]
        assert (mended["ok"], found.split()) == (True, ["/of-this-system", "precious", "blank"])
        assert cli("plan", "-f", str(file), "--json").json["changes"] == []
        assert set(lost) <= {volume.name for volume in hypervisor.volumes("default")}
        assert cli("delete", "torn", "--yes", "--json").json["failed"] == []
    finally:
        hypervisor.remove_domain("Legacy")


def test_the_definition_of_a_machine_is_what_its_record_says(cli: Cli, before: Any) -> None:
    """After all that was done to it."""
    hypervisor = connect(cli)
    vm = cli("show", "kept", "--json").json
    try:
        hardware = read_hardware(ET.fromstring(hypervisor.domain_definition(vm["domain"])))
    finally:
        hypervisor.close()

    assert (hardware.cpus, hardware.memory) == (vm["cpus"], vm["memory"]) == (2, 192 << 20)
    assert hardware.logs == (vm["console_log"],)
