"""Programs that both type checkers must accept, and lines that both must refuse, in strict mode."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIGHT = sorted((HERE / "right").glob("*.py"))
WRONG = sorted((HERE / "wrong").glob("*.py"))

Refused = dict[Path, dict[int, list[str]]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def refused_by_mypy(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    cache = tmp_path_factory.mktemp("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--explicit-package-bases"]
    command += [
        "--follow-imports=silent",
        f"--cache-dir={cache}",
        "--no-error-summary",
        "--show-absolute-path",
        "--hide-error-context",
    ]
    path = os.pathsep.join([str(ROOT / "src"), str(HERE / "right"), str(HERE / "wrong")])
    # Two runs, for both folders have a handlers.py.
    said = ""
    for programs in (RIGHT, WRONG):
        ran = subprocess.run(
            [*command, *map(str, programs)],
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode in (0, 1), ran.stdout + ran.stderr
        said += ran.stdout
    refused: Refused = {}
    for line in said.splitlines():
        if found := re.match(r"(.*?):(\d+): error: (.*)", line):
            refused.setdefault(Path(found[1]), {}).setdefault(int(found[2]), []).append(found[3])
    return refused


@pytest.fixture(scope="module")
def refused_by_pyright(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    project = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    settings = {
        "typeCheckingMode": "strict",
        "include": [os.path.relpath(HERE, project.parent)],
        "extraPaths": [str(ROOT / "src"), str(HERE / "right")],
        "exclude": [],
    }
    project.write_text(json.dumps(settings))
    command = [str(Path(sys.executable).with_name("pyright")), "--outputjson", "--pythonpath", sys.executable]
    ran = subprocess.run([*command, "-p", str(project)], capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    refused: Refused = {}
    for found in json.loads(ran.stdout)["generalDiagnostics"]:
        if found["severity"] == "error":
            lines = refused.setdefault(Path(found["file"]), {})
            lines.setdefault(found["range"]["start"]["line"] + 1, []).append(found["message"])
    return refused


def marked(program: Path) -> Iterator[int]:
    for number, line in enumerate(program.read_text(encoding="utf-8").splitlines(), 1):
        if line.endswith("# wrong"):
            yield number


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("program", RIGHT, ids=lambda path: path.stem)
def test_a_right_program_passes(program: Path, checker: str, request: pytest.FixtureRequest) -> None:
    refused: Refused = request.getfixturevalue(f"refused_by_{checker}")

    assert refused.get(program, {}) == {}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("program", WRONG, ids=lambda path: path.stem)
def test_each_wrong_line_is_refused_and_no_other(program: Path, checker: str, request: pytest.FixtureRequest) -> None:
    refused: Refused = request.getfixturevalue(f"refused_by_{checker}")

    wrong = set(marked(program))
    assert wrong, "no line is marked"
    assert set(refused.get(program, {})) == wrong
