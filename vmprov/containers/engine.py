"""The only door to Docker Engine.

Errors of the Docker SDK become :class:`vmprov.errors.HostNotReady` (Docker can't be used) or
:class:`vmprov.errors.CommandFailed` (Docker refused, or something in a container failed).
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vmprov.errors import CommandFailed, HostNotReady, Interrupted, VmprovError, WaitTimeout
from vmprov.waiting import Cancel, Deadline

# Longer than any single build step or vagrant run; deadlines of ours come first.
_SOCKET_TIMEOUT = 3600
# Writes its own pid where we can find it, then becomes the program.
_LEAVE_PID = 'echo "$$" >"$0" && exec "$@"'
_SIGNAL_PID = 'kill -s "$1" "$(cat "$0")"'
_GRACE = 15.0

# Names the lock that is held while somebody needs a container of this label.
LOCK_LABEL = "vmprov.lock"
OnLine = Callable[[str], None]


@cache
def _sdk() -> Any:
    """The Docker SDK, imported at its first use: most commands never need it, and it is slow to load.

    Its transport raises exceptions of requests, which are all of :class:`OSError`.
    """
    import docker
    import docker.errors
    import docker.utils.socket

    return docker


@dataclass(frozen=True)
class Mount:
    """A directory or file of this machine, seen in the container at ``inside``."""

    outside: Path
    inside: str


@dataclass(frozen=True)
class ContainerSpec:
    """A long-lived container: always under an init that reaps, never with more privileges than listed."""

    name: str
    image: str
    labels: Mapping[str, str]
    command: Sequence[str] = ()
    mounts: Sequence[Mount] = ()
    devices: Sequence[str] = ()
    network: str = "bridge"
    hostname: str = ""
    privileged_like: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""


@dataclass(frozen=True)
class Container:
    """A container as Docker shows it; ``status`` in Docker's words (running, exited, ...)."""

    id: str
    name: str
    status: str
    image: str
    labels: Mapping[str, str]


class Engine:
    """One connection to Docker Engine, made at the first use; safe to use from several threads."""

    def __init__(self) -> None:
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def _docker(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect()
            return self._client

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()

    def version(self) -> str:
        """The engine's version; raises :class:`HostNotReady` where there is none."""
        with _failing("ask for its version"):
            return str(self._docker.version()["Version"])

    # images

    def has_image(self, name: str) -> bool:
        """Whether the engine holds the image."""
        with _failing(f"look for image {name}"):
            try:
                self._docker.images.get(name)
            except _sdk().errors.ImageNotFound:
                return False
            return True

    def pull(self, name: str) -> bool:
        """Fetch an image from its registry; ``False`` where no registry answers or has it."""
        repository, _, tag = name.partition(":")
        try:
            self._docker.images.pull(repository, tag=tag or "latest")
        except (_sdk().errors.DockerException, OSError):
            return False
        return True

    def tag(self, name: str, new_name: str) -> None:
        """Give an image a second name."""
        with _failing(f"tag image {name}"):
            self._docker.images.get(name).tag(new_name)

    def import_root(self, archive: Path, name: str) -> None:
        """Make an image of one layer from a tar archive of a root file system."""
        repository, _, tag = name.partition(":")
        with _failing(f"import image {name}"):
            self._docker.api.import_image_from_file(str(archive), repository=repository, tag=tag)

    def build(
        self,
        context: Path,
        name: str,
        *,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        on_line: OnLine,
    ) -> None:
        """Build an image from a directory with a Dockerfile; raises :class:`CommandFailed` with the last lines."""
        seen: list[str] = []
        with _failing(f"build image {name}"):
            for message in self._docker.api.build(
                path=str(context), tag=name, buildargs=dict(arguments), labels=dict(labels),
                rm=True, forcerm=True, decode=True,
            ):  # fmt: skip
                text = str(message.get("stream", "")).rstrip()
                if text:
                    seen.append(text)
                    on_line(text.splitlines()[-1])
                if "error" in message:
                    raise CommandFailed(
                        f"image {name} could not be built: {str(message['error']).strip()}",
                        hint="see that this machine reaches a package mirror, then try again",
                        output="\n".join(seen[-40:]),
                    )

    # containers

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        """Containers that carry all these labels, running or not."""
        with _failing("list containers"):
            wanted = [f"{key}={value}" for key, value in labels.items()]
            listed = self._docker.api.containers(all=True, filters={"label": wanted})
        return [
            Container(
                id=one["Id"],
                name=one["Names"][0].lstrip("/") if one["Names"] else one["Id"][:12],
                status=one["State"],
                image=one["Image"],
                labels=one["Labels"] or {},
            )
            for one in listed
        ]

    def start(self, spec: ContainerSpec) -> str:
        """Run a container in the background; returns its id. A stale one of the same name is replaced."""
        options: dict[str, Any] = {}
        if spec.privileged_like:
            # --privileged needs CAP_SYS_RESOURCE, which some machines do not have themselves.
            options = {
                "cap_add": ["ALL"],
                "cap_drop": ["SYS_RESOURCE"],
                "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
            }
        if spec.hostname:
            options["hostname"] = spec.hostname
        if spec.workdir:
            options["working_dir"] = spec.workdir
        with _failing(f"start container {spec.name}"):
            self.remove(spec.name)
            started = self._docker.containers.run(
                spec.image,
                list(spec.command) or None,
                name=spec.name,
                detach=True,
                init=True,
                labels=dict(spec.labels),
                environment=dict(spec.env),
                devices=list(spec.devices),
                network_mode=spec.network,
                volumes=[f"{mount.outside}:{mount.inside}" for mount in spec.mounts],
                **options,
            )
            return str(started.id)

    def run_to_end(self, spec: ContainerSpec, *, on_line: OnLine, deadline: Deadline, cancel: Cancel) -> int:
        """Run a container until its command ends, and remove it; returns the exit code."""
        container_id = self.start(spec)
        try:
            with (
                _watched(cancel, deadline, spec.name, lambda: self.remove(container_id)),
                _failing(f"read from container {spec.name}"),
            ):
                for line in _lines(self._docker.api.logs(container_id, stream=True, follow=True)):
                    on_line(line)
                return int(self._docker.api.wait(container_id)["StatusCode"])
        finally:
            self.remove(container_id)

    def status(self, name: str) -> str:
        """A container's status in Docker's words; empty where there is none."""
        with _failing(f"look at container {name}"):
            try:
                return str(self._docker.containers.get(name).status)
            except _sdk().errors.NotFound:
                return ""

    def incarnation(self, name: str) -> str:
        """What changes whenever a container is made or started anew; empty where there is none."""
        with _failing(f"look at container {name}"):
            try:
                shown = self._docker.api.inspect_container(name)
            except _sdk().errors.NotFound:
                return ""
            return f"{shown['Id']} {shown['State']['StartedAt']}"

    def address(self, name: str) -> str:
        """A running container's IPv4 address on Docker's default network; empty where it has none."""
        with _failing(f"look at container {name}"):
            try:
                shown = self._docker.api.inspect_container(name)
            except _sdk().errors.NotFound:
                return ""
            networks = shown["NetworkSettings"]["Networks"] or {}
            return str(networks.get("bridge", {}).get("IPAddress", ""))

    def logs(self, name: str, *, tail: int = 20) -> str:
        """The last lines that a container printed; empty where there is none."""
        with _failing(f"read the log of container {name}"):
            try:
                return bytes(self._docker.api.logs(name, tail=tail)).decode(errors="replace")
            except _sdk().errors.NotFound:
                return ""

    def remove(self, name: str) -> bool:
        """Kill and remove a container; ``False`` if there was none."""
        with _failing(f"remove container {name}"):
            try:
                self._docker.api.remove_container(name, force=True, v=True)
            except _sdk().errors.NotFound:
                return False
            except _sdk().errors.APIError as problem:
                if "already in progress" not in str(problem):
                    raise
            return True

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        on_line: OnLine,
        deadline: Deadline,
        cancel: Cancel | None = None,
        user: str = "",
        workdir: str = "",
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Run a program inside a running container, line by line; returns its exit code.

        When cancelled or late, the program gets SIGINT, then SIGKILL, and :class:`Interrupted` or
        :class:`WaitTimeout` is raised. Raises :class:`HostNotReady` if the container stops meanwhile.
        """
        token = cancel or Cancel()
        pid_file = f"/tmp/vmprov-{uuid.uuid4().hex}.pid"
        command = ["sh", "-c", _LEAVE_PID, pid_file, *argv]
        with _failing(f"run {argv[0]} in container {container}"):
            try:
                run = self._docker.api.exec_create(
                    container, command, user=user, workdir=workdir or None, environment=dict(env or {})
                )["Id"]
            except _sdk().errors.NotFound as problem:
                raise HostNotReady(f"container {container} does not run", hint="run: vmprov host up") from problem
            with _watched(token, deadline, argv[0], lambda: self._stop_exec(container, run, pid_file)):
                for line in _lines(self._exec_output(run)):
                    on_line(line)
            try:
                code = self._docker.api.exec_inspect(run)["ExitCode"]
            except _sdk().errors.NotFound:
                code = None
        if code is None or self.status(container) != "running":
            raise HostNotReady(f"container {container} stopped while {argv[0]} ran in it", hint="run: vmprov host up")
        return int(code)

    def _exec_output(self, run: str) -> Iterator[bytes]:
        """What a program in a container prints, both streams; closes the connection, which the SDK would not."""
        stream = self._docker.api.exec_start(run, socket=True)
        connection = stream._sock
        try:
            for _, data in _sdk().utils.socket.frames_iter(stream, tty=False):
                yield data
        finally:
            stream.close()
            connection.close()

    def _stop_exec(self, container: str, run: str, pid_file: str) -> None:
        for signal in ("INT", "KILL"):
            kill = self._docker.api.exec_create(container, ["sh", "-c", _SIGNAL_PID, pid_file, signal], user="root")
            self._docker.api.exec_start(kill["Id"], detach=True)
            grace = Deadline(_GRACE)
            while not grace.expired:
                if not self._docker.api.exec_inspect(run)["Running"]:
                    return
                threading.Event().wait(0.2)


def _connect() -> Any:
    try:
        _knock()
        return _sdk().from_env(timeout=_SOCKET_TIMEOUT, version="auto")
    except (_sdk().errors.DockerException, OSError) as problem:
        raise _unreachable(problem) from problem


def _knock() -> None:
    """Raise OSError where nobody listens at Docker's socket; the SDK would leave the one that it tried with open."""
    _, _, path = _sdk().utils.parse_host(os.environ.get("DOCKER_HOST")).partition("unix://")
    if path:
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(_SOCKET_TIMEOUT)
            knocking.connect(path)


def _unreachable(problem: Exception) -> HostNotReady:
    if "Permission denied" in str(problem):
        return HostNotReady(
            "Docker may not be used by this user: permission denied on its socket",
            hint="run: sudo usermod -aG docker $USER, then log in again",
        )
    return HostNotReady("Docker does not answer", hint="start it (systemctl start docker), or run scripts/setup")


@contextmanager
def _failing(doing: str) -> Iterator[None]:
    """Turn the SDK's exceptions into ours; our own pass."""
    try:
        yield
    except VmprovError:
        raise
    except _sdk().errors.APIError as problem:
        explanation = problem.explanation or str(problem)
        raise CommandFailed(f"Docker could not {doing}: {explanation}") from problem
    except (_sdk().errors.DockerException, OSError) as problem:
        raise _unreachable(problem) from problem


@contextmanager
def _watched(cancel: Cancel, deadline: Deadline, what: str, stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` from a second thread as soon as the work inside is cancelled or late, and say so after it."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            if cancel.is_set or deadline.expired:
                stop()
                return

    watcher = threading.Thread(target=watch, name=f"watch {what}", daemon=True)
    watcher.start()
    consequence: VmprovError | None = None
    try:
        yield
    except VmprovError as problem:
        consequence = problem
    finally:
        ended.set()
        watcher.join()
    if cancel.is_set:
        raise Interrupted(f"{what} was interrupted") from consequence
    if deadline.expired:
        raise WaitTimeout(f"{what} did not end within {deadline.seconds:.0f} s") from consequence
    if consequence is not None:
        raise consequence


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines of text, as soon as each is complete; carriage returns separate lines too (progress meters)."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace") for line in whole if line)
    if rest:
        yield rest.decode(errors="replace")
