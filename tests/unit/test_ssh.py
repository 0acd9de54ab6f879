"""SSH: argv and quoting, the passing of a dialled connection, and logins to a real private sshd."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vmprov.errors import CommandFailed, Interrupted, WaitTimeout
from vmprov.runner import Done, FakeRunner, LocalRunner
from vmprov.ssh import (
    Login,
    Prober,
    answers,
    command_line,
    forget_host,
    greets,
    make_key,
    options,
    proxy_command,
    wait_for_ssh,
)
from vmprov.waiting import Cancel, Deadline, wait_until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or ""


@dataclass(frozen=True)
class Direct:
    """A host whose guests this machine reaches itself."""

    dialer: Path | None = None

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((address, port), timeout=timeout)


class Dialer:
    """A host whose guests are reached through a UNIX socket, as in the container."""

    def __init__(self, path: Path) -> None:
        self.dialer = path
        self.asked: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def dial(self, address: str, port: int, timeout: float) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(timeout)
        stream.connect(str(self.dialer))
        stream.sendall(f"{address} {port}\n".encode())
        return stream

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += client.recv(1)
        self.asked.append(line.decode())
        address, port = line.decode().split()
        with client:
            try:
                guest = socket.create_connection((address, int(port)), timeout=5)
            except OSError:
                return
            with guest:
                back = threading.Thread(target=_pump, args=(guest, client), daemon=True)
                back.start()
                _pump(client, guest)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def dialer(tmp_path: Path) -> Iterator[Dialer]:
    dialer = Dialer(tmp_path / "dial.sock")
    yield dialer
    dialer.close()


def login_to(directory: Path, **changes: object) -> Login:
    login = Login(
        address="10.87.0.2", user="debian", key=directory / "key", known_hosts=directory / "known", alias="vm-1"
    )
    return replace(login, **changes)  # type: ignore[arg-type]


# argv


def test_nothing_of_the_users_own_set_up_takes_part(tmp_path: Path) -> None:
    argv = command_line(Direct(), login_to(tmp_path), batch=True)

    assert argv[:3] == ["ssh", "-F", "/dev/null"]
    assert "IdentitiesOnly=yes" in argv
    assert "IdentityAgent=none" in argv
    assert "GlobalKnownHostsFile=/dev/null" in argv
    assert "StrictHostKeyChecking=accept-new" in argv
    assert "HostKeyAlias=vm-1" in argv
    assert "PasswordAuthentication=no" in argv
    assert "BatchMode=yes" in argv
    assert argv[-6:] == ["-p", "22", "-l", "debian", "--", "10.87.0.2"]
    assert not [word for word in argv if word.startswith("Proxy")]


@pytest.mark.parametrize(
    ("command", "remote"),
    [
        ([], []),
        (["uname", "-a"], ["uname -a"]),
        (["echo a; echo b"], ["echo a; echo b"]),
        (["echo", "a; echo b", "$HOME"], ["echo 'a; echo b' '$HOME'"]),
        (["-v"], ["-v"]),
    ],
)
def test_words_of_a_command_stay_words_and_a_single_one_is_a_line(
    tmp_path: Path, command: list[str], remote: list[str]
) -> None:
    argv = command_line(Direct(), login_to(tmp_path), command, batch=False)

    assert argv[argv.index("--") + 1 :] == ["10.87.0.2", *remote]


def test_the_proxy_command_survives_ssh_and_the_shell(tmp_path: Path) -> None:
    proxy = ["/a b/python", "it's", "100%", "$HOME"]

    words = options(login_to(tmp_path), batch=True, proxy=proxy)

    assert "ProxyUseFdpass=yes" in words
    assert r"""ProxyCommand='/a b/python' 'it'"'"'s' 100%% '$HOME'""" in words


def test_ssh_itself_reads_odd_file_names_as_they_are(tmp_path: Path) -> None:
    odd = tmp_path / 'a b%h"c\\d'
    login = login_to(tmp_path, key=odd / "key", known_hosts=odd / "known")
    argv = command_line(Direct(odd / "dial.sock"), login, batch=True)

    said = LocalRunner().run([argv[0], "-G", *argv[1:]], deadline=Deadline(5)).out.splitlines()

    assert f"identityfile {odd}/key".replace("%", "%%") in said
    assert any(line.startswith("userknownhostsfile ") and 'b%h"c\\d/known' in line for line in said)
    assert any(line.startswith("proxycommand ") and "%%h" in line for line in said)


# keys


def test_a_key_pair_is_made_once_and_kept(tmp_path: Path) -> None:
    key = tmp_path / "lab" / "id_ed25519"

    make_key(key, LocalRunner(), comment="vmprov lab edge")
    first = key.read_bytes()
    make_key(key, LocalRunner(), comment="another")

    assert key.read_bytes() == first
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.with_name("id_ed25519.pub").read_text().startswith("ssh-ed25519 ")
    assert key.with_name("id_ed25519.pub").read_text().endswith(" vmprov lab edge\n")
    assert sorted(path.name for path in key.parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]


@pytest.mark.parametrize("half", ["id_ed25519", "id_ed25519.pub"])
def test_half_a_pair_is_made_whole(tmp_path: Path, half: str) -> None:
    (tmp_path / half).write_text("left behind")
    key = tmp_path / "id_ed25519"

    make_key(key, LocalRunner(), comment="")

    public = LocalRunner().run(["ssh-keygen", "-y", "-f", key], deadline=Deadline(5)).out.split()[1]
    assert key.with_name("id_ed25519.pub").read_text().split()[1] == public


def test_a_failed_key_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        make_key(tmp_path / "id_ed25519", FakeRunner(lambda _: Done(1, "", "no entropy")), comment="")

    assert list(tmp_path.iterdir()) == []


def test_a_removed_vms_host_key_is_forgotten_and_no_other(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("vm-1 ssh-ed25519 AAAA\nvm-10 ssh-ed25519 BBBB\nvm-1 ssh-rsa CCCC\n")

    forget_host(known, "vm-1")
    forget_host(known, "vm-2")
    forget_host(tmp_path / "missing", "vm-1")

    assert known.read_text() == "vm-10 ssh-ed25519 BBBB\n"


# probes


class Speaker:
    """A TCP server on this machine that says one thing to everybody."""

    def __init__(self, greeting: bytes, *, silent: bool = False) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._greeting = greeting
        self._silent = silent
        self.kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.sendall(self._greeting)
            if self._silent:
                self.kept.append(client)
            else:
                client.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self.kept:
            client.close()


@pytest.mark.parametrize(
    ("greeting", "ok", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", True, ""),
        (b"no entry without a ticket\r\nSSH-2.0-x\r\n", True, ""),
        (b"HTTP/1.1 400 Bad Request\r\n", False, "not an SSH server"),
        (b"", False, "SSH port closed"),
    ],
)
def test_a_server_is_known_by_its_greeting(greeting: bytes, ok: bool, why: str) -> None:
    speaker = Speaker(greeting)

    probe = greets(Direct(), "127.0.0.1", speaker.port)

    assert (probe.ok, probe.why) == (ok, why)
    speaker.close()


def test_a_silent_server_and_none_at_all_are_told_apart() -> None:
    speaker = Speaker(b"", silent=True)

    silent = greets(Direct(), "127.0.0.1", speaker.port, timeout=0.1)
    speaker.close()
    nobody = greets(Direct(), "127.0.0.1", speaker.port, timeout=0.1)

    assert silent.why == "no answer on the SSH port within 0.1 s"
    assert nobody.why == "SSH port: connection refused"


def test_ssh_is_not_even_started_while_nobody_greets(tmp_path: Path) -> None:
    runner = FakeRunner(lambda _: Done(0, "", ""))
    login = login_to(tmp_path, address="127.0.0.1", port=1)

    probe = answers(Direct(), login, runner)

    assert not probe.ok
    assert runner.calls == []


def test_a_server_that_refused_is_left_alone_for_a_while(tmp_path: Path) -> None:
    speaker = Speaker(b"SSH-2.0-x\r\n")
    runner = FakeRunner(lambda _: Done(255, "", "vm-1: Permission denied (publickey).\n"))
    prober = Prober(Direct(), login_to(tmp_path, address="127.0.0.1", port=speaker.port), runner)

    probes = [prober.probe() for _ in range(5)]

    assert {probe.why for probe in probes} == {"SSH login failed: vm-1: Permission denied (publickey)."}
    assert len(runner.calls) == 1
    speaker.close()


def test_a_wait_in_vain_says_what_it_last_met(tmp_path: Path) -> None:
    login = login_to(tmp_path, address="127.0.0.1", port=1)

    with pytest.raises(WaitTimeout) as caught:
        wait_for_ssh(Direct(), login, LocalRunner(), Deadline(0.1))

    assert str(caught.value) == ("no SSH login to vm-1 (debian@127.0.0.1) within 0 s: SSH port: connection refused")


def test_a_wait_can_be_cancelled(tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.set()

    with pytest.raises(Interrupted):
        wait_for_ssh(
            Direct(), login_to(tmp_path, address="127.0.0.1", port=1), LocalRunner(), Deadline(60), cancel=cancel
        )


# the dialling program


def run_dial(arguments: list[str]) -> tuple[int, str, socket.socket | None]:
    """Run it as ssh does; returns its exit code, what it complained about, and the connection that it handed over."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        done = subprocess.run(
            arguments, stdout=theirs.fileno(), stderr=subprocess.PIPE, text=True, check=False, timeout=10
        )
        theirs.close()
        data, fds, _, _ = socket.recv_fds(ours, 1, 1)
    stream = socket.socket(fileno=fds[0]) if fds else None
    assert bool(data) == bool(stream)
    return done.returncode, done.stderr, stream


def test_a_dialled_connection_is_handed_over(dialer: Dialer) -> None:
    speaker = Speaker(b"SSH-2.0-x\r\n")

    code, said, stream = run_dial(proxy_command(dialer.dialer, "127.0.0.1", speaker.port))

    assert (code, said) == (0, "")
    assert stream
    assert stream.gettimeout() is None
    assert os.get_blocking(stream.fileno())
    assert stream.recv(100) == b"SSH-2.0-x\r\n"
    assert dialer.asked == [f"127.0.0.1 {speaker.port}\n"]
    stream.close()
    speaker.close()


def test_an_address_of_this_machine_is_dialled_without_a_dialer() -> None:
    speaker = Speaker(b"SSH-2.0-x\r\n")

    code, _, stream = run_dial(proxy_command("-", "127.0.0.1", speaker.port))

    assert code == 0
    assert stream
    assert stream.recv(100) == b"SSH-2.0-x\r\n"
    stream.close()
    speaker.close()


def test_a_dialler_that_is_gone_is_one_clear_line(tmp_path: Path) -> None:
    code, said, stream = run_dial(proxy_command(tmp_path / "gone.sock", "10.87.0.2"))

    assert code == 1
    assert said == "vmprov: cannot reach 10.87.0.2 port 22: No such file or directory\n"
    assert stream is None


def test_the_dialling_program_imports_next_to_nothing() -> None:
    argv = proxy_command("-", "127.0.0.1", 1)
    argv[1:1] = ["-X", "importtime"]

    said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stderr

    modules = [line.split("|")[-1].strip() for line in said.splitlines() if line.startswith("import time:")]
    assert len(modules) < 60
    assert not {"site", "vmprov", "subprocess", "typing"} & set(modules)


# a real server


@dataclass
class Server:
    """A private sshd on a loopback port, which knows one key."""

    port: int
    authorized_keys: Path

    def login(self, directory: Path, key: Path) -> Login:
        user = pwd.getpwuid(os.getuid()).pw_name
        return login_to(directory, address="127.0.0.1", port=self.port, user=user, key=key)


def _is_locked() -> bool:
    try:
        accounts = Path("/etc/shadow").read_text().splitlines()
    except PermissionError:  # then sshd, which runs as us, can't tell either
        return False
    return any(line.startswith(f"{pwd.getpwuid(os.getuid()).pw_name}:!") for line in accounts)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not SSHD:
        pytest.skip("no sshd here")
    if _is_locked():
        pytest.skip("the account of this user is locked, and sshd without PAM refuses it")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation directory, fixed at its build
    directory = tmp_path_factory.mktemp("sshd")
    make_key(directory / "host_key", LocalRunner(), comment="")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(port, directory / "authorized_keys")
    server.authorized_keys.write_text("")
    config = directory / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {server.authorized_keys}\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
    wait_until(lambda: greets(Direct(), "127.0.0.1", port).ok, Deadline(5), "private sshd", interval=0.02)
    yield server
    process.terminate()
    process.wait(5)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "right key", LocalRunner(), comment="test")
    return tmp_path / "right key"


def test_a_login_with_the_right_key_through_the_dialer_is_an_answer(
    server: Server, dialer: Dialer, key: Path, tmp_path: Path
) -> None:
    server.authorized_keys.write_text((tmp_path / "right key.pub").read_text())
    login = server.login(tmp_path, key)

    probe = answers(dialer, login, LocalRunner())

    assert (probe.ok, probe.why) == (True, "")
    assert login.known_hosts.read_text().startswith("vm-1 ssh-ed25519 ")


def test_a_command_keeps_its_words_all_the_way(server: Server, dialer: Dialer, key: Path, tmp_path: Path) -> None:
    server.authorized_keys.write_text((tmp_path / "right key.pub").read_text())
    login = server.login(tmp_path, key)

    words = command_line(dialer, login, ["printf", "%s|", "a b", "$HOME", "it's"], batch=True)
    line = command_line(Direct(), login, ["echo a; echo b; exit 7"], batch=True)

    assert LocalRunner().run(words, deadline=Deadline(10)).out == "a b|$HOME|it's|"
    assert LocalRunner().run(line, deadline=Deadline(10), check=False) == Done(7, "a\nb\n", "")


def test_a_login_with_another_key_is_no_answer(server: Server, key: Path, tmp_path: Path) -> None:
    server.authorized_keys.write_text("")

    probe = answers(Direct(), server.login(tmp_path, key), LocalRunner())

    assert not probe.ok
    assert "Permission denied" in probe.why


def test_another_host_under_the_same_name_is_no_answer(server: Server, key: Path, tmp_path: Path) -> None:
    server.authorized_keys.write_text((tmp_path / "right key.pub").read_text())
    login = server.login(tmp_path, key)
    public = (tmp_path / "right key.pub").read_text().split()[1]
    login.known_hosts.write_text(f"vm-1 ssh-ed25519 {public}\n")

    refused = answers(Direct(), login, LocalRunner())
    forget_host(login.known_hosts, login.alias)

    assert refused.why == "SSH login failed: Host key verification failed."
    assert answers(Direct(), login, LocalRunner()).ok


def test_a_wait_ends_as_soon_as_the_key_is_known(server: Server, dialer: Dialer, key: Path, tmp_path: Path) -> None:
    server.authorized_keys.write_text("")
    login = server.login(tmp_path, key)
    timer = threading.Timer(0.3, lambda: server.authorized_keys.write_text((tmp_path / "right key.pub").read_text()))
    timer.start()

    wait_for_ssh(dialer, login, LocalRunner(), Deadline(10))

    assert timer.finished.is_set()
