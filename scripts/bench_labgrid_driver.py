"""One machine in the hands of labgrid; runs in labgrid's own virtual environment, and imports nothing of ours.

``bench_labgrid_driver.py CONFIG``: JSON with ``tools``, ``images``, ``driver`` (of QEMUDriver), ``log`` (a directory).
Then one JSON document per line: on stdin ``["expect", TEXT, SECONDS]`` or ``["quit"]``, on stdout what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped,unused-ignore]
from labgrid import Environment  # type: ignore[import-not-found,unused-ignore]
from labgrid.consoleloggingreporter import ConsoleLoggingReporter  # type: ignore[import-not-found,unused-ignore]


def main(config: dict[str, Any]) -> None:
    """Switch the machine on, and do as told."""
    path = Path(config["log"]) / "env.yaml"
    drivers = [{"QEMUDriver": config["driver"]}]
    written = {"targets": {"main": {"drivers": drivers}}, "tools": config["tools"], "images": config["images"]}
    path.write_text(json.dumps(written))
    # What pytest's --lg-log does.
    ConsoleLoggingReporter.start(config["log"])
    target = Environment(str(path)).get_target("main")
    machine = target.get_driver("QEMUDriver")
    machine.on()
    _say("on")
    for line in sys.stdin:
        name, *words = json.loads(line)
        if name == "quit":
            break
        text, seconds = words
        try:
            machine.expect(text, timeout=seconds)
            _say("found")
        except pexpect.TIMEOUT:
            _say("timeout")
    machine.off()
    _say("off")


def _say(what: str) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
