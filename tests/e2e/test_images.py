"""Images come in from files and go out as Vagrant boxes; what is damaged stays out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli
from vmprov.console.tail import shows_login_prompt
from vmprov.images import sha256_of

pytestmark = pytest.mark.usefixtures("left_behind")


def test_an_image_written_as_a_box_comes_in_again_and_boots(cli: Cli, tmp_path: Path) -> None:
    box = tmp_path / "tiny.box"
    cli("image", "box", "tiny", str(box))

    cli("image", "import", str(box), "--name", "boxed", "--sha256", sha256_of(box), "--login", "console")
    made = cli("create", "--name", "boxed-vm", "--image", "boxed", "--memory", "256MiB", "--json").json

    assert [(vm["state"], vm["verdict"]) for vm in made["vms"]] == [("running", "success")]
    assert shows_login_prompt(Path(made["vms"][0]["console_log"]))
    cli("delete", "boxed-vm", "--yes")
    cli("image", "delete", "boxed")


def test_a_raw_disk_becomes_a_qcow2_image(cli: Cli, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(8 << 20))

    cli("image", "import", str(raw), "--name", "raw", "--login", "none")

    assert cli("image", "show", "raw", "--json").json["virtual_size"] == 8 << 20
    assert cli.home.image("raw").joinpath("disk.qcow2").read_bytes()[:4] == b"QFI\xfb"
    cli("image", "delete", "raw")


def test_a_damaged_image_is_refused(cli: Cli, tmp_path: Path) -> None:
    whole = cli.home.image("tiny").joinpath("disk.qcow2").read_bytes()
    cut = tmp_path / "cut.qcow2"
    cut.write_bytes(whole[: len(whole) // 2])

    ran = cli.try_("image", "import", str(cut), "--name", "cut")

    assert (ran.code, ran.out) == (1, "")
    assert "is damaged" in ran.err.splitlines()[-1]
    assert cli.try_("image", "show", "cut").code == 2


def test_an_image_of_another_digest_is_refused(cli: Cli, tmp_path: Path) -> None:
    other = hashlib.sha256(b"another").hexdigest()

    ran = cli.try_("image", "import", str(cli.home.image("tiny") / "disk.qcow2"), "--name", "other", "--sha256", other)

    assert (ran.code, "has the SHA-256 digest" in ran.err) == (1, True)
