"""``python3 -m orchestrator DIRECTORY PORT``: serve a lab's directory on loopback."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from .app import make_app, open_service

if __name__ == "__main__":
    uvicorn.run(make_app(open_service(Path(sys.argv[1]))), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
