from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from vmprov.drivers import BaseImage
from vmprov.drivers.box import base_volume_name, ensure_box, write_box
from vmprov.errors import Failed


@pytest.fixture
def image(tmp_path: Path) -> BaseImage:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"QFI\xfb" + bytes(1000))
    return BaseImage("tiny", "vmprov/tiny", "0.0.7", base_volume_name("vmprov/tiny", "0.0.7"), disk, 1024**3 + 512)


def test_a_box_links_the_disk(tmp_path: Path, image: BaseImage) -> None:
    box = ensure_box(tmp_path / "vagrant.d", image)

    assert box == tmp_path / "vagrant.d/boxes/vmprov-VAGRANTSLASH-tiny/0.0.7/libvirt"
    assert (box / "box.img").samefile(image.disk)
    metadata = json.loads((box / "metadata.json").read_text())
    assert (metadata["provider"], metadata["format"], metadata["virtual_size"]) == ("libvirt", "qcow2", 2)


def test_a_box_that_exists_stays_as_it_is(tmp_path: Path, image: BaseImage) -> None:
    box = ensure_box(tmp_path / "vagrant.d", image)
    (box / "metadata.json").write_text("{}")

    assert ensure_box(tmp_path / "vagrant.d", image) == box

    assert (box / "metadata.json").read_text() == "{}"
    assert list((tmp_path / "vagrant.d" / "tmp").iterdir()) == []


def test_a_disk_on_another_file_system_is_linked_by_name(
    tmp_path: Path, image: BaseImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)

    assert (ensure_box(tmp_path / "vagrant.d", image) / "box.img").readlink() == image.disk


def test_the_box_of_a_deleted_image_goes_with_the_next_box_and_foreign_boxes_stay(
    tmp_path: Path, image: BaseImage
) -> None:
    home = tmp_path / "vagrant.d"
    old = ensure_box(home, image)
    foreign = home / "boxes/debian-VAGRANTSLASH-bookworm64/12.1/libvirt"
    foreign.mkdir(parents=True)
    (foreign / "metadata.json").write_text('{"provider": "libvirt"}')
    (foreign / "box.img").touch()
    image.disk.unlink()
    image.disk.write_bytes(b"another")

    new = ensure_box(home, BaseImage("tiny", "vmprov/tiny", "0.0.8", "", image.disk, 1024))

    assert not old.exists()
    assert new.exists()
    assert foreign.exists()


def test_a_missing_disk_is_one_error_and_leaves_no_box(tmp_path: Path, image: BaseImage) -> None:
    image.disk.unlink()

    with pytest.raises(Failed, match="the box of image tiny"):
        ensure_box(tmp_path / "vagrant.d", image)

    assert list((tmp_path / "vagrant.d" / "boxes").iterdir()) == []


def test_a_box_file_holds_the_three_parts(tmp_path: Path, image: BaseImage) -> None:
    write_box(image, tmp_path / "tiny.box")

    with tarfile.open(tmp_path / "tiny.box") as archive:
        assert sorted(archive.getnames()) == ["Vagrantfile", "box.img", "metadata.json"]
        disk = archive.extractfile("box.img")
        assert disk is not None
        assert disk.read() == image.disk.read_bytes()


def test_a_box_file_that_fails_leaves_nothing(tmp_path: Path, image: BaseImage) -> None:
    image.disk.unlink()

    with pytest.raises(Failed, match="could not be written"):
        write_box(image, tmp_path / "tiny.box")

    assert list(tmp_path.iterdir()) == []
