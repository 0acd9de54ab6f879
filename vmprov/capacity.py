"""May it fit? Pure functions over figures that somebody else measured."""

from __future__ import annotations

from dataclasses import dataclass

from vmprov.hypervisor import Node, Pool
from vmprov.spec.quantities import format_size

# What QEMU, its page tables and the host itself need beside the guests' memory.
MEMORY_OVERHEAD_PER_VM = 96 * 1024**2
MEMORY_RESERVE = 512 * 1024**2
# An overlay starts almost empty; this much each must be there for first boots.
DISK_FOR_FIRST_BOOT = 256 * 1024**2


@dataclass(frozen=True)
class Room:
    """How many VMs of one size fit, and what the limit is."""

    vms: int
    limit: str


def room_for(node: Node, pool: Pool, *, memory: int, committed: int) -> Room:
    """How many VMs with ``memory`` bytes fit beside the ``committed`` bytes that ours may still come to use."""
    free = min(node.free_memory, node.memory - committed) - MEMORY_RESERVE
    by_memory = max(0, free) // (memory + MEMORY_OVERHEAD_PER_VM)
    by_disk = pool.available // DISK_FOR_FIRST_BOOT
    if by_memory <= by_disk:
        return Room(by_memory, f"{format_size(max(0, free))} of memory left, {format_size(memory)} each")
    return Room(by_disk, f"{format_size(pool.available)} of disk free in pool {pool.name}")


def sensible_parallelism(node: Node, *, memory: int, kvm: bool) -> int:
    """How many VMs to boot at once: by cores (emulated CPUs are busier), never more than memory holds."""
    by_cores = node.cpus * (4 if kvm else 2)
    by_memory = max(1, node.free_memory // (memory + MEMORY_OVERHEAD_PER_VM))
    return max(1, min(by_cores, by_memory))
