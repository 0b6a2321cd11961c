# pyright: strict
"""What who asks or answers may not write: each line marked `wrong` is refused."""

from collections.abc import AsyncIterator, Iterator

from contracts import PARSE, RawMail

from zerowait import App, Client, Context, Reply, RequestChannel, StreamChannel

zw = Client("wrong")
app = App("wrong")
COUNT = RequestChannel[str, int]("mail.count")
SUMMARY = StreamChannel[RawMail, str]("mail.summary")

# the verb
zw.request(PARSE, RawMail("a", b""))  # wrong
zw.push(COUNT, "example.org")  # wrong
zw.request(SUMMARY, RawMail("a", b""))  # wrong
zw.stream(COUNT, "example.org")  # wrong

# the value, the options
zw.request(COUNT, 3)  # wrong
zw.request(COUNT, "a", timeout="3")  # wrong
zw.request(COUNT, "a", 3)  # wrong
zw.request(COUNT, "a", hedge="yes")  # wrong
zw.request(COUNT, "a", durable=True)  # wrong
zw.request(COUNT, "a", returns=str)  # wrong
zw.stream(SUMMARY, RawMail("a", b""), hedge=True)  # wrong
zw.stream(SUMMARY, "a")  # wrong

# the answer
narrow: Reply[str] = zw.request(COUNT, "a")  # wrong
text: str = zw.request(COUNT, "a").result()  # wrong
for word in zw.request(COUNT, "a"):  # wrong
    pass

# declarations
ONE = RequestChannel[str]("one")  # wrong
DURABLE = RequestChannel[str, int]("durable", durable=True)  # wrong
ERRORS = RequestChannel[str, int]("errors", errors=[int])  # wrong
IDEMPOTENT = StreamChannel[str, int]("stream", idempotent=True)  # wrong


# handlers
@app.reply(COUNT)  # wrong
def answers_text(domain: str) -> str:
    return domain


@app.reply(COUNT)  # wrong
async def takes_a_number(number: int) -> int:
    return number


@app.reply(COUNT)  # wrong
async def answers_nothing(domain: str) -> None: ...


@app.reply(SUMMARY)  # wrong
def one_answer(mail: RawMail) -> str:
    return mail.path


@app.reply(SUMMARY)  # wrong
async def items_of_another_type(mail: RawMail) -> AsyncIterator[int]:
    yield 1


@app.reply(COUNT)  # wrong
def several(domain: str) -> Iterator[int]:
    yield 1


@app.pull(COUNT)  # wrong
def pulled(domain: str) -> None: ...


@app.reply(COUNT, retry=3)  # wrong
def retried(domain: str) -> int:
    return 1


@app.reply(COUNT)
async def asks_wrongly(domain: str, ctx: Context) -> int:
    await ctx.request(PARSE, domain)  # wrong
    return await ctx.request(COUNT, 3)  # wrong


def maps_wrongly(zw: Client) -> None:
    zw.map(COUNT, [1])  # wrong
    zw.map(PARSE, ["a"])  # wrong
    zw.map(COUNT, "a", windows=3)  # wrong
    zw.map(COUNT, 5)  # wrong
