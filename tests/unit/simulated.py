"""A simulated host for tests of the engine: an image for it, its hypervisor, requests, and what is told."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

from tests.unit.test_images import qcow2
from vmprov import CreateRequest, Vmprov
from vmprov.events import Event, Note
from vmprov.hosts.fake import FakeHost
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.images import sha256_of
from vmprov.paths import Home


def make_image(home: Home, name: str = "tiny", *, virtual_size: int = 1 << 20) -> str:
    """An image whose machines are ready at their login prompt; returns its name."""
    directory = home.image(name)
    directory.mkdir(parents=True)
    disk = qcow2(directory / "disk.qcow2")
    description = {
        "name": name, "sha256": sha256_of(disk), "size": disk.stat().st_size, "virtual_size": virtual_size,
        "login": "console", "user": "root", "source": "test", "created": 0.0,
    }  # fmt: skip
    (directory / "image.json").write_text(json.dumps(description))
    return name


def hypervisor_of(vmprov: Vmprov) -> FakeHypervisor:
    """The simulated host's hypervisor, as ``vmprov`` uses it."""
    host = vmprov.host()
    assert isinstance(host, FakeHost)
    return host.hypervisor()


def wanted(**words: object) -> CreateRequest:
    """A request for two simulated machines, but for what ``words`` say."""
    return CreateRequest.parse(
        **{"image": "tiny", "driver": "fake", "memory": "64MiB", "timeout": 20.0, "count": 2, **words}
    )


def forget(vmprov: Vmprov) -> None:
    """Lose the database, and all that is open."""
    vmprov._forget_store()
    for path in vmprov.home.root.glob("vmprov.db*"):
        path.unlink()


def told_to(vmprov: Vmprov) -> list[str]:
    """The notes that ``vmprov`` tells from now on."""
    notes: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    vmprov.events.listen(listener)
    return notes


def network_subnet(number: int) -> IPv4Network:
    """The subnet of a network that is not ours."""
    return IPv4Network(f"10.9.{number}.0/24")
