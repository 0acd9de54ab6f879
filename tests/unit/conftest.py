"""What tests of the engine share: vmprov on a simulated host, and that host's hypervisor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.simulated import hypervisor_of
from vmprov import Settings, Vmprov
from vmprov.hypervisor.fake import FakeHypervisor


@pytest.fixture
def vmprov(settings: Settings) -> Iterator[Vmprov]:
    """The facade, on a simulated host."""
    with Vmprov(settings) as opened:
        yield opened


@pytest.fixture
def fake(vmprov: Vmprov) -> FakeHypervisor:
    """The simulated host's hypervisor, as ``vmprov`` uses it."""
    return hypervisor_of(vmprov)
