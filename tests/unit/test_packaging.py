"""What `pyproject.toml` says, and what is there, agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import zerowait

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_said_once() -> None:
    assert zerowait.__version__ == PROJECT["project"]["version"]


def test_everything_the_project_needs_is_locked() -> None:
    for lock in ("demo", "dev", "fuzz", "soak"):
        lines = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8").splitlines()
        locked = {line.partition("==")[0].lower().replace("_", "-") for line in lines if not line.startswith("#")}
        needed = {requirement.partition(">")[0] for requirement in PROJECT["project"]["dependencies"]}
        assert needed <= locked


def test_the_package_is_typed() -> None:
    assert (ROOT / "src/zerowait/py.typed").exists()
