"""The container in which vagrant runs: one per host, started on demand, kept until the host goes down.

It shares the host's network and libvirt socket and sees the state directory under its own name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine, Mount, OnLine
from vmprov.errors import CommandFailed, HostNotReady
from vmprov.events import Events
from vmprov.hosts import Host
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.settings import Settings
from vmprov.waiting import Cancel, Deadline, wait_until

_VAGRANT_HOME = "/.vagrant.d"
_SOCKETS = "/var/run/libvirt"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
_START_LIMIT = 60.0
_LOCK_LIMIT = 1800.0
# Runs once the image's entry point has made its user, so its existence says that the container can be used.
_READY = "/tmp/vmprov-ready"
_COMMAND = ("sh", "-c", 'touch "$0" && exec sleep infinity', _READY)
_PLACE = "vmprov.place"
# Kills whatever has its working directory there, until nothing has; the exit code says whether anything had.
_KILL_ALL = """
found=0
while :; do
    more=
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd") in
            "$1" | "$1 (deleted)" | "$1"/*) kill -KILL "${process#/proc/}" && more=yes ;;
        esac
    done 2>/dev/null
    [ -n "$more" ] || exit "$found"
    found=3
    sleep 0.05
done
"""
_KILLED = 3
_KILL_LIMIT = 30.0


class RunnerContainer:
    """See the module."""

    def __init__(self, engine: Engine, host: Host, home: Home, settings: Settings, installation: str) -> None:
        self._engine = engine
        self._host = host
        self._home = home
        self._settings = settings
        self._installation = installation

    @property
    def name(self) -> str:
        """The container's name."""
        return f"vmprov-runner-{self._installation}-{self._host.slug}"

    @property
    def labels(self) -> dict[str, str]:
        """What marks it as ours."""
        return {
            "vmprov.installation": self._installation,
            "vmprov.host": self._host.slug,
            "vmprov.role": "runner",
        }

    @property
    def user(self) -> str:
        """Who runs vagrant: the user that the image's entry point made for us, so that its files are ours."""
        return "root" if os.getuid() == 0 else "vagrant"

    def ensure(self, events: Events, *, cancel: Cancel | None = None) -> None:
        """Start the container unless it runs as it should; one that belongs to a host that is gone is replaced.

        Raises :class:`HostNotReady` where that is not possible.
        """
        # Under the lock even for a look: a container that runs already may not be ready yet.
        lock = self._home.lock(f"runner-{self._host.slug}")
        with exclusive(lock, Deadline(_LOCK_LIMIT), "the runner container", cancel=cancel):
            image = recipes.runner_image(self._engine, self._settings.runner_image, self._home, events)
            place = self._expected_place()
            if self._is_usable(place):
                return
            with events.step("start the runner container"):
                self._start(image, place, cancel)

    def run(
        self,
        argv: Sequence[str],
        *,
        workdir: Path,
        env: Mapping[str, str],
        on_line: OnLine,
        deadline: Deadline,
        cancel: Cancel | None = None,
    ) -> int:
        """Run a program in it, line by line; returns the exit code. See :meth:`Engine.exec`."""
        return self._engine.exec(
            self.name, argv, on_line=on_line, deadline=deadline, cancel=cancel,
            user=self.user, workdir=str(workdir), env=env,
        )  # fmt: skip

    def kill_all(self, workdir: Path) -> bool:
        """Kill everything that works in a directory; says whether there was anything."""
        try:
            if self._engine.status(self.name) != "running":
                return False
            argv = ["sh", "-c", _KILL_ALL, "sh", str(workdir)]
            code = self._engine.exec(
                self.name, argv, on_line=lambda _line: None, deadline=Deadline(_KILL_LIMIT), user="root", workdir="/"
            )
        except HostNotReady:
            # Without Docker, nothing runs in its containers.
            return False
        return code == _KILLED

    def _is_usable(self, place: str) -> bool:
        found = self._engine.find(self.labels)
        return any(one.status == "running" and one.labels.get(_PLACE) == place for one in found)

    def _expected_place(self) -> str:
        """All that a container is bound to for its life: image, mounts, and one run of the network's container."""
        place = self._host.runner_place()
        parts = [self._image(), place.network, str(place.libvirt_sockets), *(str(mount) for mount in self._mounts())]
        kind, _, container = place.network.partition(":")
        if kind == "container":
            parts.append(self._engine.incarnation(container))
        parts += [f"{name}={value}" for name, value in _proxies()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def _image(self) -> str:
        wanted = self._settings.runner_image
        return wanted if self._engine.has_image(wanted) else recipes.image_name("runner")

    def _mounts(self) -> list[Mount]:
        root, run = self._home.root, self._home.run
        outside_root = [] if run.is_relative_to(root) else [run]
        return [
            *(Mount(directory, str(directory)) for directory in [root, *outside_root]),
            Mount(self._home.vagrant_home(self._host.slug), _VAGRANT_HOME),
            Mount(self._host.runner_place().libvirt_sockets, _SOCKETS),
        ]

    def _start(self, image: str, place: str, cancel: Cancel | None) -> None:
        labs = self._home.root / "labs"
        for directory in (labs, self._home.run, self._home.vagrant_home(self._host.slug)):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        spec = ContainerSpec(
            name=self.name,
            image=image,
            labels={**self.labels, _PLACE: place},
            command=_COMMAND,
            mounts=self._mounts(),
            network=self._host.runner_place().network,
            env={"IGNORE_RUN_AS_ROOT": "1", **dict(_proxies())},
            workdir=str(labs),
        )
        try:
            self._engine.start(spec)
        except CommandFailed as problem:
            raise HostNotReady(
                f"the runner container could not be started: {problem.what}", hint="run: vmprov host up"
            ) from problem
        wait_until(
            self._answers, Deadline(_START_LIMIT), "sign of life from the runner container",
            cancel=cancel, interval=0.05, hint=f"see: docker logs {self.name}",
        )  # fmt: skip

    def _answers(self) -> bool:
        if self._engine.status(self.name) != "running":
            said = self._engine.logs(self.name).strip().splitlines()
            raise HostNotReady(
                f"the runner container stopped: {said[-1] if said else 'it said nothing'}",
                hint=f"see: docker logs {self.name}",
            )
        test = ["test", "-e", _READY]
        return self._engine.exec(self.name, test, on_line=lambda _line: None, deadline=Deadline(_START_LIMIT)) == 0


def _proxies() -> Iterator[tuple[str, str]]:
    """This machine's proxies, in both spellings; either one counts here."""
    for name in _PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            yield name, value
            yield name.upper(), value
