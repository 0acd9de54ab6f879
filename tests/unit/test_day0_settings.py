"""Where the orchestrator is, who says so, and what is refused; the settings of earlier scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from vmprov import CreateRequest, Vmprov
from vmprov.day0.config import OrchestratorSettings, password_of, read_settings, settings_file
from vmprov.day0.old_config import import_config
from vmprov.engine.objects.orchestration import find_orchestration
from vmprov.engine.secrets import Secrets
from vmprov.errors import NotFound, SpecError
from vmprov.flows.load import load_flow
from vmprov.paths import Home

WHOLE = '[orchestrator]\ncluster = "kind.internal"\nproject = "infra"\nusername = "api-user"\n'


def read(directory: Path, *, text: str = "", environ: Mapping[str, str] = {}, **options: str) -> OrchestratorSettings:
    if text:
        (directory / "vmprov.toml").write_text(text)
    return read_settings(options, home=directory / "home", directory=directory, environ=environ)


def problems(directory: Path, text: str, environ: Mapping[str, str] = {}, **options: str) -> list[str]:
    with pytest.raises(SpecError) as refused:
        read(directory, text=text, environ=environ, **options)
    return [problem.replace(f"{directory}/", "") for problem in refused.value.problems]


def test_urls_follow_from_the_cluster(tmp_path: Path) -> None:
    settings = read(tmp_path, text=WHOLE)

    assert settings == OrchestratorSettings(
        cluster="kind.internal", project="infra", username="api-user", client_id="system-client",
        api_url="https://api.kind.internal",
        token_url="https://keycloak.kind.internal/realms/master/protocol/openid-connect/token",
    )  # fmt: skip


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    environ = {"EDGE_PROJECT": "of-environment", "EDGE_API_USERNAME": "of-environment"}

    settings = read(tmp_path, text=WHOLE, environ=environ, username="of-option")

    assert (settings.cluster, settings.project, settings.username) == ("kind.internal", "of-environment", "of-option")


def test_what_is_empty_does_not_count(tmp_path: Path) -> None:
    settings = read(tmp_path, text=WHOLE + 'connect_to = ""\n', environ={"EDGE_PROJECT": ""}, username="")

    assert (settings.project, settings.username, settings.connect_to) == ("infra", "api-user", "")


def test_the_names_of_earlier_scripts_are_taken_and_the_new_ones_win(tmp_path: Path) -> None:
    old = {"PROJECT_NAME": "old", "PROJECT_API_USER": "old", "PROJECT_API_PASSWORD": "old-password"}
    settings = read(tmp_path, environ={**old, "EDGE_CLUSTER": "kind.internal", "EDGE_PROJECT": "new"})

    assert (settings.project, settings.username) == ("new", "old")
    assert password_of(settings, environ=old).get_secret_value() == "old-password"
    assert password_of(settings, environ={**old, "EDGE_API_PASSWORD": "new"}).get_secret_value() == "new"


def test_flows_take_the_names_of_earlier_scripts_too() -> None:
    found = Secrets(
        load_flow("edge-io"), environ={"ONBOARDING_USERNAME": "u", "ONBOARDING_PASSWORD": "old", "EDGE_PASSWORD": "new"}
    ).of("vm-1")

    assert {name: value.get_secret_value() for name, value in found.items()} == {"username": "u", "password": "new"}


def test_one_file_counts_the_nearest_one(tmp_path: Path) -> None:
    here, home, other = tmp_path / "vmprov.toml", tmp_path / "home" / "vmprov.toml", tmp_path / "other.toml"
    home.parent.mkdir()
    found = []
    for file in (home, here, other):
        file.write_text("")
        environ = {"VMPROV_CONFIG": str(other)} if file is other else {}
        found.append(settings_file(home.parent, directory=tmp_path, environ=environ))

    assert found == [home, here, other]


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml: there is no such file"):
        read(tmp_path, environ={"VMPROV_CONFIG": str(tmp_path / "none.toml")})


def test_files_are_looked_for_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from-file\nsecond line\n")
    settings = read(tmp_path, text=WHOLE + 'password_file = "password"\n')

    assert settings.password_file == tmp_path / "password"
    assert password_of(settings, environ={}).get_secret_value() == "from-file"


def test_settings_can_be_written_down_without_a_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    settings = read(tmp_path, text=WHOLE + 'password_file = "password"\nconnect_to = "10.0.0.1:8443"\n')

    assert OrchestratorSettings.from_json(settings.to_json()) == settings
    assert "s3cret" not in str(settings.to_json())


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == [
        "nothing says where the orchestrator is; give --cluster, EDGE_CLUSTER, or cluster in [orchestrator] of "
        "vmprov.toml",
        "nothing says which project; give --project, EDGE_PROJECT, or project in [orchestrator] of vmprov.toml",
        "nothing says who asks the orchestrator; give --username, EDGE_API_USERNAME, or username in [orchestrator] of "
        "vmprov.toml",
    ]


def test_problems_of_every_source_are_said_at_once_with_their_places(tmp_path: Path) -> None:
    text = '# settings\n[orchestrator]\ncluster = "https://kind.internal"\nprojct = "x"\nproject = 7\n\n[lab]\nx = 1\n'

    assert problems(tmp_path, text, {"EDGE_CONNECT_TO": "10.0.0.1:x"}, api_url="http://api", username="u\x1b") == [
        "vmprov.toml:7:1: lab: unknown table 'lab'; known: orchestrator",
        "vmprov.toml:4:1: orchestrator.projct: unknown key 'projct'; did you mean 'project'?",
        "vmprov.toml:5:1: orchestrator.project: must be text in quotes",
        "vmprov.toml:3:1: orchestrator.cluster: 'https://kind.internal' is a URL; give the domain alone, or use "
        "api_url and token_url",
        "EDGE_CONNECT_TO: '10.0.0.1:x' is not an address; write ADDRESS or ADDRESS:PORT, IPv6 in brackets",
        "--api-url: 'http://api' is not encrypted; use https://",
        "--username: username holds characters that cannot be printed",
        "nothing says which project; give --project, EDGE_PROJECT, or project in [orchestrator] of vmprov.toml",
    ]


@pytest.mark.parametrize("key", ["password", "PASSWORD", "api_password", "client_secret", "token"])
def test_a_password_in_the_file_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    (problem,) = problems(tmp_path, WHOLE + f'{key} = "s3cret"\n')

    assert problem.startswith(
        f"vmprov.toml:5:1: orchestrator.{key}: a password does not belong in this file; set EDGE_"
    )
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[orchestrator]\ncluster = "x\n', "vmprov.toml:2:13: not valid TOML: illegal character '\\n'"),
        ("[orchestrator]\na = 1\na = 2\n", "vmprov.toml:3:6: not valid TOML: cannot overwrite a value"),
        ("orchestrator = 3\n", "vmprov.toml:1:1: orchestrator: must be a table, [orchestrator]"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text)[0] == problem


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster", "kind internal"), ("cluster", "a..b"), ("cluster", "x" * 300), ("project", "a/../b"),
        ("api_url", "https://user:pw@api"), ("api_url", "https://api/?x=1"), ("api_url", "https://[::1"),
        ("token_url", "ftp://x"), ("connect_to", "10.0.0.1:99999"), ("connect_to", "a b"), ("connect_to", "x/y"),
        ("password_file", "/no/such/file"), ("ca_file", "/no/such/file"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused(tmp_path: Path, field: str, value: str) -> None:
    (problem,) = problems(tmp_path, WHOLE, {}, **{field: value})

    assert problem.startswith(f"--{field.replace('_', '-')}: ")
    assert "pw" not in problem


def test_the_password_is_asked_for_last_and_once_nothing_else_has_it(tmp_path: Path) -> None:
    settings, asked = read(tmp_path, text=WHOLE), []

    def ask(question: str) -> str:
        asked.append(question)
        return "typed"

    assert password_of(settings, ask=ask, environ={"EDGE_API_PASSWORD": "set"}).get_secret_value() == "set"
    assert asked == []
    assert password_of(settings, ask=ask, environ={}).get_secret_value() == "typed"
    assert asked == ["Password of the orchestrator's API user api-user"]
    with pytest.raises(
        SpecError, match="no password for the orchestrator's API user 'api-user': EDGE_API_PASSWORD is not"
    ):
        password_of(settings, environ={})


# earlier scripts

OLD = """# Comment
STANDALONE=1
CLUSTER = "kind.internal"
RAM_SIZE=8192
NO_OF_CPUS=4
SDA_DISK_SIZE="110G"   # documented minimum
LIBVIRT_DRIVER='kvm'
USERNAME="user"
PASSWORD="hunter2"
CI_CONFIG="false"
INTF_NAME=""
VM_NAME="My_VM"
POOL_NAME=default
BRIDGE_NAME=""
"""


def test_an_old_file_becomes_settings_and_a_command(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(OLD)

    found = import_config(tmp_path / "config")

    assert found.settings == {"cluster": "kind.internal"}
    assert found.environment == {}
    assert found.command == [
        "vmprov", "create", "--count", "1", "--flow", "edge-io", "--memory", "8GiB", "--cpus", "4", "--disk", "110GiB",
        "--name", "my-vm", "--image", "",
    ]  # fmt: skip
    assert [one.key for one in found.remarks if one.key] == [
        "STANDALONE", "LIBVIRT_DRIVER", "USERNAME", "PASSWORD", "CI_CONFIG", "INTF_NAME", "VM_NAME",
    ]  # fmt: skip
    assert "hunter2" not in repr(found)
    (tmp_path / "vmprov.toml").write_text(found.toml)
    assert read(tmp_path, environ={"EDGE_PROJECT": "p", "EDGE_API_USERNAME": "u"}).cluster == "kind.internal"


def test_an_existing_pool_and_network_are_on_the_machines_own_libvirt(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("STANDALONE=0\nPOOL_NAME=pool1\nBRIDGE_NAME=br1\n")
    found = import_config(tmp_path / "config")

    assert found.environment == {"VMPROV_HOST": "qemu:///system", "VMPROV_POOL": "pool1"}
    assert found.options[:2] == ["--network", "br1"]

    (tmp_path / "config").write_text("BRIDGE_NAME=br1\nPOOL_NAME=pool1\nOTHER=1\nOTHER=2\n")
    found = import_config(tmp_path / "config")
    assert found.environment == {"VMPROV_HOST": "qemu:///system"}
    assert [(one.key, one.line) for one in found.remarks if one.key] == [
        ("OTHER", 4), ("BRIDGE_NAME", 1), ("POOL_NAME", 2), ("OTHER", 4),
    ]  # fmt: skip


def test_nothing_in_an_old_file_is_executed_and_every_problem_is_told(tmp_path: Path) -> None:
    marker = tmp_path / "made"
    (tmp_path / "config").write_text(
        f"CLUSTER=$(touch {marker})\nRAM_SIZE=`touch {marker}`\nNO_OF_CPUS=4; touch {marker}\nSDA_DISK_SIZE=big\n"
        f"touch {marker}\nVM_NAME=\"---\"\nBRIDGE_NAME='a b'\nNO_OF_CPUS=0\nINTF_NAME='$x'\n"
    )

    with pytest.raises(SpecError) as refused:
        import_config(tmp_path / "config")
    assert not marker.exists()
    lines = [problem.split(": ", 1)[0].rsplit(":", 1)[1] for problem in refused.value.problems]
    assert lines == list("12345678")


def test_an_old_file_must_be_there_and_be_text(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        import_config(tmp_path / "none")
    (tmp_path / "config").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="no text file"):
        import_config(tmp_path / "config")


def test_machines_boot_from_the_orchestrator_that_a_settings_file_names(vmprov: Vmprov, home: Home) -> None:
    (home.root / "vmprov.toml").write_text(WHOLE)
    request = CreateRequest.parse(flow="edge-io", image="", driver="fake")

    found = find_orchestration(vmprov.context("", ""), request, load_flow("edge-io"))

    assert found is not None
    assert str(found.boot.url) == "https://tinkerbell-haproxy.kind.internal/tink-stack/signed_ipxe.efi"
