"""The Docker images of ours: built on demand from ``vmprov/dockerfiles``, named after what they are made of.

The tag is a digest of the recipe, so a changed recipe is a new image and two versions of vmprov do not
overwrite each other's.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from vmprov.containers.engine import Engine
from vmprov.events import Events, Progress
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.runner import LocalRunner, Runner
from vmprov.settings import OFFICIAL_RUNNER_IMAGE
from vmprov.waiting import Deadline

BASE = "vmprov/base:bookworm"
_BASE_UPSTREAM = "debian:bookworm-slim"
_RECIPES = Path(__file__).parent.parent / "dockerfiles"
# A slow mirror on a slow machine; a build that takes longer hangs.
_BUILD_LIMIT = 1800.0


def image_name(recipe: str) -> str:
    """The image that a recipe (a directory below ``dockerfiles``) makes."""
    digest = hashlib.sha256()
    for path in sorted((_RECIPES / recipe).iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"vmprov/{recipe}:{digest.hexdigest()[:12]}"


def ensure(engine: Engine, recipe: str, home: Home, events: Events) -> str:
    """The name of the recipe's image, building it first where it does not exist yet."""
    name = image_name(recipe)
    if engine.has_image(name):
        return name
    with exclusive(home.lock("container-images"), Deadline(_BUILD_LIMIT), "the container images"):
        if engine.has_image(name):
            return name
        ensure_base(engine, events)
        with events.step(f"build container image {name}"):
            engine.build(
                _RECIPES / recipe,
                name,
                arguments={"BASE": BASE},
                labels={"vmprov.recipe": recipe},
                on_line=lambda line: events.emit(Progress(what=f"build container image {name}", text=line)),
            )
    return name


def ensure_base(engine: Engine, events: Events, *, runner: Runner | None = None) -> None:
    """A minimal Debian 12: pulled where a registry answers, else made from distribution packages."""
    if engine.has_image(BASE):
        return
    with events.step("get a Debian 12 base image"):
        if engine.pull(_BASE_UPSTREAM):
            engine.tag(_BASE_UPSTREAM, BASE)
            return
        with tempfile.TemporaryDirectory(prefix="vmprov-base-") as scratch:
            archive = Path(scratch) / "root.tar"
            (runner or LocalRunner()).run(
                ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", archive],
                deadline=Deadline(_BUILD_LIMIT),
            )
            engine.import_root(archive, BASE)


def runner_image(engine: Engine, wanted: str, home: Home, events: Events) -> str:
    """The image in which vagrant runs: the wanted one, else (only for the default) our own of the same contract."""
    if engine.has_image(wanted):
        return wanted
    ours = image_name("runner")
    if wanted == OFFICIAL_RUNNER_IMAGE and engine.has_image(ours):
        return ours
    with events.step(f"get container image {wanted}"):
        if engine.pull(wanted):
            return wanted
    if wanted == OFFICIAL_RUNNER_IMAGE:
        return ensure(engine, "runner", home, events)
    from vmprov.errors import HostNotReady

    raise HostNotReady(
        f"the runner image {wanted} is not here and could not be pulled",
        hint="correct VMPROV_RUNNER_IMAGE, or unset it to use the default",
    )
