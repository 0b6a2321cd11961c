"""Apps at the other end of plain ZeroMQ programs, in processes of their own. BIND and CONNECT name their endpoints."""

from __future__ import annotations

import asyncio
import os

from zerowait import App, Plain, PushChannel, RequestChannel

BIND, CONNECT = os.environ.get("BIND", "tcp://127.0.0.1:5555"), os.environ.get("CONNECT", "tcp://127.0.0.1:5556")

hello = App("hello")
worker = App("worker")
sink = App("sink")


def witness(*words: object) -> None:
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


@hello.reply(RequestChannel[str, str]("hello", plain=Plain("text", bind=BIND)))
async def say(text: str) -> str:
    witness("asked", text)
    if text.endswith("slow"):
        await asyncio.sleep(0.3)
    return text.replace("Hello", "World")


TASKS = PushChannel[int]("tasks", plain=Plain("text", connect=CONNECT))
DONE = PushChannel[str]("done", plain=Plain("text", connect=BIND))


@worker.pull(TASKS, to=DONE)
async def sleep(milliseconds: int) -> str:
    await asyncio.sleep(milliseconds / 1_000)
    return ""


@sink.pull(PushChannel[str]("results", plain=Plain("text", bind=BIND)))
def collect(result: str) -> None:
    witness("got", repr(result))
