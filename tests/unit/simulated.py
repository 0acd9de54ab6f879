"""A simulated host for tests of the engine: an image for it, and its hypervisor."""

from __future__ import annotations

import json

from tests.unit.test_images import qcow2
from vmprov import Vmprov
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
