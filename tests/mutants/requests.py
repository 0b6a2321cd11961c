"""Bugs of requests and streams (rules §9)."""

from __future__ import annotations

from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless.protocol.owner import asks
from zerowait.engines.brokerless.protocol.worker import memory, outcomes, owners, streams, worker
from zerowait.requests import box


class _All:
    """A set that has everything."""

    def __contains__(self, what: object) -> bool:
        return True


@bug("what may not run twice is asked of another when its worker is lost")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def lost(self: Any, custody: Any, instance: int, pieces: Any) -> Any:
            right_set, self._sender.idempotent = self._sender.idempotent, _All()
            try:
                return right(self, custody, instance, pieces)
            finally:
                self._sender.idempotent = right_set

        return lost

    put(asks.Asks, "lost", made)


@bug("who was away too long asks again what his worker has forgotten")
def _(put: Put) -> None:
    put(asks.Asks, "unsure", lambda right: lambda self, custody, instance, pieces, held: pieces)


@bug("whoever runs what nobody wants is not told")
def _(put: Put) -> None:
    put(asks.Asks, "stop", nothing)


@bug("what was asked does not expire while it is in flight")
def _(put: Put) -> None:
    put(asks.Asks, "_abandon", lambda right: lambda self, custody, epoch, first, count: ())


@bug("a request that nobody serves waits for ever")
def _(put: Put) -> None:
    put(asks.Asks, "_fail", nothing)


@bug("an answer is forgotten before it is confirmed")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def answered(self: Any, of: int, parts: Any, ended: Any) -> Any:
            told = right(self, of, parts, ended)
            self.memory.confirm(of, parts)
            return told

        return answered

    put(worker.Worker, "_answered", made)


@bug("an answer is sent to who takes no such large one", by="tests/protocol/test_large.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        return lambda of, told, most: right(of, told, outcomes.ANY_SIZE)

    put(memory, "answer_frames", made)
    put(worker, "answer_frames", made)


@bug("what ends when its asker is gone is remembered")
def _(put: Put) -> None:
    put(owners.Owners, "__contains__", lambda right: lambda self, of: True)


@bug("a stream gives more than there is room for")
def _(put: Put) -> None:
    put(streams.Outflow, "has_room", lambda right: lambda self: True)


@bug("what comes twice of a stream is read twice")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def chunk(self: Any, link: Any, chunk: Any) -> None:
            flow = self._boxes[chunk.box].flows.get(chunk.number) if chunk.box in self._boxes else None
            if flow is not None:
                flow.seen = chunk.serial
            right(self, link, chunk)

        return chunk

    put(asks.Asks, "chunk", made)

    def all_again(right: Any) -> Any:
        return lambda self, of, number, flow, link: right(self, of, number, asks_flow(flow), link)

    def asks_flow(flow: Any) -> Any:
        shown = asks.Flow(flow.channel, flow.instance)
        shown.limit, shown.seen = flow.limit, max(0, flow.seen - 1)
        return shown

    put(asks.Asks, "_tell", all_again)


@bug("what a broken connection has swallowed of a stream does not come again")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def feed(self: Any, link: Any, credit: Any) -> None:
            flow = self._flows.get((credit.box, credit.number))
            if flow is not None and flow.conn not in (0, link.conn):
                flow.unseen.clear()
            right(self, link, credit)

        return feed

    put(streams.Streams, "feed", made)


@bug("a stream that was handed back is lost with who handed it back")
def _(put: Put) -> None:
    put(asks.Asks, "waits", lambda right: lambda self, pieces: self._fresh.extend(pieces))


@bug("a reader is forgotten with the end of his stream")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def end(self: Any, piece: Any, at: int, count: int, end: Any, **how: Any) -> None:
            right(self, piece, at, count, end, **how)
            for index in range(piece.start + at, piece.start + at + count):
                (piece.bundle.streams or {}).pop(index, None)

        return end

    put(box.Requests, "_end", made)


@bug("a session without a word about what is held tells that nothing was forgotten")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def closed(self: Any, link: Any) -> None:
            link.resumed.update(self._boxes)
            right(self, link)

        return closed

    put(asks.Asks, "closed", made)
