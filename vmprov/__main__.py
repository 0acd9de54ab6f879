"""``python -m vmprov``, the same as the ``vmprov`` command."""

import gc
import os

# Imports make many objects and next to no garbage; looking for that takes a tenth of a short command's time.
gc.set_threshold(200_000, 10, 10)
# Models of ours need no plugins; looking through all installed packages for some takes longer than making the models.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from vmprov.cli import main  # noqa: E402 - after the above, which is about imports

if __name__ == "__main__":
    main()
