from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pycdlib

from vmprov.seeds import user_data, write_seed

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
