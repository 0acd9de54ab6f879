"""The Day-0 lab with real guests: onboarded over real TLS to the login prompt of an OS on their disk; and faults."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.e2e.conftest import Cli
from vmprov import Settings, Vmprov
from vmprov.containers.engine import Engine
from vmprov.day0.lab import Practice
from vmprov.waiting import Deadline, wait_until

MACHINE = ("--image", "", "--firmware", "uefi", "--tpm", "--consoles", "2", "--disk", "2GiB", "--memory", "1GiB")
STAGES = {
    "firmware",
    "http-download",
    "boot-script",
    "initramfs-download",
    "onboarding",
    "imaging",
    "disk-boot",
    "login",
}


class Connection(http.client.HTTPSConnection):
    """HTTPS to a name of the lab, at the lab's address."""

    def __init__(self, lab: Practice, host: str) -> None:
        self._trust = ssl.create_default_context(cafile=str(lab.ca_file))
        super().__init__(host, context=self._trust, timeout=30)
        self._address = lab.address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, 443), self.timeout)
        self.sock = self._trust.wrap_socket(plain, server_hostname=self.host)


def ask(lab: Practice, method: str, url: str, body: str = "", **headers: str) -> Any:
    where = urlsplit(url)
    connection = Connection(lab, where.hostname or "")
    try:
        connection.request(method, where.path, body=body or None, headers=headers)
        answer = connection.getresponse()
        return json.loads(answer.read())
    finally:
        connection.close()


def register(lab: Practice, serial_number: str) -> None:
    """As somebody who may: the machine is onboarded without anybody typing."""
    form = {
        "grant_type": "password", "client_id": "system-client", "username": lab.api_user,
        "password": lab.api_password.get_secret_value(),
    }  # fmt: skip
    token = ask(lab, "POST", lab.token_url, urlencode(form))["access_token"]
    body = json.dumps({"name": serial_number, "serialNumber": serial_number, "autoOnboard": True})
    made = ask(
        lab, "POST", f"{lab.api_url}/v1/projects/{lab.project}/compute/hosts/register", body,
        **{"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )  # fmt: skip
    assert made["resourceId"]


def practice(cli: Cli) -> Practice:
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        return vmprov.day0_lab.status()


@pytest.fixture(scope="module")
def lab(cli: Cli) -> Iterator[Practice]:
    """A lab of the module's own; nothing of it may be left afterwards."""
    cli("day0", "lab", "up")
    yield practice(cli)
    cli("day0", "lab", "down")
    assert not cli.home.day0.exists()
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        installation = vmprov.store.installation
    assert Engine().find({"vmprov.installation": installation, "vmprov.role": "day0"}) == []


def create(cli: Cli, lab: Practice, flow: str, *words: str) -> Any:
    dns = [word for name, address in lab.addresses.items() for word in ("--boot-dns", f"{name}={address}")]
    known = cli.with_environ(
        EDGE_USERNAME=lab.onboarding_user, EDGE_PASSWORD=lab.onboarding_password.get_secret_value()
    )
    ran = known.try_(
        "create", *MACHINE, "--flow", flow, "--boot-url", lab.boot_url, "--ca", str(lab.ca_file), *dns, "--json", *words
    )
    assert lab.onboarding_password.get_secret_value() not in ran.out + ran.err
    return json.loads(ran.out)


def stages(cli: Cli, vm: str) -> set[str]:
    return {
        one["stage"] for one in cli("show", vm, "--timeline", "--json").json["stages"] if one["outcome"] == "passed"
    }


def test_up_twice_is_up_once(cli: Cli, lab: Practice) -> None:
    again = cli("day0", "lab", "up", "--json").json

    assert again["address"] == lab.address
    assert cli.try_("day0", "lab", "up", "--cluster", "other.example").code == 2


def test_commands_for_an_orchestrator_find_the_lab(cli: Cli, lab: Practice) -> None:
    assert cli("day0", "hosts").out.startswith("SERIAL NUMBER")

    cli("day0", "register", "DAY0FIND01")
    (found,) = cli("day0", "hosts", "--json").json
    cli("day0", "unregister", "DAY0FIND01")

    assert found["serial_number"] == "DAY0FIND01"
    assert cli("day0", "hosts", "--json").json == []


def test_its_certificate_is_good_until_a_fault_exchanges_it(cli: Cli, lab: Practice) -> None:
    assert ask(lab, "GET", f"{lab.api_url}/lab/state")["faults"] == []
    for fault in ("api-certificate", "api-certificate:other-ca", "api-certificate:expired"):
        cli("day0", "lab", "fault", fault)
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(lab, "GET", f"{lab.api_url}/lab/state")
    cli("day0", "lab", "fault", "none")
    cli("day0", "lab", "fault", "bad-certificate")
    assert ask(lab, "GET", f"{lab.api_url}/lab/state")["faults"] != []
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(lab, "GET", lab.boot_url)
    cli("day0", "lab", "fault", "none")
    assert ask(lab, "GET", f"{lab.api_url}/lab/state")["faults"] == []


def test_a_machine_onboards_with_credentials_typed(cli: Cli, lab: Practice) -> None:
    made = create(cli, lab, "edge-io", "--name", "io")

    (vm,) = made["vms"]
    assert (vm["verdict"], vm["why"]) == ("success", "")
    assert stages(cli, vm["name"]) >= STAGES | {"username"}
    (node,) = practice(cli).nodes
    assert (node.serial_number, node.provisioning) == (vm["serial_number"], "Provisioned")
    cli("delete", made["lab"], "--yes")


def test_registered_machines_onboard_alone_and_the_others_are_told(cli: Cli, lab: Practice) -> None:
    cli("day0", "lab", "reset")
    serials = ["DAY0GOOD01", "DAY0MISS01", "DAY0NONE01"]
    for serial in serials[:2]:
        register(lab, serial)
    cli("day0", "lab", "fault", "mismatch", "--serial", serials[1])

    # A machine that is removed as soon as its console tells may not get round to telling the orchestrator.
    words = ("--count", "3", "--name", "nio", "--serial-numbers", ",".join(serials), "--keep-on-failure")
    made = create(cli, lab, "edge-nio", *words)

    classes = [vm["judgement"]["class"] for vm in made["vms"]]
    assert classes == ["", "secure-boot-mismatch", "not-registered"]
    assert stages(cli, made["vms"][0]["name"]) >= STAGES
    expected = {serials[0]: "Provisioned", serials[1]: "Provisioning Failed: Secure Boot is off"}

    def told() -> bool:
        return {node.serial_number: node.provisioning for node in practice(cli).nodes} == expected

    wait_until(told, Deadline(30), f"the orchestrator to hear: {expected}")
    cli("delete", made["lab"], "--yes")
