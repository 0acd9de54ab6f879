"""``python -m vmprov``, the same as the ``vmprov`` command."""

from vmprov.cli import main

if __name__ == "__main__":
    main()
