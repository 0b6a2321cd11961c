"""Topics: what is published, subscribed to and handled is of the topic's type."""

from collections.abc import Mapping
from datetime import datetime

from contracts import RawMail

from zerowait import App, Client, Context, Event, Pending, Retry, Topic
from zerowait.results import Peers, Subscription

FLAGGED = Topic[str]("mail.flagged.*", retain=True)
SEEN = Topic[RawMail]("mail.seen.>", history=100)
COUNT = Topic[int]("count", reliable=True)
EITHER = Topic[int | str]("either")

zw = Client("feed")
app: App[None] = App("feed")

one: Topic[str] = FLAGGED.at("spam")
number: Pending[int] = zw.publish(FLAGGED.at("spam"), "a.eml")
zw.publish(SEEN.at("ann", "inbox"), RawMail("a.eml", b""), retain=True, headers={"trace": "1"})
zw.publish(EITHER, 3)
zw.publish(EITHER, "three")
zw.publish("mail.flagged.spam", object())

strings: Subscription[str] = zw.subscribe(
    FLAGGED, replay=20, replay_seconds=60.0, overflow="conflate", queue=10, idle=1
)
mails: Subscription[RawMail] = zw.subscribe("mail.seen.>", yields=RawMail)
whatever = zw.subscribe("mail.>")
there: Peers = zw.subscribers(FLAGGED)
others: Peers = zw.publishers("mail.>")


def loop() -> str:
    with zw.subscribe(FLAGGED) as events:
        for event in events:
            topic: str = event.topic
            value: str = event.value
            missed: int = event.missed
            at: datetime = event.sent_at
            headers: Mapping[str, str] = event.headers
            print(topic, value, missed, event.sender, at, headers)
        events.cancel()
        return f"{events.missed}"


async def feed() -> None:
    async with Client("dashboard") as other, other.subscribe(SEEN) as events:
        async for event in events:
            show(event)
    await other.subscribers(SEEN).at_least(2)
    addressed: int = await other.publish(COUNT, 1)
    print(addressed)


def show(event: Event[RawMail]) -> None:
    print(event.value.path)


@app.subscribe(FLAGGED)
def alert(path: str) -> None: ...


@app.subscribe(FLAGGED, group="mail", durable=True, retry=Retry(attempts=3), concurrency=4)
async def keep(path: str, ctx: Context) -> None:
    ctx.publish(COUNT, len(path) + max(0, ctx.missed))
    ctx.publish("anything", object(), retain=True)


@app.subscribe("mail.>", group="log", queue=10_000, overflow="disconnect", replay=5, replay_seconds=1.5, timeout=5)
async def log(value: dict[str, int]) -> None: ...
