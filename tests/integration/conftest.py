"""Programs that a test starts, and the file in which their handlers write what they did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import Start, programs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "witness"
    path.touch()
    monkeypatch.setenv("WITNESS", str(path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    return path


@pytest.fixture
def start(tmp_path: Path, witness: Path) -> Iterator[Start]:
    with programs(tmp_path) as start:
        yield start
