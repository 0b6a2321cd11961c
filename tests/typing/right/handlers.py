# pyright: strict
"""Every kind of handler that there is."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from contracts import BODY, LINES, ORDER, PARSE, Created, Deleted, RawMail

from zerowait import App, Context, PushChannel, Reject, Retry, RetryLater


class Database:
    async def execute(self, statement: str) -> None: ...


@asynccontextmanager
async def database() -> AsyncGenerator[Database, None]:
    yield Database()


@contextmanager
def disk() -> Generator[Database, None, None]:
    yield Database()


app = App("mail", resources=database)
plain = App("plain", resources=disk)
bare = App("bare")

ONE = PushChannel[RawMail]("one")
TWO = PushChannel[RawMail]("two")
THREE = PushChannel[RawMail]("three")
FOUR = PushChannel[RawMail]("four")
FIVE = PushChannel[RawMail]("five")
SIX = PushChannel[RawMail]("six")
SEVEN = PushChannel[RawMail]("seven")
COPY = PushChannel[str]("copy")


@app.pull(PARSE, timeout=30, retry=Retry(attempts=5), inbox="disk")
async def parse(mail: RawMail, ctx: Context[Database]) -> None:
    if not mail.data:
        raise Reject("empty mail")
    if ctx.attempt == 1:
        raise RetryLater(after=60, reason="not yet")
    await ctx.resources.execute("insert …")
    ctx.push(BODY, mail)
    ctx.push(LINES, mail.path, delay=1, headers={"from": ctx.id})
    ctx.push("elsewhere", {"mail": mail.path})


@app.pull(BODY, concurrency=4)
def body(mail: RawMail, ctx: Context) -> None:
    ctx.checkpoint()
    print(ctx.channel, ctx.sender, ctx.sent_at, ctx.remaining(), ctx.key, ctx.headers, ctx.missed)


@plain.pull(ORDER)
def order(event: Created | Deleted) -> None:
    match event:
        case Created():
            print("created", event.order)
        case Deleted():
            print("deleted", event.why)


@plain.pull(LINES)
def wider(line: object) -> None:
    print(line)


@app.pull(ONE, to=LINES)
async def awaited(mail: RawMail) -> str | None:
    return mail.path or None


@app.pull(TWO, to=[LINES, COPY])
async def fan(mail: RawMail, ctx: Context[Database]) -> AsyncIterator[str]:
    await ctx.resources.execute("select …")
    yield mail.path


@app.pull(THREE, to=LINES)
def generator(mail: RawMail) -> Generator[str, None, None]:
    yield mail.path


@app.pull(FOUR, to="anywhere")
def by_name(mail: RawMail) -> dict[str, int]:
    return {mail.path: 1}


@app.pull(FIVE, to=LINES)
def with_context(mail: RawMail, ctx: Context) -> Iterator[str]:
    yield ctx.id


@app.pull("six", to=SIX)
def untyped(value: dict[str, Any]) -> RawMail:
    return RawMail(**value)


@app.pull(SEVEN)
def wrapped(mail: RawMail) -> Awaitable[None]:
    return awaiting(mail)


async def awaiting(mail: RawMail) -> None: ...


@app.middleware
async def timed(ctx: Context[Database], call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


app.include(plain)
app.include(bare)
order(Created(1))  # a handler stays the function that it was


async def main() -> None:
    async with app as zw:
        await zw.push(ONE, RawMail("a", b""))
    with bare as zw:
        zw.push(LINES, "a").result()
    app.client.push(LINES, "b")
    async with app.lifespan(object()):
        await app.serve()


@app.every(60)
async def tidy() -> None: ...


@app.every(cron="0 3 * * *", timezone="Europe/Berlin")
def report(ctx: Context[Database]) -> None: ...
