"""Everything that two processes say to each other, and how it is written.

A frame is one ZeroMQ frame of at most 256 KiB: a msgpack array whose element 0 is the tag. Arrays may grow at the
end, and a reader ignores what it does not know. HELLO, the first frame of a connection, is preceded by six bytes in
the open, so that a stranger is recognised and a later version may change everything else:

    5A 57 54 00   magic, "ZWT" and a zero
    01            the lowest protocol version that the speaker understands
    01            the highest

Numbers: outbox and instance ids are 64 random bits; epochs, message numbers, fences and dispatch numbers are unsigned
64, and epochs and message numbers below 2^62. What limits a message travels as milliseconds that are left, times of
day as int64 microseconds UTC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct, field

from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, SEGMENT_MESSAGES
from zerowait.names import is_pattern

CHANNEL_BYTES = 200
MOMENT_MOST = 253_402_300_800_000_000  # microseconds UTC: the end of the year 9999

MAGIC = b"ZWT\x00"
VERSIONS = (1, 1)  # lowest and highest that we understand
FRAME_BYTES = 256 * 1024
NUMBER_MOST = 1 << 62  # of epochs and message numbers: a file takes what is below 2^63, also with a count added
ID_MOST = (1 << 64) - 1
LATER_MOST_MS = 1_000_000_000_000  # of a retry: thirty years, which clocks, locks and dates everywhere can bear
FRAGMENT_BYTES = 192 * 1024  # a fragment with its head stays well under a frame, and a PING waits for one at most

# Why a link ends. The numbers are on the wire; the words that travel with them are for people.
NOT_OURS = 1  # the first frame was no HELLO of ours
NO_COMMON_VERSION = 2
MALFORMED = 3
UNEXPECTED = 4  # a frame that has no place in this phase of the link
DUPLICATE = 5  # another connection between the same two processes stays
STALE = 6  # a HELLO older than one that was accepted from the same instance
BURIED = 7  # this instance was proved dead; it must come back as a new one
FENCED = 8  # somebody else owns this outbox now
SILENT = 9
LEAVING = 10
TOO_MANY = 11


# Lanes of credit (rules §5.2).
ORDINARY = 0
ASIDE = 1  # few suspects a link, beside ordinary work
ALONE = 2  # one in the whole process
LANES = 3
DROP_OLDEST, CONFLATE, DISCONNECT = 0, 1, 2  # what becomes of events for whose subscription the queue is full
UNKNOWN = -1  # so many were missed, where nobody can know
SUBSCRIPTIONS_MOST = 4_096  # of a process, on each of its links


class ProtocolError(Exception):
    """A peer said what it may not say: the link ends with this code. Never raised into a user's code."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words


class Limits(Struct, array_like=True, frozen=True):
    message_bytes: int = 16 * 1024 * 1024
    frame_bytes: int = FRAME_BYTES
    connections: int = 4_096


class Hello(Struct, array_like=True, tag=1, frozen=True):
    instance: int
    name: str
    pid: int = 0
    boot: str = ""  # the machine's boot id, with device and inode of the lock file: proof of life (rules §4.1)
    device: int = 0
    inode: int = 0
    serial: int = 0  # running number of all HELLOs of this instance (rules §1.4)
    features: tuple[str, ...] = ()
    limits: Limits = Limits()


class Served(Struct, array_like=True, frozen=True):
    channel: str
    kind: str = "push"
    idempotent: bool = False
    fingerprint: bytes = b""
    lanes: int = 1  # how many it gives credit for: LANES below
    concurrency: int = 0


class Owned(Struct, array_like=True, frozen=True):
    box: int
    epoch: int
    name: str = ""
    durable: bool = True


class Obituary(Struct, array_like=True, frozen=True):
    instance: int
    exit_code: int | None = None
    signal: int | None = None
    running: tuple[tuple[int, int, int, int], ...] = ()  # (outbox, epoch, first, count)
    listed: bool = False  # `running` is all that ran there; else nothing is known of it


class State(Struct, array_like=True, tag=2, frozen=True):
    channels: tuple[Served, ...] = ()
    boxes: tuple[Owned, ...] = ()
    obituaries: tuple[Obituary, ...] = ()
    draining: bool = False


class Part(Struct, array_like=True, frozen=True, gc=False):
    """Messages of one outbox under one dispatch number."""

    epoch: int
    first: int
    count: int
    fence: int
    n: int


class Held(Struct, array_like=True, tag=3, frozen=True):
    box: int
    serial: int  # running number on this connection: the DROP that answers names it
    queued: tuple[Part, ...] = ()
    running: tuple[Part, ...] = ()
    epoch: int = 0  # of the opening that it answers: an outbox may be opened again while this is on its way


class Drop(Struct, array_like=True, tag=4, frozen=True):
    box: int
    answers: int = 0  # the serial of the HELD that this answers; 0: said unasked
    ranges: tuple[tuple[int, int, int], ...] = ()  # (epoch, first, count)
    cancel: bool = False  # running ones too


class Want(Struct, array_like=True, tag=5, frozen=True):
    channel: str
    lane: int
    sent: int  # units since the session began
    seen: int  # the running number of the last CREDIT seen
    waiting: int  # messages that wait to be sent


class Credit(Struct, array_like=True, tag=6, frozen=True):
    channel: str
    lane: int
    limit: int  # units since the session began; may fall
    serial: int
    box: int = 0  # of a stream, under the request's number: units since it began, and the serial of the next CHUNK that
    number: int = 0  # is wanted (all before it are here)


class Batch(Struct, array_like=True, tag=7):
    box: int
    epoch: int
    fence: int
    n: int
    channel: str
    lane: int
    ranges: tuple[tuple[int, int], ...]  # (first, count)
    accepted_at: tuple[int, int]  # microseconds UTC: the oldest and the newest
    sender: str  # the client's name, where it is not the link's (an adopted outbox); else ""
    failures: dict[int, int]  # sparse columns: number → value
    keys: dict[int, bytes]
    left_ms: dict[int, int]
    traces: dict[int, str]
    headers: dict[int, dict[str, str]]
    base: int  # what to subtract from the ends (a part of a segment travels with the segment's own)
    ends: memoryview  # uint32 little endian: where each payload ends in the body below
    body: memoryview  # a msgpack array (array32 header) of payloads
    deaths: dict[int, int] = field(default_factory=dict[int, int])  # sparse: of workers, proved, while it ran


class Outcome(Struct, array_like=True, tag=8, frozen=True):
    box: int
    verdict: int
    parts: tuple[Part, ...]
    # (epoch, number, milliseconds until due, note): retry and dead. Of an answer (§9): (epoch, number, CHUNKs, failure)
    notes: tuple[tuple[int, int, int, bytes], ...] = ()
    outputs: int = 0  # the outbox that holds what the handler sent (rules §6), 0: nothing
    body: bytes = b""  # answers (§9): a msgpack array (array32 header), in the order of `parts` less those in `notes`


class Confirm(Struct, array_like=True, tag=9, frozen=True):
    box: int
    parts: tuple[Part, ...]
    chosen: bool = True


class Ping(Struct, array_like=True, tag=10, frozen=True, gc=False):
    serial: int


class Pong(Struct, array_like=True, tag=11, frozen=True, gc=False):
    serial: int
    still_ms: int = 0  # how long the handlers' loop has not turned


class Goodbye(Struct, array_like=True, tag=12, frozen=True):
    """missed: of a publisher that leaves, subscription → how many events that matched it were not sent and never will
    be; of those that are not named all were. None: it does not say."""

    code: int = 0  # 0: final: "all that you remember of mine is confirmed"
    words: str = ""
    box: int = 0
    fence: int = 0
    missed: Mapping[int, int] | None = None


class Fragment(Struct, array_like=True, tag=13):
    """A part of a frame that is larger than FRAME_BYTES; between fragments all other frames pass."""

    serial: int
    offset: int
    total: int
    data: memoryview


class Chunk(Struct, array_like=True, tag=14, frozen=True):
    """Items of a stream, from who answers to who asked. Its end is an OUTCOME, which says how many of these there
    are."""

    box: int
    number: int
    serial: int  # running number, from 0
    body: bytes = b""  # a msgpack array (array32 header) of payloads


class Subscribe(Struct, array_like=True, tag=15, frozen=True):
    subscription: int
    pattern: str
    epoch: int = 0
    event: int = 0
    count: int = 0
    replay: int = 0
    replay_ms: int = 0
    group: str = ""
    ends: bool = False
    limit: int = 0  # units that may be sent for it in this session, until a ROOM says more
    queue: int = 0  # events that may wait for it at the publisher; then `overflow` says what becomes of the next
    overflow: int = 0  # DROP_OLDEST, CONFLATE, DISCONNECT


class Event(Struct, array_like=True, tag=16):
    epoch: int
    event: int
    topic: str
    subscriptions: dict[int, int]  # subscription → its count of events that matched
    sent_at: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""


class Events(Struct, array_like=True, tag=21):
    """Many events of one publisher, in their order."""

    epoch: int
    event: int  # the number of the last of them
    topics: tuple[tuple[str, int], ...]  # (topic, how many events follow one another on it)
    subscriptions: dict[int, int]  # subscription → its count, of the first here that matches it; 0: it has none
    sent_at: int  # microseconds UTC: of the first
    base: int  # what to subtract from the ends, as in a BATCH
    ends: memoryview
    body: memoryview  # a msgpack array (array32 header) of payloads
    headers: dict[int, dict[str, str]] = field(default_factory=dict[int, dict[str, str]])  # position here → headers


class Subscribed(Struct, array_like=True, tag=22, frozen=True):
    """The publisher's answer: from where on it tells, and how much before that will never come."""

    subscription: int
    epoch: int
    event: int  # the last that had been published
    count: int  # the first that comes is one more, unless some were dropped meanwhile
    missed: int = 0  # UNKNOWN: it cannot say
    ends: bool = False  # nothing comes any more: its queue overflowed
    words: str = ""


class Room(Struct, array_like=True, tag=23, frozen=True, gc=False):
    """More may be sent for a subscription."""

    subscription: int
    limit: int  # units since the session began
    count: int = 0  # of the last event that has come: those up to it need not be kept for another session


class Schema(Struct, array_like=True, tag=17, frozen=True):
    fingerprint: bytes
    description: bytes = b""  # empty: a question


class Control(Struct, array_like=True, tag=18, frozen=True):
    serial: int
    answers: bool = False
    body: bytes = b""


# Written out, because a type checker does not follow a union that is computed.
Frame = (
    Hello
    | State
    | Held
    | Drop
    | Want
    | Credit
    | Batch
    | Outcome
    | Confirm
    | Ping
    | Pong
    | Goodbye
    | Fragment
    | Chunk
    | Subscribe
    | Event
    | Schema
    | Control
    | Events
    | Subscribed
    | Room
)
FRAMES: tuple[type[Frame], ...] = (
    Hello, State, Held, Drop, Want, Credit, Batch, Outcome, Confirm, Ping, Pong, Goodbye, Fragment,
    Chunk, Subscribe, Event, Schema, Control, Events, Subscribed, Room,
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode(frame: Frame) -> bytes:
    data = _encoder.encode(frame)
    if frame.__class__ is Hello:
        return MAGIC + bytes(VERSIONS) + data
    return data


def decode(data: bytes | memoryview) -> Frame:
    """Raises ProtocolError and nothing else, whatever the bytes are."""
    try:
        frame = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        if bytes(data[:4]) == MAGIC:
            raise ProtocolError(UNEXPECTED, "a second HELLO on the same connection") from None
        raise ProtocolError(MALFORMED, f"a frame cannot be read: {error}") from None
    if frame.__class__ is Hello:
        raise ProtocolError(UNEXPECTED, "a HELLO without its preamble")
    return frame


def decode_first(data: bytes | memoryview) -> Hello | Goodbye:
    """The first frame of a connection: a HELLO, or the GOODBYE of who refuses ours (which needs no preamble, so that a
    peer of any version can read why). Raises ProtocolError: a stranger, no common version, or malformed."""
    if bytes(data[:4]) != MAGIC or len(data) < 6:
        if (refusal := _refusal(data)) is not None:
            return refusal
        raise ProtocolError(NOT_OURS, "the first frame is no zerowait HELLO: is another program using this address?")
    lowest, highest = data[4], data[5]
    if lowest > VERSIONS[1] or highest < VERSIONS[0]:
        ours = f"{VERSIONS[0]} to {VERSIONS[1]}"
        words = f"it speaks protocol {lowest} to {highest}, this process {ours}: upgrade the older one"
        raise ProtocolError(NO_COMMON_VERSION, words)
    try:
        frame = _decoder.decode(data[6:])
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise ProtocolError(MALFORMED, f"a HELLO cannot be read: {error}") from None
    if not isinstance(frame, Hello):
        raise ProtocolError(UNEXPECTED, f"the first frame is a {type(frame).__name__}, not a HELLO")
    if frame.instance < 1:
        raise ProtocolError(MALFORMED, f"a HELLO of the instance {frame.instance}")
    return frame


def _refusal(data: bytes | memoryview) -> Goodbye | None:
    try:
        frame = decode(data)
    except ProtocolError:
        return None
    return frame if isinstance(frame, Goodbye) else None


def array_of(bodies: Iterable[bytes], count: int) -> bytes:
    """A body of so many payloads."""
    return b"".join([BODY_HEADER.pack(ARRAY32, count), *bodies])


def payloads(body: bytes) -> list[bytes]:
    """What a body holds, each by itself. Raises ProtocolError."""
    try:
        return [bytes(each) for each in _raws.decode(body)] if body else []
    except msgspec.MsgspecError as error:
        raise ProtocolError(MALFORMED, f"a body cannot be read: {error}") from None


def check_parts(parts: Iterable[Part]) -> None:
    """Raises ProtocolError for ranges that no batch can have had: they would make a list of numbers endless, or be
    written to a file that cannot take them."""
    for part in parts:
        if not (0 < part.count <= SEGMENT_MESSAGES and 0 < part.first < NUMBER_MOST and 0 <= part.epoch < NUMBER_MOST):
            words = f"a range of {part.count} messages from number {part.first} of epoch {part.epoch}"
            raise ProtocolError(MALFORMED, words)
        if not (0 <= part.fence < NUMBER_MOST and 0 <= part.n < NUMBER_MOST):
            raise ProtocolError(MALFORMED, f"the dispatch {part.n} under the fence {part.fence}")


def check_boxes(boxes: Iterable[Owned]) -> None:
    """Raises ProtocolError for outboxes that nobody can have: what is kept of their messages is written to a file."""
    for owned in boxes:
        if not (0 <= owned.box <= ID_MOST and 0 <= owned.epoch < NUMBER_MOST):
            raise ProtocolError(MALFORMED, f"an outbox {owned.box} of epoch {owned.epoch}")


def check_obituaries(obituaries: Iterable[Obituary]) -> None:
    """Raises ProtocolError for what no process can have run."""
    for obituary in obituaries:
        for _, _, first, count in obituary.running:
            if not 0 < count <= SEGMENT_MESSAGES or first < 1:
                raise ProtocolError(MALFORMED, f"an obituary that names {count} messages from number {first}")


def check_answers(outcome: Outcome) -> None:
    """Raises ProtocolError where an answer is missing, or there is one too many."""
    asked = sum(part.count for part in outcome.parts)
    noted = {number for _, number, _, _ in outcome.notes}
    if len(noted) != len(outcome.notes) or not all(
        any(part.first <= number < part.first + part.count for part in outcome.parts) for number in noted
    ):
        raise ProtocolError(MALFORMED, "an OUTCOME with notes about requests that it does not answer")
    if count_of(outcome.body) != asked - len(noted):
        raise ProtocolError(MALFORMED, f"an OUTCOME of {asked} requests with {count_of(outcome.body)} answers")


def count_of(body: bytes) -> int:
    """How many payloads a body says that it holds."""
    if not body:
        return 0
    if len(body) < BODY_START or body[0] != ARRAY32:
        raise ProtocolError(MALFORMED, "a body that is no array")
    count: int = BODY_HEADER.unpack_from(body)[1]
    return count


def check_batch(batch: Batch) -> int:
    """How many messages it brings. Raises ProtocolError where lengths, numbers and body do not fit one another."""
    count, last = 0, 0
    for first, many in batch.ranges:
        if first <= last or many < 1:
            raise ProtocolError(MALFORMED, "a BATCH whose numbers are not ascending")
        count, last = count + many, first + many - 1
    if last >= NUMBER_MOST or not 0 <= batch.epoch < NUMBER_MOST:
        raise ProtocolError(MALFORMED, f"a BATCH up to number {last} of epoch {batch.epoch}")
    if not (0 <= batch.fence < NUMBER_MOST and 0 <= batch.n < NUMBER_MOST):
        raise ProtocolError(MALFORMED, f"a BATCH of dispatch {batch.n} under the fence {batch.fence}")
    if not 0 < count <= SEGMENT_MESSAGES or len(batch.ends) != 4 * count:
        raise ProtocolError(MALFORMED, f"a BATCH of {count} messages with {len(batch.ends) // 4} lengths")
    announced = BODY_HEADER.unpack_from(batch.body) if len(batch.body) >= BODY_START else None
    if announced != (ARRAY32, count) or batch.ends.cast("I")[-1] - batch.base != len(batch.body):
        raise ProtocolError(MALFORMED, "a BATCH whose body does not end where its lengths say")
    return count


def check_events(events: Events) -> int:
    """How many events it brings. Raises ProtocolError where topics, lengths and body do not fit one another."""
    count = 0
    counts_are_sane = all(0 <= each < NUMBER_MOST for each in events.subscriptions.values())
    if not counts_are_sane or not 0 <= events.event < NUMBER_MOST or not 0 <= events.sent_at < MOMENT_MOST:
        raise ProtocolError(MALFORMED, f"EVENTS up to number {events.event}, sent at {events.sent_at}")
    for topic, many in events.topics:
        if many < 1 or len(topic) > CHANNEL_BYTES:
            raise ProtocolError(MALFORMED, f"EVENTS of which {many} are of one topic")
        count += many
    if not 0 < count <= SEGMENT_MESSAGES or len(events.ends) != 4 * count:
        raise ProtocolError(MALFORMED, f"EVENTS: {count} with {len(events.ends) // 4} lengths")
    announced = BODY_HEADER.unpack_from(events.body) if len(events.body) >= BODY_START else None
    if announced != (ARRAY32, count) or events.ends.cast("I")[-1] - events.base != len(events.body):
        raise ProtocolError(MALFORMED, "EVENTS whose body does not end where their lengths say")
    return count


def check_subscribe(said: Subscribe) -> None:
    """Raises ProtocolError for a pattern that is none, and for numbers that make no sense."""
    numbers = (said.epoch, said.event, said.count, said.replay, said.replay_ms, said.limit, said.queue)
    is_sane = all(0 <= number < NUMBER_MOST for number in numbers[1:]) and said.epoch >= 0
    if not is_pattern(said.pattern) or not is_sane or not DROP_OLDEST <= said.overflow <= DISCONNECT:
        raise ProtocolError(MALFORMED, f"a SUBSCRIBE to {said.pattern[:40]!r} with numbers {numbers}")


def check_goodbye(said: Goodbye) -> None:
    """Raises ProtocolError for what no publisher can have left behind."""
    if said.missed is not None and not all(0 <= count < NUMBER_MOST for count in said.missed.values()):
        raise ProtocolError(MALFORMED, f"a GOODBYE by which {max(said.missed.values())} events are missed")


def fragments(data: bytes, serial: int) -> list[bytes]:
    """A frame that is too large, cut into FRAGMENTs."""
    view = memoryview(data)
    return [
        _encoder.encode(Fragment(serial, at, len(data), view[at : at + FRAGMENT_BYTES]))
        for at in range(0, len(data), FRAGMENT_BYTES)
    ]
