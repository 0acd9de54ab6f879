"""Garbage on a real host: a create that is killed midway, a lost database, and what others have there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.test_hypervisor import domain_xml, network_xml
from tests.e2e.conftest import Cli
from tests.unit.simulated import network_subnet
from vmprov import Settings, Vmprov
from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine
from vmprov.hypervisor import Mark
from vmprov.hypervisor.libvirt import LibvirtHypervisor
from vmprov.waiting import Deadline, wait_until

pytestmark = pytest.mark.usefixtures("left_behind")
TINY = ("--image", "tiny", "--memory", "128MiB")
BLANK = ("--image", "", "--memory", "64MiB")
THEIRS = (("theirs", None), ("vmprov-ffff-theirs", Mark("ffff", "trial", "theirs")))


def as_it_is(hypervisor: LibvirtHypervisor) -> list[str]:
    """The objects of others, byte for byte."""
    return [
        text
        for name, _ in THEIRS
        for text in (
            hypervisor.domain_xml(name), hypervisor.network_xml(name), str(hypervisor.volume("default", f"{name}.img")),
        )
    ]  # fmt: skip


@pytest.fixture
def others(hypervisor: LibvirtHypervisor) -> Iterator[None]:
    """Objects of somebody else, and of another installation; whatever happens, they stay as they are."""
    for number, (name, mark) in enumerate(THEIRS):
        hypervisor.define_domain(domain_xml(name, mark=mark))
        hypervisor.create_network(network_xml(name, subnet=network_subnet(number), bridge=f"theirs{number}", mark=mark))
        hypervisor.create_volume("default", f"{name}.img", size=1 << 20)
    before = as_it_is(hypervisor)
    yield
    assert as_it_is(hypervisor) == before
    for name, _ in THEIRS:
        hypervisor.remove_domain(name)
        hypervisor.remove_network(name)
        hypervisor.remove_volume("default", f"{name}.img")


def listed(cli: Cli) -> list[dict[str, object]]:
    """All machines as they are told; how each was judged in full is not known any more once records are lost."""
    return [{**vm, "judgement": None} for vm in cli("list", "--json").json]


def installation_of(cli: Cli) -> str:
    return cli.home.installation.read_text().strip()


def runs_vagrant(cli: Cli) -> bool:
    lines: list[str] = []
    engine = Engine()
    engine.exec(
        f"vmprov-runner-{installation_of(cli)}-embedded", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"],
        on_line=lines.append, deadline=Deadline(30),
    )  # fmt: skip
    engine.close()
    return any("vagrant up" in line for line in lines)


@pytest.mark.usefixtures("others")
def test_what_a_create_that_was_killed_midway_left_is_collected(cli: Cli, hypervisor: LibvirtHypervisor) -> None:
    creating = cli.start("create", "--count", "2", "--name", "cut", "--tpm", "--firmware", "uefi", *TINY)
    wait_until(lambda: runs_vagrant(cli), Deadline(120), "vagrant", interval=0.1)
    os.kill(creating.pid, signal.SIGKILL)
    creating.communicate()
    goes_on = runs_vagrant(cli)

    told = cli("gc", "--dry-run", "--json").json
    result = cli("gc", "--yes", "--json").json
    again = cli("gc", "--yes", "--json").json

    assert goes_on
    assert {one["name"] for one in told["leftovers"] if one["kind"] == "vm"} == {"cut-1", "cut-2"}
    assert (result["ok"], again["leftovers"], cli("list", "--json").json) == (True, [], [])
    assert not runs_vagrant(cli)
    ours = f"vmprov-{installation_of(cli)}-"
    assert [one.name for one in hypervisor.domains() if one.name.startswith(ours)] == []
    assert [one.name for one in hypervisor.volumes("default") if one.name.startswith(ours)] == []
    lib = cli.home.host("embedded") / "lib"
    assert [path for place in ("swtpm/*", f"log/qemu/{ours}*") for path in lib.glob(place)] == []


@pytest.mark.usefixtures("others")
def test_machines_can_be_had_again_after_the_database_is_lost(cli: Cli) -> None:
    cli("create", "--count", "2", "--name", "lost", "--lab", "lost", "--consoles", "2", "--extra-disk", "data=1GiB",
        "--tpm", "--firmware", "uefi", *BLANK)  # fmt: skip
    before = listed(cli)
    for path in cli.root.glob("vmprov.db*"):
        path.unlink()

    without = cli("list", "--json")
    result = cli("gc", "--rebuild", "--json").json

    assert (without.json, "the database is lost" in without.err) == ([], True)
    assert (result["vms"], result["untold"]) == (["lost-1", "lost-2"], [])
    assert listed(cli) == before
    cli("show", "lost-1")
    cli("logs", "lost-1")
    cli("stop", "--force", "lost-2")
    cli("start", "lost-2")
    deleted = cli("delete", "lost", "--yes", "--json").json
    assert deleted == {"deleted": ["lost-1", "lost-2"], "failed": []}
    assert cli("gc", "--yes", "--json").json["leftovers"] == []


@pytest.mark.usefixtures("others")
def test_after_the_database_is_lost_everything_of_ours_can_be_collected_instead(cli: Cli) -> None:
    cli("create", "--count", "1", "--name", "lost", "--tpm", "--firmware", "uefi", *BLANK)
    for path in cli.root.glob("vmprov.db*"):
        path.unlink()

    refused = cli.try_("gc")
    result = cli("gc", "--yes", "--json").json

    assert (refused.code, "vmprov gc --rebuild" in refused.err) == (2, True)
    assert {one["kind"] for one in result["leftovers"]} >= {"domain", "network", "volume", "directory"}
    assert result["ok"]


def test_containers_that_nobody_needs_go_and_the_host_stays(cli: Cli) -> None:
    engine = Engine()
    labels = {
        "vmprov.installation": installation_of(cli),
        "vmprov.role": "builder",
        "vmprov.lock": "image-0123456789ab",
    }
    left = engine.start(
        ContainerSpec(
            name="vmprov-builder-e2e-gc", image=recipes.image_name("host"), labels=labels, command=["sleep", "600"]
        )
    )

    result = cli("gc", "--yes", "--json").json

    assert [(one["kind"], one["name"]) for one in result["leftovers"]] == [("container", "vmprov-builder-e2e-gc")]
    assert engine.status(left) == ""
    assert engine.status(f"vmprov-host-{installation_of(cli)}") == "running"
    engine.close()


def test_a_machine_whose_time_is_up_goes_with_the_next_command(cli: Cli) -> None:
    cli("create", "--count", "1", "--name", "brief", *BLANK)
    with Vmprov(Settings.from_environ(cli.environ)) as vmprov:
        vmprov.store.update_vm("brief-1", expires=time.time() - 1)

    next_one = cli("create", "--count", "1", "--name", "next", "--json", *BLANK)

    assert "brief-1 is removed: it expired at" in next_one.err
    assert [vm["name"] for vm in cli("list", "--json").json] == ["next-1"]
    cli("delete", "next-1", "--yes")


def test_a_damaged_database_is_told_and_made_anew(cli: Cli, tmp_path: Path) -> None:
    cli("create", "--count", "1", "--name", "hurt", *BLANK)
    before = listed(cli)
    for path in cli.root.glob("vmprov.db-*"):
        path.unlink()
    cli.home.database.write_bytes(b"\0" * 100 + os.urandom(65536))

    refused = cli.try_("list")
    result = cli("gc", "--rebuild", "--json").json

    assert refused.code == 3
    assert "is damaged: file is not a database; make the records anew" in refused.err
    assert (result["database"], result["vms"]) == ("damaged", ["hurt-1"])
    assert listed(cli) == before
    Path(result["aside"]).unlink()
    cli("delete", "hurt-1", "--yes")
