"""A contract between two teams: channels with their types, in a module that both ends import."""

import msgspec

from zerowait import PushChannel


class RawMail(msgspec.Struct):
    path: str
    data: bytes


PARSE = PushChannel[RawMail]("mail.parse")
BODY = PushChannel[RawMail]("mail.body")
LINES = PushChannel[str]("mail.lines")
