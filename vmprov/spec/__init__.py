"""What is wanted: parsed once, at the edge, into frozen values that cannot be half-filled.

``quantities.py`` reads sizes and durations, ``names.py`` names, ``machine.py`` is one machine's shape, ``request.py`` a
whole request, ``lab.py`` a lab. ``load.py`` makes a lab of a file (``file.py``: what one holds, ``compose.py``: bases,
``refer.py``: variables, ``rules.py``: what must hold between its parts), ``write.py`` a file of a lab.
"""
