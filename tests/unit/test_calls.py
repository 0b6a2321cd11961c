"""What other threads want done on the network thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from zerowait.engines.brokerless.calls import Calls
from zerowait.errors import Closed, StoreError


def test_what_is_called_runs_when_its_thread_comes_to_it_and_tells_how_it_went() -> None:
    woken: list[str] = []
    calls = Calls("tester", lambda: woken.append("woken"))
    fine, wrong = calls.call(lambda: 7), calls.call(lambda: "abc"[9])
    assert woken == ["woken", "woken"]
    assert calls
    assert not fine.done()
    calls.run()
    assert not calls
    assert fine.result(0) == 7
    with pytest.raises(IndexError):
        wrong.result(0)


def test_what_a_call_calls_runs_in_the_same_turn() -> None:
    calls = Calls("tester", lambda: None)
    later = calls.call(lambda: calls.call(lambda: "second"))
    calls.run()
    assert later.result(0).result(0) == "second"


def test_what_nobody_waits_for_any_more_runs_all_the_same_and_what_comes_after_it_does() -> None:
    calls, done = Calls("tester", lambda: None), list[str]()

    async def given_up() -> None:
        waiting = asyncio.create_task(_until(calls.call(lambda: done.append("first"))))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(given_up())
    last = calls.call(lambda: done.append("second"))
    calls.run()
    assert done == ["first", "second"]
    assert last.result(0) is None


async def _until(called: Future[None]) -> None:
    await asyncio.wrap_future(called)


@pytest.mark.parametrize("error", [None, StoreError("no room")])
def test_nobody_waits_for_a_thread_that_has_ended(error: StoreError | None) -> None:
    calls = Calls("tester", lambda: None)
    before = calls.call(lambda: 1)
    calls.end(error)
    for refused in (before, calls.call(lambda: 2)):
        with pytest.raises(StoreError if error is not None else Closed):
            refused.result(0)
