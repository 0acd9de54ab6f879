"""May it fit? Pure functions over figures that somebody else measured."""

from __future__ import annotations

from collections.abc import Sequence

from vmprov.hypervisor import Node, Pool
from vmprov.spec.quantities import format_size

# What QEMU, its page tables and the host itself need beside the guests' memory.
MEMORY_OVERHEAD_PER_VM = 96 * 1024**2
MEMORY_RESERVE = 512 * 1024**2
# An overlay starts almost empty; this much each must be there for first boots.
DISK_FOR_FIRST_BOOT = 256 * 1024**2


def memory_left(node: Node, *, committed: int) -> int:
    """Bytes for further VMs, beside the ``committed`` ones that ours may still come to use."""
    return max(0, min(node.free_memory, node.memory - committed) - MEMORY_RESERVE)


def shortage(node: Node, pool: Pool, *, wanted: Sequence[int], committed: int) -> str:
    """Why VMs with so many bytes of memory each do not all fit, and how many of them do; empty where they fit."""
    left = memory_left(node, committed=committed)
    fit, taken = 0, 0
    for memory in wanted:
        taken += memory + MEMORY_OVERHEAD_PER_VM
        if taken > left:
            break
        fit += 1
    by_disk = pool.available // DISK_FOR_FIRST_BOOT
    if min(fit, by_disk) >= len(wanted):
        return ""
    some = f"{min(fit, by_disk)} would fit" if min(fit, by_disk) else "not one would fit"
    if by_disk < fit:
        return f"{some} ({format_size(pool.available)} of disk free in pool {pool.name})"
    sizes = " to ".join(dict.fromkeys(format_size(size) for size in (min(wanted), max(wanted))))
    return f"{some} ({format_size(left)} of memory left, {sizes} each)"


def sensible_parallelism(node: Node, *, memory: int, kvm: bool) -> int:
    """How many VMs to boot at once: by cores (emulated CPUs are busier), never more than memory holds."""
    by_cores = node.cpus * (4 if kvm else 2)
    by_memory = max(1, node.free_memory // (memory + MEMORY_OVERHEAD_PER_VM))
    return max(1, min(by_cores, by_memory))
