# pyright: strict
"""A contract between two teams."""

from dataclasses import dataclass
from typing import TypedDict

import msgspec

from zerowait import PushChannel


class RawMail(msgspec.Struct):
    path: str
    data: bytes


@dataclass
class Created:
    order: int


@dataclass
class Deleted:
    order: int
    why: str | None = None


class Reminder(TypedDict):
    to: str


PARSE = PushChannel[RawMail]("mail.parse")
BODY = PushChannel[RawMail]("mail.body")
LINES = PushChannel[str]("mail.lines")
ORDER = PushChannel[Created | Deleted]("order")
REMIND = PushChannel[Reminder]("mail.remind", durable=False, ttl=3600)
SCORES = PushChannel[list[int]]("scores")
TICK = PushChannel[None]("tick")
