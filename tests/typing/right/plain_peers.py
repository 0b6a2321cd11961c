# pyright: strict
"""Channels on bare ZeroMQ sockets are typed as all others are."""

from typing import assert_type

from zerowait import App, Client, Plain, PushChannel, Reply, RequestChannel, Topic
from zerowait.results import Subscription

WORK = PushChannel[int]("plain.work", plain=Plain("text", connect="tcp://a:1"))
COUNT = RequestChannel[str, int]("plain.count", timeout=1, plain=Plain("json", connect=["tcp://a:1", "tcp://b:1"]))
WEATHER = Topic[str]("plain.weather", plain=Plain("text", connect="tcp://a:1", prefix="10001 "))
ROOMS = Topic[float]("plain.room.*", plain=Plain("msgpack", bind="tcp://*:1", topic_frame=True))
app = App("plain")
zw = Client("plain")


@app.reply(COUNT)
def count(text: str) -> int:
    return len(text)


@app.subscribe(WEATHER, queue=10)
async def show(update: str) -> None: ...


plain: Plain | None = COUNT.plain or WORK.plain or WEATHER.plain
reply: Reply[int] = zw.request(COUNT, "a")
updates: Subscription[str] = zw.subscribe(WEATHER, overflow="conflate")
assert_type(zw.publish(ROOMS.at("a"), 1.5).result(), int)
