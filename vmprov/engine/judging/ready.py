"""Ready means proven: the flow's success marker is seen, or SSH answers with the lab's key. Silence never is.

Whatever the proof, the consoles are watched: a known failure line ends the wait at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pydantic import SecretStr

from vmprov import ssh
from vmprov.engine.context import Context
from vmprov.engine.judging.watch import INTERVAL, LAG, Beginning, VMWire, Watch
from vmprov.errors import Failed, HostNotReady, Interrupted, LibvirtFailed, VmprovError, WaitTimeout
from vmprov.flows.grammar import Expectation, Flow, Stage
from vmprov.flows.load import load_flow
from vmprov.flows.verdict import StageTime, Verdict
from vmprov.hypervisor import DomainState
from vmprov.images import Image
from vmprov.locks import Turn
from vmprov.store import VMRecord
from vmprov.waiting import Cancel, Deadline

# Seconds between two attempts to log in.
_SSH_INTERVAL = 0.3
# Asking libvirt whether the domain still runs costs little, but not nothing.
_STATE_INTERVAL = 2.0
# Seconds for which libvirt may be silent while consoles tell enough.
_UNHEARD_LIMIT = 15.0
_NEVER = "\0"


@dataclass(frozen=True)
class Judged:
    """How it went for one VM: the verdict, the timeline, and the address if one is known."""

    verdict: Verdict
    timeline: tuple[StageTime, ...]
    address: str


def proof_of(vm: VMRecord, flow: Flow | None) -> tuple[Flow, str]:
    """What the VM's consoles are watched for, and what counts as proof: ``flow``, ``ssh``, or ``none``."""
    if flow is not None:
        return flow, "flow"
    login = _login_flow()
    if vm.login == "console":
        return login, "flow"
    return _observing(login), vm.login


@cache
def _login_flow() -> Flow:
    return load_flow("login")


@cache
def _observing(flow: Flow) -> Flow:
    """The same stages, none of which has to come or ends anything."""
    stages = [stage.model_copy(update={"optional": True, "limit": None, "nudge": None}) for stage in flow.stages]
    # NULs are taken out of what consoles send, so that this stage lasts until somebody else is satisfied.
    last = Stage(stage="ssh", expect=(Expectation(text=_NEVER),))
    return flow.model_copy(update={"flow": "ssh", "limit": None, "stages": (*stages, last)})


def judge(
    ctx: Context,
    vm: VMRecord,
    image: Image | None,
    flow: Flow,
    beginning: Beginning,
    secrets: Mapping[str, SecretStr],
    *,
    told: Callable[[], str] | None = None,
) -> Judged:
    """Watch a VM that was powered on until there is a verdict.

    ``told``: why it failed, if somebody else than its consoles says that it did: its orchestrator.
    Never raises for what happens to the VM; an interruption is the verdict ``cancelled``.
    """
    if beginning.proof == "none":
        return Judged(Verdict("success"), (), vm.address)
    watch = Watch(
        flow,
        beginning,
        VMWire(ctx, vm, [console for console in flow.consoles if console < vm.consoles], beginning.offsets),
        turn=Turn(ctx.home.lock(f"watch-{vm.name}")),
        directory=ctx.home.vm(vm.name),
        secrets=secrets,
        entered=lambda stage, at: ctx.stage(vm.name, stage, started=at),
        cancel=ctx.cancel,
        lag=LAG if ctx.settings.keeper else 0.0,
    )
    try:
        return _Judge(ctx, vm, image, watch, beginning, told).run()
    finally:
        watch.close()


class NotReady(Failed):
    """A VM's verdict is not success."""

    def __init__(self, judged: Judged) -> None:
        super().__init__(judged.verdict.why)
        self.judged = judged


def failure_of(judged: Judged) -> VmprovError:
    """The error that says what a verdict other than success means."""
    verdict = judged.verdict
    kinds: dict[str, type[VmprovError]] = {"timeout": WaitTimeout, "cancelled": Interrupted}
    return kinds.get(verdict.kind, Failed)(verdict.why)


class _Judge:
    def __init__(
        self,
        ctx: Context,
        vm: VMRecord,
        image: Image | None,
        watch: Watch,
        beginning: Beginning,
        told: Callable[[], str] | None,
    ) -> None:
        self._told = told
        self._ctx = ctx
        self._vm = vm
        self._watch = watch
        self._login = _Login(ctx, vm, image.user if image else "") if beginning.proof == "ssh" else None
        self._state_check = Deadline(0)
        self._unheard = Deadline(_UNHEARD_LIMIT)

    def run(self) -> Judged:
        try:
            verdict = self._wait()
        except Interrupted as problem:
            self._watch.cancel()
            verdict = Verdict("cancelled", stage=self._watch.machine.stage, why=str(problem), at=self._watch.seconds)
        except VmprovError as problem:
            verdict = self._failure(problem)
        finally:
            if self._login:
                self._login.stop()
        if verdict.kind == "timeout":
            awaited = f"{self._login.awaited}; " if self._login else ""
            verdict = replace(verdict, why=f"{awaited}{verdict.why}; {_last_words(verdict.last_lines)}")
        verdict = self._watch.redacted(verdict)
        address = self._login.address if self._login else self._known_address()
        return Judged(verdict, self._watch.finish(verdict), address)

    def _wait(self) -> Verdict:
        while True:
            self._ctx.cancel.check()
            verdict = self._watch.look()
            if verdict is not None:
                return verdict
            if self._login and self._login.answered:
                return Verdict("success", stage="ssh", at=self._watch.seconds)
            if self._told is not None and (why := self._told()):
                raise _Told(f"its orchestrator says: {why}")
            if self._state_check.expired:
                self._check_alive()
            self._ctx.cancel.sleep(INTERVAL)

    def _check_alive(self) -> None:
        self._state_check = Deadline(_STATE_INTERVAL)
        try:
            state = self._ctx.hypervisor.domain(self._vm.domain).state
        except HostNotReady as problem:
            # Machines outlive a libvirtd that starts anew.
            if problem.passing and not self._unheard.expired:
                return
            raise
        self._unheard = Deadline(_UNHEARD_LIMIT)
        if state is not DomainState.RUNNING:
            # What it said at last may tell why.
            self._watch.look()
            raise _Stopped(f"it is {state} instead of running")

    def _failure(self, problem: VmprovError) -> Verdict:
        if self._watch.verdict:
            return self._watch.verdict
        machine = self._watch.machine
        lines = tuple(machine.last_lines())
        return Verdict(
            "timeout" if isinstance(problem, WaitTimeout) else "failed",
            stage=machine.stage,
            failure_class=_class(problem),
            why=f"{problem}; {_last_words(lines)}",
            last_lines=lines,
            at=self._watch.seconds,
        )

    def _known_address(self) -> str:
        if self._vm.address:
            return self._vm.address
        try:
            known = self._ctx.hypervisor.domain_addresses(self._vm.domain, self._vm.mac)
        except VmprovError:
            return ""
        return known[0] if known else ""


class _Told(Failed):
    """The orchestrator gave up on it."""


class _Stopped(Failed):
    """The machine is off."""


def _class(problem: VmprovError) -> str:
    """The class of a failure that no console told."""
    if isinstance(problem, WaitTimeout):
        return ""
    if isinstance(problem, _Stopped):
        return "stopped"
    if isinstance(problem, _Told):
        return "provisioning-failed"
    return "libvirt" if isinstance(problem, LibvirtFailed) else "console"


def _last_words(lines: Sequence[str]) -> str:
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"its last serial line: {last!r}"


class _Login:
    """Tries to log in by SSH, in a thread of its own: an attempt may take seconds, a verdict must not."""

    def __init__(self, ctx: Context, vm: VMRecord, user: str) -> None:
        self._ctx = ctx
        self._vm = vm
        self._user = user
        self._cancel = Cancel()
        self._why = "no DHCP lease yet"
        self.address = vm.address
        self.answered = False
        threading.Thread(target=self._run, name=f"ssh-{vm.name}", daemon=True).start()

    @property
    def awaited(self) -> str:
        """What was waited for, and what the last attempt met."""
        return f"no SSH answer with the lab's key: {self._why}"

    def stop(self) -> None:
        """Try no more."""
        self._cancel.set()

    def _run(self) -> None:
        prober: ssh.Prober | None = None
        try:
            while not self.answered:
                self._cancel.sleep(_SSH_INTERVAL)
                try:
                    if prober is None and self._has_address():
                        prober = self._prober()
                    if prober is not None:
                        probe = prober.probe()
                        self.answered, self._why = probe.ok, probe.why
                except Interrupted:
                    raise
                except VmprovError as problem:
                    self._why = str(problem)
        except Interrupted:
            return

    def _has_address(self) -> bool:
        if not self.address:
            known = self._ctx.hypervisor.domain_addresses(self._vm.domain, self._vm.mac)
            self.address = known[0] if known else ""
        return bool(self.address)

    def _prober(self) -> ssh.Prober:
        login = ssh.Login(
            address=self.address,
            user=self._user,
            key=self._ctx.home.key(self._vm.lab),
            known_hosts=self._ctx.home.known_hosts(self._vm.lab),
            alias=self._vm.name,
        )
        return ssh.Prober(self._ctx.host, login, self._ctx.runner, cancel=self._cancel)
