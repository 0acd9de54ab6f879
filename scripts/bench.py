"""What ``scripts/bench`` runs; see there for the options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import bench_consoles
import bench_create
import bench_day0
import bench_labs

from vmprov.spec.quantities import parse_size


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("what", nargs="?", choices=("create", "consoles", "labs", "day0", "all"), default="all")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    create = parser.add_argument_group("create")
    create.add_argument("--image", default="debian-12")
    create.add_argument("--count", type=int, default=3, help="machines (default 3)")
    create.add_argument("--rounds", type=int, default=1)
    consoles = parser.add_argument_group("consoles")
    consoles.add_argument("--guests", type=int, default=10, help="machines (default 10)")
    consoles.add_argument("--bytes", type=parse_size, default=parse_size("5MB"), help="from each (default 5MB)")
    consoles.add_argument("--seconds", type=float, default=30, help="to look at latency and at idling (default 30)")
    labs = parser.add_argument_group("labs")
    labs.add_argument("--machines", type=int, default=10, help="real ones (default 10)")
    day0 = parser.add_argument_group("day0")
    day0.add_argument("--nodes", type=int, default=3, help="edge nodes at once (default 3)")
    names = ",".join(bench_consoles.MEASUREMENTS)
    consoles.add_argument("--only", type=lambda text: text.split(","), help=f"some of {names}")
    options = parser.parse_args()
    wanted = tuple(options.only or bench_consoles.MEASUREMENTS)
    if unknown := set(wanted) - set(bench_consoles.MEASUREMENTS):
        parser.error(f"--only: no measurement is called {', '.join(sorted(unknown))}")
    sizes = bench_consoles.Sizes(options.guests, options.bytes, options.seconds)
    kinds: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], None]]] = {
        "create": (lambda: bench_create.measure(options.image, options.count, options.rounds), bench_create.show),
        "consoles": (lambda: bench_consoles.measure(wanted, sizes), bench_consoles.show),
        "labs": (lambda: bench_labs.measure(options.machines), bench_labs.show),
        "day0": (lambda: bench_day0.measure(options.nodes), bench_day0.show),
    }
    found = {name: measure() for name, (measure, _) in kinds.items() if options.what in (name, "all")}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, one in found.items():
        kinds[name][1](one)


if __name__ == "__main__":
    main()
