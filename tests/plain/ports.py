"""Endpoints that nobody has, and the plain programs as tests start them."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def endpoint() -> str:
    """That nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def plain(name: str) -> tuple[str, str]:
    """The command of one of the programs of this folder."""
    return sys.executable, str(FOLDER / f"{name}.py")
