"""Docker: the engine itself (``engine.py``) and the images of ours that are built on demand (``recipes.py``)."""
