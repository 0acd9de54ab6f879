"""What tests of the engine share: vmprov on a simulated host, and that host's hypervisor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.simulated import hypervisor_of, make_image
from vmprov import Settings, Vmprov
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.paths import Home


@pytest.fixture
def vmprov(settings: Settings) -> Iterator[Vmprov]:
    """The facade, on a simulated host."""
    with Vmprov(settings) as opened:
        yield opened


@pytest.fixture
def fake(vmprov: Vmprov) -> FakeHypervisor:
    """The simulated host's hypervisor, as ``vmprov`` uses it."""
    return hypervisor_of(vmprov)


@pytest.fixture
def image(home: Home) -> None:
    """An image ``tiny`` for simulated machines."""
    make_image(home)
