from __future__ import annotations

import json
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from vmprov.containers.engine import Engine
from vmprov.errors import ImageBroken, NameTaken, NotFound, SpecError
from vmprov.events import Events
from vmprov.images import Images, _unpack_box, qcow2_virtual_size, sha256_of
from vmprov.paths import Home
from vmprov.waiting import Cancel


def qcow2(path: Path, *, size: int = 1 << 20, backing: int = 0, features: int = 0, l1_offset: int = 512) -> Path:
    header = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQ", 3, backing, 0, 16, size, 0, 1, l1_offset, 0, 0, 0, 0)
    path.write_bytes(header + struct.pack(">QQQII", features, 0, 0, 4, 104) + bytes(1024))
    return path


def an_image(home: Home, name: str = "tiny") -> Images:
    directory = home.image(name)
    directory.mkdir(parents=True)
    disk = qcow2(directory / "disk.qcow2")
    description = {
        "name": name, "sha256": sha256_of(disk), "size": disk.stat().st_size, "virtual_size": 1 << 20, "login": "ssh",
        "user": "root", "source": "test", "created": 0.0,
    }  # fmt: skip
    (directory / "image.json").write_text(json.dumps(description))
    return Images(home, Engine())


def test_the_virtual_size_is_read_from_the_header(tmp_path: Path) -> None:
    assert qcow2_virtual_size(qcow2(tmp_path / "x", size=123 << 20)) == 123 << 20


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"backing": 200}, "depends on another file"),
        ({"features": 4}, "depends on another file"),
        ({"l1_offset": 1 << 30}, "cut off"),
    ],
)
def test_an_image_that_depends_on_others_or_is_cut_off_is_refused(
    tmp_path: Path, wrong: dict[str, int], why: str
) -> None:
    with pytest.raises(ImageBroken, match=why):
        qcow2_virtual_size(qcow2(tmp_path / "x", **wrong))


def test_a_file_that_is_no_qcow2_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"QFI")

    with pytest.raises(ImageBroken, match="not a qcow2"):
        qcow2_virtual_size(path)


def test_an_intact_image_is_verified(home: Home) -> None:
    images = an_image(home)

    images.verify(images.get("tiny"))


def test_a_truncated_image_is_found_out(home: Home) -> None:
    images = an_image(home)
    disk = images.disk("tiny")
    disk.write_bytes(disk.read_bytes()[:-1])

    with pytest.raises(ImageBroken, match=r"has \d+ bytes instead of \d+.*vmprov image delete tiny"):
        images.verify(images.get("tiny"))


def test_a_changed_image_is_found_out(home: Home) -> None:
    images = an_image(home)
    disk = images.disk("tiny")
    disk.write_bytes(disk.read_bytes()[:-1] + b"x")

    with pytest.raises(ImageBroken, match="does not match its digest"):
        images.verify(images.get("tiny"))


def test_a_missing_image_is_named_with_the_command_that_builds_it(home: Home) -> None:
    with pytest.raises(NotFound, match=r"no image called 'debian-12'.*vmprov image build debian-12"):
        Images(home, Engine()).get("debian-12")


def test_another_content_is_another_version(home: Home) -> None:
    first = an_image(home, "a").get("a")

    assert first.version == f"0.0.{int(first.sha256[:8], 16)}"
    assert replace(first, sha256="00000001" + first.sha256[8:]).version == "0.0.1"


def test_importing_over_an_image_is_refused(home: Home, tmp_path: Path) -> None:
    images = an_image(home)

    with pytest.raises(NameTaken, match="'tiny' already"):
        images.import_(str(qcow2(tmp_path / "x")), "tiny", events=Events(), cancel=Cancel())


def test_importing_a_file_of_the_wrong_digest_leaves_nothing(home: Home, tmp_path: Path) -> None:
    images = Images(home, Engine())

    with pytest.raises(ImageBroken, match="has the SHA-256 digest"):
        images.import_(str(qcow2(tmp_path / "x")), "new", events=Events(), cancel=Cancel(), sha256="00" * 32)

    assert list((home.root / "images").iterdir()) == []


def test_importing_a_missing_file_is_refused(home: Home) -> None:
    with pytest.raises(NotFound, match="no file"):
        Images(home, Engine()).import_("/nonexistent/disk", "new", events=Events(), cancel=Cancel())


@pytest.mark.parametrize("name", ["../x", "a b", "", "-x", "a" * 50])
def test_an_image_name_that_is_no_file_name_is_refused(home: Home, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="image name"):
        Images(home, Engine()).import_(str(qcow2(tmp_path / "x")), name, events=Events(), cancel=Cancel())


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_no_name_reaches_out_of_the_image_directory(home: Home, name: str) -> None:
    images = Images(home, Engine())

    with pytest.raises(SpecError, match="image name"):
        images.get(name)
    with pytest.raises(SpecError, match="image name"):
        images.delete(name)


def test_an_unknown_recipe_is_refused(home: Home) -> None:
    with pytest.raises(SpecError, match="no recipe called 'windows'"):
        Images(home, Engine()).build("windows", events=Events(), cancel=Cancel())


def test_deleting_an_image_twice_is_fine(home: Home) -> None:
    images = an_image(home)

    assert (images.delete("tiny"), images.delete("tiny")) == (True, False)


def test_the_disk_of_a_box_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": 1}))
    qcow2(tmp_path / "box.img")
    with tarfile.open(tmp_path / "x.box", "w:gz") as box:
        box.add(tmp_path / "metadata.json", "metadata.json")
        box.add(tmp_path / "box.img", "box.img")

    disk = _unpack_box(tmp_path / "x.box")

    assert qcow2_virtual_size(disk) == 1 << 20


def test_a_box_of_another_provider_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps({"provider": "virtualbox"}))
    with tarfile.open(tmp_path / "x.box", "w") as box:
        box.add(tmp_path / "metadata.json", "metadata.json")

    with pytest.raises(ImageBroken, match="libvirt provider"):
        _unpack_box(tmp_path / "x.box")
