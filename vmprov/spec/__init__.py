"""What is wanted: parsed once, at the edge, into frozen values that cannot be half-filled.

``quantities.py`` reads sizes and durations, ``names.py`` names, ``request.py`` a whole request.
"""
