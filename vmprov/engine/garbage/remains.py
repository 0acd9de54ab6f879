"""What lies in the state directory, or runs in containers, and belongs to nothing that is recorded (any more)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vmprov.console.ports import drafts
from vmprov.containers.engine import LOCK_LABEL, Container, Engine
from vmprov.drivers.box import orphaned_boxes
from vmprov.engine.garbage.leftovers import Find, remove_path
from vmprov.engine.objects import adoption, base_volume
from vmprov.engine.renames import NEW_NAME
from vmprov.images import staging_lock
from vmprov.locks import is_held, remove_unheld
from vmprov.paths import Home
from vmprov.store import Store
from vmprov.views import Leftover

# Seconds after which nobody is still writing what is to replace a file.
_WRITTEN = 600.0
_SHORT_LIVED = ("probe", "builder")
_OF_LABS = re.compile(r"(?:at-work|lab|vagrantfile)-(?P<name>.+)\.lock")
_OF_VMS = re.compile(r"watch-(?P<name>.+)\.lock")
_OF_PORTS = re.compile(r"(?P<id>\d+)-\d\..+")


def in_containers(engine: Engine, home: Home, store: Store) -> Iterator[Find]:
    """Containers of this installation that nobody needs: not that of a host that is up, nor the runner beside it."""
    found = engine.find({"vmprov.installation": store.installation})
    running = {one.labels.get("vmprov.host") for one in found if _runs(one) and _role(one) == "host"}
    for container in found:
        role = _role(container)
        if role in _SHORT_LIVED:
            lock = home.lock(container.labels.get(LOCK_LABEL, ""))
            if is_held(lock):
                continue
            why = f"it is a {role} of ours, and who started it is gone"
        elif not _runs(container):
            why = f"it is a {role} of ours, and {container.status}"
        elif role == "runner" and container.labels.get("vmprov.host") == "embedded" and "embedded" not in running:
            why = "it is a runner of ours, and its host is gone"
        else:
            continue
        yield Find(
            Leftover(kind="container", name=container.name, host="", why=why),
            still=partial(_is_unused, engine, container),
            remove=partial(engine.remove, container.id),
        )


def _role(container: Container) -> str:
    return container.labels.get("vmprov.role", "")


def _runs(container: Container) -> bool:
    return container.status in ("running", "created", "restarting")


def _is_unused(engine: Engine, container: Container) -> bool:
    """Whether it is still as it was found: somebody may have started it meanwhile."""
    return engine.status(container.id) == container.status


# files


def in_state_directory(home: Home, store: Store, *, all_seen: bool) -> Iterator[Find]:
    """Directories, files and locks of VMs and labs that are gone, and what was being written when its writer died.

    Unless all hosts were seen (``all_seen``), what may belong to machines on the others is not among it.
    """
    if all_seen:
        yield from _directories(home, store)
        yield from _of_networks(home, store)
    yield from _console_files(home, store)
    yield from _of_drivers(home, store)
    yield from _unfinished(home)
    yield from _locks(home, store)


def _find(path: Path, kind: str, why: str, still: Callable[..., bool], *arguments: object) -> Find:
    told = Leftover(kind=kind, name=str(path), host="", why=why)
    return Find(told, still=partial(still, *arguments), remove=partial(remove_path, path))


def _no_vm(store: Store, name: str) -> bool:
    """Whether no VM has the name, nor is going to have it."""
    return not store.has_vm(name) and name not in store.leased(host="", kind=NEW_NAME)


def _no_lab(store: Store, name: str) -> bool:
    return store.lab(name) is None


def _no_number(store: Store, number: int) -> bool:
    return number not in {vm.id for vm in store.vms()}


def _listed(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _directories(home: Home, store: Store) -> Iterator[Find]:
    for path in _listed(home.vms):
        if _no_vm(store, path.name):
            yield _find(path, "directory", f"there is no VM {path.name}", _no_vm, store, path.name)
    for path in _listed(home.root / "labs"):
        if _no_lab(store, path.name):
            yield _find(path, "directory", f"there is no lab {path.name}", _no_lab, store, path.name)
    for path in home.root.glob(".removed-*"):
        number = int(digits) if (digits := path.name.rpartition("-")[2]).isdecimal() else 0
        if _no_number(store, number):
            yield _find(path, "directory", "its VM is removed", _no_number, store, number)


def _console_files(home: Home, store: Store) -> Iterator[Find]:
    """FIFOs, sockets and locks of serial ports."""
    present = _listed(home.consoles) + _listed(drafts(home.consoles / "lock"))
    known = {vm.id for vm in store.vms()}
    for path in present:
        named = _OF_PORTS.fullmatch(path.name)
        if named and (number := int(named["id"])) not in known:
            yield _find(path, "file", "the VM of this serial port is gone", _no_number, store, number)


def _of_drivers(home: Home, store: Store) -> Iterator[Find]:
    for path in (home.root / "labs").glob("*/.vagrant/machines/*"):
        if not _no_lab(store, path.parents[2].name) and _no_vm(store, path.name):
            yield _find(path, "directory", f"there is no VM {path.name}", _no_vm, store, path.name)
    for vagrant in (home.root / "hosts").glob("*/vagrant.d"):
        boxes = vagrant / "boxes"
        for box in orphaned_boxes(boxes):
            yield _find(box.parent, "directory", "the image of this box is gone", _is_orphaned, boxes, box)
        yield from _old(vagrant.glob("tmp/.vmprov-*"), "who was making this box is gone")


def _is_orphaned(boxes: Path, box: Path) -> bool:
    return box in orphaned_boxes(boxes)


def _of_networks(home: Home, store: Store) -> Iterator[Find]:
    """Definitions of networks that were adopted; of one that is not given back yet, it is still needed."""
    for path in (home.root / "hosts").glob("*/adopted/*.xml"):
        if _not_adopted(store, path.stem):
            yield _find(path, "file", "the network is given back", _not_adopted, store, path.stem)


def _not_adopted(store: Store, network: str) -> bool:
    return not store.owned(kind=adoption.KIND, name=network)


def _unfinished(home: Home) -> Iterator[Find]:
    """What was being written: it would have got another name at its end."""
    yield from _old(
        (path for kind in ("vms", "labs") for path in (home.root / kind).glob("*/.*") if _is_draft(path)),
        "who was writing it is gone",
    )
    yield from _old((home.root / "hosts").glob("*/adopted/.*.part"), "who was writing it is gone")
    yield from _old(home.root.glob(".*.part"), "who was writing it is gone")
    for path in (home.root / "images").glob(".new-*"):
        lock = staging_lock(home, path)
        if _is_free(lock):
            yield _find(path, "directory", "who was making this image is gone", _is_free, lock)


def _is_free(lock: Path) -> bool:
    return not is_held(lock)


def _is_draft(path: Path) -> bool:
    return path.name.endswith(".part") or path.name.startswith((".seed-", ".nvram-"))


def _old(paths: Iterator[Path], why: str) -> Iterator[Find]:
    for path in paths:
        if _is_old(path):
            yield _find(path, "directory" if path.is_dir() else "file", why, partial(_is_old, path))


def _is_old(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) > _WRITTEN
    except OSError:
        return False


# locks


def _locks(home: Home, store: Store) -> Iterator[Find]:
    """Lock files of what is gone; one that is held stays."""
    for path in _listed(home.lock("").parent):
        why = _why_unneeded(path, home, store)
        if why and not is_held(path):
            yield Find(
                Leftover(kind="lock", name=str(path), host="", why=why),
                still=partial(_is_unneeded, path, home, store),
                remove=partial(remove_unheld, path),
            )


def _is_unneeded(path: Path, home: Home, store: Store) -> bool:
    return bool(_why_unneeded(path, home, store))


def _why_unneeded(path: Path, home: Home, store: Store) -> str:
    """Why nobody will ask for a lock again before what it is for is made anew; empty if somebody may."""
    if (named := _OF_LABS.fullmatch(path.name)) and store.lab(named["name"]) is None:
        return f"there is no lab {named['name']}"
    if (named := _OF_VMS.fullmatch(path.name)) and _no_vm(store, named["name"]):
        return f"there is no VM {named['name']}"
    if re.fullmatch(r"image-[0-9a-f]{12}\.lock", path.name):
        return (
            "" if (home.root / "images" / f".new-{path.stem.removeprefix('image-')}").exists() else "the image is made"
        )
    if re.fullmatch(r"boot-.+-[0-9]+\.lock", path.name):
        return "nobody boots"
    for thing in ("VAGRANTSLASH", "-network-"):
        if thing in path.name:
            kind = base_volume.KIND if thing == "VAGRANTSLASH" else adoption.KIND
            names = {owned.name for owned in store.owned(kind=kind)}
            return "" if any(path.stem.endswith(name) for name in names) else "nobody needs it (any more)"
    return ""
