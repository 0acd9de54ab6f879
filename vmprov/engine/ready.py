"""Ready means proven: SSH answers with the lab's key, or the login prompt shows on serial. Silence never is."""

from __future__ import annotations

from vmprov import ssh
from vmprov.console.tail import last_line, shows_login_prompt
from vmprov.engine.context import Context
from vmprov.errors import Failed, WaitTimeout
from vmprov.hypervisor import DomainState
from vmprov.images import Image
from vmprov.store import VMRecord
from vmprov.waiting import Deadline, wait_until

_INTERVAL = 0.3
# Asking libvirt whether the domain still runs costs little, but not nothing.
_STATE_INTERVAL = 2.0


def wait_until_ready(
    ctx: Context, vm: VMRecord, image: Image | None, deadline: Deadline, *, log_offset: int = 0
) -> str:
    """Wait for the VM's proof of life; returns its address ("" if it has none).

    Only what the console log holds from ``log_offset`` (bytes) on counts: an earlier boot proves nothing.

    Raises :class:`WaitTimeout` with the last serial line, :class:`Failed` at once if the domain stops.
    """
    ctx.stage(vm.name, "booting")
    if vm.login == "none":
        return vm.address
    waiter = _Waiter(ctx, vm, image.user if image else "", deadline, log_offset)
    probe = waiter.console_prompt if vm.login == "console" else waiter.ssh_answer
    try:
        wait_until(probe, deadline, waiter.awaited, cancel=ctx.cancel, interval=_INTERVAL)
    except WaitTimeout as problem:
        said = last_line(ctx.home.console_log(vm.name, 0))
        met = f"; {waiter.why}" if waiter.why else ""
        raise WaitTimeout(f"{problem.what}{met}; its last serial line: {said!r}") from problem
    return waiter.address


class _Waiter:
    def __init__(self, ctx: Context, vm: VMRecord, user: str, deadline: Deadline, log_offset: int) -> None:
        self._ctx = ctx
        self._vm = vm
        self._user = user
        self._deadline = deadline
        self._log_offset = log_offset
        self._state_check = Deadline(0)
        self._prober: ssh.Prober | None = None
        self.address = vm.address
        self.why = ""
        self.awaited = "login prompt on serial" if vm.login == "console" else "SSH answer with the lab's key"

    def console_prompt(self) -> bool:
        self._check_alive()
        return shows_login_prompt(self._ctx.home.console_log(self._vm.name, 0), since=self._log_offset)

    def ssh_answer(self) -> bool:
        self._check_alive()
        if not self.address:
            known = self._ctx.hypervisor.domain_addresses(self._vm.domain, self._vm.mac)
            if not known:
                self.why = "no DHCP lease yet"
                return False
            self.address = known[0]
        self._prober = self._prober or self._make_prober()
        probe = self._prober.probe()
        self.why = probe.why
        return probe.ok

    def _make_prober(self) -> ssh.Prober:
        login = ssh.Login(
            address=self.address,
            user=self._user,
            key=self._ctx.home.key(self._vm.lab),
            known_hosts=self._ctx.home.known_hosts(self._vm.lab),
            alias=self._vm.name,
        )
        return ssh.Prober(self._ctx.host, login, self._ctx.runner, deadline=self._deadline, cancel=self._ctx.cancel)

    def _check_alive(self) -> None:
        if not self._state_check.expired:
            return
        self._state_check = Deadline(_STATE_INTERVAL)
        state = self._ctx.hypervisor.domain(self._vm.domain).state
        if state is not DomainState.RUNNING:
            said = last_line(self._ctx.home.console_log(self._vm.name, 0))
            raise Failed(f"it is {state} instead of running; its last serial line: {said!r}")
