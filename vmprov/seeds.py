"""First-boot configuration: a NoCloud seed, one small ISO image per VM.

The format is cloud-init's NoCloud data source: a volume labelled ``cidata`` with ``user-data`` and
``meta-data``. Both files are written as JSON, which is YAML, so that no value needs quoting of its own.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pycdlib

from vmprov.documents import parse, read_bytes, refuse
from vmprov.errors import SpecError
from vmprov.spec.wishes import Seed

# The account that seeds make in guests which read cloud-init's user-data.
LOGIN_USER = "vmprov"
# Guests look for other file systems behind the end of a smaller one, meet a read error, and give up (busybox does).
_SMALLEST = 512 * 1024


def user_data(*, hostname: str, public_key: str, extras: Seed | None = None) -> str:
    """The cloud-config: a host name, one account without password that the lab's key opens, and ``extras``.

    What the file of ``extras`` says wins, but that its users and commands come in addition, and its ``hostname`` is
    refused. Raises :class:`SpecError` if it is no cloud-config.
    """
    extras = extras or Seed()
    config: dict[str, Any] = {
        "hostname": hostname,
        "users": [
            {
                "name": LOGIN_USER,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [public_key, *extras.ssh_keys],
            }
        ],
        "disable_root": True,
        "ssh_pwauth": False,
    }
    more = _cloud_config(extras.user_data) if extras.user_data is not None else {}
    for several in ("users", "runcmd"):
        config[several] = [*config.get(several, ()), *more.pop(several, ())]
    config["runcmd"] += extras.run
    if not config["runcmd"]:
        del config["runcmd"]
    config |= more
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


def _cloud_config(path: Path) -> dict[str, Any]:
    """What a cloud-config file holds."""
    data = read_bytes(path)
    if not data.startswith(b"#cloud-config"):
        raise SpecError(f"{path} is no cloud-config", hint="its first line must be #cloud-config")
    document = parse(data, str(path))
    whole = document.value
    if not isinstance(whole, dict):
        refuse([document.problem((), "must be a mapping (lines of 'key: value')")])
    problems = [
        document.problem((name,), "the VM's name is its host name; remove this", key=True)
        for name in ("hostname", "fqdn")
        if name in whole
    ]
    problems += [
        document.problem((name,), "must be a list")
        for name in ("users", "runcmd")
        if not isinstance(whole.get(name, []), list)
    ]
    refuse(problems)
    config: dict[str, Any] = whole
    return config


def meta_data(*, hostname: str, instance_id: str) -> str:
    """The instance's identity; a new id makes cloud-init run its first-boot work again."""
    return f"instance-id: {instance_id}\nlocal-hostname: {hostname}\n"


def write_seed(path: Path, *, hostname: str, instance_id: str, public_key: str, extras: Seed | None = None) -> int:
    """Write the ISO image, mode 0600; returns its size in bytes."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in (
        ("user-data", user_data(hostname=hostname, public_key=public_key, extras=extras)),
        ("meta-data", meta_data(hostname=hostname, instance_id=instance_id)),
    ):
        data = text.encode()
        iso_name = f"/{name.upper().replace('-', '_')}.;1"
        iso.add_fp(BytesIO(data), len(data), iso_name, rr_name=name, joliet_path=f"/{name}")
    path.touch(mode=0o600)
    iso.write(str(path))
    iso.close()
    with path.open("ab") as file:
        file.truncate(max(_SMALLEST, path.stat().st_size))
    return path.stat().st_size
