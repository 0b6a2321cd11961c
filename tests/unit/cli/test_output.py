"""Colours, tables, times: how the command line writes."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta

import pytest

from zerowait.cli import output
from zerowait.cli.output import age, colours, confirm, give_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("env", "stream", "coloured"),
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"CLICOLOR_FORCE": "1"}, io.StringIO(), True),
        ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, Terminal(), False),
        ({"CLICOLOR_FORCE": "0"}, io.StringIO(), False),
        ({"CLICOLOR": "0"}, Terminal(), False),
        ({"CLICOLOR": "0", "CLICOLOR_FORCE": "1"}, Terminal(), True),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
    ],
)
def test_no_color_wins_over_force_wins_over_clicolor(env: dict[str, str], stream: io.StringIO, coloured: bool) -> None:
    assert colours(stream, env) is coloured


def test_a_table_without_a_terminal_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    give_table(["channel", "handled"], [["numbers", "7"], ["mail.parse", "1,000"]], right=("handled",))
    assert capsys.readouterr().out == (
        "CHANNEL     HANDLED\n"
        "numbers           7\n"
        "mail.parse    1,000\n"
    )  # fmt: skip


def test_a_table_on_a_terminal_needs_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("NO_COLOR", "1")
    give_table(["channel"], [["numbers"]])
    assert terminal.getvalue() == "CHANNEL\nnumbers\n"


def test_rich_takes_a_cell_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    give_table(["reason"], [["[red]not markup[/red]"]])
    assert "[red]not markup[/red]" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.34, "340 ms"),
        (12, "12 s"),
        (99, "99 s"),
        (185, "3 min"),
        (5 * 3600, "5 h"),
        (3 * 86_400, "3 d"),
        (-5, "0 ms"),
    ],
)
def test_an_age_has_the_unit_that_matters(seconds: float, said: str) -> None:
    now = datetime(2026, 3, 4, tzinfo=UTC)
    assert age(now - timedelta(seconds=seconds), now) == said


def test_without_a_terminal_nothing_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(output.Failure, match="--yes") as refused:
        confirm("Drop 3?", yes=False)
    assert refused.value.code == output.MISUSED
    confirm("Drop 3?", yes=True)
