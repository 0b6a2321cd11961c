"""How the command line writes the log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager

from zerowait import log


@contextmanager
def bare_root() -> Generator[logging.Logger]:
    """The root logger as a program begins with it; not a fixture, for pytest adds its handlers before each call."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "zerowait.links", "levelno": 30, "levelname": "WARNING", "msg": "nobody serves %s", "args": ("a.b",)}
    )
    made.__dict__.update(extra)
    return made


def test_a_text_line_has_time_level_room_and_sentence() -> None:
    line = log.TextFormatter().format(record(created=0.5, msecs=500.0))
    assert line.endswith(".500 warning zerowait.links  nobody serves a.b")


def test_a_json_line_has_the_fields_given_by_extra() -> None:
    line = json.loads(log.JsonFormatter().format(record(channel="a.b", odd=object())))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "zerowait.links", "nobody serves a.b")
    assert line["channel"] == "a.b"
    assert line["odd"].startswith("<object")
    assert line["at"].endswith("Z")


def test_an_exception_is_written_without_local_variables() -> None:
    secret = "hunter2"
    try:
        raise ValueError("wrong")
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    for formatter in (log.TextFormatter(), log.JsonFormatter()):
        text = formatter.format(record(exc_info=trouble))
        assert "ValueError: wrong" in text
        assert secret not in text


def test_a_program_that_set_up_its_own_logging_keeps_it() -> None:
    own = logging.NullHandler()
    with bare_root() as root:
        root.addHandler(own)
        assert not log.configure("info", "text", io.StringIO())
        assert root.handlers == [own]


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    with bare_root():
        assert log.configure("warning", "json", stream)
        logging.getLogger("zerowait.links").info("quiet")
        logging.getLogger("zerowait.links").warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]
