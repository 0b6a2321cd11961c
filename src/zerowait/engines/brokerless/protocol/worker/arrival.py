"""A BATCH that has arrived, as it is laid on the desk."""

from __future__ import annotations

from collections.abc import Iterable

from zerowait.engines.brokerless.protocol.frames import Batch
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.worker.parcel import Parcel, Permit
from zerowait.message import Delivery


def parcels_of(
    link: Link, batch: Batch, count: int, fresh: Iterable[tuple[int, int]], permit: Permit, cost: float, now: float
) -> list[Parcel]:
    """Those of its messages that have not come before. count: how many it has; cost: units of credit a message."""
    delivery = _delivery(link, batch, count, now)
    parcels: list[Parcel] = []
    for first, many in fresh:
        at = _index(batch.ranges, first)
        parcel = Parcel(delivery, at, at + many, batch.fence, batch.n, permit, link.conn, cost, batch.lane)
        parcels.append(parcel)
    delivery.token = tuple(parcels)
    return parcels


def _delivery(link: Link, batch: Batch, count: int, now: float) -> Delivery:
    left_ms = min(batch.left_ms.values(), default=None)
    return Delivery(
        channel=batch.channel,
        box=batch.box,
        epoch=batch.epoch,
        ranges=batch.ranges,
        count=count,
        body=batch.body,
        ends=batch.ends,
        accepted_at=batch.accepted_at[0],
        sender=batch.sender or (link.hello.name if link.hello is not None else ""),
        failures=batch.failures or None,
        headers=batch.headers or None,
        expires=now + left_ms / 1_000 if left_ms is not None else None,
        key=next(iter(batch.keys.values()), None),
        base=batch.base,
        deaths=batch.deaths or None,
        durable=link.boxes[batch.box].durable,
    )


def _index(ranges: Iterable[tuple[int, int]], number: int) -> int:
    index = 0
    for first, count in ranges:
        if first <= number < first + count:
            return index + number - first
        index += count
    raise AssertionError(f"number {number} is not in the batch")
