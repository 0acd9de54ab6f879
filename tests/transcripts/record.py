"""Makes transcripts anew: ``python -m tests.transcripts.record NAME...|--all|--made``. By hand; it takes half an hour.

Needs Docker, the container images of vmprov, and its images tiny and debian-12 (``scripts/setup`` makes them all).
One guest runs at a time, in emulation.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.transcripts import Transcript, save
from tests.transcripts.guests import PRELUDE, SCENARIOS, Scenario
from tests.transcripts.made import MADE
from tests.transcripts.wire import Guest, Missed, stop, workshop
from vmprov.seeds import write_seed

_QEMU = "7.2"
# Nobody has the other half of it.
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0B0gYqvF0kW0mB7nqzXl3vG8n0c1bq3T5n2v1k8w9Z transcripts"


def record(scenario: Scenario) -> Transcript:
    """Run one guest."""
    with workshop() as shop:
        if scenario.prepare:
            shop.prepare(PRELUDE + scenario.prepare)
        if scenario.seed:
            write_seed(shop.scratch / "seed.iso", hostname="debian", instance_id=scenario.name, public_key=_KEY)
        process = shop.start(scenario.command())
        try:
            if scenario.served:
                time.sleep(1.0)
                shop.serve(scenario.served, 8000)
            guest = Guest(shop, scenario.consoles)
            try:
                guest.play(scenario.steps)
            finally:
                guest.close()
        finally:
            stop(process, shop)
    return Transcript(scenario.name, scenario.about, scenario.consoles, guest.recording.chunks)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*SCENARIOS, *MADE, []])
    parser.add_argument("--all", action="store_true", help="every recording and every made one")
    parser.add_argument("--made", action="store_true", help="every made one")
    asked = parser.parse_args()
    names = [*SCENARIOS, *MADE] if asked.all else [*asked.names, *(MADE if asked.made else ())]
    if not names:
        parser.error("name a transcript, or --all")
    failed = 0
    for name in names:
        if name in MADE:
            report(save(MADE[name](), {"by": "tests/transcripts/made.py"}).stat().st_size, name, 0.0)
            continue
        try:
            transcript = record(SCENARIOS[name])
        except (Missed, OSError, RuntimeError) as problem:
            failed += 1
            print(f"{name}: {problem}", file=sys.stderr, flush=True)
            continue
        end = transcript.chunks[-1][0]
        report(save(transcript, {"qemu": _QEMU, "guest": SCENARIOS[name].guest}).stat().st_size, name, end)
    return 1 if failed else 0


def report(size: int, name: str, end: float) -> None:
    """Say what was made."""
    print(f"{name}: {size} bytes, {end:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
