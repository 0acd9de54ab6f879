"""The orchestrator's client, against a real HTTPS server that speaks the API and has faults."""

from __future__ import annotations

import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.unit import orchestrator_server as fake
from tests.unit.orchestrator_server import CLUSTER, MICROVISOR, NAMES, PASSWORD, PROJECT, UBUNTU, USER, Authority, State
from vmprov.day0.answers import Provisioning
from vmprov.day0.client import Orchestrator
from vmprov.day0.config import OrchestratorSettings, read_settings
from vmprov.errors import (
    AlreadyRegistered,
    AnswerUnreadable,
    Failed,
    Interrupted,
    LoginRefused,
    NoSuchProject,
    NotAllowed,
    NotFound,
    NotFullyUndone,
    NotTrusted,
    OrchestratorFailed,
    ServerFailed,
    SpecError,
    Unreachable,
    WaitTimeout,
)
from vmprov.waiting import Cancel, Deadline

Client = Callable[..., Orchestrator]
HOSTS = rf"GET /v1/projects/{PROJECT}/compute/hosts$"
REGISTER = r"POST .*/compute/hosts/register"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Iterator[tuple[State, int]]:
    with fake.served(authority.issue(*NAMES), tmp_path) as served:
        yield served


@pytest.fixture
def state(server: tuple[State, int]) -> State:
    return server[0]


def settings_for(port: int, ca: bytes, directory: Path, **more: str) -> OrchestratorSettings:
    file = directory / "ca.pem"
    file.write_bytes(ca)
    options = {
        "cluster": CLUSTER, "project": PROJECT, "username": USER, "ca_file": str(file),
        "connect_to": f"127.0.0.1:{port}", **more,
    }  # fmt: skip
    return read_settings(options, home=directory, directory=directory, environ={})


@pytest.fixture
def client(server: tuple[State, int], authority: Authority, tmp_path: Path) -> Iterator[Client]:
    opened: list[Orchestrator] = []

    def connect(
        *, password: str = PASSWORD, limit: float = 5.0, cancel: Cancel | None = None, **more: str
    ) -> Orchestrator:
        settings = settings_for(server[1], authority.pem, tmp_path, **more)
        opened.append(Orchestrator(settings, SecretStr(password), limit=limit, cancel=cancel))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


# what it does


def test_the_user_logs_in_and_the_project_is_there(client: Client, state: State) -> None:
    client().check()

    assert state.asked == [f"POST {fake.TOKEN_PATH}", f"GET /v1/projects/{PROJECT}"]


def test_a_host_is_registered_found_and_removed_with_its_instance(client: Client, state: State) -> None:
    orchestrator = client()
    made = orchestrator.register("VP3FA1000001")
    state.hosts[0]["instance"] = {"instanceID": "inst-1", "provisioningStatus": "Provisioned", "os": {"name": "Ubuntu"}}

    assert (made.id, made.name, made.serial_number) == (state.hosts[0]["resourceId"], "VP3FA1000001", "VP3FA1000001")
    assert [instance.id for instance in orchestrator.instances()] == ["inst-1"]
    assert orchestrator.unregister("VP3FA1000001") is True
    assert state.hosts == []
    assert [asked for asked in state.asked if asked.startswith("DELETE")] == [
        f"DELETE /v1/projects/{PROJECT}/compute/instances/inst-1",
        f"DELETE /v1/projects/{PROJECT}/compute/hosts/{made.id}",
    ]


def test_gone_is_success(client: Client, state: State) -> None:
    orchestrator = client()
    assert orchestrator.unregister("VP3FA1000001") is False

    state.add_host("VP3FA1000001")
    state.fault("DELETE", fake.status(404))
    assert orchestrator.unregister("VP3FA1000001") is True


def test_a_serial_number_is_meant_exactly(client: Client, state: State) -> None:
    state.add_host("VP3FA10000011")
    orchestrator = client()

    assert orchestrator.find("VP3FA1000001") is None
    with pytest.raises(NotFound, match="no host with the serial number VP3FA1000001"):
        orchestrator.status("VP3FA1000001")


def test_somebody_elses_host_of_that_serial_number_is_left_alone(client: Client, state: State) -> None:
    state.add_host("VP3FA1000001")
    orchestrator = client()

    assert orchestrator.unregister("VP3FA1000001", host_id="host-of-ours") is False
    assert orchestrator.unregister("VP3FA1000001", name="lab-1-vm-1") is False
    assert len(state.hosts) == 1


@pytest.mark.parametrize("largest", [100, 7])
def test_all_pages_are_read(client: Client, state: State, largest: int) -> None:
    state.largest_page = largest
    wanted = [state.add_host(f"SERIAL{number:04d}")["serialNumber"] for number in range(223)]

    assert [host.serial_number for host in client().hosts()] == wanted


def test_an_api_without_pages_is_read_once_more_at_most(client: Client, state: State) -> None:
    hosts = [{"resourceId": f"host-{number}", "serialNumber": f"SERIAL{number:04d}"} for number in range(150)]
    state.fault(HOSTS, fake.status(200, {"hosts": hosts}), times=5)

    assert len(client().hosts()) == 150
    assert len(state.faults) == 3


def test_an_empty_list_may_be_left_out_or_null(client: Client, state: State) -> None:
    state.fault(HOSTS, fake.status(200, {}))
    state.fault(HOSTS, fake.status(200, {"hosts": None}))
    orchestrator = client()

    assert orchestrator.hosts() == orchestrator.hosts() == []


def test_several_are_registered_and_each_is_told_at_once(client: Client, state: State) -> None:
    state.add_host("TAKEN0001", name="of-others")
    told = []

    found = client().register_all(["FIRST0001", "TAKEN0001", "SECOND0001"], done=lambda one: told.append(one.outcome))

    assert told == [one.outcome for one in found] == ["registered", "existing", "registered"]
    assert [one.host_id for one in found] == [state.hosts[place]["resourceId"] for place in (1, 0, 2)]


def test_after_one_that_failed_the_others_are_not_tried(client: Client, state: State) -> None:
    state.fault(REGISTER, fake.status(500, {"message": "disk full"}))

    found = client().register_all(["FIRST0001", "SECOND0001"])

    assert [one.outcome for one in found] == ["failed", "failed"]
    assert "disk full" in found[0].why
    assert found[1].why.startswith("not tried: ")
    assert state.hosts == []


def test_progress_is_read_from_the_instance(client: Client, state: State) -> None:
    words = "Provisioning In Progress: 3/9: Streaming OS image"
    state.add_host(
        "SERIAL0001", instance={"instanceID": "inst-1", "provisioningStatus": words, "desiredOs": {"name": "U"}}
    )

    host = client().status("SERIAL0001")

    assert host.provisioning == Provisioning(
        state="Provisioning In Progress", step=3, steps=9, text="Streaming OS image"
    )
    assert (host.ended, host.instance and host.instance.os_name) == ("", "U")


@pytest.mark.parametrize(
    ("host", "ended"),
    [
        ({"hostStatus": "Running"}, "success"),
        ({"hostStatus": "Error: disk"}, "failed"),
        ({"onboardingStatus": "Onboarded"}, ""),
        ({"registrationStatus": "Host Registration Failed due to mismatched UUID"}, "failed"),
        ({"onboardingStatusIndicator": "STATUS_INDICATION_ERROR"}, "failed"),
        ({"instance": {"provisioningStatus": "Provisioned"}}, "success"),
        ({"instance": {"provisioningStatus": "Provisioning Failed: 4/9: no space"}}, "failed"),
        ({"instance": {"provisioningStatus": "Provisioning In Progress: 1/9: Verifying failed sectors"}}, ""),
        ({"instance": {}}, ""),
    ],
)
def test_an_end_is_told_from_what_still_goes_on(
    client: Client, state: State, host: dict[str, object], ended: str
) -> None:
    state.add_host("SERIAL0001", **host)

    assert client().status("SERIAL0001").ended == ended


def test_waiting_goes_on_until_all_have_ended(client: Client, state: State) -> None:
    first = state.add_host("FIRST0001")
    told: list[tuple[str, str]] = []

    def changed(number: str, stage: str) -> None:
        told.append((number, stage))
        if stage == "not known":
            state.add_host("SECOND0001", hostStatus="Running")
            # An outage in between is sat out.
            state.fault(HOSTS, fake.status(500, {}))
        if number == "SECOND0001" and stage == "Running":
            first["instance"] = {"instanceID": "i", "provisioningStatus": "Provisioning Failed: 2/9: erase"}

    found = client().wait(["FIRST0001", "SECOND0001"], Deadline(20), changed=changed, interval=0.01)

    assert [host.ended for host in found] == ["failed", "success"]
    assert told == [
        ("FIRST0001", "Host is Registered"), ("SECOND0001", "not known"), ("SECOND0001", "Running"),
        ("FIRST0001", "Provisioning Failed 2/9: erase"),
    ]  # fmt: skip


def test_waiting_has_an_end_and_names_who_was_late(client: Client, state: State) -> None:
    state.add_host("FIRST0001", hostStatus="Running")
    state.add_host("SECOND0001")

    with pytest.raises(WaitTimeout, match=r"SECOND0001 \(Host is Registered\)") as late:
        client().wait(["FIRST0001", "SECOND0001"], Deadline(0.05), interval=0.01)
    assert "FIRST0001" not in str(late.value)


# operating systems


def test_the_default_os_is_replaced_and_the_rest_of_the_provider_stays(client: Client, state: State) -> None:
    state.add_provider(UBUNTU)
    orchestrator = client()

    assert orchestrator.set_default_os("microvisor") is True
    (provider,) = state.providers
    assert json.loads(provider["config"]) == {
        "defaultOs": MICROVISOR, "autoProvision": True, "osSecurityFeatureEnable": False,
    }  # fmt: skip
    assert (provider["name"], provider["apiEndpoint"], provider["apiCredentials"]) == (
        "infra_onboarding",
        "xyz",
        ["abc"],
    )
    assert orchestrator.default_os() == orchestrator.os_profile("microvisor-nonrt")


def test_nothing_is_done_where_it_is_the_default_already(client: Client, state: State) -> None:
    state.add_provider(UBUNTU)

    assert client().set_default_os("ubuntu") is False
    assert [asked for asked in state.asked if not asked.startswith("GET")] == [f"POST {fake.TOKEN_PATH}"]


def test_a_provider_is_made_where_there_is_none(client: Client, state: State) -> None:
    state.add_provider("", name="other")

    assert client().set_default_os(UBUNTU) is True
    assert [provider["name"] for provider in state.providers] == ["other", "infra_onboarding"]


def test_where_names_may_repeat_the_new_provider_comes_first(client: Client, state: State) -> None:
    state.names_repeat = True
    old = state.add_provider(UBUNTU)

    assert client().set_default_os("microvisor") is True
    changes = [asked.split("/")[-1] for asked in state.asked if asked.startswith(("POST /v1", "DELETE"))]
    assert changes == ["providers", old["providerID"]]
    assert len(state.providers) == 1


def test_a_provider_that_cannot_be_replaced_is_made_again(client: Client, state: State) -> None:
    state.add_provider(UBUNTU)
    # The first attempt meets the old one, the second one fails.
    state.fault("POST .*/providers", fake.status(409, {"message": "exists"}))
    state.fault("POST .*/providers", fake.status(500, {"message": "broken"}))
    orchestrator = client()

    with pytest.raises(ServerFailed, match="broken"):
        orchestrator.set_default_os("microvisor")
    (provider,) = orchestrator.providers()
    assert (provider.name, provider.default_os) == ("infra_onboarding", UBUNTU)


def test_what_is_lost_for_good_is_said(client: Client, state: State) -> None:
    state.add_provider(UBUNTU)
    state.fault("POST .*/providers", fake.status(409, {"message": "exists"}))
    state.fault("POST .*/providers", fake.status(500, {"message": "broken"}), times=2)

    with pytest.raises(NotFullyUndone, match=rf"infra_onboarding was removed.*defaultOs {UBUNTU}"):
        client().set_default_os("microvisor")


def test_an_old_provider_that_stays_takes_the_new_one_back(client: Client, state: State) -> None:
    state.names_repeat = True
    old = state.add_provider(UBUNTU)
    state.fault(f"DELETE .*{old['providerID']}", fake.status(500, {}))

    with pytest.raises(ServerFailed):
        client().set_default_os("microvisor")
    assert state.providers == [old]


def test_an_unknown_profile_is_refused_with_those_that_there_are(client: Client, state: State) -> None:
    with pytest.raises(NotFound, match=r"known: microvisor-nonrt, ubuntu-22\.04-lts-generic-ext"):
        client().set_default_os("windows")


# tokens


def test_a_token_that_expires_in_the_middle_is_renewed_unseen(client: Client, state: State) -> None:
    orchestrator = client()
    orchestrator.hosts()
    state.tokens.clear()

    assert orchestrator.hosts() == []
    assert state.grants == ["password", "password"]


def test_a_token_that_is_about_to_expire_is_refreshed(client: Client, state: State) -> None:
    state.lifetime = 0
    orchestrator = client()
    orchestrator.hosts()
    orchestrator.hosts()

    assert state.grants == ["password", "refresh_token"]


def test_where_refreshing_is_refused_the_password_helps(client: Client, state: State) -> None:
    state.lifetime = 0
    orchestrator = client()
    orchestrator.hosts()
    state.refresh_tokens.clear()
    state.fault(f"POST {fake.TOKEN_PATH}", fake.status(400, {"error": "invalid_grant"}))

    assert orchestrator.hosts() == []
    assert state.grants == ["password", "password"]


def test_a_token_that_is_never_accepted_is_not_asked_for_forever(client: Client, state: State) -> None:
    state.fault(HOSTS, fake.status(401, {}), times=3)

    with pytest.raises(LoginRefused, match=f"api.{CLUSTER} does not accept the token"):
        client().hosts()
    assert len(state.faults) == 1


# what is the matter


def test_a_wrong_password_is_tried_once_and_shown_nowhere(client: Client, state: State) -> None:
    with pytest.raises(LoginRefused) as refused:
        client(password="wrong-Pa55word").check()

    assert f"keycloak.{CLUSTER} refuses to log in '{USER}': Invalid user credentials: ***" in str(refused.value)
    assert state.grants == ["password"]


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (fake.status(403, {"message": "no role"}), NotAllowed,
         "may not ask for the hosts in project 'infra-proj' .* no role"),
        (fake.status(404, {}), NoSuchProject, "has no project 'infra-proj'"),
        (fake.status(500, {"message": "panic"}), ServerFailed, r"failed with the hosts \(500\): panic"),
        (fake.status(418, {"detail": "teapot"}), OrchestratorFailed, r"refuses the hosts \(418\): teapot"),
        (fake.status(302, {}, Location="https://elsewhere.test/"), AnswerUnreadable, "sends us elsewhere"),
        (fake.text(b"<html>Sign in</html>"), AnswerUnreadable, "not answer in JSON but with '<html>Sign in</html>'"),
        (fake.text(b""), AnswerUnreadable, "answers nothing"),
        (fake.text(b"[" * 100_000), AnswerUnreadable, "not answer in JSON"),
        (fake.text(b"\xff\xfe\x00"), AnswerUnreadable, "not answer in JSON"),
        (fake.status(200, []), AnswerUnreadable, "the whole is a list, not an object"),
        (fake.text(b"null"), AnswerUnreadable, "the whole is null, not an object"),
        (fake.status(200, {"hosts": [{"resourceId": None}]}), AnswerUnreadable,
         r"hosts\[0\]\.resourceId is null, not text"),
        (fake.status(200, {"hosts": [{"resourceId": "h", "serialNumber": None}]}), AnswerUnreadable,
         r"hosts\[0\]\.serialNumber is null, not text"),
        (fake.status(200, {"hosts": [{"resourceId": "h", "instance": {"os": "x"}}]}), AnswerUnreadable,
         r"hosts\[0\]\.instance\.os is text, not an object"),
        (fake.status(200, {"hosts": {"a": 1}}), AnswerUnreadable, "hosts is an object, not a list"),
        (fake.status(200, {"hosts": [{}] * 5}), AnswerUnreadable, r"hosts\[0\]\.resourceId is missing; .*; and 2 more"),
        (fake.huge, AnswerUnreadable, "answers with more than 16MiB"),
    ],
)  # fmt: skip
def test_what_is_the_matter_is_said_with_the_host(
    client: Client, state: State, fault: fake.Fault, kind: type[OrchestratorFailed], words: str
) -> None:
    state.fault(HOSTS, fault)

    with pytest.raises(kind, match=words) as failed:
        client().hosts()
    assert f"api.{CLUSTER}" in str(failed.value)
    assert failed.type is kind
    assert PASSWORD not in str(failed.value)


def test_a_token_in_an_error_of_the_server_is_not_shown(client: Client, state: State) -> None:
    state.fault(HOSTS, lambda handler: handler.answer(500, {"message": handler.headers["Authorization"]}) is None)

    with pytest.raises(ServerFailed, match=r"Bearer \*\*\*"):
        client().hosts()


def test_a_login_that_answers_another_shape_shows_no_token(client: Client, state: State) -> None:
    state.fault("POST /realms", fake.status(200, {"access_token": ["secret-token"], "expires_in": "soon"}))

    with pytest.raises(AnswerUnreadable, match="access_token is a list, not text; expires_in is text") as failed:
        client().hosts()
    assert "secret-token" not in "".join(traceback.format_exception(failed.value))


def test_one_that_is_registered_already_is_refused_and_named(client: Client, state: State) -> None:
    known = state.add_host("SERIAL0001", name="of-others")

    with pytest.raises(
        AlreadyRegistered, match=f"SERIAL0001 is registered with api.{CLUSTER} already, as {known['resourceId']}"
    ):
        client().register("SERIAL0001")


@pytest.mark.parametrize("status", [412, 409])
def test_both_ways_to_say_that_it_is_there(client: Client, state: State, status: int) -> None:
    state.fault(REGISTER, fake.status(status))

    with pytest.raises(AlreadyRegistered):
        client().register("SERIAL0001")


def test_a_registration_whose_answer_was_lost_is_ours(client: Client, state: State) -> None:
    state.fault(REGISTER, fake.done_but_lost(502))

    made = client().register("SERIAL0001")

    assert [host["resourceId"] for host in state.hosts] == [made.id]


# what passes


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(client: Client, state: State, status: int) -> None:
    state.fault(HOSTS, fake.status(status, {}), times=2)

    assert client().hosts() == []
    assert len([asked for asked in state.asked if asked.endswith("/hosts")]) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 500, 501])
def test_what_does_not_pass_is_not_tried_again(client: Client, state: State, status: int) -> None:
    state.fault(HOSTS, fake.status(status, {}), times=2)

    with pytest.raises(OrchestratorFailed):
        client().hosts()
    assert len(state.faults) == 1


def test_a_server_that_wants_a_pause_gets_it(client: Client, state: State) -> None:
    state.fault(HOSTS, fake.status(503, {}, **{"Retry-After": "1"}))
    started = time.monotonic()

    client().hosts()

    assert time.monotonic() - started >= 1.0


def test_trying_again_ends_with_the_deadline(client: Client, state: State) -> None:
    state.fault(HOSTS, fake.status(503, {"message": "starting"}), times=1000)
    started = time.monotonic()

    with pytest.raises(ServerFailed, match="starting"):
        client(limit=0.6).hosts()
    assert time.monotonic() - started < 3


def test_a_connection_that_breaks_is_made_again(client: Client, state: State) -> None:
    state.fault(HOSTS, fake.drop, times=2)

    assert client().hosts() == []


def test_a_change_is_not_made_twice_because_the_connection_broke(client: Client, state: State) -> None:
    state.fault(REGISTER, fake.drop)

    with pytest.raises(Unreachable, match="the connection broke"):
        client().register("SERIAL0001")
    assert state.faults == []
    assert len([asked for asked in state.asked if asked.endswith("/register")]) == 1


def test_a_slow_orchestrator_is_given_up_in_time(client: Client, state: State) -> None:
    released = threading.Event()
    state.fault(HOSTS, fake.silent(released))
    started = time.monotonic()

    with pytest.raises(Unreachable, match=f"api.{CLUSTER} did not answer GET .* within"):
        client(limit=0.5).hosts()
    assert time.monotonic() - started < 3
    released.set()


def test_waiting_for_an_answer_can_be_cancelled(client: Client, state: State) -> None:
    released, cancel = threading.Event(), Cancel()
    state.fault(HOSTS, fake.silent(released))
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    started = time.monotonic()

    with pytest.raises(Interrupted):
        client(limit=20, cancel=cancel).hosts()
    assert time.monotonic() - started < 5
    released.set()


def test_an_orchestrator_that_is_down_is_named_with_where_it_should_be(authority: Authority, tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    settings = settings_for(port, authority.pem, tmp_path)

    with (
        Orchestrator(settings, SecretStr(PASSWORD), limit=0.5) as orchestrator,
        pytest.raises(
            Unreachable, match=rf"keycloak.{CLUSTER} \(at 127.0.0.1:{port}\) cannot be reached: connection refused"
        ),
    ):
        orchestrator.check()


def test_a_name_without_an_address_is_said_to_be_one(authority: Authority, tmp_path: Path) -> None:
    settings = settings_for(1, authority.pem, tmp_path)
    settings = OrchestratorSettings.from_json(
        {**settings.to_json(), "connect_to": "", "token_url": "https://no-such.invalid/t"}
    )

    with (
        Orchestrator(settings, SecretStr(PASSWORD), limit=0.5) as orchestrator,
        pytest.raises(Unreachable, match=r"no-such.invalid cannot be reached: no address is known.*--connect-to"),
    ):
        orchestrator.check()


# certificates


def refused_with(certificate: bytes, ca: bytes, directory: Path) -> str:
    with fake.served(certificate, directory) as (_, port):
        settings = settings_for(port, ca, directory)
        with Orchestrator(settings, SecretStr(PASSWORD), limit=5) as orchestrator, pytest.raises(NotTrusted) as refused:
            orchestrator.check()
    return str(refused.value)


def test_a_certificate_of_another_ca_is_refused(authority: Authority, tmp_path: Path) -> None:
    said = refused_with(Authority("Other CA").issue(*NAMES), authority.pem, tmp_path)

    assert said.startswith(f"the certificate that keycloak.{CLUSTER} shows cannot be verified: ")
    assert "ca_file" in said


def test_a_certificate_for_another_name_is_refused(authority: Authority, tmp_path: Path) -> None:
    said = refused_with(authority.issue("other.test"), authority.pem, tmp_path)

    assert f"the certificate that keycloak.{CLUSTER} shows is for another name" in said


def test_a_certificate_is_verified_for_each_name_even_at_one_address(authority: Authority, tmp_path: Path) -> None:
    said = refused_with(authority.issue(NAMES[1]), authority.pem, tmp_path)

    assert f"the certificate that api.{CLUSTER} shows is for another name" in said


def test_an_expired_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    said = refused_with(authority.issue(*NAMES, days=(-10, -1)), authority.pem, tmp_path)

    assert f"the certificate that keycloak.{CLUSTER} shows, or one that it depends on, has expired" in said


def test_a_server_that_does_not_encrypt_is_refused(authority: Authority, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        settings = settings_for(plain.getsockname()[1], authority.pem, tmp_path)
        with (
            Orchestrator(settings, SecretStr(PASSWORD), limit=5) as orchestrator,
            pytest.raises(NotTrusted, match=f"keycloak.{CLUSTER} does not speak TLS as it should"),
        ):
            orchestrator.check()


def test_the_servers_own_certificate_may_be_what_is_trusted(authority: Authority, tmp_path: Path) -> None:
    certificate = authority.issue(*NAMES)
    own = certificate[certificate.index(b"-----BEGIN CERTIFICATE") :]
    with (
        fake.served(certificate, tmp_path) as (_, port),
        Orchestrator(settings_for(port, own, tmp_path), SecretStr(PASSWORD), limit=5) as orchestrator,
    ):
        orchestrator.check()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"put the certificate here\n", r"there is no PEM certificate in it; it begins with -----BEGIN"),
        (b"", "there is no PEM certificate in it"),
        (
            b"\n-----BEGIN CERTIFICATE-----\nMIIB****\n-----END CERTIFICATE-----\n",
            r"ca.pem:2: certificate 1 is malformed",
        ),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "certificate 1 is malformed"),
        (Authority().der, "there is no PEM certificate in it; convert it: openssl x509"),
        (
            Authority().pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 2 is malformed",
        ),
        (Authority("Old CA", days=(-10, -1)).pem, "the CA 'commonName=Old CA' expired on "),
        (Authority("New CA", days=(5, 10)).pem, "the CA 'commonName=New CA' is not valid before .*clock"),
    ],
    ids=["words", "empty", "malformed", "cut", "der", "second", "expired", "early"],
)
def test_a_ca_file_that_cannot_serve_is_refused_before_anybody_is_asked(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        settings_for(1, content, tmp_path)


def test_of_a_bundle_one_that_holds_is_enough(authority: Authority, tmp_path: Path) -> None:
    with fake.served(authority.issue(*NAMES), tmp_path) as (_, port):
        bundle = Authority("Old CA", days=(-10, -1)).pem + authority.pem
        with Orchestrator(settings_for(port, bundle, tmp_path), SecretStr(PASSWORD), limit=5) as orchestrator:
            orchestrator.check()


def test_nothing_of_the_password_is_in_what_can_be_printed(client: Client, state: State) -> None:
    orchestrator = client()
    orchestrator.check()

    assert PASSWORD not in repr(vars(orchestrator))
    assert not any(token in repr(vars(orchestrator)) for token in (*state.tokens, *state.refresh_tokens))


def test_a_failure_is_one_of_an_attempt() -> None:
    assert issubclass(OrchestratorFailed, Failed)
