"""YAML, read with the place of every value; the only module that imports a YAML library."""
