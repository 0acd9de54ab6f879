"""What a flow file may hold.

A flow is a list of stages. The machine is *in* a stage until one of the patterns that the stage expects is seen;
then it sends what that pattern says, and enters the next stage. Passing the last one is success - nothing else is.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vmprov.spec.names import check_flow_name, check_stage_name
from vmprov.spec.quantities import parse_duration

# The stage that ``next`` may name although no flow has one of that name.
SUCCESS = "success"


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_duration)]
Name = Annotated[str, AfterValidator(check_stage_name)]
Console = Annotated[int, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Pattern(_Model):
    """What is looked for; exactly one of ``text``, ``regex`` and ``prompt`` is given.

    ``text`` -- these characters, anywhere in a line.
    ``regex`` -- an RE2 expression (https://github.com/google/re2/wiki/Syntax), which takes linear time whatever it is.
    ``prompt`` -- these characters at the end of a line that has no end yet and has stood still for ``settle`` seconds.
    ``console`` -- only on this UART; all of the flow's where not given.
    """

    text: Annotated[str, Field(min_length=1)] | None = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    console: Console | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Pattern:
        if sum(kind is not None for kind in (self.text, self.regex, self.prompt)) != 1:
            raise ValueError("exactly one of text, regex and prompt must be given")
        return self


class Input(_Model):
    """Something to type; exactly one field is given, and in a file a plain string stands for ``line``.

    ``line`` -- this and the Enter key (a carriage return). ``text`` -- this alone.
    ``secret`` -- a secret by its name in ``secrets``, and the Enter key. ``key`` -- such as ``ctrl-c``, ``enter``, ``esc``.
    ``pause`` -- nothing, for so many seconds.
    """

    line: str | None = None
    text: Annotated[str, Field(min_length=1)] | None = None
    secret: Name | None = None
    key: str | None = None
    pause: Seconds | None = None


class Expectation(Pattern):
    """One way to pass a stage: the pattern, what is sent when it is seen, and the stage that comes then.

    ``send`` goes to the UART on which the pattern was seen. ``next``: a stage's name or ``success``; the following
    stage where not given.
    """

    send: tuple[Input, ...] = ()
    next: Name | None = None


class Failure(Pattern):
    """A line that means failure: ``class`` names the kind, such as ``kernel-panic``; ``why`` says it in words."""

    failure_class: Name = Field(alias="class")
    why: str = ""


class Recovery(Pattern):
    """A known trap and the way out: type something and go back to a stage, ``budget`` times at most in one run.

    ``name`` shows in the timeline. ``during``: only in these stages; in all of them where empty.
    A trap met once more than the budget allows is a failure of class ``class`` (default: ``name``).
    """

    name: Name
    send: tuple[Input, ...]
    next: Name
    budget: Annotated[int, Field(ge=1, le=100)] = 1
    during: tuple[Name, ...] = ()
    failure_class: Name | None = Field(default=None, alias="class")


class Secret(_Model):
    """Where a secret comes from; the first place that has it counts: ``env``, then ``file``, then ``ask``.

    ``env`` -- an environment variable. ``file`` -- a path whose first line is the secret. ``ask`` -- the question to put
    to whoever sits at the terminal. ``vm`` may stand in ``env`` and ``file`` as ``{vm}``.
    """

    env: str | None = None
    file: str | None = None
    ask: str | None = None


class Stage(_Model):
    """One stage.

    ``expect`` -- the patterns of which any passes it. ``limit`` -- seconds that the machine may stay in it; without, only the
    flow's own limit counts.
    ``optional`` -- passed over when the next stage that must come (or an optional one on the way to it) is seen
    instead, or when the limit is up.
    ``nudge`` -- press Enter after so many seconds without a byte, again and again: for consoles that say nothing until asked.
    ``fail`` -- lines that mean failure in this stage. ``ignore`` -- failure classes that mean nothing in this stage.
    """

    stage: Name
    expect: Annotated[tuple[Expectation, ...], Field(min_length=1)]
    limit: Annotated[Seconds, Field(gt=0)] | None = None
    optional: bool = False
    nudge: Annotated[Seconds, Field(gt=0)] | None = None
    fail: tuple[Failure, ...] = ()
    ignore: tuple[Name, ...] = ()


class Flow(_Model):
    """A flow file.

    ``flow`` -- its name. ``consoles`` -- the UARTs that it listens to. ``limit`` -- seconds for all stages together.
    ``settle`` -- seconds for which an unfinished line has to stand still to be taken for a prompt.
    ``pacing`` -- seconds between two characters that are sent, for UARTs that lose them otherwise.
    ``boots`` -- firmware starts without a new stage in between from which on it is a reboot loop.
    ``recover``, ``fail``, ``ignore`` -- as in a stage, but at all times. ``secrets`` -- by name, what ``send`` may refer to.
    """

    flow: Annotated[str, AfterValidator(check_flow_name)]
    description: str = ""
    consoles: Annotated[tuple[Console, ...], Field(min_length=1)] = (0,)
    limit: Annotated[Seconds, Field(gt=0)] | None = None
    settle: Annotated[Seconds, Field(ge=0.05, le=60)] = 0.3
    pacing: Annotated[Seconds, Field(ge=0, le=5)] = 0.0
    boots: Annotated[int, Field(ge=2, le=100)] = 4
    secrets: dict[Name, Secret] = Field(default_factory=dict)
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    recover: tuple[Recovery, ...] = ()
    fail: tuple[Failure, ...] = ()
    ignore: tuple[Name, ...] = ()
