"""python-vagrant, running its commands in a container: nothing of Vagrant is needed on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from vmprov.containers.engine import OnLine
from vmprov.drivers.runner_container import RunnerContainer
from vmprov.errors import CommandFailed
from vmprov.waiting import Cancel, Deadline

# At import, python-vagrant warns on stderr that this machine has no vagrant. It needs none.
logging.getLogger("vagrant").setLevel(logging.ERROR)
import vagrant  # noqa: E402

_ENV = {
    "VAGRANT_HOME": "/.vagrant.d",
    "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    # No question to a server whether there is a newer Vagrant.
    "VAGRANT_CHECKPOINT_DISABLE": "1",
    "VAGRANT_DISABLE_STRICT_DEPENDENCY_ENFORCEMENT": "1",
    "VAGRANT_NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
}
_KEPT_LINES = 40


class ContainerVagrant(vagrant.Vagrant):
    """:class:`vagrant.Vagrant` for the Vagrantfile in ``root``; every line that vagrant prints goes to ``on_line``.

    A command that fails raises :class:`CommandFailed`, one that is cancelled or late
    :class:`vmprov.errors.Interrupted` or :class:`vmprov.errors.WaitTimeout`.
    """

    def __init__(
        self, root: Path, container: RunnerContainer, *, on_line: OnLine, deadline: Deadline, cancel: Cancel
    ) -> None:
        super().__init__(root=str(root), env=_ENV)  # type: ignore[no-untyped-call]
        self._container = container
        self._on_line = on_line
        self._deadline = deadline
        self._cancel = cancel

    def up_all(self, names: Sequence[str]) -> None:
        """Bring up several machines at once, in one process."""
        # What is left of a machine that failed is removed by who asked for it, from its records.
        options = ["--no-provision", "--no-destroy-on-error", "--no-install-provider", "--parallel"]
        self._call_vagrant_command(["up", *options, *names])

    def _make_vagrant_command(self, args: Sequence[str | None]) -> list[str]:
        return ["vagrant", *(word for word in args if word is not None)]

    def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
        self._run_vagrant_command(args)

    def _run_vagrant_command(self, args: Sequence[str | None]) -> str:
        printed: list[str] = []

        def take(line: str) -> None:
            printed.append(line)
            self._on_line(line)

        command = self._make_vagrant_command(args)
        code = self._container.run(
            command, workdir=Path(self.root), env=self.env, on_line=take,
            deadline=self._deadline, cancel=self._cancel,
        )  # fmt: skip
        if code != 0:
            raise CommandFailed(
                f"vagrant {command[1]} exited with {code}: {printed[-1].strip() if printed else 'it printed nothing'}",
                output="\n".join(printed[-_KEPT_LINES:]),
            )
        return "".join(f"{line}\n" for line in printed)

    def _stream_vagrant_command(self, args: Sequence[str | None]) -> Iterator[str]:
        yield from self._run_vagrant_command(args).splitlines(keepends=True)
