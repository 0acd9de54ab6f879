"""Settings, each read once from the environment.

Command line options win over these; these win over the defaults.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmprov.errors import SpecError
from vmprov.spec.quantities import parse_size

_SMALLEST_CONSOLE = 64 * 1024
OFFICIAL_RUNNER_IMAGE = "vagrantlibvirt/vagrant-libvirt:edge-slim"
# Variables whose names earlier scripts have made known; the new name wins.
FORMER_NAMES = {
    "EDGE_USERNAME": "ONBOARDING_USERNAME",
    "EDGE_PASSWORD": "ONBOARDING_PASSWORD",
    "EDGE_API_USERNAME": "PROJECT_API_USER",
    "EDGE_API_PASSWORD": "PROJECT_API_PASSWORD",
    "EDGE_PROJECT": "PROJECT_NAME",
}


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    ``home`` -- VMPROV_HOME, the state directory; default: the platform's data directory.
    ``host`` -- VMPROV_HOST, the host on which machines are made: ``embedded`` or a libvirt URI.
    ``runner_image`` -- VMPROV_RUNNER_IMAGE, the Docker image in which vagrant runs.
    ``subnets`` -- VMPROV_SUBNETS, the IPv4 range from which networks are cut (default 10.87.0.0/16).
    ``pool`` -- VMPROV_POOL, the libvirt storage pool for disks (default ``default``).
    ``console_limit`` -- VMPROV_CONSOLE_LIMIT, how much of each serial port's output is kept, in bytes (default 64 MiB).
    ``keeper`` -- VMPROV_KEEPER, whether a background process looks after the consoles (``on``, the default, or
    ``off``).
    ``fake_memory``, ``fake_pool`` -- VMPROV_FAKE_MEMORY and VMPROV_FAKE_POOL, the memory of a simulated host (default
    256 GiB) and what its storage pool holds (default 1 TiB), in bytes.
    """

    home: Path
    host: str
    runner_image: str
    subnets: ipaddress.IPv4Network
    pool: str
    console_limit: int = 64 * 1024**2
    keeper: bool = True
    fake_memory: int = 256 * 1024**3
    fake_pool: int = 1024**4

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; raises :class:`SpecError` for a value that cannot be meant."""
        home = environ.get("VMPROV_HOME", "")
        if not home:
            import platformdirs

            home = platformdirs.user_data_dir("vmprov")
        subnets = environ.get("VMPROV_SUBNETS", "") or "10.87.0.0/16"
        try:
            network = ipaddress.IPv4Network(subnets)
        except ValueError as problem:
            raise SpecError(
                f"VMPROV_SUBNETS is not an IPv4 network: {subnets!r}", hint="for example 10.87.0.0/16"
            ) from problem
        return cls(
            home=Path(home).expanduser().absolute(),
            host=environ.get("VMPROV_HOST", "") or "embedded",
            runner_image=environ.get("VMPROV_RUNNER_IMAGE", "") or OFFICIAL_RUNNER_IMAGE,
            subnets=network,
            pool=environ.get("VMPROV_POOL", "") or "default",
            console_limit=_size("VMPROV_CONSOLE_LIMIT", environ, default=cls.console_limit, least=_SMALLEST_CONSOLE),
            keeper=_switch("VMPROV_KEEPER", environ),
            fake_memory=_size("VMPROV_FAKE_MEMORY", environ, default=cls.fake_memory),
            fake_pool=_size("VMPROV_FAKE_POOL", environ, default=cls.fake_pool),
        )


def variable(name: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """A variable's value, or that of its former name, and the name that had it; "" where neither is set.

    >>> variable("EDGE_PROJECT", {"PROJECT_NAME": "infra"})
    ('infra', 'PROJECT_NAME')
    """
    for known in (name, FORMER_NAMES.get(name, "")):
        if value := environ.get(known, ""):
            return value, known
    return "", name


def _size(name: str, environ: Mapping[str, str], *, default: int, least: int = 1) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        size = parse_size(text)
    except ValueError as problem:
        raise SpecError(f"{name}: {problem}") from problem
    if size < least:
        raise SpecError(f"{name} is {text!r}", hint=f"at least {least} bytes")
    return size


def _switch(name: str, environ: Mapping[str, str]) -> bool:
    value = environ.get(name, "") or "on"
    if value not in ("on", "off"):
        raise SpecError(f"{name} is {value!r}", hint="use on or off")
    return value == "on"
