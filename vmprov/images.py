"""Images: what disks start from. A directory each, with ``disk.qcow2`` and ``image.json``.

They are built from recipes in a container of ours, or imported (qcow2, raw, or a Vagrant ``.box``). Nothing on
this machine but Docker is needed for either. Header layout: QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from vmprov.containers import recipes
from vmprov.containers.engine import LOCK_LABEL, ContainerSpec, Engine, Mount
from vmprov.errors import CommandFailed, Failed, ImageBroken, NameTaken, NotFound, SpecError
from vmprov.events import Events, Progress
from vmprov.locks import Turn
from vmprov.paths import Home
from vmprov.spec.names import check_image_name
from vmprov.waiting import Cancel, Deadline

RECIPES = ("debian-12", "tiny")
_QCOW2_MAGIC = b"QFI\xfb"
_CHUNK = 4 * 1024**2
_BUILD_LIMIT = 1800.0
_CONVERT_LIMIT = 3600.0


@dataclass(frozen=True)
class Image:
    """One image. ``sha256`` is that of the qcow2 file, sizes in bytes.

    ``login`` says how a guest shows that it is ready: ``ssh`` (as ``user``, by the seed's key), ``console`` (its
    login prompt on serial) or ``none``.
    """

    name: str
    sha256: str
    size: int
    virtual_size: int
    login: str
    user: str
    source: str
    created: float

    @property
    def version(self) -> str:
        """The box's version: another content is another version."""
        return f"0.0.{int(self.sha256[:8], 16)}"

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self)


class Images:
    """The images of one state directory."""

    def __init__(self, home: Home, engine: Engine, installation: Callable[[], str] = lambda: "") -> None:
        """``installation``: asked for the id that containers are to be labelled with."""
        self._home = home
        self._engine = engine
        self._installation = installation

    def all(self) -> list[Image]:
        """Every image, by name."""
        directory = self._home.root / "images"
        if not directory.is_dir():
            return []
        found = [path.name for path in directory.iterdir() if (path / "image.json").is_file()]
        return [self.get(name) for name in sorted(found)]

    def get(self, name: str) -> Image:
        """One image; raises :class:`NotFound`, :class:`ImageBroken` if its description can't be read."""
        _check_name(name)
        try:
            described = json.loads((self._home.image(name) / "image.json").read_text())
            return Image(**described)
        except FileNotFoundError as problem:
            hint = f"run: vmprov image build {name}" if name in RECIPES else "see: vmprov image list"
            raise NotFound(f"no image called {name!r}", hint=hint) from problem
        except (ValueError, TypeError) as problem:
            raise ImageBroken(
                f"image {name!r} has an unreadable description", hint=f"run: vmprov image delete {name}"
            ) from problem

    def disk(self, name: str) -> Path:
        """The image's qcow2 file."""
        return self._home.image(name) / "disk.qcow2"

    def verify(self, image: Image) -> None:
        """Read the whole file; raises :class:`ImageBroken` if it is not what was imported or built."""
        path = self.disk(image.name)
        hint = f"delete it (vmprov image delete {image.name}) and build or import it again"
        if not path.is_file():
            raise ImageBroken(f"image {image.name!r} has lost its disk file", hint=hint)
        size = path.stat().st_size
        if size != image.size:
            raise ImageBroken(f"image {image.name!r} has {size} bytes instead of {image.size}", hint=hint)
        if sha256_of(path) != image.sha256:
            raise ImageBroken(f"image {image.name!r} does not match its digest", hint=hint)

    def delete(self, name: str) -> bool:
        """Remove an image; ``False`` if there was none."""
        _check_name(name)
        try:
            shutil.rmtree(self._home.image(name))
        except FileNotFoundError:
            return False
        return True

    def build(self, recipe: str, *, events: Events, cancel: Cancel, replace: bool = False) -> Image:
        """Make an image from a recipe of ours, from distribution packages."""
        if recipe not in RECIPES:
            raise SpecError(f"no recipe called {recipe!r}", hint=f"use one of: {', '.join(RECIPES)}")
        self._check_free(recipe, replace)
        with self._staging() as staging:
            what = f"build image {recipe}"
            with events.step(what):
                self._in_builder(
                    [f"build-{recipe}", "/staging/disk.qcow2"], staging, what, events, cancel, _BUILD_LIMIT
                )
            told = json.loads((staging / "image.json").read_text())
            return self._finish(
                staging,
                recipe,
                login="ssh",
                user=told["ssh_user"],
                source=f"recipe {recipe}",
                replace=replace,
            )

    def import_(
        self, source: str, name: str, *, events: Events, cancel: Cancel, sha256: str = "", login: str = "ssh"
    ) -> Image:
        """Take in a qcow2 or raw disk or a Vagrant box, from a file or an http(s) URL.

        ``sha256`` is checked against the file as given. Raises :class:`ImageBroken` for one that is damaged, of
        the wrong digest, or depends on other files.
        """
        from vmprov.seeds import LOGIN_USER

        self._check_free(name, replace=False)
        with self._staging() as staging:
            given = staging / "given"
            with events.step(f"read {source}"):
                digest = _fetch(source, given, events, cancel)
            if sha256 and digest != sha256.lower():
                raise ImageBroken(
                    f"{source} has the SHA-256 digest {digest}, not {sha256}",
                    hint="download it again, or check the digest",
                )
            disk = _unpack_box(given) if _is_archive(given) else given
            with events.step(f"check and convert {name}"):
                self._to_qcow2(disk, staging, source, events, cancel)
            given.unlink(missing_ok=True)
            return self._finish(staging, name, login=login, user=LOGIN_USER, source=source, replace=False)

    def _to_qcow2(self, disk: Path, staging: Path, source: str, events: Events, cancel: Cancel) -> None:
        with disk.open("rb") as file:
            is_qcow2 = file.read(4) == _QCOW2_MAGIC
        if is_qcow2:
            qcow2_virtual_size(disk)
            disk.rename(staging / "disk.qcow2")
            command = ["qemu-img", "check", "-q", "/staging/disk.qcow2"]
        else:
            command = [
                "qemu-img",
                "convert",
                "-f",
                "raw",
                "-O",
                "qcow2",
                f"/staging/{disk.name}",
                "/staging/disk.qcow2",
            ]
        try:
            self._in_builder(command, staging, f"check {source}", events, cancel, _CONVERT_LIMIT)
        except CommandFailed as problem:
            raise ImageBroken(
                f"{source} is damaged: {problem.output or problem.what}", hint="download it again"
            ) from problem

    def _in_builder(
        self, command: list[str], staging: Path, what: str, events: Events, cancel: Cancel, limit: float
    ) -> None:
        image = recipes.ensure(self._engine, "builder", self._home, events)
        said: list[str] = []

        def on_line(line: str) -> None:
            said.append(line)
            if line.startswith("step: "):
                events.emit(Progress(what=what, text=line.removeprefix("step: ")))

        spec = ContainerSpec(
            name=f"vmprov-builder-{uuid.uuid4().hex[:8]}",
            image=image,
            labels={
                "vmprov.installation": self._installation(),
                "vmprov.role": "builder",
                LOCK_LABEL: staging_lock(self._home, staging).stem,
            },
            command=command,
            mounts=[Mount(staging, "/staging")],
            env={"OWNER": f"{os.getuid()}:{os.getgid()}"},
            privileged_like=True,
        )
        code = self._engine.run_to_end(spec, on_line=on_line, deadline=Deadline(limit), cancel=cancel)
        if code != 0:
            last = said[-1] if said else "it said nothing"
            raise CommandFailed(f"could not {what}: {last}", output=last)

    def _check_free(self, name: str, replace: bool) -> None:
        _check_name(name)
        if not replace and self._home.image(name).exists():
            raise NameTaken(f"there is an image called {name!r} already", hint=f"run: vmprov image delete {name}")

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A directory beside the images that becomes one, or disappears."""
        staging = self._home.root / "images" / f".new-{uuid.uuid4().hex[:12]}"
        turn = Turn(staging_lock(self._home, staging))
        turn.take()
        staging.mkdir(parents=True, mode=0o700)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            turn.remove()

    def _finish(self, staging: Path, name: str, *, login: str, user: str, source: str, replace: bool) -> Image:
        disk = staging / "disk.qcow2"
        image = Image(
            name=name,
            sha256=sha256_of(disk),
            size=disk.stat().st_size,
            virtual_size=qcow2_virtual_size(disk),
            login=login,
            user=user,
            source=source,
            created=time.time(),
        )
        disk.chmod(0o600)
        (staging / "image.json").write_text(json.dumps(asdict(image), indent=1) + "\n")
        if replace:
            self.delete(name)
        try:
            staging.rename(self._home.image(name))
        except OSError as problem:
            raise NameTaken(f"an image called {name!r} was made meanwhile") from problem
        return image


def staging_lock(home: Home, staging: Path) -> Path:
    """The lock that is held while an image is made in that directory."""
    return home.lock(f"image{staging.name.removeprefix('.new')}")


def _check_name(name: str) -> None:
    """A name becomes a directory's; raises :class:`SpecError` for one that could be another directory's."""
    try:
        check_image_name(name)
    except ValueError as problem:
        raise SpecError(str(problem)) from problem


def sha256_of(path: Path) -> str:
    """The file's SHA-256 digest in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def qcow2_virtual_size(path: Path) -> int:
    """The size in bytes of the disk in a qcow2 file.

    Raises :class:`ImageBroken` if it is not one, is cut off, or has a backing or data file: an image from
    elsewhere that names other files could make QEMU read any file of the host.
    """
    with path.open("rb") as file:
        header = file.read(104)
    if len(header) < 72 or header[:4] != _QCOW2_MAGIC:
        raise ImageBroken(f"{path.name} is not a qcow2 file")
    version, backing_offset = struct.unpack(">IQ", header[4:16])
    size, _, l1_entries, l1_offset = struct.unpack(">QIIQ", header[24:48])
    incompatible = struct.unpack(">Q", header[72:80])[0] if version >= 3 and len(header) >= 80 else 0
    if version not in (2, 3):
        raise ImageBroken(f"{path.name} is a qcow2 file of unknown version {version}")
    if backing_offset or incompatible & 4:
        raise ImageBroken(f"{path.name} depends on another file", hint="flatten it with: qemu-img convert -O qcow2")
    if l1_offset + 8 * l1_entries > path.stat().st_size:
        raise ImageBroken(f"{path.name} is cut off", hint="download it again")
    return int(size)


@contextmanager
def _opened(source: str) -> Iterator[tuple[IO[bytes], int]]:
    """The file's or URL's contents, and their length in bytes (0 where the server does not say)."""
    if source.startswith(("http://", "https://")):
        with _download(source) as answer:
            yield answer
        return
    try:
        with Path(source).open("rb") as file:
            yield file, Path(source).stat().st_size
    except FileNotFoundError as problem:
        raise NotFound(f"no file {source}", hint="give a file or an http(s) URL") from problem
    except OSError as problem:
        raise Failed(f"{source} cannot be read: {problem.strerror or problem}") from problem


@contextmanager
def _download(source: str) -> Iterator[tuple[IO[bytes], int]]:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(source, timeout=60) as answer:
            yield answer, int(answer.headers.get("Content-Length") or 0)
    except urllib.error.URLError as problem:
        raise Failed(f"{source} cannot be downloaded: {problem.reason}", hint="check the address") from problem
    except OSError as problem:
        raise Failed(f"{source} cannot be read: {problem.strerror or problem}") from problem


def _fetch(source: str, target: Path, events: Events, cancel: Cancel) -> str:
    """Copy a file or URL to ``target``; returns its SHA-256 digest."""
    digest, done = hashlib.sha256(), 0
    with _opened(source) as (stream, total), target.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            cancel.check()
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            events.emit(Progress(what=f"read {source}", done=done, total=total))
    if total and done != total:
        raise ImageBroken(f"{source} ended after {done} of {total} bytes", hint="try again")
    return digest.hexdigest()


def _is_archive(path: Path) -> bool:
    """Whether it is a tar archive with anything in it: a raw disk that begins with zeros looks like an empty one."""
    if not tarfile.is_tarfile(path):
        return False
    with tarfile.open(path) as tar:
        return tar.next() is not None


def _unpack_box(archive: Path) -> Path:
    """The one disk of a Vagrant box (libvirt provider), beside the archive."""
    target = archive.parent / "box-disk"
    with tarfile.open(archive) as tar:
        members = {member.name.removeprefix("./"): member for member in tar.getmembers()}
        described = tar.extractfile(members["metadata.json"]) if "metadata.json" in members else None
        if described is None:
            raise ImageBroken("the box has no metadata.json", hint="use a box of the libvirt provider")
        metadata = json.load(described)
        disks = [disk.get("path", "") for disk in metadata.get("disks", [])] or ["box.img"]
        if metadata.get("provider") != "libvirt" or len(disks) != 1 or disks[0] not in members:
            raise ImageBroken("the box is not one of the libvirt provider with one disk")
        disk = tar.extractfile(members[disks[0]])
        if disk is None:
            raise ImageBroken("the box's disk is not a file")
        with disk, target.open("wb") as out:
            shutil.copyfileobj(disk, out, _CHUNK)
    archive.unlink()
    return target
