"""How labs from files fare: applying where nothing is to be done, removing, and how all of it grows with the machines.

The peers, kcli and virt-lightning, are installed from the package index into environments of their own. kcli works on
the same libvirt, virt-lightning on one like it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import bench_lightning
from bench_create import run, timed, vmprov_command

from vmprov.hosts.embedded import EmbeddedHost
from vmprov.lab import Vmprov
from vmprov.settings import Settings

_SIZES = (10, 100, 1000, 10_000)
# A simulated host for the largest.
_ROOM = {"VMPROV_FAKE_MEMORY": "4TiB", "VMPROV_FAKE_POOL": "20TiB", "VMPROV_SUBNETS": "10.0.0.0/9"}
_MEMORY = "128MiB"
# Times that what is short is done, to show the median.
_ROUNDS = 9
_LAB = """\
lab: {name}
host: '{host}'
defaults: {{image: '{image}', memory: {memory}}}
vms: {{{name}-vm: {{count: {count}}}}}
"""
# One process for each size, so that its peak of memory is its own.
_GROWTH = """\
import json, resource, sys, time
from vmprov import Vmprov
from vmprov.spec.load import load_lab
def timed(action):
    start = time.monotonic()
    found = action()
    return time.monotonic() - start, found
lab = load_lab(sys.argv[1])
with Vmprov() as vmprov:
    times = {}
    times["plan"], plan = timed(lambda: vmprov.plan(lab))
    times["apply"], result = timed(lambda: vmprov.apply(lab))
    times["apply again"], again = timed(lambda: vmprov.apply(lab))
    times["list"], listed = timed(vmprov.vms)
    assert result.ok and not again.plan["changes"] and len(listed) == len(plan.changes)
    times["delete"], deleted = timed(lambda: vmprov.delete(everything=True))
    assert not deleted.failed
    print(json.dumps({**times, "peak memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def measure(count: int) -> dict[str, Any]:
    """Everything, with ``count`` real machines of ``tiny``, and with more and more simulated ones."""
    return {
        "real": _real(count),
        "virt-lightning": bench_lightning.measure(count),
        "simulated": {size: _simulated(size) for size in _SIZES},
        "blank": _beside_kcli(count),
    }


def _lab_file(directory: Path, *, name: str, host: str, image: str, count: int) -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(_LAB.format(name=name, host=host, image=image, memory=_MEMORY, count=count))
    return path


def _real(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        lab = str(_lab_file(Path(scratch), name="bench", host="embedded", image="tiny", count=count))
        created, _ = run(*vmprov_command("apply", "-f", lab, "--auto-approve"))
        try:
            again = median(run(*vmprov_command("apply", "-f", lab, "--auto-approve"))[0] for _ in range(_ROUNDS))
        finally:
            deleted, _ = run(*vmprov_command("delete", "bench", "--yes"))
    return {"apply": created, "apply again": again, "delete": deleted}


def _simulated(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        lab = _lab_file(Path(scratch), name="big", host="fake:", image="", count=count)
        own = {"VMPROV_HOME": f"{scratch}/home", "VMPROV_HOST": "fake:", "VMPROV_KEEPER": "off"}
        environ = {**os.environ, **_ROOM, **own}
        done = subprocess.run(
            [sys.executable, "-c", _GROWTH, lab], env=environ, stdout=subprocess.PIPE, text=True, check=True
        )
        found: dict[str, float] = json.loads(done.stdout)
        return found


# blank machines, which need no image, beside kcli


def _beside_kcli(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, _kcli(Path(scratch)) as kcli:
        theirs = {
            "create": timed(lambda: kcli(
                "create", "vm", "-P", "memory=128", "-P", "numcpus=1", "-P", "disks=[1]", "-P", "nets=[]",
                "-P", "start=true", "-c", str(count), "peer",
            )),
            "delete": timed(lambda: kcli("delete", "vm", "-y", *(f"peer-{number}" for number in range(count)))),
        }  # fmt: skip
    words = ("--image", "", "--memory", _MEMORY, "--disk", "1GiB", "--network", "isolated", "--lab", "blank")
    created, _ = run(*vmprov_command("create", "--count", str(count), "--name", "blank", *words))
    deleted, _ = run(*vmprov_command("delete", "blank", "--yes"))
    return {"kcli": theirs, "vmprov": {"create": created, "delete": deleted}}


@contextmanager
def _kcli(scratch: Path) -> Iterator[Callable[..., None]]:
    """kcli, on the libvirt of the embedded host; what it makes is removed by itself."""
    subprocess.run([sys.executable, "-m", "venv", scratch / "venv"], check=True)
    install = [str(scratch / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check", "kcli"]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    with Vmprov(Settings.from_environ()) as vmprov:
        host = vmprov.host("embedded")
        assert isinstance(host, EmbeddedHost)
        uri = host.uri
    home = scratch / "home"
    (home / ".kcli").mkdir(parents=True)
    config = {"default": {"client": "local"}, "local": {"type": "kvm", "url": uri, "pool": "default"}}
    (home / ".kcli/config.yml").write_text(json.dumps(config))
    environ = {**os.environ, "HOME": str(home), "PATH": f"{scratch / 'venv/bin'}:{os.environ['PATH']}"}

    def kcli(*words: str) -> None:
        done = subprocess.run(
            [scratch / "venv/bin/kcli", *words],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"kcli {' '.join(words)} exited with {done.returncode}\n{done.stdout}")

    yield kcli
    shutil.rmtree(home, ignore_errors=True)


def show(found: dict[str, Any]) -> None:
    """Print it."""
    real = found["real"]
    print("real machines of image tiny:")
    print(f"  apply {real['apply']:.1f} s, apply again {real['apply again']:.2f} s, delete {real['delete']:.2f} s")
    lightning = found["virt-lightning"]
    print("the same with virt-lightning, on a libvirt like ours:")
    print(f"  create {lightning['create']:.1f} s, delete {lightning['delete']:.2f} s")
    print("simulated machines: seconds, and MiB at most")
    print("  machines    plan   apply   again    list  delete  memory")
    for size, one in found["simulated"].items():
        times = "".join(f"{one[name]:8.2f}" for name in ("plan", "apply", "apply again", "list", "delete"))
        print(f"  {size:8}{times}{one['peak memory'] / 1024**2:8.0f}")
    ours, theirs = found["blank"]["vmprov"], found["blank"]["kcli"]
    print("blank machines beside kcli, on the same libvirt:")
    for name in ("create", "delete"):
        print(f"  {name}: {ours[name]:.2f} s : {theirs[name]:.2f} s = {ours[name] / theirs[name]:.2f}")


if __name__ == "__main__":
    start = time.monotonic()
    show(measure(10))
    print(f"{time.monotonic() - start:.0f} s altogether")
