"""virt-lightning beside vmprov: machines of the image ``tiny``, made and removed.

It wants to run where libvirt runs, so it gets a host of its own: a container of the embedded host's image, with
virt-lightning from the package index in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmprov.containers import recipes
from vmprov.containers.engine import ContainerSpec, Engine, Mount
from vmprov.lab import Vmprov
from vmprov.settings import Settings
from vmprov.waiting import Deadline

_NAME = "vmprov-bench-lightning"
_LABELS = {"vmprov.role": "bench"}
_POOL = "/var/lib/virt-lightning/pool"
_LIMIT = 900.0
_RECIPE = """\
ARG HOST
FROM ${HOST}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends genisoimage python3-libvirt python3-yaml
COPY *.whl /tmp/
RUN python3 -m zipfile -e /tmp/*.whl /usr/lib/python3/dist-packages
"""
_PREPARE = f"""\
set -e
mkdir -p {_POOL}/upstream /root/.ssh
cp /bench/tiny.qcow2 {_POOL}/upstream/
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
for _ in $(seq 300); do
    virsh version >/dev/null 2>&1 && exit 0
    sleep 0.1
done
exit 1
"""
_LIGHTNING = ("python3", "-c", "from virt_lightning.shell import main; main()")
# Whatever tiny makes of its metadata, it asks for an address and answers on port 22, and that is what ``up`` waits for.
_MACHINE = {"distro": "tiny", "memory": 128, "vcpus": 1, "disks": [{"size": 1}], "username": "root"}


def measure(count: int) -> dict[str, float]:
    """Seconds that it takes to make ``count`` machines that answer, and to remove them."""
    with tempfile.TemporaryDirectory() as scratch, _host(Path(scratch), count) as engine:
        created = _inside(engine, *_LIGHTNING, "up", "--virt-lightning-yaml", "/bench/machines.yaml")
        return {"create": created, "delete": _inside(engine, *_LIGHTNING, "down")}


@contextmanager
def _host(scratch: Path, count: int) -> Iterator[Engine]:
    """A host with the image in its pool; it goes with everything in it."""
    machines = [{"name": f"lightning-{number}", **_MACHINE} for number in range(count)]
    (scratch / "machines.yaml").write_text(json.dumps(machines))
    (scratch / "Dockerfile").write_text(_RECIPE)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*download, "--dest", scratch, "virt-lightning"], check=True, stderr=subprocess.DEVNULL)
    with Vmprov(Settings.from_environ()) as vmprov:
        disk = vmprov.images.disk("tiny")
        host = recipes.image_name("host")
        vmprov.engine.build(scratch, _NAME, arguments={"HOST": host}, labels=_LABELS, on_line=lambda _line: None)
        mounts = [Mount(scratch, "/bench"), Mount(disk, "/bench/tiny.qcow2")]
        tun = ["/dev/net/tun:/dev/net/tun"] if Path("/dev/net/tun").exists() else []
        vmprov.engine.start(ContainerSpec(_NAME, _NAME, _LABELS, mounts=mounts, devices=tun, privileged_like=True))
        try:
            _inside(vmprov.engine, "bash", "-c", _PREPARE)
            yield vmprov.engine
        finally:
            vmprov.engine.remove(_NAME)


def _inside(engine: Engine, *argv: str) -> float:
    """Run a program there; returns the seconds that it took."""
    said: list[str] = []
    start = time.monotonic()
    code = engine.exec(_NAME, argv, on_line=said.append, deadline=Deadline(_LIMIT), workdir="/root")
    if code:
        raise SystemExit(f"{' '.join(argv)} exited with {code}\n" + "\n".join(said))
    return time.monotonic() - start


if __name__ == "__main__":
    print(measure(int(sys.argv[1]) if sys.argv[1:] else 10))
