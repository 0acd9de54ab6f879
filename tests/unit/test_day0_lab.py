"""The Day-0 lab's server, asked over HTTP within this process, and what the command line says of the lab."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from vmprov.day0.lab import CLUSTER, Practice, SecureBootKeys
from vmprov.day0.orchestrator.app import make_app, open_service
from vmprov.day0.orchestrator.faults import KINDS, BadFault, Faults, parse
from vmprov.day0.orchestrator.inventory import STEPS

TOKEN = "/realms/master/protocol/openid-connect/token"
PROJECT = "/v1/projects/practice"
SERIAL = "VH005N187M01"
DEVICE = {"serial": SERIAL, "uuid": "10c22f38-cd0c-420b-aab3-148d2987b781", "mac": "52:54:00:bf:23:37"}
BOOT_FILES = ("signed_ipxe.efi", "unsigned_ipxe.efi", "boot.ipxe", "vmlinuz-x86_64", "initramfs-x86_64")


class Client:
    """Asks an application without a network."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="https://lab.test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)


@dataclass
class Lab:
    """A lab's directory and its server."""

    directory: Path
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.client = Client(make_app(open_service(self.directory, behind_proxy=False)))

    def login(self, user: str, password: str = "secret", **headers: str) -> httpx.Response:
        form = {"grant_type": "password", "client_id": "system-client", "username": user, "password": password}
        return self.client.post(TOKEN, data=form, headers=headers)

    def headers(self, user: str = "api") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.login(user).json()['access_token']}"}

    def get(self, path: str) -> Any:
        return self.client.get(PROJECT + path, headers=self.headers())

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.post(PROJECT + path, json=body, headers=self.headers())

    def delete(self, path: str) -> Any:
        return self.client.request("DELETE", PROJECT + path, headers=self.headers())

    def register(self, serial: str = SERIAL) -> Any:
        return self.post("/compute/hosts/register", {"name": serial, "serialNumber": serial, "autoOnboard": True})

    def fault(self, name: str, serial: str = "") -> Any:
        return self.client.post("/lab/fault", json={"fault": name, "serial": serial})

    def node(self, method: str, path: str, told: dict[str, str], **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {told['token']}"}
        return self.client.request(method, f"/lab/node{path}", headers=headers, **more)

    def state(self) -> Any:
        return self.client.get("/lab/state").json()


def told(answer: Any) -> dict[str, str]:
    """The lines that a node reads."""
    assert answer.status_code == 200, answer.text
    return dict(line.split("=", 1) for line in answer.text.splitlines())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab with two users, two operating systems, and boot files that say their names."""
    users = [
        {"name": "edge", "password": "secret", "roles": ["onboarding"]},
        {"name": "api", "password": "secret", "roles": ["project"]},
    ]
    config = {"cluster": CLUSTER, "project": "practice", "token_lifetime": 600, "token_key": "key", "users": users}
    profiles = [
        {"profile": name, "resource_id": f"os-{name}", "name": name, "image": f"{name}.img.gz", "size": 1000,
         "sha256": "0123456789abcdef", "entry": name}
        for name in ("ubuntu", "microvisor")
    ]  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "profiles.json").write_text(json.dumps(profiles))
    (tmp_path / "files").mkdir()
    (tmp_path / "tls").mkdir()
    for name in BOOT_FILES:
        (tmp_path / "files" / name).write_text(name)
    return Lab(tmp_path)


# tokens


def test_a_password_buys_a_token_and_a_refresh_token_another(lab: Lab) -> None:
    first = lab.login("api").json()
    form = {"grant_type": "refresh_token", "client_id": "system-client", "refresh_token": first["refresh_token"]}

    second = lab.client.post(TOKEN, data=form)

    assert first["expires_in"] == 600
    assert second.status_code == 200
    headers = {"Authorization": f"Bearer {second.json()['access_token']}"}
    assert lab.client.get(PROJECT, headers=headers).status_code == 200


def test_wrong_passwords_wrong_clients_and_made_up_tokens_are_refused(lab: Lab) -> None:
    wrong_client = {"grant_type": "password", "client_id": "other", "username": "api", "password": "secret"}
    made_up = {"grant_type": "refresh_token", "client_id": "system-client", "refresh_token": "a.b.c"}

    assert lab.login("api", "wrong").json()["error"] == "invalid_grant"
    assert lab.client.post(TOKEN, data=wrong_client).json()["error"] == "invalid_client"
    assert lab.client.post(TOKEN, data=made_up).status_code == 400
    assert lab.client.get(PROJECT).status_code == 401
    assert lab.client.get(PROJECT, headers={"Authorization": "Bearer a.b.c"}).status_code == 401


def test_a_refresh_token_is_no_access_token(lab: Lab) -> None:
    refresh = lab.login("api").json()["refresh_token"]

    assert lab.client.get(PROJECT, headers={"Authorization": f"Bearer {refresh}"}).status_code == 401


def test_tokens_outlive_the_server(lab: Lab) -> None:
    headers = lab.headers()

    lab.restart()

    assert lab.client.get(PROJECT, headers=headers).status_code == 200


def test_a_user_without_the_role_is_refused(lab: Lab) -> None:
    assert lab.client.get(PROJECT, headers=lab.headers("edge")).status_code == 403


# the API


def test_the_project_has_a_description_and_others_do_not_exist(lab: Lab) -> None:
    assert lab.get("").json()["spec"]["description"]
    assert lab.client.get("/v1/projects/other", headers=lab.headers()).status_code == 404


def test_a_registered_host_has_an_id_and_an_empty_status(lab: Lab) -> None:
    answer = lab.register()

    assert answer.status_code == 201
    assert answer.json()["resourceId"].startswith("host-")
    assert answer.json()["hostStatus"] == ""
    assert [one["serialNumber"] for one in lab.get("/compute/hosts").json()["hosts"]] == [SERIAL]


def test_serial_numbers_are_unique_and_of_a_shape(lab: Lab) -> None:
    lab.register()

    assert lab.register().status_code == 409
    assert lab.register("no").status_code == 400
    assert lab.register("with-hyphen").status_code == 400


def test_collections_come_in_pages(lab: Lab) -> None:
    for number in range(3):
        lab.register(f"SERIAL{number}")

    first = lab.get("/compute/hosts?pageSize=2").json()
    second = lab.get("/compute/hosts?pageSize=2&offset=2").json()

    assert [len(first["hosts"]), first["hasNext"], first["totalElements"]] == [2, True, 3]
    assert [one["serialNumber"] for one in second["hosts"]] == ["SERIAL2"]
    assert second["hasNext"] is False
    assert lab.get("/compute/hosts?pageSize=0").status_code == 400


def test_the_default_os_is_changed_by_another_provider(lab: Lab) -> None:
    (old,) = lab.get("/providers").json()["providers"]
    config = json.dumps({"defaultOs": "os-microvisor", "autoProvision": True})
    new = {"name": "infra_onboarding", "apiEndpoint": "x", "apiCredentials": ["y"], "config": config}

    taken = lab.post("/providers", new)
    lab.delete(f"/providers/{old['providerID']}")
    made = lab.post("/providers", new)

    assert taken.status_code == 409
    assert made.json()["config"] == config
    assert lab.state()["default_os"] == "microvisor"
    assert lab.post("/providers", {"name": "b", "config": '{"defaultOs": "os-none"}'}).status_code == 404


def test_a_host_goes_after_its_instance(lab: Lab) -> None:
    lab.register()
    told(lab.client.post("/lab/node/discover", json=DEVICE))
    (host,) = lab.get("/compute/hosts").json()["hosts"]

    early = lab.delete(f"/compute/hosts/{host['resourceId']}")
    instance = lab.delete(f"/compute/instances/{host['instance']['instanceID']}")
    late = lab.delete(f"/compute/hosts/{host['resourceId']}")

    assert [early.status_code, instance.status_code, late.status_code] == [400, 204, 204]
    assert lab.state()["hosts"] == []
    assert lab.delete(f"/compute/hosts/{host['resourceId']}").status_code == 404


# nodes


def test_a_registered_node_is_onboarded_without_anybody_typing(lab: Lab) -> None:
    lab.register()

    found = told(lab.client.post("/lab/node/discover", json=DEVICE))

    assert found["state"] == "ONBOARDED"
    assert found["name"] == SERIAL.lower()
    workflow = told(lab.node("GET", "/workflow", found))
    assert workflow["sha256"] == "0123456789abcdef"
    assert workflow["secure_boot"] == "off"


def test_a_node_that_is_not_registered_is_onboarded_by_a_user(lab: Lab) -> None:
    state = told(lab.client.post("/lab/node/discover", json=DEVICE))
    nobody = lab.client.post("/lab/node/onboard", json=DEVICE)
    not_allowed = lab.client.post("/lab/node/onboard", json=DEVICE, headers=lab.headers("api"))

    found = told(lab.client.post("/lab/node/onboard", json=DEVICE, headers=lab.headers("edge")))

    assert state == {"state": "NOTFOUND"}
    assert [nobody.status_code, not_allowed.status_code] == [401, 403]
    assert found["token"]
    assert lab.state()["hosts"][0]["onboarding"] == "Onboarded"


def test_progress_is_told_step_by_step_until_the_end(lab: Lab) -> None:
    lab.register()
    found = told(lab.client.post("/lab/node/discover", json=DEVICE))

    lab.node("POST", "/step/3", found)
    (during,) = lab.get("/compute/instances").json()["instances"]
    lab.node("POST", f"/step/{len(STEPS)}", found)
    lab.node("POST", "/running", found)
    (after,) = lab.get("/compute/hosts").json()["hosts"]

    assert during["provisioningStatus"] == f"Provisioning In Progress: 3/{len(STEPS)}: Streaming OS image"
    assert after["instance"]["provisioningStatus"] == "Provisioned"
    assert after["hostStatus"] == "Running"
    assert lab.node("POST", f"/step/{len(STEPS) + 1}", found).status_code == 400


def test_a_failure_is_told_with_its_reason(lab: Lab) -> None:
    lab.register()
    found = told(lab.client.post("/lab/node/discover", json=DEVICE))

    lab.node("POST", "/failed", found, content=b"the disk is too small")

    (host,) = lab.state()["hosts"]
    assert host["provisioning"] == "Provisioning Failed: the disk is too small"


def test_another_machine_with_the_same_serial_number_is_turned_away(lab: Lab) -> None:
    lab.register()
    told(lab.client.post("/lab/node/discover", json=DEVICE))

    answer = lab.client.post("/lab/node/discover", json={**DEVICE, "uuid": "another"})

    assert answer.status_code == 409
    assert "Failed" in lab.state()["hosts"][0]["registration"]


def test_a_node_that_was_removed_is_told_so(lab: Lab) -> None:
    lab.register()
    found = told(lab.client.post("/lab/node/discover", json=DEVICE))
    lab.client.post("/lab/reset")

    assert lab.node("GET", "/workflow", found).status_code == 410


def test_the_inventory_outlives_the_server(lab: Lab) -> None:
    lab.register()
    told(lab.client.post("/lab/node/discover", json=DEVICE))
    lab.fault("mismatch", SERIAL)
    before = lab.state()

    lab.restart()

    assert lab.state() == before


# boot files


def test_boot_files_are_served_and_nothing_beside_them(lab: Lab) -> None:
    assert lab.client.get("/tink-stack/boot.ipxe").text == "boot.ipxe"
    assert lab.client.request("HEAD", "/tink-stack/signed_ipxe.efi").headers["content-length"] == str(
        len("signed_ipxe.efi")
    )
    assert lab.client.get("/tink-stack/none").status_code == 404
    assert lab.client.get("/tink-stack/%2e%2e/config.json").status_code == 404


def test_behind_the_proxy_a_file_is_only_named(lab: Lab) -> None:
    client = Client(make_app(open_service(lab.directory)))
    lab.fault("slow-download:1000")
    slow = Client(make_app(open_service(lab.directory)))

    assert client.get("/tink-stack/boot.ipxe").headers["x-accel-redirect"] == "/files/boot.ipxe"
    assert slow.get("/tink-stack/boot.ipxe").headers["x-accel-limit-rate"] == "1000"


# faults


def test_a_missing_and_an_unsigned_boot_file(lab: Lab) -> None:
    lab.fault("boot-file-404")
    missing = lab.client.get("/tink-stack/signed_ipxe.efi")
    lab.fault("none")
    lab.fault("unsigned-boot-file")

    assert missing.status_code == 404
    assert lab.client.get("/tink-stack/signed_ipxe.efi").text == "unsigned_ipxe.efi"


def test_the_certificates_in_use_follow_the_faults(lab: Lab) -> None:
    tls = lab.directory / "tls"
    seen = []
    for name in ("none", "bad-certificate", "bad-certificate:expired", "api-certificate:other-ca", "none"):
        lab.fault(name)
        seen.append((str((tls / "boot").readlink()), str((tls / "api").readlink())))

    good = ("good", "good")
    assert seen == [good, ("wrong-name", "good"), ("expired", "good"), ("expired", "other-ca"), good]


def test_logins_of_a_node_are_refused_as_often_as_asked_for(lab: Lab) -> None:
    lab.fault("wrong-credentials:2")

    first = [lab.login("edge", **{"X-Day0-Serial": SERIAL}).status_code for _ in range(3)]
    other = lab.login("edge", **{"X-Day0-Serial": "OTHER0001"}).status_code

    assert first == [401, 401, 200]
    assert other == 401
    assert lab.login("api").status_code == 200


def test_a_fault_for_one_node_leaves_others_alone(lab: Lab) -> None:
    lab.register()
    lab.register("OTHER0001")
    lab.fault("unregistered", SERIAL)
    lab.fault("panic", SERIAL)

    struck = told(lab.client.post("/lab/node/discover", json=DEVICE))
    other = told(lab.client.post("/lab/node/discover", json={**DEVICE, "serial": "OTHER0001"}))

    assert struck == {"state": "NOTFOUND", "fault": "panic:micro-os"}
    assert other["state"] == "ONBOARDED"
    assert "fault" not in other


def test_what_the_workflow_says_wrong(lab: Lab) -> None:
    lab.register()
    found = told(lab.client.post("/lab/node/discover", json=DEVICE))
    for name in ("digest-wrong", "disk-too-small", "mismatch"):
        lab.fault(name)

    workflow = told(lab.node("GET", "/workflow", found))

    assert workflow["sha256"] == "fedcba9876543210"
    assert int(workflow["size"]) > 1 << 50
    assert workflow["secure_boot"] == "on"


@pytest.mark.parametrize(("name", "status"), [("api-401", 401), ("api-403", 403), ("api-500", 500)])
def test_the_api_turns_down_what_it_would_grant(lab: Lab, name: str, status: int) -> None:
    lab.fault(name)

    answer = lab.get("/compute/hosts")

    assert answer.status_code == status
    assert answer.json()["message"]


def test_the_api_answers_html_or_null(lab: Lab) -> None:
    lab.register()
    lab.fault("api-null")
    (host,) = lab.get("/compute/hosts").json()["hosts"]
    lab.fault("none")
    lab.fault("api-not-json")

    assert host["serialNumber"] is None
    assert lab.get("/compute/hosts").headers["content-type"].startswith("text/html")


def test_tokens_of_short_life(lab: Lab) -> None:
    lab.fault("token-expires:7")

    assert lab.login("api").json()["expires_in"] == 7


@pytest.mark.parametrize(
    ("text", "serial", "said"),
    [
        ("nope", "", "no fault called 'nope'"),
        ("hang:nowhere", "", "fault hang takes"),
        ("panic:", "", "fault panic takes"),
        ("mismatch:1", "", "takes no argument"),
        ("wrong-credentials:0", "", "a number from 1"),
        ("boot-file-404", SERIAL, "cannot be for one serial number"),
        ("hang:boot-script", SERIAL, "cannot be for one serial number"),
    ],
)
def test_a_fault_that_cannot_be_meant(lab: Lab, text: str, serial: str, said: str) -> None:
    with pytest.raises(BadFault, match=said):
        parse(text, serial)

    answer = lab.fault(text, serial)

    assert answer.status_code == 400
    assert said in answer.json()["message"]


@pytest.mark.parametrize("name", KINDS)
def test_every_fault_can_be_had_without_an_argument(name: str) -> None:
    assert parse(name).argument == KINDS[name].default


def test_a_fault_takes_the_place_of_the_same_kind_for_the_same_node() -> None:
    faults = Faults()
    for text, serial in (("panic", ""), ("panic:os", ""), ("panic", SERIAL)):
        faults.add(parse(text, serial))

    found = [str(fault) for fault in (faults.find("panic", "OTHER"), faults.find("panic", SERIAL)) if fault]

    assert found == ["panic:os", "panic:micro-os"]
    faults.clear(SERIAL)
    assert [one.serial for one in faults.on] == [""]
    faults.remove(parse("panic"))
    assert faults.on == []


# what is told of the lab


def test_what_is_printed_of_a_lab_holds_no_password(tmp_path: Path) -> None:
    from pydantic import SecretStr

    lab = Practice(
        up=True, cluster=CLUSTER, project="practice", container="c", address="172.17.0.9",
        ca_file=tmp_path / "ca.pem",
        secure_boot=SecureBootKeys(tmp_path / "PK.pem", tmp_path / "KEK.pem", tmp_path / "db.pem"),
        credentials_file=tmp_path / "credentials.env", onboarding_user="a", onboarding_password=SecretStr("s3cret"),
        api_user="b", api_password=SecretStr("s3cret"),
    )  # fmt: skip

    shown = json.dumps(lab.to_json()) + repr(lab)

    assert "s3cret" not in shown
    assert lab.boot_url == f"https://tinkerbell-haproxy.{CLUSTER}/tink-stack/signed_ipxe.efi"
    assert lab.addresses[f"api.{CLUSTER}"] == "172.17.0.9"
