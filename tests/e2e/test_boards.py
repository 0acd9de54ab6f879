"""A real RFC 2217 server between a flow and a serial port.

The port is a pseudo-terminal, which has no control lines; hence ``ign_set_control``.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli
from vmprov.console.inputs import read_inputs
from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine
from vmprov.waiting import Deadline, wait_until

FLOW = """
flow: board
description: Logs in on a board that says nothing until Enter is pressed.
pacing: 5ms
secrets:
  word: {env: BOARD_WORD}
stages:
  - stage: name
    nudge: 1s
    limit: 20s
    expect:
      - prompt: "login:"
        send: root
  - stage: word
    limit: 10s
    expect:
      - prompt: "Password:"
        send: {secret: word}
  - stage: shell
    limit: 5s
    expect:
      - prompt: "#"
"""


@pytest.fixture(scope="module")
def board(cli: Cli) -> Iterator[str]:
    """The address of a container with a board's serial port on TCP ports 2217 (RFC 2217) and 2218 (plain)."""
    engine = Engine()
    image, name = "vmprov/board:test", f"vmprov-test-board-{cli.root.parent.name[-8:]}"
    engine.build(
        Path(__file__).parent / "board", image, arguments={"BASE": recipes.BASE}, labels={}, on_line=lambda _line: None
    )
    engine.start(ContainerSpec(name=name, image=image, labels={"vmprov.role": "test"}))
    inspect = ["docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", name]
    address = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip()

    def answers() -> bool:
        try:
            socket.create_connection((address, 2217), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, Deadline(30), "answer from ser2net")
        yield address
    finally:
        engine.remove(name)
        engine.close()


@pytest.fixture
def flow(tmp_path: Path) -> str:
    path = tmp_path / "board.yaml"
    path.write_text(FLOW)
    return str(path)


@pytest.mark.parametrize("port", ["rfc2217://{}:2217?ign_set_control", "socket://{}:2218"])
def test_a_flow_runs_on_a_port_behind_the_network(cli: Cli, board: str, flow: str, port: str) -> None:
    url = port.format(board)
    ran = cli.with_environ(BOARD_WORD="open sesame")("watch", "--port", url, "--flow", flow, "--json")

    told = ran.json
    log = Path(told["log"])
    assert (told["verdict"], [stage["stage"] for stage in told["stages"]]) == ("success", ["name", "word", "shell"])
    assert b"Linux version 6.1.0" in log.read_bytes()
    assert [(entry.text, entry.secret) for entry in read_inputs(log)][-2:] == [("root", ""), ("", "word")]
    everything = (ran.out + ran.err).encode() + b"".join(path.read_bytes() for path in log.parent.iterdir())
    assert b"open sesame" not in everything


@pytest.mark.parametrize(
    ("word", "code", "verdict"), [("wrong", 1, "timeout(shell)"), ("panic", 1, "failed(kernel-panic)")]
)
def test_a_board_that_does_not_get_there_fails_with_the_reason(
    cli: Cli, board: str, flow: str, word: str, code: int, verdict: str
) -> None:
    ran = cli.with_environ(BOARD_WORD=word).try_(
        "watch", "--port", f"rfc2217://{board}:2217?ign_set_control", "--flow", flow, "--json"
    )

    assert (ran.code, ran.json["verdict"]) == (code, verdict)


def test_a_port_that_nobody_serves_is_one_clear_line(cli: Cli, board: str, flow: str) -> None:
    ran = cli.with_environ(BOARD_WORD="x").try_("watch", "--port", f"rfc2217://{board}:9", "--flow", flow)

    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines()[-1].startswith(f"vmprov: the serial port rfc2217://{board}:9 cannot be opened")
