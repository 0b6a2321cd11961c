"""A disk that stands still."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from zerowait.topics import groups


def stall_groups(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """From now on the folders in which durable groups are remembered can be read only while this is set; not yet."""
    moves, real = threading.Event(), groups.remembered

    def when_it_moves(folder: Path) -> dict[str, tuple[str, str]]:
        assert moves.wait(30)
        return real(folder)

    monkeypatch.setattr(groups, "remembered", when_it_moves)
    return moves
