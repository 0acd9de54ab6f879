"""SSH by OpenSSH's client, through a byte stream that the host dials.

Nothing of the user's own configuration, keys or agent takes part, so that it works the same for everybody.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmprov.errors import WaitTimeout
from vmprov.runner import Runner
from vmprov.waiting import Cancel, Deadline, wait_until

PORT = 22
_DIAL = Path(__file__).with_name("_dial.py")
_KEYGEN_LIMIT = 30.0
# Seconds: to dial and see the banner; for ssh to log in (an emulated guest takes seconds for the key exchange).
_BANNER_LIMIT = 3.0
_LOGIN_LIMIT = 30.0
_CONNECT_LIMIT = 15
_INTERVAL = 0.3
# sshd 9.8 and later shuts out, for 15 s and more, an address that keeps failing to log in (PerSourcePenalties: 5 s
# for a refused key, and an address is shut out from 15 s on). Once we fall behind, we would never get in.
_REFUSED_PAUSES = (1.0, 3.0, 6.0)
# RFC 4253, 4.2: a server may say other things before its version.
_LONGEST_GREETING = 8192
# Files of known hosts are rewritten as a whole, also while several machines of a lab are removed at once.
_REWRITING = threading.Lock()


class Dials(Protocol):
    """What is needed of a :class:`vmprov.hosts.Host`."""

    @property
    def dialer(self) -> Path | None:
        """The UNIX socket through which guests are reached; ``None`` where this machine reaches them itself."""
        ...

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        """A byte stream to a TCP port of a guest; raises :class:`OSError` when nobody answers."""
        ...


@dataclass(frozen=True, kw_only=True)
class Login:
    """Where to log in, and as whom; ``alias`` is the name under which the host key is remembered."""

    address: str
    user: str
    key: Path
    known_hosts: Path
    alias: str
    port: int = PORT


@dataclass(frozen=True)
class Probe:
    """Whether SSH answered, and why not."""

    ok: bool
    why: str = ""


def make_key(path: Path, runner: Runner, comment: str) -> None:
    """Make an Ed25519 key pair at ``path`` and ``path.pub``; an existing pair is kept.

    Never leaves half a pair that would be taken for a whole one; raises as :meth:`vmprov.runner.Runner.run`.
    """
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as directory:
        made = Path(directory, "key")
        argv: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", made]
        runner.run(argv, deadline=Deadline(_KEYGEN_LIMIT))
        made.chmod(0o600)
        # The private key comes last: there is a pair only once it is there.
        path.unlink(missing_ok=True)
        made.with_name("key.pub").replace(public)
        made.replace(path)


def proxy_command(dialer: Path | str, address: str, port: int = PORT) -> list[str]:
    """The argv of the program that dials for ssh; ``dialer`` is a socket, or ``-`` to dial from this machine."""
    # -I and -S: nothing of the user's Python set-up is looked at, and it starts in half the time.
    return [sys.executable, "-I", "-S", str(_DIAL), str(dialer), address, str(port)]


def options(login: Login, *, batch: bool, proxy: Sequence[str] = ()) -> list[str]:
    """OpenSSH's options for a login, also for ``scp`` and ``sftp``; ``batch``: never ask, never wait for a person."""
    settings = {
        "IdentityFile": _quoted(login.key),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UserKnownHostsFile": _quoted(login.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "accept-new",
        "UpdateHostKeys": "no",
        "HostKeyAlias": login.alias,
        "ConnectTimeout": str(_CONNECT_LIMIT),
        "ServerAliveInterval": "15",
        "LogLevel": "ERROR",
        "BatchMode": "yes" if batch else "no",
    }
    if proxy:
        # ssh expands % and gives the rest to the user's shell.
        settings["ProxyCommand"] = shlex.join(proxy).replace("%", "%%")
        settings["ProxyUseFdpass"] = "yes"
    # -F: neither the user's configuration nor the system's.
    return ["-F", "/dev/null", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def command_line(host: Dials, login: Login, command: Sequence[str] = (), *, batch: bool) -> list[str]:
    """The argv that logs in: a shell, or ``command`` if there is one.

    Several words of a command stay the words they are; a single one is a line for the guest's shell.
    """
    proxy = proxy_command(host.dialer, login.address, login.port) if host.dialer else []
    # After --, neither an address nor a command is taken for an option.
    argv = ["ssh", *options(login, batch=batch, proxy=proxy), "-p", str(login.port), "-l", login.user, "--"]
    remote = command[0] if len(command) == 1 else shlex.join(command)
    return [*argv, login.address, *([remote] if command else [])]


def own_command_line(host: Dials, address: str, command: Sequence[str] = (), *, name: str) -> list[str]:
    """The argv that logs in to a machine which others made, as the user's own configuration, keys and agent can."""
    proxy = [] if host.dialer is None else proxy_command(host.dialer, address)
    settings = {"HostKeyAlias": name}
    if proxy:
        settings |= {"ProxyCommand": shlex.join(proxy).replace("%", "%%"), "ProxyUseFdpass": "yes"}
    words = [word for setting, value in settings.items() for word in ("-o", f"{setting}={value}")]
    remote = command[0] if len(command) == 1 else shlex.join(command)
    return ["ssh", *words, "--", address, *([remote] if command else [])]


def _quoted(path: Path) -> str:
    """A file name in ssh's configuration syntax: there may be several, and ``%`` and ``~`` are expanded."""
    escaped = str(path.absolute()).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def greets(host: Dials, address: str, port: int = PORT, *, timeout: float = _BANNER_LIMIT) -> Probe:
    """Whether an SSH server says its version within ``timeout`` seconds; costs next to nothing."""
    deadline = Deadline(timeout)
    said = b""
    try:
        with host.dial(address, port, timeout) as stream:
            while not _is_greeting(said):
                stream.settimeout(max(deadline.left, 0.01))
                more = stream.recv(1024)
                if not more or len(said) > _LONGEST_GREETING:
                    return Probe(False, "SSH port closed" if not said else "not an SSH server")
                said += more
    except TimeoutError:
        return Probe(False, f"no answer on the SSH port within {timeout:g} s")
    except OSError as problem:
        return Probe(False, f"SSH port: {(problem.strerror or str(problem)).lower()}")
    return Probe(True)


def _is_greeting(said: bytes) -> bool:
    return said.startswith(b"SSH-") or b"\nSSH-" in said


def answers(host: Dials, login: Login, runner: Runner) -> Probe:
    """Whether one can log in with the key and run a command, now; takes 30 s at most, 3 s while nobody listens."""
    greeting = greets(host, login.address, login.port)
    return _logs_in(host, login, runner, Deadline(_LOGIN_LIMIT), None) if greeting.ok else greeting


def _logs_in(host: Dials, login: Login, runner: Runner, deadline: Deadline, cancel: Cancel | None) -> Probe:
    argv = command_line(host, login, ["true"], batch=True)
    try:
        done = runner.run(argv, deadline=deadline, check=False, cancel=cancel)
    except WaitTimeout:
        return Probe(False, f"SSH login took longer than {deadline.seconds:.0f} s")
    if done.code == 0:
        return Probe(True)
    said = [line.strip() for line in done.err.splitlines() if line.strip()]
    # The dialer's own words come first, and ssh's after them only say that it failed.
    telling = next((line for line in said if line.startswith("vmprov: ")), said[-1] if said else "")
    return Probe(False, f"SSH login failed: {telling or f'exit code {done.code}'}")


class Prober:
    """Asks again and again whether one can log in, without wearing out the server's patience.

    Until a server says its version, that is all that is asked for; a server that refused the login is left alone
    for some seconds, in which :meth:`probe` repeats the last answer.
    """

    def __init__(
        self,
        host: Dials,
        login: Login,
        runner: Runner,
        *,
        deadline: Deadline | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self._host = host
        self._login = login
        self._runner = runner
        self._deadline = deadline or Deadline(float("inf"))
        self._cancel = cancel
        self._refused = 0
        self._pause = Deadline(0)
        self.last = Probe(False, "nobody was asked yet")

    def probe(self) -> Probe:
        """See :func:`answers`."""
        if not self._pause.expired:
            return self.last
        self.last = greets(self._host, self._login.address, self._login.port)
        if self.last.ok:
            limit = self._deadline.at_most(_LOGIN_LIMIT)
            self.last = _logs_in(self._host, self._login, self._runner, limit, self._cancel)
            if not self.last.ok:
                self._pause = Deadline(_REFUSED_PAUSES[min(self._refused, len(_REFUSED_PAUSES) - 1)])
                self._refused += 1
        return self.last


def wait_for_ssh(
    host: Dials, login: Login, runner: Runner, deadline: Deadline, *, cancel: Cancel | None = None
) -> None:
    """Wait until one can log in with the key.

    Raises :class:`WaitTimeout` saying what the last attempt met, :class:`vmprov.errors.Interrupted` when cancelled.
    """
    prober = Prober(host, login, runner, deadline=deadline, cancel=cancel)
    what = f"SSH login to {login.alias} ({login.user}@{login.address})"
    try:
        wait_until(lambda: prober.probe().ok, deadline, what, cancel=cancel, interval=_INTERVAL)
    except WaitTimeout as problem:
        raise WaitTimeout(f"{problem.what}: {prober.last.why}", hint=problem.hint) from problem


def forget_host(known_hosts: Path, alias: str) -> None:
    """Drop what was remembered of a VM's host key: a new VM of that name has a new one. Absence is success."""
    _rewrite(known_hosts, alias, lambda _: "")


def rename_host(known_hosts: Path, alias: str, new: str) -> None:
    """Remember a VM's host key under another name. Absence is success."""
    _rewrite(known_hosts, new, lambda _: "")
    _rewrite(known_hosts, alias, lambda line: new + line.removeprefix(alias))


def _rewrite(known_hosts: Path, alias: str, change: Callable[[str], str]) -> None:
    """Change the lines about one name. Of other processes, none is at work on the lab meanwhile."""
    with _REWRITING:
        try:
            before = known_hosts.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return
        kept = [change(line) if line.split(" ", 1)[0] == alias else line for line in before]
        if kept == before:
            return
        made = known_hosts.with_name(f".{known_hosts.name}-{os.getpid()}")
        made.write_text("".join(kept))
        made.replace(known_hosts)
