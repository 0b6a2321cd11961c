"""What happened to each message of a simulated world, and a hash of everything, by which two runs are known as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from msgspec import Struct, field, msgpack

from zerowait.message import Mark
from zerowait.outbox.clock import JUMP_US
from zerowait.testing.timeline import Timeline

LEFT = "left"  # how a life has ended that was no death
_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(tuple[int, bytes]).decode


Output = tuple[bytes, str, str]  # payload; of an event for a durable group: its channel, and the topic


def payload_of(token: int, size: int) -> bytes:
    """What is pushed for that message; nothing else decodes to its token and has these bytes."""
    return _encode((token, blake2b(token.to_bytes(8, "big"), digest_size=16).digest() * (1 + size // 16)))


def token_of(payload: bytes) -> int:
    return _decode(payload)[0]


class Run(Struct, eq=False):
    """A handler at work. worker: the instance. ending: how it is to end. ended_at: None if its process died first.
    taken_at: when its runner took it, with others that it began before. wait_s: how long the next one has to wait for
    its time, as it has told with its end."""

    worker: int
    name: tuple[int, int, int]  # outbox, epoch, number
    started_at: float
    ending: str  # "handled", "retry", "dead", "unstarted", "kills"
    ended_at: float | None = None
    taken_at: float | None = None  # None: when it was started
    wait_s: float = 0.0
    sent: frozenset[int] = frozenset()  # tokens of what it sends if it is chosen


class Message(Struct, eq=False):
    """One push, and what is known of it. said: what its receipt or its withdrawal told. pushed_at, delay_s: it is not
    to begin before they have passed."""

    token: int
    payload: bytes
    box: int
    expires: bool
    fate: str = "pending"  # then "accepted", "refused" or "unknown"
    said: list[str] = field(default_factory=list[str])
    runs: list[Run] = field(default_factory=list[Run])
    wrong: str = ""  # what was delivered in its place
    of: int | None = None  # a handler has sent it: for the message of that token
    key: str = ""
    channel: str = ""  # of an event for a durable group
    topic: str = ""  # likewise, where it was published
    pushed_at: float = 0.0
    delay_s: float = 0.0


class Noted(Struct, eq=False):
    """A mark. at: when the first owner noted it. ran: that it is said to have run there."""

    at: float
    ran: bool = False


class History:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._hash = blake2b(digest_size=8)
        self.messages: dict[int, Message] = {}
        self.strangers: list[str] = []
        self.openings: Counter[int] = Counter()  # of each outbox
        self.clocks: dict[int, list[tuple[float, int]]] = {}  # likewise: when, and what clock on the wall it found
        self.opened_at: dict[int, float] = {}  # likewise, the latest
        self.lives: dict[int, Life] = {}
        self.marks: dict[tuple[tuple[int, int, int], int], Noted] = {}  # (message, instance): it was there as that died
        self.log: Callable[[str], None] | None = None

    def tell(self, what: str, *which: object) -> None:
        """Anything that happens; the hash is of all that was told."""
        line = f"{self._timeline.now:.6f} {what} {' '.join([str(each) for each in which])}"
        self._hash.update(line.encode())
        if self.log is not None:
            self.log(line)

    def frame(self, sender: int, conn: int, data: bytes) -> None:
        self._hash.update(b"%d %d%b" % (sender, conn, data))

    def digest(self) -> str:
        return self._hash.hexdigest()

    # -- messages ----------------------------------------------------------------------------------------------------

    def pushed(self, box: int, payload: bytes, *, expires: bool, key: str = "", delay_s: float = 0.0) -> Message:
        token = token_of(payload)
        message = self.messages[token] = Message(token, payload, box, expires, key=key)
        message.pushed_at, message.delay_s = self._timeline.now, delay_s
        self.tell("push", token)
        return message

    def set_on_s(self, box: int, since: float, until: float) -> float:
        """By how much openings of that outbox within that time may have set its time on: across lives a clock on the
        wall that was set on cannot be told from time that has passed (rules §8.1)."""
        clocks = self.clocks.get(box, [])
        before = [ahead_us for at, ahead_us in clocks if at <= since]
        later = [ahead_us for at, ahead_us in clocks if since < at <= until]
        if not before or not later:
            return 0.0
        jump_s = (max(later) - before[-1]) / 1e6
        # What is less than a jump is not made one: due times are told by another clock then.
        told_s = JUMP_US / 1e6 if len({*before, *later}) > 1 else 0.0
        return max(0.0, jump_s) + told_s

    def sent(self, of: Message, run: Run, outputs: list[Output]) -> None:
        """That run of that message has ended well, and sends these if it is chosen."""
        for payload, channel, topic in outputs:
            token = token_of(payload)
            run.sent |= {token}
            if token not in self.messages:
                message = self.messages[token] = Message(token, payload, 0, False, "prepared", of=of.token)
                message.channel, message.topic = channel, topic
        self.tell("sends", of.token, *sorted(run.sent))

    def started(self, payload: bytes, run: Run) -> Message | None:
        try:
            message = self.messages.get(token_of(payload))
        except Exception:  # whatever it is, nobody has pushed it
            message = None
        if message is None:
            self.strangers.append(f"{run.name} brought {payload[:40]!r}")
            return None
        message.runs.append(run)
        if message.fate == "prepared":
            message.fate, message.box = "accepted", run.name[0]
        if payload != message.payload:
            message.wrong = f"{run.name} brought {payload[:40]!r}"
        self.tell("start", message.token, run.worker, *run.name, run.ending)
        return message

    def marked(self, box: int, mark: Mark) -> None:
        for death in mark.died:
            noted = self.marks.setdefault(((box, mark.epoch, mark.number), death.instance), Noted(self._timeline.now))
            noted.ran = noted.ran or death.ran

    def opened(self, box: int) -> None:
        self.openings[box] += 1
        self.opened_at[box] = self._timeline.now

    def failures(self, token: int) -> int:
        """How many runs of it have failed."""
        return sum(run.ended_at is not None and run.ending == "retry" for run in self.messages[token].runs)


class Life(Struct, eq=False):
    """One instance. ended_at: None while it lives. unsettled: how many messages ran there or had ended without their
    owner having confirmed it, when it ended. running: what its list says that it ran then; None: it has left none.
    holds: since when, and until when, its interpreter was held, as its machine can tell.
    is_silent: nobody can prove its end. was_leaving: it had said so before it ended. breaks: for each outbox when its
    owner and this one could not hear each other, and since when they cannot."""

    instance: int
    name: str
    serves: bool
    began_at: float
    ended_at: float | None = None
    how: str = ""
    unsettled: int = 0
    running: tuple[tuple[int, int, int, int], ...] | None = None
    is_silent: bool = False
    was_leaving: bool = False
    holds: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    breaks: dict[int, list[tuple[float, float]]] = field(default_factory=dict[int, list[tuple[float, float]]])
    broken_since: dict[int, float] = field(default_factory=dict[int, float])
    is_sampled: bool = False  # its end is among them

    def unheard_s(self, box: int) -> float:
        """For how long the owner of that outbox and this one could not hear each other when it ended; 0: they could, or
        it lives."""
        if self.ended_at is None:
            return 0.0
        return max(0.0, self.ended_at - self.broken_since.get(box, self.ended_at))

    def lists(self, name: tuple[int, int, int]) -> bool:
        """Whether it was running that message when it ended, as far as its list tells."""
        box, epoch, number = name
        return any(
            (of, since) == (box, epoch) and first <= number < first + count
            for of, since, first, count in self.running or ()
        )
