"""Asking a process that answers nonsense: the answer says so, and nothing is raised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zerowait.engines.brokerless import asking
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.wire import Heard, Opened
from zerowait.snapshot import Answer, Question

HELLO = frames.encode(frames.Hello(1, "printer"))


def asked(monkeypatch: pytest.MonkeyPatch, *said: bytes) -> Answer:
    class Wire:
        def __init__(self, **options: Any) -> None:
            self.events: list[Any] = [Opened(1, "ipc:///x")]
            self.events += [Heard(1, frame, first=False) for frame in (HELLO, *said)]

        def dial(self, endpoint: str) -> int:
            return 1

        def poll(self, timeout: float) -> list[Any]:
            events, self.events = self.events, []
            return events

        def send(self, conn: int, frame: Any) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(asking, "Wire", Wire)
    return asking.ask("ipc:///x", Question("status"), 0.05)


def control(body: bytes) -> bytes:
    return bytes(frames.encode(frames.Control(1, True, body)))


def test_an_answer_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, control(msgspec.msgpack.encode(Answer(True, 3)))).value == 3


def test_an_answer_in_pieces_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = control(msgspec.msgpack.encode(Answer(True, 3)))
    cut = [frames.Fragment(1, at, len(whole), memoryview(whole)[at : at + 4]) for at in range(0, len(whole), 4)]
    pieces = [bytes(frames.encode(piece)) for piece in cut]
    assert asked(monkeypatch, *pieces).value == 3


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"\xc1", "cannot be read"),
        (control(b"\xc1"), "its answer cannot be read"),
        (control(msgspec.msgpack.encode({"ok": "maybe"})), "its answer cannot be read"),
        (bytes(frames.encode(frames.Fragment(1, 0, 3, memoryview(b"abc")))), "cannot be read"),
        (bytes(frames.encode(frames.Fragment(1, 0, 1 << 40, memoryview(b"abc")))), "larger than 64 MiB"),
    ],
)
def test_nonsense_is_an_answer_that_says_no(monkeypatch: pytest.MonkeyPatch, said: bytes, words: str) -> None:
    answer = asked(monkeypatch, said)
    assert not answer.ok
    assert words in answer.error


def test_pieces_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ANSWER_BYTES", 1_000)
    pieces = [bytes(frames.encode(frames.Fragment(serial, 0, 900, memoryview(b"x" * 300)))) for serial in range(1, 5)]
    assert "larger than" in asked(monkeypatch, *pieces).error
