"""Apps that the tests of the main job run in processes of their own: `zerowait run tests.integration.services:echo`.

What a handler does it writes into the file that WITNESS names: one line a message, in one write.
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from zerowait import App, Context, PushChannel, Reject, Retry


class Work(msgspec.Struct):
    number: int
    seconds: float = 0.0


WORK = PushChannel[Work]("work")
echo = App("echo")
failing = App("failing")
newer = App("newer")


def witness(*words: object) -> None:
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


@echo.pull(WORK, concurrency=8)
async def work(value: Work, ctx: Context) -> None:
    witness("begin", value.number, os.getpid(), ctx.attempt)
    if value.seconds:
        await asyncio.sleep(value.seconds)
    witness("end", value.number, os.getpid(), ctx.attempt)


class Renamed(msgspec.Struct):
    count: int


@newer.pull(PushChannel[Renamed]("work"))
async def renamed(value: Renamed) -> None:
    witness("renamed", value.count)


@failing.pull("failing", retry=Retry(attempts=2, delay=0.05, max_delay=0.05))
def fail(number: int) -> None:
    witness("tried", number)
    if number == 13:
        raise Reject("unlucky")
    if number % 2:
        raise ValueError(f"{number} is odd")
