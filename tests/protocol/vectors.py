"""Frames and the bytes that they are: docs/vectors/*.json, for whoever writes a client in another language.

`python -m tests.protocol.vectors` writes them again. That they change is a change of the wire format.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path

from msgspec import Struct, structs

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Chunk,
    Confirm,
    Control,
    Credit,
    Drop,
    Event,
    Events,
    Fragment,
    Frame,
    Goodbye,
    Held,
    Hello,
    Limits,
    Obituary,
    Outcome,
    Owned,
    Part,
    Ping,
    Pong,
    Room,
    Schema,
    Served,
    State,
    Subscribe,
    Subscribed,
    Want,
)
from zerowait.message import ARRAY32, BODY_HEADER, Verdict

FOLDER = Path(__file__).parents[2] / "docs" / "vectors"
BOX = 0x0123456789ABCDEF
ME = 0xFEDCBA9876543210
EPOCH = 1_700_000_000_000
FENCE = 1_700_000_600_000


ITEM = BODY_HEADER.pack(ARRAY32, 1) + b"\xa4done"
FAILURE = b"\x82\xa5error\xadUnknownDomain\xa4data\xc4\x0a\x81\xa6domain\xa1x"


def _events(
    payloads: list[bytes],
    topics: tuple[tuple[str, int], ...],
    counts: dict[int, int],
    headers: dict[int, dict[str, str]] | None = None,
) -> Events:
    body = bytearray(BODY_HEADER.pack(ARRAY32, len(payloads)))
    ends = array("I")
    for payload in payloads:
        body += payload
        ends.append(len(body))
    last = 100 + len(payloads)
    return Events(EPOCH, last, topics, counts, 1, 0, memoryview(ends).cast("B"), memoryview(body), headers or {})


class Vector(Struct, frozen=True):
    name: str
    meaning: str
    frame: Frame


def _batch(payloads: list[bytes], *, base: int = 0, first: int = 1) -> Batch:
    body = bytearray(BODY_HEADER.pack(ARRAY32, len(payloads)))
    ends = array("I")
    for payload in payloads:
        body += payload
        ends.append(len(body) + base)
    return Batch(
        box=BOX,
        epoch=EPOCH,
        fence=EPOCH,
        n=1,
        channel="mails",
        lane=0,
        ranges=((first, len(payloads)),),
        accepted_at=(1_700_000_000_000_000, 1_700_000_000_000_250),
        sender="",
        failures={},
        keys={},
        left_ms={},
        traces={},
        headers={},
        base=base,
        ends=memoryview(ends.tobytes()),
        body=memoryview(bytes(body)),
    )


TWO = _batch([b"\xa3one", b"\xa3two"])
ONE = structs.replace(
    _batch([b"\x81\xa1n\x07"], base=40, first=1_025),
    fence=FENCE,
    n=9,
    sender="ingest",
    failures={1_025: 2},
    keys={1_025: b"customer-7"},
    left_ms={1_025: 1_500},
    traces={1_025: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    headers={1_025: {"tenant": "blue"}},
)
VECTORS = [
    Vector("plain", "a process without a lock file: no proof of its death is possible", Hello(ME, "ingest", 4_711)),
    Vector(
        "whole",
        "the second HELLO of a process on a machine whose boot id is known",
        Hello(
            ME, "ingest", 4_711, "6f1d2c9a-0000-4000-8000-000000000001", 65_025, 131_074, 2, ("x",), Limits(1_048_576)
        ),
    ),
    Vector("nothing", "it serves nothing and owns nothing", State()),
    Vector(
        "both",
        "it serves a channel, owns an outbox, knows of a death, and is leaving",
        State(
            (Served("mails", "push", False, bytes(16), 1, 32),),
            (Owned(BOX, EPOCH, "ingest", True),),
            (Obituary(ME, None, 9, ((BOX, EPOCH, 17, 1),)),),
            True,
        ),
    ),
    Vector(
        "nothing", "nothing is held; the first HELD of this connection, for that opening", Held(BOX, 1, (), (), EPOCH)
    ),
    Vector(
        "both",
        "1 to 10 are queued under dispatch 3, 11 runs under dispatch 2 of an opening before",
        Held(BOX, 2, (Part(EPOCH, 1, 10, FENCE, 3),), (Part(EPOCH, 11, 1, EPOCH, 2),), FENCE),
    ),
    Vector("answer", "answers HELD 2: nothing is to be dropped", Drop(BOX, 2)),
    Vector("asked back", "unasked: 7 is not yours any more", Drop(BOX, 0, ((EPOCH, 7, 1),), False)),
    Vector(
        "waiting", "500 messages wait; 96 units were sent, CREDIT 4 was the last one seen", Want("mails", 0, 96, 4, 500)
    ),
    Vector(
        "limit",
        "up to 1,120 units since the session began; the fifth CREDIT of this channel",
        Credit("mails", 0, 1_120, 5),
    ),
    Vector(
        "stream",
        "who reads the stream of request 3 takes 64 units of it in all; CHUNKs 0 to 8 are here",
        Credit("lines", 0, 64, 9, ME, 3),
    ),
    Vector("two", "two messages, msgpack strings, accepted 250 µs apart", TWO),
    Vector(
        "one with everything",
        "message 1,025 of an adopted outbox, a part of a segment (its end is 49, its base 40), all sparse columns",
        ONE,
    ),
    Vector("handled", "1 and 2 are handled", Outcome(BOX, Verdict.HANDLED, (Part(EPOCH, 1, 2, EPOCH, 1),))),
    Vector(
        "retry",
        "7 failed and is due again in 2.5 s, with a note for people",
        Outcome(BOX, Verdict.RETRY, (Part(EPOCH, 7, 1, FENCE, 9),), ((EPOCH, 7, 2_500, b"\x81\xa6reason\xa4busy"),)),
    ),
    Vector(
        "answers",
        "requests 4 to 6 are answered: 4 and 6 with 7 and 8, and 5 has raised UnknownDomain, which its contract names",
        Outcome(
            ME,
            Verdict.HANDLED,
            (Part(EPOCH, 4, 3, EPOCH, 2),),
            ((EPOCH, 5, 0, FAILURE),),
            body=BODY_HEADER.pack(ARRAY32, 2) + b"\x07\x08",
        ),
    ),
    Vector(
        "end of a stream",
        "request 3 is over: nine CHUNKs, and no failure",
        Outcome(ME, Verdict.HANDLED, (Part(EPOCH, 3, 1, EPOCH, 1),), ((EPOCH, 3, 9, b""),)),
    ),
    Vector("settled", "1 and 2 are durably settled: forget them", Confirm(BOX, (Part(EPOCH, 1, 2, EPOCH, 1),))),
    Vector("ping", "the 300th PING of this process", Ping(300)),
    Vector("pong", "the answer; the handlers' loop has not turned for 4.2 s", Pong(300, 4_200)),
    Vector("final", "all that you remember of mine is confirmed", Goodbye()),
    Vector(
        "left behind",
        "a publisher leaves: 750 events were not sent of subscription 3, and none is missing of the others",
        Goodbye(missed={3: 750}),
    ),
    Vector(
        "fenced",
        "somebody else has opened that outbox since",
        Goodbye(frames.FENCED, "outbox 0123456789abcdef has been opened by somebody else since", BOX, FENCE),
    ),
    Vector(
        "part", "the first 4 of 10 bytes of a frame that is cut", Fragment(1, 0, 10, memoryview(b"\x9d\x07\x01\x02"))
    ),
    Vector("piece", "the ninth CHUNK of the stream that request 3 asked for: one item", Chunk(BOX, 3, 8, ITEM)),
    Vector(
        "resume",
        "from event 99 on, which was its 40th; 250 units may be sent, and 750 events may wait",
        Subscribe(5, "prices.*", EPOCH, 99, 40, 0, 0, "", False, 250, 750, frames.DROP_OLDEST),
    ),
    Vector(
        "join",
        "a group of subscribers, with the last 20 events, or those of the last minute",
        Subscribe(6, "prices.>", replay=20, replay_ms=60_000, group="billing", limit=250, queue=750),
    ),
    Vector("leave", "nothing more of it is wanted", Subscribe(5, "prices.*", ends=True)),
    Vector(
        "matched",
        "event 100 matches subscription 5 as its 41st",
        Event(EPOCH, 100, "prices.eur", {5: 41}, 1, {}, b"\x07"),
    ),
    Vector("question", "how is this type described?", Schema(bytes(range(16)))),
    Vector(
        "matched",
        "events 101 to 103, of two topics; they are the 42nd to the 44th of subscription 5",
        _events([b"\x07", b"\x08", b"\xa3low"], (("prices.eur", 2), ("prices.usd", 1)), {5: 42}),
    ),
    Vector(
        "retained",
        "the last value of a topic, for who has just subscribed: it has no count",
        _events([b"\x09"], (("prices.chf", 1),), {6: 0}, {0: {"source": "bank"}}),
    ),
    Vector("begun", "41 have matched until now, and the next is the 42nd", Subscribed(5, EPOCH, 100, 41)),
    Vector("unknown", "where it left off is not known here, nor what it missed", Subscribed(5, EPOCH, 0, 0, -1)),
    Vector(
        "ended",
        "its queue was full, and it asked to be ended then",
        Subscribed(5, EPOCH, 2_000, 1_200, 751, True, "more than 750 events waited for it"),
    ),
    Vector("more", "500 units in all, and events up to the 240th have come", Room(5, 500, 240)),
    Vector("question", "what the command line asks", Control(1, False, b"\x81\xa2do\xa6status")),
]


def files() -> dict[str, str]:
    """File name → its text."""
    by_frame: dict[str, list[dict[str, object]]] = {}
    for vector in VECTORS:
        tag = vector.frame.__struct_config__.tag
        by_frame.setdefault(type(vector.frame).__name__.lower(), []).append(
            {"name": vector.name, "meaning": vector.meaning, "tag": tag, "hex": frames.encode(vector.frame).hex()}
        )
    return {f"{name}.json": json.dumps(found, indent=2, ensure_ascii=False) + "\n" for name, found in by_frame.items()}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
