"""Whether KVM truly works on this machine: by evidence, not by the existence of ``/dev/kvm``.

A device that opens proves nothing: there are machines where it does, firmware even starts, and no kernel ever
boots. So the CPU's flags are read, and then a guest that must reach long mode is run on KVM. The answer is
kept until the kernel, the CPU or the probe changes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from vmprov.containers import recipes
from vmprov.containers.engine import LOCK_LABEL, ContainerSpec, Engine
from vmprov.events import Events
from vmprov.hosts import Acceleration
from vmprov.locks import exclusive
from vmprov.paths import Home
from vmprov.waiting import Cancel, Deadline

KVM_DEVICE = Path("/dev/kvm")
_CPU_INFO = Path("/proc/cpuinfo")
_PROBE_LIMIT = 30.0


def find_out(engine: Engine, home: Home, events: Events, *, labels: Mapping[str, str]) -> Acceleration:
    """KVM or TCG, with the reason; runs the proof, in a container with these labels, once per kernel and CPU."""
    without_trying = _impossible()
    if without_trying:
        return Acceleration("tcg", without_trying)
    image = recipes.ensure(engine, "host", home, events)
    key = hashlib.sha256(f"{platform.release()} {_cpu_flags()} {image}".encode()).hexdigest()
    memory = home.host("") / "acceleration.json"
    try:
        known = json.loads(memory.read_text())
        if known["key"] == key:
            return Acceleration(known["kind"], known["why"])
    except (OSError, ValueError, KeyError):
        pass
    lock = home.lock("kvm-probe")
    with exclusive(lock, Deadline(_PROBE_LIMIT * 2), "the proof whether KVM works"):
        answer = _prove(engine, image, {**labels, "vmprov.role": "probe", LOCK_LABEL: lock.stem})
    memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    memory.write_text(json.dumps({"key": key, "kind": answer.kind, "why": answer.why}))
    return answer


def _cpu_flags() -> str:
    found = re.search(r"^flags\s*:(.*)$", _CPU_INFO.read_text(), re.MULTILINE)
    return found.group(1) if found else ""


def _impossible() -> str:
    """Why KVM is out of the question, or nothing."""
    if not KVM_DEVICE.exists():
        return f"there is no {KVM_DEVICE}"
    if not {"vmx", "svm"} & set(_cpu_flags().split()):
        return f"{KVM_DEVICE} exists, but the CPU shows neither vmx nor svm, so no guest kernel would boot on it"
    return ""


def _prove(engine: Engine, image: str, labels: Mapping[str, str]) -> Acceleration:
    said: list[str] = []
    spec = ContainerSpec(
        name=f"vmprov-kvm-probe-{hashlib.sha256(image.encode()).hexdigest()[:8]}",
        image=image,
        labels=labels,
        command=["vmprov-kvm-probe"],
        devices=[f"{KVM_DEVICE}:{KVM_DEVICE}"],
    )
    code = engine.run_to_end(spec, on_line=said.append, deadline=Deadline(_PROBE_LIMIT), cancel=Cancel())
    if code == 0:
        return Acceleration("kvm", "a test guest reached long mode on KVM")
    return Acceleration("tcg", said[-1] if said else f"the KVM probe exited with {code}")
