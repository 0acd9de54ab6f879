"""Flows: the stages that a console is expected to pass, as data, and the judge of whether it did.

``grammar`` says what a flow file may hold, ``load`` reads one, ``matcher`` finds patterns in what consoles really
send, ``machine`` is the state machine over (bytes, time), and ``verdict`` is what comes out. Nothing in here
reads a clock, a file that grows, or a port: the same transcript always gives the same result.
"""
