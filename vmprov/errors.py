"""Everything that vmprov raises.

::

    VmprovError                 what failed, on what, and what to do (``hint``)
    +-- SpecError               the request cannot be meant: all problems at once            exit 2
    |   +-- NotFound            it names a VM, lab, image or network that does not exist     exit 2
    |   +-- NameTaken           it names something that exists already                       exit 2
    +-- HostNotReady            Docker, libvirt, the state directory: not usable now         exit 3
    |   +-- DatabaseBroken      the records are damaged                                      exit 3
    +-- Failed                  an attempt was made and did not succeed                      exit 1
    |   +-- CommandFailed       another program exited with an error
    |   +-- LibvirtFailed       libvirt refused a call
    |   +-- ImageBroken         an image is truncated or not what its digest says
    |   +-- WaitTimeout         a deadline passed while waiting for something
    |   +-- InUse               something still depends on it
    |   +-- Protected           somebody said that it must stay as it is
    |   +-- OrchestratorFailed  the orchestrator refused, or could not be asked
    |       +-- Unreachable         no connection, or no answer in time
    |       +-- NotTrusted          its certificate cannot be verified
    |       +-- LoginRefused        user name, password or token are not accepted (401)
    |       +-- NotAllowed          the user may not do that (403)
    |       +-- NoSuchProject       there is no such project (404)
    |       +-- AlreadyRegistered   it has a host with that serial number already (409)
    |       +-- ServerFailed        an error of its own (5xx)
    |       +-- AnswerUnreadable    what it answers is no JSON, or JSON of another shape
    +-- NotFullyUndone          it failed, and parts of it could not be removed              exit 4
    +-- Interrupted             the user asked to stop                                       exit 130

Exceptions of other libraries (libvirtError, DockerException, sqlite3.Error, CalledProcessError) never
leave the module that imports that library; they become one of these with the original chained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class VmprovError(Exception):
    """What failed and on what; ``hint`` says what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str = "", passing: bool = False) -> None:
        """``passing``: the same attempt may well succeed a little later."""
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.passing = passing

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


class SpecError(VmprovError):
    """The request cannot be meant; ``problems`` holds every fault found, not only the first."""

    exit_code = 2

    def __init__(self, what: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(what, hint=hint)
        self.problems = tuple(problems) or (str(self),)


class NotFound(SpecError):
    """The request names something that does not exist."""


class NameTaken(SpecError):
    """The request names something that exists already."""


class HostNotReady(VmprovError):
    """The host, Docker or the state directory cannot be used now; ``passing``: who serves it may be starting anew."""

    exit_code = 3


class DatabaseBroken(HostNotReady):
    """The database is damaged."""


class Failed(VmprovError):
    """An attempt was made and did not succeed."""


class CommandFailed(Failed):
    """Another program exited with an error; ``output`` is the end of what it printed."""

    def __init__(self, what: str, *, hint: str = "", output: str = "") -> None:
        super().__init__(what, hint=hint)
        self.output = output


class LibvirtFailed(Failed):
    """libvirt refused a call; ``passing``: it was only busy."""


class ImageBroken(Failed):
    """An image file is truncated, of another format, or not what its digest says."""


class WaitTimeout(Failed):
    """A deadline passed while waiting for something."""


class InUse(Failed):
    """Something still depends on what was to be removed."""


class OrchestratorFailed(Failed):
    """The orchestrator refused, or could not be asked."""


class Unreachable(OrchestratorFailed):
    """There is no connection to the orchestrator, or no answer in time."""


class NotTrusted(OrchestratorFailed):
    """The orchestrator's certificate cannot be verified."""


class LoginRefused(OrchestratorFailed):
    """The orchestrator does not accept the user name, the password or the token."""


class NotAllowed(OrchestratorFailed):
    """The orchestrator's user may not do that."""


class NoSuchProject(OrchestratorFailed):
    """The orchestrator has no such project."""


class AlreadyRegistered(OrchestratorFailed):
    """The orchestrator has a host with that serial number already: ``host_id``, where that is known."""

    def __init__(self, what: str, *, hint: str = "", host_id: str = "") -> None:
        super().__init__(what, hint=hint)
        self.host_id = host_id


class ServerFailed(OrchestratorFailed):
    """The orchestrator has an error of its own."""


class AnswerUnreadable(OrchestratorFailed):
    """What the orchestrator answers is no JSON, or JSON of another shape."""


class Protected(Failed):
    """VMs would lose data, and are protected."""

    def __init__(self, *names: str, who: str = "") -> None:
        """``who``: what to call them, where it is clear whom this is about."""
        super().__init__(
            f"{who or ', '.join(names)} {'is' if len(names) == 1 else 'are'} protected",
            hint=f"allow it with: vmprov protect --off {' '.join(names)}",
        )


class NotFullyUndone(VmprovError):
    """It failed, and parts of what had been made could not be removed."""

    exit_code = 4


class Interrupted(VmprovError):
    """The user asked to stop."""

    exit_code = 130
