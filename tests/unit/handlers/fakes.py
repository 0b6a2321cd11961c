"""A desk in memory, and what else the runners work with."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Struct

from tests.waiting import wait_until_in_loop
from zerowait.contract import Description
from zerowait.engines.engine import Job
from zerowait.handlers.outputs import Output, Tagged
from zerowait.handlers.stage import Stage
from zerowait.handlers.visits import Visit
from zerowait.message import BODY_HEADER, BODY_START, Delivery, Outcome, Sent, Verdict
from zerowait.retry import Retry


class Json:
    """A codec of one msgspec type."""

    def __init__(self, kind: Any = Any) -> None:
        self._list = msgspec.msgpack.Decoder(list[kind])
        self._one = msgspec.msgpack.Decoder(kind)

    def decode_list(self, body: Any) -> list[Any]:
        values: list[Any] = self._list.decode(body)
        return values

    def decode_one(self, payload: bytes) -> Any:
        return self._one.decode(payload)

    def describe(self) -> Description:
        return "any"

    def fingerprint(self) -> bytes:
        return b"\0" * 16


class Spec(Struct):
    """What the runners read of a HandlerSpec."""

    channel: str
    fn: Callable[..., Any]
    is_async: bool = True
    is_generator: bool = False
    wants_ctx: bool = False
    concurrency: int = 32
    timeout: float | None = None
    retry: Retry | None = None
    to: tuple[Any, ...] = ()
    codec: Any = Json()
    kind: str = "push"
    inbox: str = "memory"
    idempotent: bool = False
    answers: Any = None
    errors: tuple[type[Exception], ...] = ()
    feed: None = None
    around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] | None = None


def delivery(values: Sequence[Any], channel: str = "work", **fields: Any) -> Delivery:
    body, ends = bytearray(BODY_START), array("I")
    for value in values:
        body += value if isinstance(value, bytearray) else msgspec.msgpack.encode(value)
        ends.append(len(body))
    BODY_HEADER.pack_into(body, 0, 0xDD, len(values))
    given: dict[str, Any] = {
        "channel": channel,
        "box": 0xABC,
        "epoch": 35,
        "ranges": ((1, len(values)),),
        "count": len(values),
        "body": bytes(body),
        "ends": ends.tobytes(),
        "accepted_at": time.time_ns() // 1_000,
        "sender": "sender",
    }
    return Delivery(**(given | fields))


class FakeFlow:
    """Items of a stream, as far as there is room."""

    is_noted = False

    def __init__(self, room: int) -> None:
        self.items: list[bytes] = []
        self._room = room
        self._call: Callable[[], object] | None = None

    def has_room(self) -> bool:
        return len(self.items) < self._room

    def put(self, payload: bytes) -> None:
        self.items.append(payload)

    def when_room(self, call: Callable[[], object] | None) -> None:
        self._call = call

    def make_room(self, more: int) -> None:
        self._room += more
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def values(self) -> list[Any]:
        return [msgspec.msgpack.decode(item) for item in self.items]


class FakeDesk:
    """Hands out what was admitted, notes what becomes of it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queued: dict[str, deque[list[Any]]] = {}
        self.admitted: list[Delivery] = []
        self.jobs: list[Job] = []
        self.finished: list[tuple[Delivery, int, int, Outcome | None]] = []
        self.stage: Stage | None = None
        self.times: Counter[tuple[int, int]] = Counter()  # (delivery, index) → how often it was reported
        self.count = 0
        self.room = 1_000_000  # how many items of a stream may be given
        self.flows: list[FakeFlow] = []

    def admit(self, *deliveries: Delivery, then_ready: bool = True) -> None:
        with self._lock:
            for each in deliveries:
                self.admitted.append(each)
                self._queued.setdefault(each.channel, deque()).append([each, 0])
        if then_ready and self.stage is not None:
            for each in deliveries:
                self.stage.ready(each.channel)

    def start(self, channel: str, most: int) -> Job | None:
        with self._lock:
            queue = self._queued.get(channel)
            if not queue:
                return None
            held = queue[0]
            given, start = held
            stop = held[1] = min(given.count, start + most)
            if stop == given.count:
                queue.popleft()
            job = Job(given, start, stop)
            self.jobs.append(job)
            return job

    def finish(self, job: Job, start: int, stop: int, outcome: Outcome | None) -> None:
        assert job.start <= start < stop <= job.stop, (job.start, start, stop, job.stop)
        with self._lock:
            self.finished.append((job.delivery, start, stop, outcome))
            self.times.update((id(job.delivery), index) for index in range(start, stop))
            self.count += stop - start

    def flow(self, job: Job, index: int) -> FakeFlow:
        self.flows.append(FakeFlow(self.room))
        return self.flows[-1]

    def flowing(self, flow: Any) -> None: ...

    # What tests look at

    def waiting(self) -> int:
        with self._lock:
            return sum(each.count - start for queue in self._queued.values() for each, start in queue)

    def fates(self, of: Delivery) -> list[Verdict | None]:
        """Of each message, in order; None: nothing reported. Fails if one was reported twice."""
        with self._lock:
            fates: list[Verdict | None] = [None] * of.count
            for each, start, stop, outcome in self.finished:
                if each is of:
                    for index in range(start, stop):
                        assert fates[index] is None, f"{index} was reported twice"
                        fates[index] = Verdict.HANDLED if outcome is None else outcome.verdict
            return fates

    def outcome(self, of: Delivery, index: int) -> Outcome:
        for each, start, stop, outcome in self.finished:
            if each is of and start <= index < stop and outcome is not None:
                return outcome
        raise AssertionError(f"{index} has no outcome but handled, if any")

    def note(self, of: Delivery, index: int = 0) -> dict[str, Any]:
        note: dict[str, Any] = msgspec.msgpack.decode(self.outcome(of, index).note)
        return note

    async def until_done(self, *deliveries: Delivery, within: float = 10) -> None:
        of = deliveries or tuple(self.admitted)
        await wait_until_in_loop(
            lambda: all(None not in self.fates(each) for each in of),
            within=within,
            that="all is reported",
        )


SENT = Sent(0xBA5E, [])


class FakeOpening:
    """It may open before anybody waits for it: then who comes is called at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Sent | BaseException], object]] = []
        self._given: Sent | BaseException | None = None

    def when_open(self, callback: Callable[[Sent | BaseException], object]) -> None:
        with self._lock:
            if self._given is None:
                self._callbacks.append(callback)
                return
        callback(self._given)

    def open(self, given: Sent | BaseException = SENT) -> None:
        """Calls back from another thread, as a store does."""
        with self._lock:
            self._given = given
        thread = threading.Thread(target=lambda: [callback(given) for callback in self._callbacks])
        thread.start()
        thread.join()


class FakeOutputs:
    """tagged: what was sent, with the number of the message for which it was."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.sent: list[Output] = []
        self.tagged: list[tuple[int, Output]] = []
        self.pending: deque[FakeOpening] = deque()
        self.refuses: BaseException | None = None

    def prepare(self, to: object, value: object, options: Any) -> Output:
        msgspec.msgpack.encode(value)
        return (to, value)

    def prepare_event(self, to: object, value: object, options: Any) -> Any:
        return self.prepare(to, value, options)

    def gather(self, to: object) -> Any:
        return None

    def size(self, output: Any) -> int:
        return 100

    def spool(self, delivery: Delivery, index: int, outputs: list[Any]) -> None:
        return None

    def unspool(self, spooled: Any) -> None:
        raise AssertionError("nothing was spooled")

    def send(self, delivery: Delivery, outputs: list[Tagged]) -> Sent | FakeOpening:
        if self.refuses is not None:
            raise self.refuses
        self.sent += [output for _, output in outputs]
        self.tagged += [(delivery.number(index), output) for index, output in outputs]
        if self.at_once:
            return SENT
        opening = FakeOpening()
        self.pending.append(opening)
        return opening

    def release(self, outputs: list[Tagged]) -> Released:
        if self.refuses is not None:
            raise self.refuses
        self.sent += [output for _, output in outputs]
        return Released()


class Released:
    """They are safe at once."""

    def when_stored(self, callback: Callable[[BaseException | None], object]) -> None:
        callback(None)


class Hall:
    """A stage that is open, its desk and its way out."""

    def __init__(self, stage: Stage, desk: FakeDesk, outputs: FakeOutputs) -> None:
        self.stage, self.desk, self.outputs = stage, desk, outputs


def itself(visit: Any) -> Any:
    return visit


@asynccontextmanager
async def hall(
    *specs: Spec, outputs: FakeOutputs | None = None, admitted: Iterable[Delivery] = (), **options: Any
) -> AsyncGenerator[Hall]:
    desk, outputs = FakeDesk(), outputs or FakeOutputs()
    settled: dict[str, Any] = {"worker": "tester", "clock": time.monotonic, "make_context": itself}
    stage = Stage(specs, **(settled | options))  # type: ignore[arg-type]
    desk.admit(*admitted)
    await stage.open(desk, outputs)
    desk.stage = stage
    try:
        yield Hall(stage, desk, outputs)
    finally:
        await stage.close()


__all__ = ["FakeDesk", "FakeOpening", "FakeOutputs", "Hall", "Json", "Spec", "Visit", "delivery", "hall"]
