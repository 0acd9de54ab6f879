"""``python -m vmprov``, the same as the ``vmprov`` command."""

import atexit
import gc
import os
import sys
from importlib.util import LazyLoader, find_spec, module_from_spec

# Imports make many objects and next to no garbage; looking for that takes a tenth of a short command's time.
gc.set_threshold(200_000, 10, 10)
# Nor is there any use in looking for it once more at the end, when everything goes: that takes another tenth.
atexit.register(gc.freeze)
# Models of ours need no plugins; looking through all installed packages for some takes longer than making the models.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _postpone(name: str) -> None:
    """Let a module be loaded when something of it is used, instead of when it is imported."""
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


# pydantic looks for plugins with it, if there are to be any; with it come the standard library's parsers of e-mail.
_postpone("importlib.metadata")

from vmprov.cli import main  # noqa: E402 - after the above, which is about imports

if __name__ == "__main__":
    main()
