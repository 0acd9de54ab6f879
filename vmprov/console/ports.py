"""What a UART is outside the guest: a capture that everybody may read, and a FIFO into which one at a time may type.

On a host of ours, QEMU itself reads the FIFO (its *pipe* character device, which takes output to ``.out``: that
leads to ``/dev/null``, since QEMU's own log file, the capture, has every byte). So no reader is ever connected to
the guest, and none can hold it up. FIFO and ``.out`` outlive power cycles.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def input_path(base: Path) -> Path:
    """The FIFO of the UART whose files begin with ``base``."""
    return base.with_name(base.name + ".in")


def _output_path(base: Path) -> Path:
    return base.with_name(base.name + ".out")


def socket_path(base: Path) -> Path:
    """The socket of a UART, on hosts whose QEMU serves one."""
    return base.with_name(base.name + ".sock")


def lock_path(base: Path) -> Path:
    """The lock file of whoever types."""
    return base.with_name(base.name + ".lock")


def drafts(lock: Path) -> Path:
    """The directory of what will be a lock file, or would have been, had its writer not been killed.

    It is nearly always empty, however many UARTs there are.
    """
    return lock.parent.with_name(f"{lock.parent.name}-drafts")


def relay_path(base: Path) -> Path:
    """Leads to the capture, where another program's log has to be copied into it."""
    return base.with_name(base.name + ".log")


def make_port(base: Path, log: Path, *, relayed: bool = False) -> None:
    """Make what is missing of a UART's files; QEMU may run as another user, and what it appends to stays ours.

    ``relayed``: QEMU does not write the capture itself; see ``relay.py``.
    """
    base.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # libvirt makes sockets as root, for its group to write to; in a set-group-id directory that is our group.
    base.parent.chmod(0o2700)
    drafts(lock_path(base)).mkdir(exist_ok=True, mode=0o700)
    os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))
    fifo, output = input_path(base), _output_path(base)
    if not (fifo.exists() and stat.S_ISFIFO(fifo.stat().st_mode)):
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
    if relayed and not relay_path(base).is_symlink():
        relay_path(base).symlink_to(log)
    if not output.is_symlink():
        output.unlink(missing_ok=True)
        output.symlink_to(os.devnull)


def remove_port(base: Path) -> None:
    """Remove a UART's files but the capture; gone is success."""
    lock = lock_path(base)
    killed = drafts(lock).glob(f"{lock.name}.*")
    for path in (input_path(base), _output_path(base), socket_path(base), relay_path(base), lock, *killed):
        path.unlink(missing_ok=True)
