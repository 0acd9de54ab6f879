"""Whatever goes wrong: one clear line, the right exit code, nothing left behind, nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import LIMIT, Cli
from vmprov import Settings, Vmprov
from vmprov.containers.engine import Engine
from vmprov.hypervisor.libvirt import LibvirtHypervisor
from vmprov.waiting import Deadline

pytestmark = pytest.mark.usefixtures("left_behind")
TINY = ("--image", "tiny", "--memory", "256MiB")


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def installation_of(cli: Cli) -> str:
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        return vmprov.store.installation


def wait_for(condition: object, what: str, limit: float = 120) -> None:
    assert callable(condition)
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"no {what} within {limit} s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--count", "0"), 2, "--count must be at least 1, not 0"),
        (("--count", "-3"), 2, "--count must be at least 1, not -3"),
        (("--count", "many"), 2, "'many' is not a valid integer"),
        (("--count", "10000"), 2, "--count must be at most 1000, not 10000"),
        (("--count", "900", *TINY), 2, "would fit"),
        (("--memory", "4TiB"), 2, "not one would fit"),
        (("--memory", "2gibberish"), 2, "is not a size"),
        (("--image", "nope"), 2, "no image called 'nope'"),
        (("--driver", "nope"), 2, "no such driver: 'nope'"),
        (("--host", "nope"), 2, "no such host: 'nope'"),
        (("--network", "nope"), 2, "no network called 'nope'"),
        (("--name", "a b"), 2, "is not allowed"),
        (("--name", "x" * 64), 2, "64 characters long"),
        (("--disk", "1MiB", *TINY), 2, "is smaller than image tiny"),
        (("--no-such-option",), 2, "No such option"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(
    cli: Cli, words: tuple[str, ...], code: int, said: str
) -> None:
    ran = cli.try_("create", *words)

    assert (ran.code, ran.out) == (code, "")
    assert len(ran.err.strip().splitlines()) == 1
    assert said in ran.err


def test_without_docker_the_line_says_how_to_start_it(tmp_path: Path) -> None:
    ran = Cli(tmp_path / "h").with_environ(DOCKER_HOST="unix:///nonexistent.sock").try_("create", "--image", "")

    assert (ran.code, ran.out) == (3, "")
    assert last_line(ran.err).startswith("vmprov: Docker does not answer; start it")


def test_without_permission_the_line_says_how_to_get_it(tmp_path: Path) -> None:
    socket = tmp_path / "docker.sock"
    with subprocess.Popen(["python3", "-c", _LISTEN, str(socket)], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        cli = Cli(tmp_path / "h").with_environ(DOCKER_HOST=f"unix://{socket}")

        # Root may open anything unless it gives this power up.
        ran = subprocess.run(
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *cli.argv("host", "up")],
            env=cli.environ, capture_output=True, text=True, check=False, timeout=LIMIT,
        )  # fmt: skip

        listener.kill()
    assert ran.returncode == 3
    assert "usermod -aG docker" in last_line(ran.stderr)


_LISTEN = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os.chown(sys.argv[1], 12345, 12345)
os.chmod(sys.argv[1], 0o600); print(flush=True); time.sleep(600)
"""


def test_a_truncated_image_is_refused_and_the_lab_is_undone(cli: Cli) -> None:
    broken = cli.home.image("broken")
    shutil.copytree(cli.home.image("tiny"), broken)
    description = json.loads((broken / "image.json").read_text())
    (broken / "image.json").write_text(json.dumps({**description, "name": "broken"}))
    disk = broken / "disk.qcow2"
    disk.write_bytes(disk.read_bytes()[: description["size"] // 2])

    ran = cli.try_("create", "--image", "broken", "--memory", "256MiB")

    shutil.rmtree(broken)
    assert ran.code == 1
    assert f"bytes instead of {description['size']}" in last_line(ran.err)


def test_a_network_name_taken_by_somebody_else_fails_that_machine_alone(
    cli: Cli, hypervisor: LibvirtHypervisor
) -> None:
    installation = installation_of(cli)
    name = f"vmprov-{installation}-taken-2"
    hypervisor.create_network(f"<network><name>{name}</name><bridge name='foreign1'/></network>")

    ran = cli.try_("create", "--name", "taken", "--count", "2", *TINY, "--json")

    states = {vm["name"]: vm["verdict"] for vm in ran.json["vms"]}
    assert (ran.code, states) == (1, {"taken-1": "success", "taken-2": "failed"})
    assert any(network.name == name for network in hypervisor.networks())
    cli("delete", "taken-1", "--yes")
    hypervisor.remove_network(name)


def test_exhausted_subnets_fail_what_does_not_fit(cli: Cli) -> None:
    small = cli.with_environ(VMPROV_SUBNETS="10.99.0.0/27")

    ran = small.try_("create", "--count", "3", "--image", "", "--memory", "64MiB", "--json")

    verdicts = sorted(vm["verdict"] for vm in ran.json["vms"])
    assert (ran.code, verdicts) == (1, ["failed", "success", "success"])
    assert "no free /28 subnet is left in 10.99.0.0/27" in str(ran.json)
    cli("delete", ran.json["lab"], "--yes")


def test_two_creates_at_the_same_moment_do_not_meet(cli: Cli) -> None:
    runs = [cli.start("create", "--count", "2", "--image", "", "--memory", "64MiB", "--json") for _ in range(2)]
    made = [json.loads(run.communicate(timeout=LIMIT)[0]) for run in runs]

    vms = [vm for one in made for vm in one["vms"]]
    assert [one["ok"] for one in made] == [True, True]
    assert [len({vm[field] for vm in vms}) for field in ("name", "mac", "bridge", "serial_number")] == [4, 4, 4, 4]
    cli("delete", *[one["lab"] for one in made], "--yes")


def test_ctrl_c_stops_cleanly_and_says_what_is_left(cli: Cli) -> None:
    run = cli.start("create", "--count", "2", "--name", "stopped", *TINY)
    wait_for(lambda: cli.home.console_log("stopped-2", 0).exists(), "console log")

    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)

    assert run.returncode == 130
    assert last_line(err) == "vmprov: interrupted; left: nothing"


def test_a_killed_create_is_fully_removed_by_delete(cli: Cli) -> None:
    run = cli.start("create", "--count", "2", "--name", "killed", *TINY)
    wait_for(lambda: cli.home.console_log("killed-1", 0).exists(), "console log")

    run.kill()
    run.communicate(timeout=60)
    result = cli("delete", "--all", "--yes", "--json").json

    assert (sorted(result["deleted"]), result["failed"]) == (["killed-1", "killed-2"], [])


@pytest.mark.parametrize("role", ["runner", "host"])
def test_a_container_killed_meanwhile_fails_the_machines_and_leaves_nothing(cli: Cli, role: str) -> None:
    engine = Engine()
    installation = installation_of(cli)
    labels = {"vmprov.installation": installation, "vmprov.role": role}
    run = cli.start("create", "--count", "2", "--name", "orphan", *TINY, "--timeout", "60s", "--json")
    if role == "runner":
        wait_for(lambda: cli.home.vagrant_log("orphan-1").exists(), "run of vagrant")
    else:
        wait_for(lambda: cli.home.console_log("orphan-1", 0).exists(), "console log")

    for container in engine.find(labels):
        engine.remove(container.id)
    out, err = run.communicate(timeout=LIMIT)

    assert run.returncode in (1, 4), err
    assert {vm["verdict"] for vm in json.loads(out)["vms"]} <= {"failed", "timeout", "success"}
    cli("host", "up")
    cli("delete", "--all", "--yes")
    engine.close()


def test_machines_that_are_being_made_outlive_a_libvirtd_that_dies(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("lab: severed\ndefaults: {image: tiny, memory: 128MiB, flow: login}\nvms: {cut: {count: 2}}\n")
    apply = ("apply", "-f", str(file), "--auto-approve", "--json")
    run = cli.start(*apply)
    logs = [cli.home.console_log(name, 0) for name in ("cut-1", "cut-2")]
    wait_for(lambda: all(log.exists() and b"Linux version" in log.read_bytes() for log in logs), "kernel")

    kill = 'for p in /proc/[0-9]*; do [ "$(cat $p/comm)" != libvirtd ] || kill -9 "${p#/proc/}"; done'
    with closing(Engine()) as engine:
        container = f"vmprov-host-{installation_of(cli)}"
        engine.exec(container, ["sh", "-c", kill], on_line=print, deadline=Deadline(30))
    out, err = run.communicate(timeout=LIMIT)

    assert run.returncode == 0, err
    assert [vm["verdict"] for vm in json.loads(out)["vms"]] == ["success", "success"]
    assert cli("plan", "-f", str(file), "--json").json["changes"] == []
    cli("delete", "severed", "--yes")


@pytest.fixture
def small_pool(cli: Cli, hypervisor: LibvirtHypervisor, request: pytest.FixtureRequest) -> Iterator[Cli]:
    """vmprov with a pool of so many MiB, on a file system of its own."""
    path = cli.root / "small"
    path.mkdir()
    engine = Engine()

    def inside(*argv: str) -> None:
        container = f"vmprov-host-{installation_of(cli)}"
        assert engine.exec(container, argv, on_line=print, deadline=Deadline(30)) == 0

    inside("mount", "-t", "tmpfs", "-o", f"size={request.param}m", "tmpfs", str(path))
    hypervisor.create_pool("small", str(path))
    yield cli.with_environ(VMPROV_POOL="small")
    assert hypervisor.volumes("small") == []
    inside("virsh", "-q", "pool-destroy", "small")
    inside("virsh", "-q", "pool-undefine", "small")
    inside("umount", str(path))
    path.rmdir()
    engine.close()


@pytest.mark.parametrize("small_pool", [64], indirect=True)
def test_a_full_pool_is_told_before_anything_is_made(small_pool: Cli) -> None:
    ran = small_pool.try_("create", *TINY)

    assert (ran.code, ran.out) == (2, "")
    assert "not one would fit (64MiB of disk free in pool small)" in last_line(ran.err)


@pytest.mark.parametrize("small_pool", [300], indirect=True)
def test_a_pool_that_fills_up_fails_the_machine_and_leaves_nothing(small_pool: Cli) -> None:
    ran = small_pool.try_("create", "--name", "full", "--json")

    (vm,) = ran.json["vms"]
    assert (ran.code, vm["verdict"], vm["state"]) == (1, "failed", "removed")
    assert "No space left" in vm["why"]


def test_a_failed_machine_is_kept_on_request_with_its_log(cli: Cli) -> None:
    ran = cli.try_("create", "--name", "kept", *TINY, "--timeout", "4s", "--keep-on-failure", "--json")

    (vm,) = ran.json["vms"]
    assert (ran.code, vm["verdict"], vm["state"]) == (1, "timeout", "failed")
    assert cli("list", "--json").json[0]["state"] == "failed"
    assert Path(vm["console_log"]).exists()
    cli("start", "kept")
    assert cli("show", "kept", "--json").json["state"] == "running"
    cli("delete", "kept", "--yes")


def test_the_log_of_a_machine_that_was_undone_is_kept(cli: Cli) -> None:
    ran = cli.try_("create", "--name", "gone", *TINY, "--timeout", "3s", "--json")

    (vm,) = ran.json["vms"]
    assert (ran.code, vm["verdict"], vm["state"]) == (1, "timeout", "removed")
    assert Path(vm["console_log"]).stat().st_size > 0


def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    read_only = tmp_path / "ro"
    read_only.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", read_only], check=True)
    ran = Cli(read_only / "h").try_("list")
    on_it = Cli(read_only).try_("list")
    subprocess.run(["umount", read_only], check=True)

    assert (ran.code, on_it.code) == (3, 3)
    assert "cannot be used" in last_line(ran.err)
    assert "cannot be used: " in last_line(on_it.err)


def test_an_unknown_machine_is_named(cli: Cli) -> None:
    codes = [cli.try_(*words).code for words in (("show", "nope"), ("ssh", "nope"), ("stop", "nope"), ("logs", "nope"))]

    assert codes == [2, 2, 2, 2]


def test_deleting_what_is_gone_is_fine(cli: Cli) -> None:
    ran = cli("delete", "nope", "--yes", "--json")

    assert ran.json == {"deleted": [], "failed": []}
    assert "no VM or lab called 'nope'" in ran.err
