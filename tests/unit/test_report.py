"""Reports: complete, honest about what is missing, and without secrets."""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.test_timeline import PANIC, PANICKED, STAYS, context, fail, make, write_down
from vmprov import CreateRequest, Vmprov
from vmprov.cli import app, main
from vmprov.console.index import Mark, Moment, TimesWriter, encode
from vmprov.console.inputs import InputLog
from vmprov.engine.evidence.collect import collect
from vmprov.engine.evidence.repeat import create_command
from vmprov.engine.evidence.report import _without_echo, within
from vmprov.engine.redact import Redactor
from vmprov.errors import Failed, HostNotReady, NameTaken, NotFound
from vmprov.events import Event, Note
from vmprov.flows.grammar import Flow
from vmprov.flows.load import load_flow
from vmprov.hosts.fake import FakeHost
from vmprov.paths import Home

SECRET = "s3cr3t \"p<&>ss' \\wörd"
MINE = """\
flow: mine
secrets:
  password: {env: TEST_FLOW_PASSWORD}
stages:
  - stage: login
    expect:
      - prompt: "login:"
        send: {secret: password}
"""


@pytest.fixture
def machine(vmprov: Vmprov) -> str:
    return make(vmprov, "vm-1")


def readme(report: Path) -> str:
    return (report / "README.txt").read_text()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# what is in it


def test_a_report_holds_what_there_is_and_tells_what_there_is_not(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    report = vmprov.report(machine, tmp_path / "report")

    vm = vmprov.store.vm(machine)
    files = contents(report)
    assert files["console-0.log"] == vmprov.home.console_log(machine, 0).read_bytes()
    assert ET.fromstring(files["domain.xml"]).findtext("name") == vm.domain
    assert ET.fromstring(files["network.xml"]).findtext("name") == vm.network
    assert [lease["mac"] for lease in json.loads(files["leases.json"])] == [vm.mac]
    assert json.loads(files["timeline.json"])[-1]["stage"] == "login"
    assert json.loads(files["flow.json"])["flow"] == "login"
    assert json.loads(files["record.json"])["uuid"] == vm.uuid
    assert json.loads(files["judgement.json"])["kind"] == "success"
    assert set(files) <= {line.split()[0] for line in readme(report).splitlines() if line} | {"README.txt"}
    missing = readme(report).split("Missing\n-------\n")[1]
    assert "qemu.log" in missing
    assert "console-0.input  nothing was typed" in missing


def test_the_readme_tells_the_verdict_the_versions_and_how_to_do_it_again(
    vmprov: Vmprov, machine: str, tmp_path: Path
) -> None:
    write_down(vmprov, machine, STAYS, replace(PANICKED, last_lines=("the last line",)))

    text = readme(vmprov.report(machine, tmp_path / "report"))

    assert text.startswith("vmprov report of vm-1\n")
    assert "failed(kernel-panic) in stage firmware: 'Kernel panic" in text
    assert "(console 0, byte 12345)" in text
    assert "5.0 s        7.0 s  failed      firmware (boot 2)" in text
    assert "the last line" in text
    for program in ("vmprov", "python", "libvirt", "qemu"):
        assert f"\n{program:<7}  " in text
    assert "vmprov create --name vm-1 --lab trial" in text


def test_lines_have_times(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    log = vmprov.home.console_log(machine, 0)
    began = json.loads((vmprov.home.vm(machine) / "watch.json").read_text())["wall"]
    log.write_bytes(b"one\r\n\x1b[31mtwo\x1b[0m\r\nlogin: ")
    log.with_suffix(".times").unlink(missing_ok=True)
    times = TimesWriter(log)
    times.write(*(encode(Mark.SEEN, at, Moment(began + second, 0.0)) for at, second in ((5, 1.5), (19, 2.5), (26, 4))))
    times.close()

    text = (vmprov.report(machine, tmp_path / "report") / "console-0.txt").read_text()

    assert [line.split(maxsplit=2)[1:] for line in text.splitlines()] == [
        ["+1.500", "one"], ["+2.500", "two"], ["+4.000", "login: "],
    ]  # fmt: skip


def test_an_archive_holds_one_directory_of_nobody(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    path = vmprov.report(machine, tmp_path / "vm-1-report.tar.gz", more={"doctor.json": "[]"})

    with tarfile.open(path) as archive:
        entries = archive.getmembers()
        found = archive.extractfile("vm-1-report/doctor.json")
        assert found is not None
        assert found.read() == b"[]"
    assert {entry.name.split("/")[0] for entry in entries} == {"vm-1-report"}
    assert {(entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, "")}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [left.name for left in tmp_path.iterdir() if left.name.startswith(".vmprov")] == []


def test_a_machine_that_failed_and_was_removed_has_a_report(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    fail(vmprov, machine)

    report = vmprov.report(machine, tmp_path / "report")

    assert {"domain.xml", "network.xml", "leases.json", "record.json", "judgement.json", "console-0.log"} <= set(
        contents(report)
    )
    assert "failed(kernel-panic)" in readme(report)
    assert "libvirt" in readme(report)
    assert "failed and was removed" in readme(report)
    assert "vmprov create --name vm-1 --lab trial" in readme(report)


def test_files_kept_without_anything_else_make_a_report(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    kept = fail(vmprov, machine)
    for file in kept.iterdir():
        if file.name != "console-0.log":
            file.unlink()

    report = vmprov.report(machine, tmp_path / "report")

    assert set(contents(report)) == {"README.txt", "console-0.log", "console-0.txt"}
    assert "domain.xml" in readme(report).split("Missing")[1]


def test_a_machine_that_was_never_powered_on_has_a_report(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    shutil.rmtree(vmprov.home.vm(machine))

    text = readme(vmprov.report(machine, tmp_path / "report"))

    assert "timeline.json  " in text.split("Missing")[1]
    assert "nothing was captured" in text


def test_a_host_that_does_not_answer_is_no_obstacle(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    fake(vmprov).fail("node", HostNotReady("nobody is at home"), times=99)

    text = readme(vmprov.report(machine, tmp_path / "report"))

    missing = text.split("Missing\n-------\n")[1]
    for name in ("domain.xml", "network.xml", "leases.json"):
        assert f"{name:<15}  nobody is at home" in missing


def test_a_part_that_cannot_be_had_costs_nothing_else(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    fake(vmprov).fail("network_leases", Failed("no leases today"))

    report = vmprov.report(machine, tmp_path / "report")

    assert "network.xml" in contents(report)
    assert "no leases today" in readme(report)


def test_a_domain_of_somebody_else_is_not_shown(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    vmprov.store.update_vm(machine, uuid="7802e9c0-b97a-4ecf-b845-e5dec890048d")

    report = vmprov.report(machine, tmp_path / "report")

    assert "domain.xml" not in contents(report)
    assert "its domain is gone" in readme(report)


def test_what_was_trimmed_from_a_capture_is_told(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    log = vmprov.home.console_log(machine, 0)
    log.write_bytes(bytes(1000) + b"the rest\r\n")
    times = TimesWriter(log)
    times.write(encode(Mark.TRIMMED, 1000, Moment(time.time(), 0.0)))
    times.close()

    report = vmprov.report(machine, tmp_path / "report")

    assert contents(report)["console-0.log"] == b"the rest\r\n"
    assert "console-0.log begins with byte 1000" in readme(report)


def test_an_unknown_machine_has_no_report(vmprov: Vmprov, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nope"):
        vmprov.report("nope", tmp_path / "report")
    assert not (tmp_path / "report").exists()


# overwriting


@pytest.mark.parametrize("name", ["report", "report.tar.gz"])
def test_an_earlier_report_is_overwritten_only_if_asked_to(
    vmprov: Vmprov, machine: str, tmp_path: Path, name: str
) -> None:
    first = vmprov.report(machine, tmp_path / name, more={"old.txt": "old"})

    with pytest.raises(NameTaken, match=r"there already; .* --force"):
        vmprov.report(machine, tmp_path / name)
    again = vmprov.report(machine, tmp_path / name, force=True)

    assert again == first
    assert again.is_file() or not (again / "old.txt").exists()


@pytest.mark.parametrize("file", [None, "README.txt", "precious"])
def test_a_directory_that_is_no_report_is_never_overwritten(
    vmprov: Vmprov, machine: str, tmp_path: Path, file: str | None
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    if file:
        (mine / file).write_text("mine")

    for path in (mine, mine / ".", mine / ".." / "mine"):
        with pytest.raises(NameTaken, match="no report"):
            vmprov.report(machine, path, force=True)

    assert [path.name for path in mine.iterdir()] == ([file] if file else [])


def test_a_place_that_is_not_there_is_refused(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be written: no such file or directory"):
        vmprov.report(machine, tmp_path / "nowhere" / "report")


# doing it again


def again(vmprov: Vmprov, name: str) -> list[str]:
    vm = vmprov.store.vm(name)
    return shlex.split(create_command(vm, vmprov.home.vm(name), vmprov.store.installation))


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"network": "shared", "consoles": 2, "cpus": 3},
        {"network": "isolated", "serial_numbers": ("ABC12345",), "timeout": 7.25},
        {"memory": 100 * 1024**2 + 1, "disk": 5 * 1024**2},
        {"labels": {"role": "edge", "env": ""}, "ttl": 5400},
    ],
)
def test_the_command_makes_the_same_machine(vmprov: Vmprov, words: dict[str, Any]) -> None:
    make(vmprov, "vm-1", **words)
    before = vmprov.store.vm("vm-1")

    program, create, *options = again(vmprov, "vm-1")
    vmprov.delete(["vm-1"])
    command = app.get_command(None, create)  # type: ignore[arg-type]
    assert command is not None
    given = {name: value for name, value in command.make_context(create, options).params.items() if value is not None}
    host = given.pop("host")
    given["serial_numbers"] = tuple(filter(None, given["serial_numbers"].split(",")))
    request = CreateRequest.parse(**{name: given[name] for name in CreateRequest.model_fields if name in given})
    vmprov.create(request, host=host)

    after = vmprov.store.vm("vm-1")
    assert program == "vmprov"
    for column in ("lab", "host", "driver", "network", "image", "cpus", "memory", "disk", "consoles", "flow", "labels"):
        assert getattr(after, column) == getattr(before, column), column
    assert request.timeout == words.get("timeout", 20.0)
    assert ("serial_numbers" in words) == (after.serial_number == before.serial_number)


def test_a_flow_of_ones_own_is_in_the_report(vmprov: Vmprov, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FLOW_PASSWORD", "hunter2")
    (tmp_path / "mine.yaml").write_text(MINE)
    make(vmprov, "vm-1", flow=str(tmp_path / "mine.yaml"))

    report = vmprov.report("vm-1", tmp_path / "report")

    assert "--flow ./flow.json" in readme(report)
    assert load_flow(str(report / "flow.json")) == load_flow(str(tmp_path / "mine.yaml"))


def test_a_machine_without_a_flow_of_its_own_names_none(vmprov: Vmprov) -> None:
    make(vmprov, "vm-1", flow="")

    assert "--flow" not in again(vmprov, "vm-1")
    assert again(vmprov, make(vmprov, "vm-2"))[-2:] == ["--flow", "login"]


# secrets


def test_no_file_of_a_report_holds_a_secret(vmprov: Vmprov, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FLOW_PASSWORD", SECRET)
    (tmp_path / "mine.yaml").write_text(MINE)
    make(vmprov, "vm-1", flow=str(tmp_path / "mine.yaml"))
    directory, log = vmprov.home.vm("vm-1"), vmprov.home.console_log("vm-1", 0)
    with log.open("ab") as file:
        file.write(f"\r\necho {SECRET}\r\nalso other-secret\r\n".encode())
    InputLog(log, "somebody").write(text=f"login {SECRET}")
    (directory / "vagrant.log").write_text("proxy http://me:other-secret@proxy:3128/\n")
    write_down(
        vmprov, "vm-1", STAYS, replace(PANICKED, evidence=SECRET, why=f"it said {SECRET!r}", last_lines=(SECRET,))
    )
    vmprov.store.update_vm("vm-1", why=f"it said {SECRET}", driver="vagrant")
    key = vmprov.home.key("trial").read_text()
    with log.open("ab") as file:
        file.write(key.encode())

    original = vmprov.context
    monkeypatch.setattr(vmprov, "context", lambda host, _driver: original(host, "fake"))
    monkeypatch.setattr(vmprov.engine, "version", lambda: SECRET)
    report = vmprov.report("vm-1", tmp_path / "report", secrets=["other-secret"], more={"doctor.json": SECRET})

    hidden = [SECRET, "other-secret", key.splitlines()[1], "s3cr3t"]
    for name, data in contents(report).items():
        assert [text for text in hidden if text.encode() in data] == [], name
    assert "***" in readme(report)
    assert b"echo ***\r\nalso ***\r\n" in contents(report)["console-0.log"]
    assert b"http://***@proxy:3128/" in contents(report)["vagrant.log"]
    for name in ("record.json", "judgement.json", "flow.json", "timeline.json"):
        json.loads(contents(report)[name])
    assert "offsets behind them are no longer exact" in readme(report)


@pytest.mark.parametrize(
    "torn", [b"hunter2", b"hun\x1b[0mter2", b"hunt \rer2", b"hunt\r\ner2", b"\x1b[1mh\x08hunter2\x1b[m"]
)
def test_a_secret_that_a_terminal_has_torn_is_found(torn: bytes) -> None:
    (found,) = [b"".join(Redactor(["hunter2"]).blocks([b"a " + torn + b" z"]))]

    assert b"***" in found
    assert found.startswith(b"a ")
    assert found.endswith((b" z", b"\x1b[m z"))


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_a_secret_across_blocks_is_found(size: int) -> None:
    data = b"".join(b"x" * 30_001 + b"hunter2" for _ in range(12))
    blocks = (data[at : at + size] for at in range(0, len(data), size))

    redactor = Redactor(["hunter2", "", " "])

    assert b"".join(redactor.blocks(blocks)) == data.replace(b"hunter2", b"***")
    assert redactor.count == 12


def test_private_keys_are_never_handed_on() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n-----END OPENSSH PRIVATE KEY-----\n"

    assert Redactor().text(f"a\n{key}b\n{key.replace('OPENSSH', 'RSA')}") == "a\n***\nb\n***\n"


def test_what_is_no_secret_stays_as_it_is() -> None:
    data = bytes(range(256)) * 1000

    assert b"".join(Redactor(["hunter2"]).blocks([data])) == data
    assert b"".join(Redactor().blocks([])) == b""


# what is collected while the machine is still there


def test_collecting_is_quick_and_written_down(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()

    began = time.monotonic()
    missing = collect(context(vmprov), vmprov.store.vm(machine), kept)

    assert time.monotonic() - began < 0.5
    assert set(missing) == {"qemu.log"}
    assert {path.name for path in kept.iterdir()} == {
        "domain.xml", "network.xml", "leases.json", "record.json", "collected.json",
    }  # fmt: skip
    assert json.loads((kept / "collected.json").read_text())["versions"]["libvirt"] == "9.0.0"


def test_collecting_never_raises(vmprov: Vmprov, machine: str, tmp_path: Path) -> None:
    for method in ("node", "domain", "domain_xml", "network_xml", "network_leases"):
        fake(vmprov).fail(method, HostNotReady("gone"), times=99)

    missing = collect(context(vmprov), vmprov.store.vm(machine), tmp_path / "nowhere")

    assert {"domain.xml", "network.xml", "leases.json", "qemu.log", "record.json", "collected.json"} <= set(missing)


def test_the_end_of_a_long_qemu_log_is_kept(
    vmprov: Vmprov, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "qemu-long.log"
    log.write_bytes(b"x" * (3 << 20) + b"the end")
    monkeypatch.setattr(FakeHost, "qemu_log", lambda _self, _domain: log)

    collect(context(vmprov), vmprov.store.vm(machine), tmp_path)

    assert (tmp_path / "qemu.log").stat().st_size == 1 << 20
    assert (tmp_path / "qemu.log").read_bytes().endswith(b"the end")


def test_what_hangs_is_not_waited_for() -> None:
    assert within(5.0, lambda: "quick") == "quick"
    assert within(0.05, lambda: time.sleep(1)) is None

    def fails() -> str:
        raise Failed("no")

    assert within(5.0, fails) is None


# the command line


def cli(home: Home, *words: str) -> tuple[int, str, str]:
    environ = {"VMPROV_HOME": str(home.root), "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off"}
    with CliRunner().isolation(env=environ) as (out, err, _):
        with pytest.raises(SystemExit) as left:
            main(list(words))
        return int(left.value.code or 0), out.getvalue().decode(), err.getvalue().decode()


def test_the_command_writes_an_archive_here(
    vmprov: Vmprov, machine: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, err = cli(home, "report", machine)

    assert (code, err) == (0, "")
    assert out.startswith(f"report on vm-1: {tmp_path}/vm-1-report.tar.gz, ")
    assert tarfile.is_tarfile(tmp_path / "vm-1-report.tar.gz")
    assert cli(home, "report", machine)[0] == 2
    assert cli(home, "report", machine, "--force")[0] == 0


def test_the_command_writes_a_directory_and_tells_where(
    vmprov: Vmprov, machine: str, home: Home, tmp_path: Path
) -> None:
    code, out, _ = cli(home, "report", machine, "-o", str(tmp_path / "report"), "--json")

    assert (code, json.loads(out)) == (0, {"vm": "vm-1", "path": str(tmp_path / "report")})
    findings = json.loads(contents(tmp_path / "report")["doctor.json"])
    assert findings[0]["check"] == "state directory"


def test_the_command_works_for_a_machine_that_failed(vmprov: Vmprov, home: Home, tmp_path: Path) -> None:
    make(vmprov, "vm-1", transcript=PANIC, keep_on_failure=True)
    fail(vmprov, "vm-1")

    code, _, _ = cli(home, "report", "vm-1", "-o", str(tmp_path / "report"))

    assert code == 0
    assert "failed(kernel-panic)" in readme(tmp_path / "report")


def fake(vmprov: Vmprov) -> Any:
    host = vmprov.host()
    assert isinstance(host, FakeHost)
    return host.hypervisor()


def secret_flow(vmprov: Vmprov, machine: str) -> Path:
    """A machine that was watched by a flow with a secret, which it echoed; returns its capture."""
    flow = Flow.model_validate(
        {
            "flow": "secret",
            "secrets": {"word": {"env": "TEST_WORD_OF_{vm}"}},
            "stages": [{"stage": "name", "expect": [{"prompt": "login:", "send": [{"secret": "word"}]}]}],
        }
    )
    (vmprov.home.vm(machine) / "flow.json").write_text(flow.model_dump_json(by_alias=True, exclude_defaults=True))
    log = vmprov.home.console_log(machine, 0)
    log.write_bytes(b"booted\r\nvm-1 login: ")
    InputLog(log, "flow secret").write(secret="word", number=1)
    with log.open("ab") as file:
        file.write(b"s3cret-word\r\nPassword: \r\n")
    log.with_suffix(".times").unlink(missing_ok=True)
    return log


def test_a_secret_that_nobody_knows_any_more_is_hidden_where_it_was_typed(
    vmprov: Vmprov, machine: str, tmp_path: Path
) -> None:
    log = secret_flow(vmprov, machine)
    told: list[Event] = []
    vmprov.events.listen(told.append)

    files = contents(vmprov.report(machine, tmp_path / "report"))

    assert [name for name, data in files.items() if b"s3cret-word" in data] == []
    assert files["console-0.log"] == log.read_bytes().replace(b"s3cret-word", b"*" * 11)
    assert [line.split(maxsplit=2)[2] for line in files["console-0.txt"].splitlines()][:3] == [
        b"booted", b"***", b"Password: ",
    ]  # fmt: skip
    assert b"The secret 'word' is not known here" in files["README.txt"]
    (note,) = [event for event in told if isinstance(event, Note)]
    assert "TEST_WORD_OF_vm-1 is not set" in note.text


def test_a_secret_that_is_known_is_taken_out_wherever_it_is(
    vmprov: Vmprov, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = secret_flow(vmprov, machine)
    log.write_bytes(log.read_bytes() + b"login: invalid password for 's3cret-word'\r\n")
    monkeypatch.setenv("TEST_WORD_OF_vm-1", "s3cret-word")

    files = contents(vmprov.report(machine, tmp_path / "report"))

    assert [name for name, data in files.items() if b"s3cret-word" in data] == []
    assert b"not known here" not in files["README.txt"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_what_was_typed_is_hidden_wherever_blocks_end(size: int) -> None:
    data = b"a login: abc\r\nPassword: xyz\n# "
    blocks = [(at, data[at : at + size]) for at in range(0, len(data), size)]

    assert b"".join(_without_echo(blocks, [9, 24])) == b"a login: ***\r\nPassword: ***\n# "
