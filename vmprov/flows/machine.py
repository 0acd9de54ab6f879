"""The state machine that judges consoles: (bytes, time) in, actions and at last a verdict out.

Of several patterns that fit one line, that counts which comes first here:

1. a failure of the stage, then one of the flow - whoever wrote the flow knows more than the signatures do;
2. a recovery: it names a trap and the way out of it;
3. a signature that is a line;
4. prompts, those of expectations and of signatures: the longest, and of two equal ones the expectation's, so that a
   flow may await ``grub>``;
5. an expectation: those of the stage before those of later ones, in the order of the file.

While a stage is optional, what the next one expects (and fails on) counts as well, and so on. ``ignore`` switches
off signatures, the flow's own failures, and ``reboot-loop``, by class. The first line of an ignored signature is
remembered until something that is expected is seen: if a recovery has no budget left before that, it is the reason.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from vmprov.flows.grammar import SUCCESS, Expectation, Failure, Flow, Input, Pattern, Recovery, Stage
from vmprov.flows.matcher import Console, FirmwareStart, Hit, Rule, Watch
from vmprov.flows.nearest import in_words, nearest
from vmprov.flows.signatures import shipped_signatures
from vmprov.flows.verdict import Kind, StageTime, Verdict

REBOOT_LOOP = "reboot-loop"
# Lines that a verdict shows after a timeout, and that are compared with what was awaited.
_LAST_LINES = 20
_COMPARED_LINES = 200
# Characters of a line that a verdict shows.
_WIDTH = 500
# Bytes of clean lines that are kept for that.
_KEPT = 128 * 1024


@dataclass(frozen=True)
class Entered:
    """A stage began, the first one too; ``at`` -- in the caller's time."""

    stage: str
    at: float


@dataclass(frozen=True)
class Send:
    """Type ``inputs`` on ``console``; ``number`` counts from 1 in a run, ``stage`` and ``why`` say what it answers."""

    number: int
    console: int
    inputs: tuple[Input, ...]
    at: float
    stage: str
    why: str


@dataclass(frozen=True)
class Decided:
    """The end; nothing comes after this. ``at`` -- in the caller's time."""

    verdict: Verdict
    at: float


Action: TypeAlias = Entered | Send | Decided
_Due = Literal["at rest", "stage", "flow", "nudge"]


class Machine:
    """Judges one run of a flow.

    Times are seconds from any origin, the caller's; one that lies before an earlier one is taken for the earlier one.
    Each call first lets time pass up to then, so that limits end and prompts settle at their own times, not at those of
    calls. It returns what to do, in order. After the verdict nothing has an effect.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        signatures: Sequence[Failure] | None = None,
        start: float = 0.0,
        limit: float | None = None,
    ) -> None:
        """``start``: when the run began. ``limit``: seconds for all of it, if the flow's own limit is not shorter.

        ``signatures``: what means failure besides what the flow says; those that come with vmprov where not given.
        """
        self._flow = flow
        self._signatures = shipped_signatures() if signatures is None else tuple(signatures)
        self._start = self._now = start
        self._limit = min((one for one in (flow.limit, limit) if one is not None), default=None)
        self._places = {stage.stage: place for place, stage in enumerate(flow.stages)}
        self._lines: deque[bytes] = deque()
        self._kept = 0
        self._consoles = {number: Console(number, flow.settle, self._keep, start) for number in flow.consoles}
        self._watches: dict[tuple[int, int, bool], Watch] = {}
        self._used: Counter[str] = Counter()
        self._starts: Counter[int] = Counter()
        self._idle_starts: Counter[int] = Counter()
        self._sent = 0
        # The first failure that the flow ignores since anything that it expects was seen, and in which stage.
        self._let_pass: tuple[Hit, str] | None = None
        self._nudged = start
        self._furthest = -1
        self._stays: list[StageTime] = []
        self._actions: list[Action] = []
        self.verdict: Verdict | None = None
        self._enter(0)

    def feed(self, console: int, offset: int, data: bytes, at: float) -> list[Action]:
        """``data`` was seen, which begins at byte ``offset`` of the capture of UART ``console``.

        What was fed before is passed over; where bytes are missing, a line ends. UARTs that the flow does not listen to
        are ignored.
        """
        self._pass(at)
        source = self._consoles.get(console)
        if self.verdict is None and source is not None:
            for found in source.feed(offset, data, self._now, lambda: self._watch(console)):
                self._take(found)
                while self.verdict is None and self._judge_at_rest():
                    pass
                if self.verdict is not None:
                    break
        return self._flush()

    def tick(self, at: float) -> list[Action]:
        """Time passed."""
        self._pass(at)
        return self._flush()

    def cancel(self, at: float) -> list[Action]:
        """The user asked to stop."""
        self._pass(at)
        if self.verdict is None:
            self._leave("cancelled")
            self._decide(Verdict("cancelled", self.stage, why="the run was cancelled"))
        return self._flush()

    @property
    def next_tick(self) -> float | None:
        """When :meth:`tick` must be called at the latest if no bytes come before; ``None``: never."""
        return None if self.verdict else min((when for when, _ in self._due()), default=None)

    @property
    def stage(self) -> str:
        """The stage that it is in, or in which it ended."""
        return self._flow.stages[self._place].stage

    @property
    def timeline(self) -> tuple[StageTime, ...]:
        """Each stay in a stage, in order."""
        return tuple(self._stays)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The patterns that would lead out of the stage, in words."""
        return tuple(in_words(pattern) for pattern in self._expected())

    @property
    def boot(self) -> int:
        """How many times firmware has started, from 1; where several UARTs show it, the most that one of them shows."""
        return max(1, *self._starts.values(), 1)

    def last_lines(self, count: int = _LAST_LINES) -> list[str]:
        """The last lines of all UARTs that are not blank, clean, with what is not finished at the end."""
        pending = [line for console in self._consoles.values() for line in console.pending.split(b"\n")]
        found = [line for line in reversed(pending) if line.strip()]
        for block in reversed(self._lines):
            if len(found) >= count:
                break
            found += [line for line in reversed(block.split(b"\n")) if line.strip()]
        return [_shown(line) for line in reversed(found[:count])]

    def _keep(self, block: bytes) -> None:
        if not block.strip():
            return
        self._lines.append(block)
        self._kept += len(block)
        while self._kept - len(self._lines[0]) >= _KEPT:
            self._kept -= len(self._lines.popleft())

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # Time

    def _due(self) -> Iterator[tuple[float, _Due]]:
        """What comes of itself, and when; of things at one time the first counts."""
        for console in self._consoles.values():
            when = console.deadline(len(self._stays))
            if when is not None:
                yield when, "at rest"
        stage = self._flow.stages[self._place]
        if stage.limit is not None:
            yield self._entered + stage.limit, "stage"
        if self._limit is not None:
            yield self._start + self._limit, "flow"
        if stage.nudge is not None:
            heard = self._consoles[self._flow.consoles[0]].last_byte
            yield max(heard, self._entered, self._nudged) + stage.nudge, "nudge"

    def _pass(self, at: float) -> None:
        """Let time pass: what is due until then happens at its time."""
        while self.verdict is None:
            due = min(self._due(), key=lambda one: one[0], default=None)
            if due is None or due[0] > at:
                break
            when, what = due
            self._now = max(self._now, when)
            if what == "at rest":
                self._judge_at_rest()
            elif what == "nudge":
                # What nobody called in time for is not made up for.
                self._nudged = at
                nudge = self._flow.stages[self._place].nudge
                self._send(self._flow.consoles[0], (Input(line=""),), f"{nudge:g} s without a byte")
            elif what == "stage" and self._flow.stages[self._place].optional and self._place + 1 < len(self._places):
                self._leave("skipped")
                self._enter(self._place + 1)
            else:
                self._time_out(what)
        if self.verdict is None:
            self._now = max(self._now, at)

    def _judge_at_rest(self) -> bool:
        """Look at the first line that has stood still long enough; whether there was one."""
        asker = len(self._stays)
        waiting = {number: console.deadline(asker) for number, console in self._consoles.items()}
        due = [(when, number) for number, when in waiting.items() if when is not None and when <= self._now]
        if not due:
            return False
        console = self._consoles[min(due)[1]]
        hit = console.judge(self._now, asker, self._watch(console.number))
        if hit:
            self._take(hit)
        return True

    # Patterns

    def _reachable(self) -> range:
        """The places of the stage and of those that may be seen instead of it."""
        stages = self._flow.stages
        last = next((place for place in range(self._place, len(stages)) if not stages[place].optional), len(stages) - 1)
        return range(self._place, last + 1)

    def _expected(self) -> list[Expectation]:
        return [one for place in self._reachable() for one in self._flow.stages[place].expect]

    def _watch(self, console: int) -> Watch:
        noting = self._let_pass is None
        key = (self._place, console, noting)
        if key not in self._watches:
            rules = [
                rule for rule in self._rules() if rule.pattern.console in (None, console) and (noting or not rule.noted)
            ]
            self._watches[key] = Watch(rules)
        return self._watches[key]

    def _rules(self) -> Iterator[Rule]:
        flow, places = self._flow, self._reachable()
        stages = [(place, flow.stages[place]) for place in places]
        ignored = self._ignored()
        order = iter(range(1_000_000))
        for place, stage in stages:
            yield from (Rule(failure, place, (1, 0, 0, next(order))) for failure in stage.fail)
        names = {stage.stage for _, stage in stages}
        recoveries = [one for one in flow.recover if not one.during or names & set(one.during)]
        yield from (Rule(one, -1, (2, 0, 0, next(order))) for one in flow.fail if one.failure_class not in ignored)
        yield from (Rule(one, -1, (3, 0, 0, next(order))) for one in recoveries)
        for signature in self._signatures:
            if signature.failure_class not in ignored:
                yield Rule(signature, -1, _rank(signature, 4, 1, next(order)))
            elif signature.prompt is None:
                yield Rule(signature, -1, (7, 0, 1, next(order)), noted=True)
        for place, stage in stages:
            yield from (Rule(one, place, _rank(one, 6, 0, next(order))) for one in stage.expect)

    def _ignored(self) -> set[str]:
        return {*self._flow.ignore, *self._flow.stages[self._place].ignore}

    # What was found

    def _take(self, found: Hit | FirmwareStart) -> None:
        if isinstance(found, FirmwareStart):
            self._firmware_starts(found)
            return
        pattern = found.rule.pattern
        if found.rule.noted:
            self._let_pass = self._let_pass or (found, self.stage)
        elif isinstance(pattern, Failure):
            self._fail(pattern.failure_class, pattern.why or f"{in_words(pattern)} means failure", found)
        elif isinstance(pattern, Recovery):
            self._recover(pattern, found)
        elif isinstance(pattern, Expectation):
            self._advance(found.rule.stage, pattern, found)

    def _firmware_starts(self, found: FirmwareStart) -> None:
        self._starts[found.console] += 1
        self._idle_starts[found.console] += 1
        count = self._idle_starts[found.console]
        if count >= self._flow.boots and REBOOT_LOOP not in self._ignored():
            self._fail(REBOOT_LOOP, f"the firmware started {count} times and no new stage was reached", found)

    def _recover(self, recovery: Recovery, found: Hit) -> None:
        self._used[recovery.name] += 1
        used = self._used[recovery.name]
        if used > recovery.budget:
            times = "once" if recovery.budget == 1 else f"{recovery.budget} times"
            why = f"{in_words(recovery)} came again after the way out of it ({recovery.name}) was taken {times}"
            self._give_up(recovery.failure_class or recovery.name, why, found)
            return
        self._send(found.console, recovery.send, f"recovery {recovery.name}, {used} of {recovery.budget}")
        # Firmware shows one prompt on all UARTs, and wants one answer.
        for number, console in self._consoles.items():
            if number != found.console and found.rule.pattern.console in (None, number):
                console.be_done_with(found.rule)
        self._leave("recovered")
        # What was typed may well restart the machine; that is no loop.
        self._idle_starts.clear()
        self._go_to(recovery.next, found)

    def _give_up(self, failure: str, why: str, found: Hit) -> None:
        """Fail; where failures were let pass since anything went on, with the first of them, which is the reason."""
        if self._let_pass is None:
            self._fail(failure, why, found)
            return
        reason, stage = self._let_pass
        signature = reason.rule.pattern
        assert isinstance(signature, Failure)
        self._leave("failed")
        why = f"{signature.why} {why}"
        self._decide(_verdict("failed", stage, reason, why=why, failure_class=signature.failure_class))

    def _advance(self, place: int, expectation: Expectation, found: Hit) -> None:
        """``place`` -- of the stage whose expectation it is: this one, or one that may be seen instead."""
        self._let_pass = None
        if place != self._place:
            self._leave("skipped")
            for passed_over in range(self._place + 1, place):
                self._stays.append(self._stay(passed_over, "skipped"))
            self._enter(place)
        self._send(found.console, expectation.send, f"{in_words(expectation)} was seen")
        self._leave("passed")
        following = self._flow.stages[place + 1 : place + 2]
        self._go_to(expectation.next or (following[0].stage if following else SUCCESS), found)

    def _go_to(self, name: str, found: Hit) -> None:
        if name == SUCCESS:
            self._decide(_verdict("success", self.stage, found, why="the last stage was passed"))
        else:
            self._enter(self._places[name])

    def _fail(self, failure: str, why: str, found: Hit | FirmwareStart) -> None:
        self._leave("failed")
        self._decide(_verdict("failed", self.stage, found, why=why, failure_class=failure))

    # Stages

    def _stay(self, place: int, outcome: str = "") -> StageTime:
        at = self._now - self._start
        return StageTime(self._flow.stages[place].stage, at, at if outcome else None, outcome, self.boot)

    def _enter(self, place: int) -> None:
        self._place = place
        self._entered = self._now
        if place > self._furthest:
            self._furthest = place
            self._idle_starts.clear()
        self._stays.append(self._stay(place))
        self._actions.append(Entered(self.stage, self._now))

    def _leave(self, outcome: str) -> None:
        self._stays[-1] = replace(self._stays[-1], end=self._now - self._start, outcome=outcome)

    def _send(self, console: int, inputs: tuple[Input, ...], why: str) -> None:
        if inputs:
            self._sent += 1
            self._actions.append(Send(self._sent, console, inputs, self._now, self.stage, why))

    def _time_out(self, what: _Due) -> None:
        lines = self.last_lines(_COMPARED_LINES)
        limit = self._limit if what == "flow" else self._flow.stages[self._place].limit
        whose = "the run" if what == "flow" else f"the stage {self.stage}"
        stayed = self._now - self._entered
        expected = self._expected()
        # What has to come, rather than what might come before it.
        needed = self._flow.stages[self._reachable()[-1]].expect
        awaited = " or ".join(in_words(pattern) for pattern in needed[:4]) + (" or others" if needed[4:] else "")
        why = f"waited {stayed:.1f} s for {awaited} in stage {self.stage}; the limit of {whose}, {limit:g} s, is up"
        near = nearest(expected, lines)
        if near:
            why += f"; nearest to it came {near!r}"
        self._leave("timeout")
        self._decide(Verdict("timeout", self.stage, why=why, last_lines=tuple(lines[-_LAST_LINES:])))

    def _decide(self, verdict: Verdict) -> None:
        self.verdict = replace(verdict, at=self._now - self._start)
        self._actions.append(Decided(self.verdict, self._now))


def watch_only(consoles: tuple[int, ...] = (0,)) -> Flow:
    """A flow in which nothing is success: for looking on until something fails."""
    never = Expectation(regex=r"[^\x00-\x{10FFFF}]")
    return Flow(flow="watch", consoles=consoles, stages=(Stage(stage="watching", expect=(never,)),))


def _rank(pattern: Pattern, line: int, shipped: int, order: int) -> tuple[int, ...]:
    if pattern.prompt is not None:
        return (5, -len(pattern.prompt), shipped, order)
    return (line, 0, shipped, order)


def _shown(line: bytes, place: int = 0) -> str:
    """A line for people: of a long one that part in which something was found."""
    if len(line) <= _WIDTH:
        return line.decode("utf-8", "ignore")
    begin = max(0, min(place - _WIDTH // 4, len(line) - _WIDTH))
    end = begin + _WIDTH
    text = line[begin:end].decode("utf-8", "ignore")
    return ("..." if begin else "") + text + ("..." if end < len(line) else "")


def _verdict(kind: Kind, stage: str, found: Hit | FirmwareStart, *, why: str, failure_class: str = "") -> Verdict:
    evidence = _shown(found.line.text, found.rule.place(found.line) if isinstance(found, Hit) else 0)
    return Verdict(kind, stage, failure_class, evidence, found.console, found.line.offset, why)
