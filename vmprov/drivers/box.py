"""Vagrant boxes of our images: in Vagrant's own directory without copying, or as a ``.box`` file.

A box is a directory (or a tar archive of it) with ``metadata.json``, ``box.img`` and a ``Vagrantfile``.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vmprov.drivers import BaseImage
from vmprov.errors import Failed

_GIB = 1024**3
_MAKER = "vmprov"
_SLASH = "-VAGRANTSLASH-"
_VAGRANTFILE = """\
Vagrant.configure('2') do |config|
  config.vm.synced_folder '.', '/vagrant', disabled: true
end
"""


def base_volume_name(box: str, version: str) -> str:
    """What vagrant-libvirt calls the volume of a box; where a pool has it, vagrant uploads nothing.

    >>> base_volume_name("vmprov/debian-12", "0.0.7")
    'vmprov-VAGRANTSLASH-debian-12_vagrant_box_image_0.0.7_box.img'
    """
    return f"{box.replace('/', _SLASH)}_vagrant_box_image_{version}_box.img"


def ensure_box(vagrant_home: Path, image: BaseImage) -> Path:
    """The directory of the image's box, made if it is not there; the disk is linked, not copied.

    Boxes of ours whose image was deleted since are removed on the occasion.
    """
    boxes = vagrant_home / "boxes"
    box = boxes / image.box.replace("/", _SLASH) / image.version / "libvirt"
    try:
        if not (box / "metadata.json").is_file():
            _make_box(boxes, box, image)
        _remove_orphans(boxes, keep=box)
    except OSError as problem:
        raise Failed(f"the box of image {image.name} could not be made: {problem}") from problem
    return box


def _make_box(boxes: Path, box: Path, image: BaseImage) -> None:
    boxes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vmprov-", dir=_scratch(boxes)) as scratch:
        staging = Path(scratch) / "libvirt"
        staging.mkdir()
        _link(image.disk, staging / "box.img")
        (staging / "metadata.json").write_bytes(_metadata(image.virtual_size))
        (staging / "Vagrantfile").write_text(_VAGRANTFILE)
        box.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(box)
        except OSError as problem:
            # Somebody else was faster.
            if problem.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def _scratch(boxes: Path) -> Path:
    """Where half-made boxes lie: on the same file system, but not where Vagrant looks for boxes."""
    scratch = boxes.parent / "tmp"
    scratch.mkdir(exist_ok=True)
    return scratch


def _link(disk: Path, link: Path) -> None:
    try:
        os.link(disk, link)
    except OSError as problem:
        if problem.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        link.symlink_to(disk.absolute())


def _metadata(virtual_size: int) -> bytes:
    # The size is in GiB, rounded up; "made_by" is ours.
    size = -(-virtual_size // _GIB)
    described = {"provider": "libvirt", "format": "qcow2", "virtual_size": size, "made_by": _MAKER}
    return json.dumps(described).encode() + b"\n"


def _remove_orphans(boxes: Path, keep: Path) -> None:
    for box in orphaned_boxes(boxes):
        if box != keep:
            shutil.rmtree(box.parent, ignore_errors=True)


def orphaned_boxes(boxes: Path) -> Iterator[Path]:
    """Our boxes whose disk nobody else has any more: they only take up space."""
    for metadata in boxes.glob("*/*/libvirt/metadata.json"):
        box = metadata.parent
        try:
            ours = json.loads(metadata.read_bytes()).get("made_by") == _MAKER
            disk = box / "box.img"
            orphaned = not disk.exists() if disk.is_symlink() else disk.lstat().st_nlink == 1
        except (OSError, ValueError, AttributeError):
            # Another process removes it at this moment, or it is not ours.
            continue
        if ours and orphaned:
            yield box


def write_box(image: BaseImage, path: Path) -> None:
    """Write a ``.box`` file that ``vagrant box add`` accepts; nothing is left behind on failure."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(unfinished, "w:gz", compresslevel=1) as archive:
            for name, content in (("metadata.json", _metadata(image.virtual_size)), ("Vagrantfile", _VAGRANTFILE)):
                data = content if isinstance(content, bytes) else content.encode()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
            archive.add(image.disk, "box.img", filter=_anonymous)
        unfinished.replace(path)
    except OSError as problem:
        raise Failed(f"the box file {path} could not be written: {problem}") from problem
    finally:
        unfinished.unlink(missing_ok=True)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry
