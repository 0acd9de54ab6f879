"""An orchestrator to practise against: the server in the Day-0 lab's container.

A package of its own, which imports nothing of vmprov: it is copied into the lab's directory and runs there on the
FastAPI of the container's distribution (0.92, pydantic 1). It keeps to what that and today's releases share.
"""
