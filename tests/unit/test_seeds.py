from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from vmprov.errors import SpecError
from vmprov.seeds import user_data, write_seed
from vmprov.spec.wishes import Seed

KEY = 'ssh-ed25519 AAAAC3Nza lab\'s "key": #{x}'


def read(path: Path, name: str) -> str:
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    out = BytesIO()
    iso.get_file_from_iso_fp(out, rr_path=f"/{name}")
    iso.close()
    return out.getvalue().decode()


def test_a_seed_is_a_nocloud_volume(tmp_path: Path) -> None:
    write_seed(tmp_path / "seed.iso", hostname="vm-1", instance_id="one", public_key=KEY)

    raw = (tmp_path / "seed.iso").read_bytes()
    assert raw[0x8028:0x8048].rstrip() == b"cidata"
    assert read(tmp_path / "seed.iso", "meta-data") == "instance-id: one\nlocal-hostname: vm-1\n"
    assert read(tmp_path / "seed.iso", "user-data").startswith("#cloud-config\n")


def test_a_seed_is_padded_for_guests_that_read_behind_its_end(tmp_path: Path) -> None:
    size = write_seed(tmp_path / "seed.iso", hostname="vm-1", instance_id="one", public_key=KEY)

    assert size == (tmp_path / "seed.iso").stat().st_size == 512 * 1024


def test_a_seed_is_for_its_owner_only(tmp_path: Path) -> None:
    write_seed(tmp_path / "seed.iso", hostname="vm-1", instance_id="one", public_key=KEY)

    assert (tmp_path / "seed.iso").stat().st_mode & 0o077 == 0


def test_whatever_the_key_says_the_user_data_stays_one_document() -> None:
    (user,) = json.loads(user_data(hostname="vm-1", public_key=KEY).removeprefix("#cloud-config\n"))["users"]

    assert (user["ssh_authorized_keys"], user["lock_passwd"]) == ([KEY], True)


# what a lab file adds


def config_of(tmp_path: Path, more: str = "", **extras: Any) -> dict[str, Any]:
    if more:
        (tmp_path / "more.yaml").write_text(more)
        extras["user_data"] = tmp_path / "more.yaml"
    text = user_data(hostname="vm-1", public_key=KEY, extras=Seed(**extras))
    found: dict[str, Any] = json.loads(text.removeprefix("#cloud-config\n"))
    return found


MORE_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJlZm9yZSBhbmQgYWZ0ZXIgdGhlIGtleQ me"


def test_more_keys_open_the_same_account_and_commands_run_in_order(tmp_path: Path) -> None:
    config = config_of(tmp_path, ssh_keys=(MORE_KEY,), run=("echo 1", "echo 'two'; #"))

    assert config["users"][0]["ssh_authorized_keys"] == [KEY, MORE_KEY]
    assert config["runcmd"] == ["echo 1", "echo 'two'; #"]


def test_without_extras_nothing_is_run() -> None:
    assert "runcmd" not in user_data(hostname="vm-1", public_key=KEY)


def test_a_cloud_config_is_merged_in(tmp_path: Path) -> None:
    more = """#cloud-config
packages: [nginx]
ssh_pwauth: true
users: [default, {name: me}]
runcmd: [[ls, -l], first]
"""
    config = config_of(tmp_path, more, run=("second",))

    assert (config["packages"], config["ssh_pwauth"], config["hostname"]) == (["nginx"], True, "vm-1")
    assert config["users"][1:] == ["default", {"name": "me"}]
    assert config["users"][0]["ssh_authorized_keys"] == [KEY]
    assert config["runcmd"] == [["ls", "-l"], "first", "second"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("packages: [x]\n", "is no cloud-config; its first line must be #cloud-config"),
        ("#!/bin/sh\necho\n", "is no cloud-config"),
        ("#cloud-config\n- a\n", r":2:1: must be a mapping"),
        ("#cloud-config\nhostname: x\n", r":2:1: hostname: the VM's name is its host name; remove this"),
        ("#cloud-config\nruncmd: ls\n", r":2:9: runcmd: must be a list"),
        ("#cloud-config\na: [\n", "not valid YAML"),
    ],
)
def test_what_is_no_cloud_config_is_refused(more: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=said):
        config_of(tmp_path, more)


def test_a_seed_with_extras_is_written(tmp_path: Path) -> None:
    write_seed(
        tmp_path / "seed.iso", hostname="vm-1", instance_id="one", public_key=KEY, extras=Seed(run=("echo hello",))
    )

    assert '"echo hello"' in read(tmp_path / "seed.iso", "user-data")
