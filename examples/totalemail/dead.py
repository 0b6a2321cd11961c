"""What is still on its way, and which mails have died: asked as an operator would, by `zerowait … --json`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import msgspec
from msgspec import Struct

ANSWER_TIMEOUT = 60.0
MOST_LETTERS = 10_000  # as many as an outbox keeps


class DeadLetter(Struct, frozen=True):
    """A message that its handler gave up; number and file: the mail's, None if it is of no mail of this run."""

    id: str
    channel: str
    reason: str
    number: int | None
    file: str | None


class _Ledger(Struct):
    waiting: int
    in_flight: int


class _Box(Struct):
    channels: list[_Ledger]


class _Process(Struct):
    boxes: list[_Box]


class _Status(Struct):
    processes: list[_Process]
    outboxes_without_process: list[_Box]
    no_answer: dict[str, str] = {}
    not_opened: dict[str, str] = {}


class _Listed(Struct):
    id: str
    channel: str
    reason: str


class _Mail(Struct):
    run: str
    number: int
    file: str


class _Whole(Struct):
    payload: _Mail


class _Part(Struct):
    ticket: _Mail


class _InPart(Struct):
    payload: _Part


def is_settled(env: Mapping[str, str]) -> bool:
    """Whether every message of the namespace is handled or dead. False also when somebody does not answer."""
    try:
        status = msgspec.json.decode(_zerowait(env, "status", "--json"), type=_Status)
    except msgspec.DecodeError:  # it could not say
        return False
    if status.no_answer or status.not_opened:
        return False
    boxes = [box for process in status.processes for box in process.boxes] + status.outboxes_without_process
    return not any(ledger.waiting + ledger.in_flight for box in boxes for ledger in box.channels)


def dead_letters(env: Mapping[str, str], run: str) -> list[DeadLetter]:
    """All dead letters of the namespace, each with the mail that it is about."""
    listed = _zerowait(env, "dead", "list", "--json", "--limit", str(MOST_LETTERS))
    return [_with_mail(env, run, letter) for letter in msgspec.json.Decoder(_Listed).decode_lines(listed)]


def _with_mail(env: Mapping[str, str], run: str, letter: _Listed) -> DeadLetter:
    mail = _mail(_zerowait(env, "dead", "show", letter.id, "--json"))
    number, file = (mail.number, mail.file) if mail is not None and mail.run == run else (None, None)
    return DeadLetter(letter.id, letter.channel, letter.reason, number, file)


def _mail(shown: bytes) -> _Mail | None:
    try:
        return msgspec.json.decode(shown, type=_Whole).payload
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.json.decode(shown, type=_InPart).payload.ticket
    except msgspec.ValidationError:  # somebody else's message, in a namespace that the user gave
        return None


def _zerowait(env: Mapping[str, str], *words: str) -> bytes:
    # The exit code says also that a process did not answer; what the others said counts.
    return subprocess.run(
        [sys.executable, "-m", "zerowait", *words],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=ANSWER_TIMEOUT,
        check=False,
    ).stdout
