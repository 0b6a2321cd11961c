# pyright: strict
"""What a sender may not write: each line marked `wrong` is refused."""

from collections.abc import Callable

from contracts import LINES, ORDER, PARSE, REMIND, SCORES, RawMail

from zerowait import App, Client, Plain, PushChannel, Retry

zw = Client("wrong")
app = App("wrong")


class Other:
    pass


def handler(mail: RawMail) -> None: ...


# the value
zw.push(PARSE, "a.eml")  # wrong
zw.push(PARSE, Other())  # wrong
zw.push(PARSE, RawMail)  # wrong
zw.push(PARSE, None)  # wrong
zw.push(ORDER, 3)  # wrong
zw.push(REMIND, {"to": 3})  # wrong
zw.push(SCORES, ["a"])  # wrong
zw.push(LINES, b"bytes")  # wrong
zw.push_all(PARSE, ["a.eml"])  # wrong
zw.push_all(LINES, 3)  # wrong

# where to
zw.push(handler, RawMail("a", b""))  # wrong
zw.push(app, RawMail("a", b""))  # wrong
zw.push(RawMail("a", b""))  # wrong
zw.push()  # wrong
zw.push(3, RawMail("a", b""))  # wrong

# options
zw.push(LINES, "a", 60)  # wrong
zw.push(LINES, "a", delay="60")  # wrong
zw.push(LINES, "a", priority="urgent")  # wrong
zw.push(LINES, "a", at="tomorrow")  # wrong
zw.push(LINES, "a", headers={"n": 1})  # wrong
zw.push(LINES, "a", timeout=3)  # wrong
zw.push(LINES, "a", key=3)  # wrong
zw.push(LINES, "a", key=b"bytes")  # wrong
zw.push_all(LINES, ["a"], key="text")  # wrong
zw.push_all(LINES, ["a"], key=lambda line: len(line))  # wrong
zw.push_all(PARSE, [RawMail("a", b"")], key=lambda mail: mail.nothing)  # wrong
zw.push(LINES, "a", durable="yes")  # wrong
zw.push("lines", "a", deley=3)  # wrong

# declarations
NAMELESS = PushChannel[str]()  # wrong
TWO = PushChannel[str, int]("two")  # wrong
TYPED = PushChannel[str]("typed", idempotent=True)  # wrong
TTL = PushChannel[str]("ttl", ttl="1h")  # wrong
ARGUMENT = PushChannel[str]("argument", str)  # wrong
PLAIN = PushChannel[str]("plain", plain="tcp://a:1")  # wrong
Plain("xml", bind="tcp://*:1")  # wrong
Plain("text", "tcp://*:1")  # wrong
Retry(5)  # wrong
Retry(attempts="5")  # wrong
WIDENED: PushChannel[object] = LINES  # wrong
LINES.name = "other"  # wrong
UNTYPED = PushChannel("untyped")  # wrong

# results
number: int = zw.push(LINES, "a").result()  # wrong
text: str = zw.push(LINES, "a").handled.result()  # wrong
ignored: Callable[[], None] = zw.push(LINES, "a")  # wrong


async def wait() -> None:
    n: int = await zw.push(LINES, "a")  # wrong
    await zw.push(LINES, "a").id  # wrong
    print(n)
