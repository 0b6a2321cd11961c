"""The child's end of the line to the process that started it."""

from __future__ import annotations

import os
import socket

import pytest

from zerowait.processes.child import VARIABLE, Parent, nth
from zerowait.settings import Settings


@pytest.mark.parametrize(
    ("endpoint", "position", "expected"),
    [
        ("tcp://0.0.0.0:5511", 0, "tcp://0.0.0.0:5511"),
        ("tcp://0.0.0.0:5511", 3, "tcp://0.0.0.0:5514"),
        ("tcp://[::1]:5511", 1, "tcp://[::1]:5512"),
        ("tcp://127.0.0.1:0", 2, "tcp://127.0.0.1:0"),
        ("ipc:///run/mail.sock", 0, "ipc:///run/mail.sock"),
        ("ipc:///run/mail.sock", 2, "ipc:///run/mail.sock.2"),
    ],
)
def test_each_process_has_an_address_of_its_own(endpoint: str, position: int, expected: str) -> None:
    assert nth(endpoint, position) == expected


def test_a_process_without_a_parent_has_none() -> None:
    assert Parent.inherited({}) is None


def test_who_is_started_by_a_child_is_not_taken_for_one() -> None:
    ours, theirs = socket.socketpair()
    env = {VARIABLE: f"{theirs.detach()}:1"}
    with ours:
        parent = Parent.inherited(env)
        assert parent is not None
        assert env == {}
        assert not os.get_inheritable(parent._line.fileno())
        assert list(parent.settings(Settings(listen="tcp://127.0.0.1:5511")).listen) == ["tcp://127.0.0.1:5512"]
        parent._line.close()
