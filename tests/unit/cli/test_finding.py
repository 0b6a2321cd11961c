"""Which app `module:app` means, and what is said when there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zerowait.cli.finding import find_app
from zerowait.cli.output import MISUSED, Failure


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("zw_"):
            del sys.modules[name]


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def refused(target: str) -> str:
    with pytest.raises(Failure) as failure:
        find_app(target)
    assert failure.value.code == MISUSED
    return failure.value.message


def test_an_app_of_the_current_folder_is_found(folder: Path) -> None:
    write(folder / "zw_printer.py", 'from zerowait import App\napp = App("printer")')
    assert find_app("zw_printer:app").name == "printer"
    assert find_app("zw_printer").name == "printer"


def test_a_module_of_a_package_is_found(folder: Path) -> None:
    write(folder / "zw_service" / "__init__.py")
    write(folder / "zw_service" / "mail.py", 'from zerowait import App\napp = App("mail")')
    assert find_app("zw_service.mail:app").name == "mail"


def test_a_missing_module_is_told_the_nearest(folder: Path) -> None:
    write(folder / "zw_printer.py")
    said = refused("zw_printr:app")
    assert "no module 'zw_printr'" in said
    assert "Did you mean zw_printer?" in said
    assert str(folder) in said


def test_a_missing_module_of_a_package_is_told_the_nearest_there(folder: Path) -> None:
    write(folder / "zw_service" / "__init__.py")
    write(folder / "zw_service" / "mail.py")
    assert "Did you mean zw_service.mail?" in refused("zw_service.mial:app")


def test_a_missing_attribute_is_told_which_apps_there_are(folder: Path) -> None:
    write(folder / "zw_printer.py", 'from zerowait import App\nmain = App("printer")')
    said = refused("zw_printer:app")
    assert "has no 'app'" in said
    assert "zw_printer:main" in said


def test_several_apps_need_a_choice(folder: Path) -> None:
    write(folder / "zw_two.py", 'from zerowait import App\na, b = App("a"), App("b")')
    assert "zw_two:a, zw_two:b" in refused("zw_two")


def test_what_is_no_app_is_said_to_be_none(folder: Path) -> None:
    write(folder / "zw_printer.py", "app = 3")
    said = refused("zw_printer:app")
    assert "is no App but of type int" in said
    assert 'app = App("zw_printer")' in said


def test_a_file_is_told_to_be_written_as_a_module() -> None:
    assert "service.mail:app" in refused("./service/mail.py:app")
    assert "service.mail:worker" in refused("service/mail.py:worker")
    assert "Did you mean printer:app?" in refused("printer.py:app")


def test_a_colon_with_nothing_behind_it_names_no_app() -> None:
    assert "printer:app" in refused("printer:")


def test_nonsense_is_told_what_to_write() -> None:
    assert "printer:app" in refused("not an app")


def test_a_module_that_fails_is_shown_from_its_own_line(folder: Path) -> None:
    write(folder / "zw_broken.py", "secret = 'hunter2'\n\ndef f(x):\n    return 1 / x\n\nf(0)\n")
    said = refused("zw_broken:app")
    assert "ZeroDivisionError" in said
    assert "zw_broken.py" in said
    assert "importlib" not in said
    assert "hunter2" not in said


def test_what_we_refuse_is_shown_without_our_own_lines(folder: Path) -> None:
    write(folder / "zw_refused.py", "from zerowait import App\n\napp = App('bad name!')\n")
    said = refused("zw_refused:app")
    assert "zw_refused.py" in said
    assert "'bad name!' cannot be the name of an app" in said
    assert said.count('File "') == 1


def test_a_module_that_lacks_a_dependency_is_not_said_to_be_missing(folder: Path) -> None:
    write(folder / "zw_needs.py", "import zw_not_there")
    said = refused("zw_needs:app")
    assert "importing zw_needs failed" in said
    assert "No module named 'zw_not_there'" in said


@pytest.mark.parametrize("code", ["", "0", "3"])
def test_a_module_that_ends_the_program_when_it_is_imported_is_an_error(folder: Path, code: str) -> None:
    # Its exit code would be the command's: 0, as if it had served and been told to stop.
    write(folder / "zw_leaves.py", f"import sys\nsys.exit({code})")
    said = refused("zw_leaves:app")
    assert "SystemExit" in said
    assert "zw_leaves.py" in said


def test_a_folder_that_has_been_removed_is_said(folder: Path) -> None:
    folder.rmdir()
    assert "current folder" in refused("zw_printer:app")
