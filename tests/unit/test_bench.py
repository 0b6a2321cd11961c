"""The measurements that no other test runs still run."""

from __future__ import annotations

import asyncio

from bench.runners import SIZE, measure_all


def test_what_the_runners_cost_can_be_measured() -> None:
    lines = asyncio.run(measure_all(10 * SIZE, 1))
    assert [line.get("handler", line.get("lone message")) for line in lines] == [
        "async",
        "plain",
        "async, waits",
        "async",
        "plain",
    ]
    assert all(float(str(line["us_bare"])) > 0 for line in lines if "us_bare" in line)
