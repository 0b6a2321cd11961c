from __future__ import annotations

from collections.abc import Callable

import click
import pytest

from zerowait.cli.main import cli, ended


class Ran:
    """What one run of the command line gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n-- stdout\n{self.out}\n-- stderr\n{self.err}"


Zerowait = Callable[..., Ran]


@pytest.fixture
def zerowait(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Zerowait:
    """Runs `zerowait` with these arguments in this process."""
    for variable in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)

    def run(*args: str) -> Ran:
        capsys.readouterr()
        code = ended(lambda: cli.main(list(args), prog_name="zerowait", standalone_mode=False))
        # What click keeps for the thread would be taken for this run's by the next.
        assert click.get_current_context(silent=True) is None
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run
