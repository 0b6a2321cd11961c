"""What every test gets: a namespace and a home of its own, and a look at what it left running."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.simulation.beside import BESIDE, BUDGET_S, MANY, SEEDS, Beside
from tests.simulation.seeds import cores
from tests.waiting import wait_until
from zerowait.settings import Settings

# Read once and taken away: in the environment of a service it would be a mistaken setting, and refused as one.
_EMAILS = os.environ.pop("ZEROWAIT_TEST_EMAILS", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run when they are asked for: by `-m`, or by the name of their file."""
    if config.getoption("markexpr") or config.args_source is pytest.Config.ArgsSource.ARGS:
        return
    long = [item for item in items if item.get_closest_marker("long") is not None]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]
    seeds = [item for item in items if item.get_closest_marker("beside") is not None]
    if seeds and len(items) > MANY and not config.option.collectonly:
        items[:] = [item for item in items if item not in set(seeds)] + seeds
        config.stash[BESIDE] = Beside(SEEDS, cores(), BUDGET_S)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (beside := config.stash.get(BESIDE, None)) is not None:
        beside.end()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, home: Path, namespace: str) -> None:
    """Programs that a test starts, and clients that load their settings, land in the test's own home too."""
    for variable in [name for name in os.environ if name.startswith("ZEROWAIT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("ZEROWAIT_HOME", str(home))
    monkeypatch.setenv("ZEROWAIT_NAMESPACE", namespace)


@pytest.fixture
def namespace() -> str:
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def home() -> Iterator[Path]:
    # Not below tmp_path, whose name holds the test's: the path of a socket may have 100 bytes and no more.
    folder = Path(tempfile.mkdtemp(prefix="zw-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings(home: Path, namespace: str) -> Settings:
    return Settings(home=home, namespace=namespace)


@pytest.fixture
def real_emails() -> Path:
    """The folder of real mails that are not in this repository; ZEROWAIT_TEST_EMAILS names it."""
    if _EMAILS is None:
        pytest.skip("ZEROWAIT_TEST_EMAILS names no folder of real mails")
    return Path(_EMAILS)


@pytest.fixture(autouse=True)
def _no_thread_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread of ours that outlives the test that made it would work on in the next one's time."""
    before = set(threading.enumerate())
    yield

    def ours() -> list[str]:
        left = [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]
        return [thread.name for thread in left if thread.name.startswith("zerowait")]

    if ours():
        wait_until(lambda: not ours(), within=5, that=f"the threads {ours()} ended with {request.node.nodeid}")
