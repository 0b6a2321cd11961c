"""Finding the app that `module:app` names, and saying well why it cannot be found."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from zerowait.cli.output import MISUSED, Failure
from zerowait.errors import UsageError
from zerowait.names import nearest

if TYPE_CHECKING:
    from zerowait.app import App

OURS = f"{Path(__file__).parents[1]}{os.sep}"


def find_app(target: str) -> App:
    """Imports the module, with the current folder first on the path, and gives its app.

    target: `module:app`; or `module` alone, if there is exactly one App in it. Raises Failure (exit code 2).
    """
    module_name, colon, attribute = target.partition(":")
    _check(target, module_name)
    if colon and not attribute:
        raise Failure(f"{target!r} names no app: write {module_name}:app, or {module_name} alone.", MISUSED)
    module = _imported(module_name)
    apps = [name for name, value in vars(module).items() if _is_app(value)]
    if not attribute:
        if len(apps) != 1:
            raise Failure(f"Which app of {module_name}? {_choice(module_name, apps)}", MISUSED)
        attribute = apps[0]
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Failure(
                f"{module_name} ({_place(module)}) has no {attribute!r}. {_choice(module_name, apps)}", MISUSED
            )
        found = getattr(found, part)
    if not _is_app(found):
        kind = type(found).__name__
        raise Failure(f"{target} is no App but of type {kind}. {_choice(module_name, apps)}", MISUSED)
    return found


def _is_app(value: object) -> TypeGuard[App[Any]]:
    from zerowait.app import App

    return isinstance(value, App)


def _check(target: str, module_name: str) -> None:
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        attribute = target.partition(":")[2] or "app"
        raise Failure(
            f"{module_name!r} is a file, and an app is named by its module. Did you mean {dotted}:{attribute}?", MISUSED
        )
    if all(part.isidentifier() for part in module_name.split(".")):
        return
    raise Failure(f"{target!r} does not name an app: write module:app, as printer:app for app in printer.py.", MISUSED)


def _imported(name: str) -> ModuleType:
    try:
        here = str(Path.cwd())
    except OSError as error:
        raise Failure(
            f"the current folder cannot be read: {error.strerror}. Start it from the folder of {name}.", MISUSED
        ) from None
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _broken(name, error) from error
        raise Failure(_not_found(name, error.name, here), MISUSED) from None
    except SystemExit as error:  # 0 of it would pass for an app that has served and stopped
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _not_found(name: str, missing: str, here: str) -> str:
    folder, parent = Path(here), missing.rpartition(".")[0]
    if parent and (spec := find_spec(parent)) is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
    there = sorted(
        path.stem
        for path in folder.iterdir()
        if path.stem.isidentifier() and (path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py"))))
    )
    meant = nearest(missing.rpartition(".")[2], there)
    hint = f"Did you mean {parent + '.' if parent else ''}{meant}?" if meant else "Start it from its folder."
    return f"There is no module {missing!r}: looked in {folder} and in the installed packages. {hint}"


def _broken(name: str, error: BaseException) -> Failure:
    """Only the frames of the user's own code: those before are how we came there, and where we have refused what it
    says is no part of the mistake."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    if isinstance(error, UsageError):
        own = [frame for frame in own if not frame.filename.startswith(OURS)]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return Failure(f"importing {name} failed:\n{''.join(lines).rstrip()}", MISUSED)


def _choice(module_name: str, apps: list[str]) -> str:
    if not apps:
        return f'There is no App in it: write app = App("{module_name.rpartition(".")[2]}").'
    return f"There {'is' if len(apps) == 1 else 'are'}: {', '.join(f'{module_name}:{name}' for name in apps)}."


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "no file"
