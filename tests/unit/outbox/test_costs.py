"""What an outbox costs, printed; asserted only so far that a busy machine passes too."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, handled
from zerowait.message import BODY_START, SEGMENT_MESSAGES

Maker = Callable[..., Bench]


def test_a_query_is_planned_once_whatever_is_bound_to_it(make: Maker) -> None:
    """SQLite asks before it plans; planning takes many times as long as looking for the head of a backlog."""
    database = make().box._file.database
    assert database is not None
    asked: list[object] = []

    def asks(*what: object) -> int:
        asked.append(what)
        return apsw.SQLITE_OK

    database._connection.authorizer = asks
    sql = "SELECT seq FROM message WHERE state = 0 AND due IS NOT NULL AND channel = ? ORDER BY due LIMIT ?"
    database.rows(sql, (1, 10))
    planned = len(asked)
    database.rows(sql, (2, 20))
    assert planned == len(asked) > 0


@pytest.mark.slow
def test_segments_cost_little_to_insert_and_less_to_settle(make: Maker) -> None:
    bench = make(messages=10**8, nbytes=1 << 40)
    lane = bench.lane()
    payload = b"\xd9\x4a" + b"x" * 74
    inserted: list[float] = []
    settled: list[float] = []
    for _ in range(25):
        for _ in range(40 * SEGMENT_MESSAGES):
            lane.append(payload)
        began = perf_counter()
        segments = bench.box.turn()
        inserted.append(perf_counter() - began)
        assert len(segments) == 40
        began = perf_counter()
        bench.box.turn([handled(each) for each in segments], {"mail": 1 << 30})
        settled.append(perf_counter() - began)
    kind = "file" if bench.path else "memory"
    print(f"\n{kind}: 40 segments of 1,024 x 76 bytes: inserted in {median(inserted) * 1e3:.1f} ms, "
          f"settled in {median(settled) * 1e3:.1f} ms")  # fmt: skip
    assert median(inserted) < (0.05 if bench.path is None else 0.5)
    assert median(settled) < (0.02 if bench.path is None else 0.2)


@pytest.mark.slow
def test_a_message_alone_costs_a_short_turn(make: Maker) -> None:
    bench = make()
    lane = bench.lane()
    payload = b"\xd9\x4a" + b"x" * 74
    inserted: list[float] = []
    settled: list[float] = []
    for _ in range(500):
        lane.append(payload)
        began = perf_counter()
        (segment,) = bench.box.turn()
        inserted.append(perf_counter() - began)
        began = perf_counter()
        bench.box.turn([handled(segment)], {"mail": len(segment.body) - BODY_START})
        settled.append(perf_counter() - began)
    kind = "file" if bench.path else "memory"
    print(f"\n{kind}: one message: a turn of {median(inserted) * 1e6:.0f} us, "
          f"settled in one of {median(settled) * 1e6:.0f} us")  # fmt: skip
    assert median(inserted) < (0.001 if bench.path is None else 0.05)
