"""What a VM's new name changes in the definitions of its domain and network."""

from __future__ import annotations

from pathlib import Path

from vmprov.hypervisor.definitions import find_mark, parse_definition, with_captures_in, with_name, with_owner

MARK = "<metadata><v:vm xmlns:v='urn:vmprov:1' installation='3f0a' lab='trial' vm='{vm}'/></metadata>"
DOMAIN = (
    "<domain><name>a</name>" + MARK.format(vm="web") + "<devices>"
    "<serial><log file='/h/vms/web/console-0.log' append='on'/></serial>"
    "<console><log file='/h/vms/web/console-0.log' append='on'/></console>"
    "<serial><log file='/h/vms/web-2/console-0.log'/></serial></devices></domain>"
)
NETWORK = (
    "<network><name>a</name>" + MARK.format(vm="web") + "<ip address='10.0.0.1'><dhcp>"
    "<host mac='52:54:00:00:00:01' name='web' ip='10.0.0.2'/><host mac='52:54:00:00:00:02' name='x' ip='10.0.0.3'/>"
    "</dhcp></ip></network>"
)


def test_the_mark_names_the_vm_by_its_new_name() -> None:
    mark = find_mark(parse_definition(with_owner(DOMAIN, vm="db"), "domain"))

    assert mark is not None
    assert (mark.installation, mark.lab, mark.vm) == ("3f0a", "trial", "db")


def test_what_carries_no_mark_of_ours_stays_as_it_is() -> None:
    assert with_owner("<domain><name>a</name></domain>", vm="db") == "<domain><name>a</name></domain>"


def test_dhcp_calls_the_vm_by_its_new_name_and_others_by_theirs() -> None:
    network = parse_definition(with_owner(NETWORK, vm="db"), "network")

    assert [host.get("name") for host in network.findall("ip/dhcp/host")] == ["db", "x"]


def test_captures_move_with_their_directory_and_no_others_do() -> None:
    domain = parse_definition(with_captures_in(DOMAIN, Path("/h/vms/web"), Path("/h/vms/db")), "domain")

    assert [log.get("file") for log in domain.findall("devices/*/log")] == [
        "/h/vms/db/console-0.log", "/h/vms/db/console-0.log", "/h/vms/web-2/console-0.log",
    ]  # fmt: skip


def test_a_definition_gets_another_name() -> None:
    assert parse_definition(with_name(DOMAIN, "b"), "domain").findtext("name") == "b"
