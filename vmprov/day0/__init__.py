"""Onboarding of edge nodes: what speaks with an orchestrator, and what is known of a node's way to its system.

``config.py`` reads where the orchestrator is, ``https.py`` is the one door to it, ``answers.py`` parses what it says,
``client.py`` is the client; ``old_config.py`` reads the settings of the scripts that came before; ``report.py``
lays out tables of nodes.
"""
