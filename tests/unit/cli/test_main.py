"""The manners that all commands share."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest

from tests.unit.cli.conftest import Zerowait
from zerowait import errors
from zerowait.cli.main import COMMANDS, cli, ended


def test_the_overview_names_every_command(zerowait: Zerowait) -> None:
    ran = zerowait("--help")
    assert ran.code == 0
    assert all(f"\n  {name} " in ran.out for name in COMMANDS)


@pytest.mark.parametrize("name", ["dead", "outbox"])
def test_the_overview_says_what_each_group_can_do(name: str) -> None:
    group = import_module(COMMANDS[name][0]).command
    assert all(verb in COMMANDS[name][1].lower() for verb in group.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_or_a_promise(zerowait: Zerowait, name: str) -> None:
    ran = zerowait(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: zerowait {name}")


def test_help_imports_no_sockets_and_no_database() -> None:
    program = (
        "import sys\n"
        "from zerowait.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'zmq', 'apsw', 'rich', 'asyncio', 'zerowait.opening', 'zerowait.outbox.outbox'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_mistyped_command_is_told_the_nearest(zerowait: Zerowait) -> None:
    ran = zerowait("pusch")
    assert ran.code == 2
    assert "Did you mean 'push'?" in ran.err
    assert ran.out == ""


def test_a_wrong_option_is_misuse(zerowait: Zerowait) -> None:
    assert zerowait("status", "--colour").code == 2


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (errors.SettingsError("wrong", origin="ZEROWAIT_DRAIN"), 2),
        (errors.UsageError("wrong"), 2),
        (errors.StoreError("the disk is full"), 3),
        (errors.Dead(reason="no"), 1),
    ],
)
def test_each_kind_of_end_has_its_exit_code(
    raised: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise raised

    assert ended(command) == code
    assert capsys.readouterr().out == ""


def test_a_mistaken_setting_is_said_with_its_origin(zerowait: Zerowait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROWAIT_DRAIN", "soon")
    ran = zerowait("status")
    assert ran.code == 2
    assert "ZEROWAIT_DRAIN" in ran.err


def test_a_closed_pipe_ends_quietly() -> None:
    program = "from zerowait.__main__ import main; import sys; sys.argv = ['zerowait', '--help']; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 1


def test_completion_knows_the_commands() -> None:
    from click.shell_completion import ShellComplete

    completer = ShellComplete(cli, {}, "zerowait", "_ZEROWAIT_COMPLETE")
    assert "dead" in [item.value for item in completer.get_completions([], "")]
    assert [item.value for item in completer.get_completions(["dead"], "re")] == ["retry"]


@pytest.mark.parametrize("group", ["outbox", "dead", "topic"])
def test_what_a_command_does_is_not_cut_off_in_the_help_of_its_group(zerowait: Zerowait, group: str) -> None:
    _, found, commands = zerowait(group, "--help").out.partition("Commands:")
    assert found
    assert "..." not in commands
