"""vmprov makes batches of KVM virtual machines, watches their consoles, and removes exactly what was made.

The public names are those in ``__all__``; they are imported at first use, so that ``import vmprov`` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmprov.errors import VmprovError
    from vmprov.lab import Vmprov
    from vmprov.settings import Settings
    from vmprov.spec.request import CreateRequest
    from vmprov.views import CreateResult, DeleteResult, VMView

__version__ = "0.1.0"
__all__ = ["CreateRequest", "CreateResult", "DeleteResult", "Settings", "VMView", "Vmprov", "VmprovError"]

_HOMES = {
    "CreateRequest": "vmprov.spec.request",
    "CreateResult": "vmprov.views",
    "DeleteResult": "vmprov.views",
    "Settings": "vmprov.settings",
    "VMView": "vmprov.views",
    "Vmprov": "vmprov.lab",
    "VmprovError": "vmprov.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vmprov' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
