"""Who may import whom: a module imports only from its own group and from those above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
PACKAGE = SOURCE / "zerowait"

# From the top: who stands higher knows nothing of who stands below. A folder stands for all that is in it.
GROUPS: dict[str, tuple[str, ...]] = {
    "words": ("errors", "message", "numbers", "names", "notices", "plain", "retry", "settings", "settings_channels",
              "settings_fields", "settings_sources", "codec",
              "patterns", "snapshot", "log", "contract", "agreement", "accept", "faults", "failures", "large", "turns",
              "words"),
    "what users hold": ("topic", "publications", "subscriptions", "ambient",
                        "channels", "app", "decorators", "context", "client", "short", "pending", "callbacks",
                        "receipts", "results", "loading", "mapping", "spreading", "progress", "answers", "replies",
                        "streams"),
    "handlers": ("handlers",),
    "outbox": ("outbox", "topics"),
    "requests": ("requests",),
    "engines": ("engines",),
    "opening": ("opening", "ground", "estate", "adopting", "observing", "serving", "ticking", "feeds", "feeding",
                "plains", "remains", "outgoing", "inventory", "processes"),
    "windows": ("cli", "metrics", "tracing", "web", "testing", "__main__"),
}  # fmt: skip

# What a group shows to those above it. module, or * for all → what it may import from below.
DOORS = {
    "*": ("zerowait.engines.engine",),  # the agreement between handlers and engines, and no engine
    "app.py": ("zerowait.serving", "zerowait.handlers"),  # an app is the list of its handlers
    "client.py": ("zerowait.opening",),  # at the first verb, and not before
}

# The core decides and does not do: time is passed in, frames come out. All that would do something, or differ from run
# to run, stays out of it.
IMPURE = {
    "apsw", "asyncio", "concurrent", "datetime", "logging", "multiprocessing", "os", "pathlib", "queue", "random",
    "secrets", "select", "selectors", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time",
    "uuid", "zmq",
}  # fmt: skip

ONLY_HERE = {
    "zmq": ("engines/brokerless/wire.py", "engines/brokerless/bare.py"),
    "apsw": ("outbox/database.py", "testing/disk.py", "testing/vfs.py"),
    "click": ("cli/", "__main__.py"),
    "rich": ("cli/", "progress.py"),
    "pydantic": ("codec.py",),
    "uvloop": ("serving.py",),
    "pickle": (),
    "sqlite3": (),
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def called(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path, *, at_run_time_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of each import, those inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_run_time_only and node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{called(path)}:{node.lineno} imports relatively"
            module = node.module or ""
            yield from ((node.lineno, f"{module}.{name.name}") for name in node.names)


def group_of(dotted: str) -> int | None:
    """The group of `zerowait.outbox.letters`; None for the package itself."""
    room = dotted.split(".")[1] if "." in dotted else ""
    for index, rooms in enumerate(GROUPS.values()):
        if room in rooms:
            return index
    return None


def test_every_room_is_in_a_group() -> None:
    rooms = {called(path).split("/")[0].removesuffix(".py") for path in modules()} - {"__init__"}
    known = {room for group in GROUPS.values() for room in group}
    assert rooms <= known, f"say in which group: {sorted(rooms - known)}"


@pytest.mark.parametrize("path", modules(), ids=called)
def test_a_module_imports_only_from_its_own_group_and_those_above(path: Path) -> None:
    names = list(GROUPS)
    own = group_of("zerowait." + called(path).removesuffix(".py").replace("/", "."))
    if own is None or names[own] in ("opening", "windows"):
        return
    doors = DOORS["*"] + DOORS.get(called(path), ())
    for line, dotted in imports(path, at_run_time_only=True):
        if any(dotted == door or dotted.startswith(door + ".") for door in doors):
            continue
        other = group_of(dotted) if dotted.startswith("zerowait.") else None
        if other is not None and other > own:
            pytest.fail(f"{called(path)}:{line} ({names[own]}) imports {dotted}, which is below it ({names[other]})")


def test_no_files_import_one_another_in_a_circle() -> None:
    """Nor for a checker, nor in a function: who knows whom is what is told here, and not when. The package's own face
    hands names on and is nobody's room."""
    rooms = {f"zerowait.{called(path).removesuffix('.py').replace('/', '.')}": path for path in modules()}
    simulated = "zerowait.testing."  # a simulated process and its surroundings know each other
    taken = {
        room: {
            known
            for _, dotted in imports(path)
            for known in (dotted, dotted.rpartition(".")[0])
            if known in rooms and known != room
        }
        for room, path in rooms.items()
        if not room.startswith(simulated)
    }
    try:
        TopologicalSorter(taken).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", [path for path in modules() if "/protocol/" in path.as_posix()], ids=called)
def test_the_protocol_is_pure(path: Path) -> None:
    for line, dotted in imports(path):
        assert dotted.split(".")[0] not in IMPURE, f"{called(path)}:{line} imports {dotted}: pass it in"
        words = (
            "zerowait.message", "zerowait.numbers", "zerowait.errors", "zerowait.contract", "zerowait.agreement",
            "zerowait.names", "zerowait.patterns", "zerowait.words", "zerowait.large",
        )  # fmt: skip
        inside = dotted.startswith(("zerowait.engines.brokerless.protocol", *words))
        assert inside or not dotted.startswith("zerowait."), f"{called(path)}:{line} imports {dotted}"


@pytest.mark.parametrize("path", modules(), ids=called)
def test_each_library_is_imported_in_one_place(path: Path) -> None:
    for line, dotted in imports(path):
        places = ONLY_HERE.get(dotted.split(".")[0])
        if places is not None:
            assert called(path).startswith(places), f"{called(path)}:{line} imports {dotted}; only {places} may"


def test_there_is_no_drawer() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common", "compat", "base", "tools"}
    assert not [called(path) for path in modules() if path.stem.strip("_") in drawers]
