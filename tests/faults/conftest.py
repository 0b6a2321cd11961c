"""Scenes for tests, and what becomes of their processes: all end with the test, whatever happened in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.nursery import Nursery
from tests.faults.scene import Scene

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    if sys.platform != "linux":
        pytest.skip("processes are watched by pidfd and end with their parent: only Linux has both")
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def scene(nursery: Nursery, tmp_path: Path, home: Path, namespace: str) -> Iterator[Scene]:
    scene = Scene(nursery, tmp_path, home, namespace)
    yield scene
    scene.close()


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Figures that a test measures: shown in the summary of the run."""
    return lambda figure: request.config.stash.setdefault(FIGURES, []).append(figure)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for figure in config.stash.setdefault(FIGURES, []):
        terminalreporter.write_line(f"measured: {figure}")
