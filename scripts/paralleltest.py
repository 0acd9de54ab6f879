"""Many ``vmprov create`` at the same moment; see scripts/paralleltest."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vmprov import Settings

# Every machine has its own.
UNIQUE = ("name", "address", "mac", "network", "bridge", "serial_number", "domain", "console_log")
LIMIT = 3600


def command(*words: str) -> list[str]:
    """The command line of vmprov."""
    return [sys.executable, "-m", "vmprov", *words]


def environ(home: Path, *, simulator: bool) -> dict[str, str]:
    """Its environment: a state directory of its own."""
    return {**os.environ, "VMPROV_HOME": str(home), "VMPROV_HOST": "fake:" if simulator else "embedded"}


def take_image(home: Path, name: str) -> None:
    """The image that scripts/setup built, as hard links."""
    source, target = Settings.from_environ().home / "images" / name, home / "images" / name
    if name and source.is_dir() and not target.exists():
        target.parent.mkdir(parents=True)
        shutil.copytree(source, target, copy_function=os.link)


def collisions(vms: list[dict[str, Any]]) -> list[str]:
    """What two machines have in common."""
    found = []
    for field in UNIQUE:
        values = [vm[field] for vm in vms]
        found += [f"{field} {value}" for value in sorted(set(values)) if values.count(value) > 1]
    return found


def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start all, wait for all, look, and remove everything."""
    env = environ(home, simulator=options.simulator)
    words = ["create", "--image", options.image, "--memory", options.memory, "--timeout", "30m", "--json"]
    if not options.simulator:
        subprocess.run(command("host", "up"), env=env, check=True, capture_output=True, timeout=LIMIT)
    started = time.monotonic()
    running = [
        subprocess.Popen(command(*words), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(options.commands)
    ]
    vms, failures = [], []
    for process in running:
        out, err = process.communicate(timeout=LIMIT)
        if process.returncode == 0:
            vms += json.loads(out)["vms"]
        else:
            said = (
                [f"{vm['verdict']}: {vm['why']}" for vm in json.loads(out)["vms"]] if out else err.strip().splitlines()
            )
            failures.append(f"exit {process.returncode}: {'; '.join(said[-1:])}")
    took = time.monotonic() - started
    deleted = subprocess.run(
        command("delete", "--all", "--yes", "--json"),
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    collected = subprocess.run(
        command("gc", "--yes", "--json"), env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return {
        "where": "simulator" if options.simulator else "embedded host",
        "commands": options.commands,
        "failures": failures,
        "collisions": collisions(vms),
        "machines": len(vms),
        "seconds": round(took, 1),
        "not_deleted": json.loads(deleted.stdout)["failed"],
        "left_behind": json.loads(collected.stdout)["leftovers"],
    }


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/paralleltest")
    parser.add_argument("--simulator", action="store_true")
    parser.add_argument("--commands", type=int, default=20)
    parser.add_argument("--image", default=None)
    parser.add_argument("--memory", default="128MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.image is None:
        options.image = "" if options.simulator else "tiny"
    with tempfile.TemporaryDirectory(prefix="vmprov-pt-", ignore_cleanup_errors=True) as directory:
        home = Path(directory) / "h"
        take_image(home, options.image)
        try:
            told = measure(home, options)
        finally:
            if not options.simulator:
                env = environ(home, simulator=False)
                subprocess.run(
                    command("host", "down", "--force"), env=env, capture_output=True, timeout=LIMIT, check=False
                )
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        for failure in told["failures"]:
            print(f"failed: {failure}")
        print(
            f"{told['where']}: {told['commands']} commands at once, {len(told['failures'])} failures, "
            f"{len(told['collisions'])} collisions, {told['machines']} machines in {told['seconds']} s; "
            f"{len(told['not_deleted'])} not deleted, {len(told['left_behind'])} left behind"
        )
    return 1 if any(told[kind] for kind in ("failures", "collisions", "not_deleted", "left_behind")) else 0


if __name__ == "__main__":
    sys.exit(main())
