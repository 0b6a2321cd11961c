# pyright: strict
"""What may not be written about topics: each line marked `wrong` is refused."""

from contracts import LINES, PARSE, RawMail

from zerowait import App, Client, Context, Plain, Topic
from zerowait.results import Subscription

FLAGGED = Topic[str]("mail.flagged.*")
SEEN = Topic[RawMail]("mail.seen")
COUNT = Topic[int]("count")

zw = Client("wrong")
app: App[None] = App("wrong")

# the value
zw.publish(SEEN, "a.eml")  # wrong
zw.publish(SEEN, RawMail)  # wrong
zw.publish(FLAGGED.at("spam"), 3)  # wrong
zw.publish(FLAGGED.at(3), "a")  # wrong
zw.publish(COUNT, None)  # wrong

# the verb
zw.publish(LINES, "a")  # wrong
zw.push(FLAGGED, "a")  # wrong
zw.subscribe(PARSE)  # wrong
zw.workers(FLAGGED)  # wrong
zw.subscribers(PARSE)  # wrong

# options
zw.publish(FLAGGED.at("a"), "a", durable=True)  # wrong
zw.publish(FLAGGED.at("a"), "a", retain="yes")  # wrong
zw.subscribe(FLAGGED, overflow="block")  # wrong
zw.subscribe(FLAGGED, replay=1.5)  # wrong
zw.subscribe(FLAGGED, yields=str)  # wrong
zw.subscribe(FLAGGED, group="a")  # wrong
Topic[str]("a", durable=True)  # wrong
Topic[str]("a", ttl=3)  # wrong
Topic[str]("a", plain=Plain)  # wrong
Topic[str]("a", plain=Plain("text", bind="tcp://*:1", prefix=b"x"))  # wrong
Topic[str]("a", plain=Plain("xml", bind="tcp://*:1"))  # wrong

# what comes of it
numbers: Subscription[int] = zw.subscribe(FLAGGED)  # wrong
text: str = zw.publish(COUNT, 1)  # wrong


async def loops() -> None:
    async for event in zw.subscribe(COUNT):
        path: str = event.value  # wrong
        event.value = 3  # wrong
        print(path)


# handlers
@app.subscribe(COUNT)  # wrong
def of_text(value: str) -> None: ...


@app.subscribe(FLAGGED)  # wrong
def gives(value: str) -> int:
    return 1


@app.subscribe(PARSE)  # wrong
def of_a_push(value: RawMail) -> None: ...


@app.subscribe(FLAGGED, to=LINES)  # wrong
def stage(value: str) -> None: ...


@app.subscribe(FLAGGED, group=3)  # wrong
def of_a_number(value: str) -> None: ...


@app.subscribe(FLAGGED)
def sends(value: str, ctx: Context) -> None:
    ctx.publish(COUNT, "a")  # wrong
    ctx.publish(PARSE, RawMail("a", b""))  # wrong
