# pyright: strict
"""What a worker may not write: each line marked `wrong` is refused."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from contracts import BODY, LINES, ORDER, PARSE, Created, RawMail

from zerowait import App, Client, Context


class Database:
    pass


class Cache:
    pass


@asynccontextmanager
async def database() -> AsyncGenerator[Database, None]:
    yield Database()


app = App("wrong", resources=database)


@app.pull(PARSE)  # wrong
def returns(mail: RawMail) -> int:
    return 1


@app.pull(PARSE)  # wrong
async def returns_later(mail: RawMail) -> str:
    return mail.path


@app.pull(PARSE)  # wrong
def yields(mail: RawMail) -> Iterator[str]:
    yield mail.path


@app.pull(PARSE)  # wrong
async def yields_later(mail: RawMail) -> AsyncIterator[str]:
    yield mail.path


@app.pull(PARSE)  # wrong
def takes_another(line: str) -> None: ...


@app.pull(ORDER)  # wrong
def takes_a_part(created: Created) -> None: ...


@app.pull(PARSE)  # wrong
def takes_nothing() -> None: ...


@app.pull(PARSE)  # wrong
def takes_two(path: str, data: bytes) -> None: ...


@app.pull(PARSE)  # wrong
def takes_three(mail: RawMail, ctx: Context, more: int) -> None: ...


@app.pull(PARSE)  # wrong
def other_resources(mail: RawMail, ctx: Context[Cache]) -> None: ...


@app.pull(PARSE, to=LINES)  # wrong
def gives_another(mail: RawMail) -> bytes:
    return mail.data


@app.pull(PARSE, to=LINES)  # wrong
def gives_a_list(mail: RawMail) -> list[str]:
    return [mail.path]


@app.pull(PARSE, to=LINES)  # wrong
async def gives_a_list_later(mail: RawMail) -> list[str]:
    return [mail.path]


@app.pull(PARSE, to=LINES)  # wrong
def gives_an_iterable(mail: RawMail) -> Iterable[str]:
    return [mail.path]


@app.pull(PARSE, to=LINES)  # wrong
def yields_another(mail: RawMail) -> Iterator[int]:
    yield 1


@app.pull(PARSE, to=LINES)  # wrong
async def yields_another_later(mail: RawMail, ctx: Context[Database]) -> AsyncIterator[bytes]:
    yield mail.data


@app.pull(PARSE, to=LINES)  # wrong
def stage_takes_another(line: str) -> str:
    return line


@app.pull(PARSE, durable=True)  # wrong
def durable(mail: RawMail) -> None: ...


@app.pull(PARSE, inbox="file")  # wrong
def parse_kept(mail: RawMail) -> None: ...


@app.pull(PARSE, retry=5)  # wrong
def retries(mail: RawMail) -> None: ...


@app.pull(PARSE, timeout="30 s")  # wrong
async def times_out(mail: RawMail) -> None: ...


@app.pull(PARSE, concurency=3)  # wrong
def misspelt(mail: RawMail) -> None: ...


@app.pull("lines", durable=True)  # wrong
def durable_by_name(line: str) -> None: ...


@app.pull  # wrong
def no_channel(mail: RawMail) -> None: ...


@app.pull(RawMail)  # wrong
def a_type_for_a_channel(mail: RawMail) -> None: ...


@app.pull(PARSE, to=print)  # wrong
def to_a_function(mail: RawMail) -> None: ...


@app.pull(BODY)
async def sends(mail: RawMail, ctx: Context[Database]) -> None:
    ctx.push(LINES, mail)  # wrong
    await ctx.push(LINES, mail.path)  # wrong
    ctx.push(LINES, mail.path, timeout=3)  # wrong
    ctx.resources.execute("select …")  # wrong
    ctx.attempt = 3  # wrong


@app.every()  # wrong
def never() -> None: ...


@app.every(60, cron="* * * * *")  # wrong
def twice() -> None: ...


@app.every(60)  # wrong
def gives() -> int:
    return 1


@app.every(60)  # wrong
def of_a_value(number: int) -> None: ...


@app.middleware  # wrong
async def not_calling(ctx: Context[Database]) -> None: ...


App()  # wrong
App("name", Database)  # wrong
App("name", resources=Database)  # wrong
App("name", resources=database())  # wrong
client: Client = app  # wrong
app.push(LINES, "a")  # wrong
