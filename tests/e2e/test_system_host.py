"""The same on a libvirt that is not ours: qemu:///system, with the machine's own bridges, pool and sockets.

Where this machine has no libvirtd, one from the distribution's packages is started, under an init that reaps.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli
from vmprov import Settings, Vmprov
from vmprov.console.tail import shows_login_prompt
from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine, Mount
from vmprov.hypervisor.libvirt import LibvirtHypervisor
from vmprov.waiting import Deadline, wait_until

URI = "qemu:///system"
SOCKETS = Path("/run/libvirt")
STATE = Path("/var/lib/libvirt")
POOL = STATE / "images"


def answers() -> bool:
    connection = LibvirtHypervisor(URI)
    try:
        connection.node()
    except Exception:  # noqa: BLE001 - whatever it is, nobody answers
        return False
    finally:
        connection.close()
    return True


@pytest.fixture(scope="module")
def system(cli: Cli) -> Iterator[Cli]:
    """vmprov on qemu:///system."""
    if answers():
        yield cli.with_environ(VMPROV_HOST=URI)
        return
    engine = Engine()
    image = "vmprov/system-libvirt:test"
    here = Path(__file__).parent / "system-libvirt"
    engine.build(here, image, arguments={"BASE": recipes.BASE}, labels={}, on_line=lambda _line: None)
    ours = [path for path in (SOCKETS, STATE) if not path.exists()]
    POOL.mkdir(parents=True, exist_ok=True)
    SOCKETS.mkdir(parents=True, exist_ok=True)
    spec = ContainerSpec(
        name=f"vmprov-test-system-{cli.root.parent.name[-8:]}",
        image=image,
        labels={"vmprov.role": "test"},
        mounts=[Mount(SOCKETS, str(SOCKETS)), Mount(STATE, str(STATE)), Mount(cli.root, str(cli.root))],
        devices=["/dev/net/tun:/dev/net/tun"],
        network="host",
        privileged_like=True,
    )
    engine.start(spec)
    try:
        wait_until(answers, Deadline(60), "answer from the system's libvirt")
        connection = LibvirtHypervisor(URI)
        connection.create_pool("default", str(POOL))
        yield cli.with_environ(VMPROV_HOST=URI)
        assert connection.volumes("default") == []
        connection.close()
    finally:
        cli.try_("host", "down", "--host", URI, "--force")
        engine.remove(spec.name)
        engine.close()
        for path in ours:
            shutil.rmtree(path, ignore_errors=True)


def test_the_main_job_works_on_the_systems_own_libvirt(system: Cli) -> None:
    made = system("create", "--count", "2", "--name", "sys", "--image", "tiny", "--memory", "256MiB", "--json").json

    assert [(vm["state"], vm["host"]) for vm in made["vms"]] == [("running", URI)] * 2
    assert all(shows_login_prompt(Path(vm["console_log"])) for vm in made["vms"])
    assert all((Path("/sys/class/net") / vm["bridge"]).exists() for vm in made["vms"])
    assert system("ssh", "sys-2", "--", "hostname").out == "sys-2\n"
    # More than libvirt's log daemon keeps in a file; and what it has thrown away is still in the capture.
    log = Path(made["vms"][1]["console_log"])
    before = log.read_bytes()
    pad = "0123456789" * 100
    many = f"stty -F /dev/ttyS0 raw; i=0; while [ $i -lt 2500 ]; do echo $i.{pad}; i=$((i+1)); done > /dev/ttyS0"
    system("ssh", "sys-2", "--", many)
    wait_until(lambda: f"2499.{pad}".encode() in log.read_bytes(), Deadline(60), "all lines")
    assert log.read_bytes().startswith(before)
    lines = log.read_bytes()[len(before) :].decode().split("\n")
    assert [line for line in lines if line.endswith(pad)] == [f"{number}.{pad}" for number in range(2500)]
    assert log.with_suffix(".libvirt.0").exists()
    system("ssh", "sys-2", "--", "stty -F /dev/ttyS0 sane")
    with Vmprov(Settings.from_environ(system.environ)) as vmprov, vmprov.vm("sys-2").console as console:
        console.sendline("")
        console.expect("login: ", 30)
    system("stop", "sys-1")
    system("start", "sys-1")

    result = system("delete", "--all", "--yes", "--json").json

    assert (sorted(result["deleted"]), result["failed"]) == (["sys-1", "sys-2"], [])
    assert not any((Path("/sys/class/net") / vm["bridge"]).exists() for vm in made["vms"])


def test_firmware_and_tpm_work_where_qemu_is_a_user_of_its_own(system: Cli) -> None:
    made = system(
        "create", "--name", "uefi", "--image", "tiny", "--memory", "256MiB", "--firmware", "uefi", "--tpm",
        "--extra-disk", "1GiB", "--json",
    )  # fmt: skip

    assert [vm["verdict"] for vm in made.json["vms"]] == ["success"]
    assert system("ssh", "uefi", "--", "ls", "-d", "/sys/firmware/efi", "/dev/tpm0", "/dev/vdc").code == 0
    assert system("delete", "uefi", "--yes", "--json").json["failed"] == []
    assert list((STATE / "swtpm").iterdir()) == []
