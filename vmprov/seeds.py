"""First-boot configuration: a NoCloud seed, one small ISO image per VM.

The format is cloud-init's NoCloud data source: a volume labelled ``cidata`` with ``user-data`` and
``meta-data``. Both files are written as JSON, which is YAML, so that no value needs quoting of its own.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pycdlib

# The account that seeds make in guests which read cloud-init's user-data.
LOGIN_USER = "vmprov"
# Guests look for other file systems behind the end of a smaller one, meet a read error, and give up (busybox does).
_SMALLEST = 512 * 1024


def user_data(*, hostname: str, public_key: str) -> str:
    """The cloud-config: a host name, and one account without password that the lab's key opens."""
    config = {
        "hostname": hostname,
        "users": [
            {
                "name": LOGIN_USER,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [public_key],
            }
        ],
        "disable_root": True,
        "ssh_pwauth": False,
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


def meta_data(*, hostname: str, instance_id: str) -> str:
    """The instance's identity; a new id makes cloud-init run its first-boot work again."""
    return f"instance-id: {instance_id}\nlocal-hostname: {hostname}\n"


def write_seed(path: Path, *, hostname: str, instance_id: str, public_key: str) -> int:
    """Write the ISO image, mode 0600; returns its size in bytes."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in (
        ("user-data", user_data(hostname=hostname, public_key=public_key)),
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
