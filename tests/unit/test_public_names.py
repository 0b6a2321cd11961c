from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import zerowait

# All names of the design.
HERE = {
    "App", "Client", "Context", "PushChannel", "Plain", "Pending", "Receipt", "Retry", "RetryLater", "Reject",
    "Settings", "ZerowaitError", "QueueFull", "NoResponder", "PeerLost", "Expired", "Dead", "RemoteError",
    "__version__",
    "RequestChannel", "StreamChannel", "Reply", "Topic", "Event",
}  # fmt: skip


def test_these_are_the_names_and_no_others() -> None:
    assert set(zerowait.__all__) == HERE
    assert len(HERE) == 24


@pytest.mark.parametrize("name", sorted(HERE))
def test_each_name_is_there(name: str) -> None:
    assert getattr(zerowait, name) is not None
    assert name in dir(zerowait)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Foo'"):
        _ = zerowait.Foo


def test_star_imports_what_is_listed() -> None:
    names: dict[str, object] = {}

    exec("from zerowait import *", names)

    assert HERE - {"__version__"} <= set(names)


def test_the_version_is_that_of_the_package() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")

    found = re.search(r'^version = "(.*)"$', project, re.MULTILINE)

    assert found is not None
    assert zerowait.__version__ == found[1]


def test_it_carries_its_types() -> None:
    assert (Path(zerowait.__file__).parent / "py.typed").is_file()


PROBE = """
import builtins, os, sys, threading
opened, real = [], builtins.open
def watch(event, arguments):
    if event in ("socket.__new__", "socket.bind", "os.mkdir", "subprocess.Popen"):
        opened.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        opened.append(arguments[0])
sys.addaudithook(watch)
class Environ(type(os.environ)):
    def __getitem__(self, name):
        if str(name).startswith("ZEROWAIT"):
            opened.append(name)
        return super().__getitem__(name)
os.environ.__class__ = Environ
sys.dont_write_bytecode = True
from zerowait import *
App("a"); PushChannel[int]("numbers")
app = App("b")
@app.pull("numbers")
def show(number: int) -> None: ...
heavy = {"asyncio", "apsw", "zmq", "click", "rich", "sqlite3", "pydantic", "socket"} & set(sys.modules)
Client("c")
print(sorted(heavy), opened, threading.active_count())
"""


def test_importing_and_declaring_starts_nothing_and_imports_nothing_heavy() -> None:
    """But for a client: what its verbs need is imported when it is made, so that none of them holds a loop for it."""
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[] [] 1"
