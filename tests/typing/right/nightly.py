# pyright: strict
"""A loader, a reminder, and who wants to know the end of it."""

from datetime import UTC, datetime

from contracts import PARSE, REMIND, SCORES, TICK, RawMail, Reminder

from zerowait import Client, Dead, Pending, QueueFull, Receipt

with Client("nightly") as zw:
    mails = (RawMail(path, b"") for path in ("ann/1.eml", "ann/2.eml", "bob/1.eml"))
    count: int = zw.push_all(PARSE, mails, key=lambda mail: mail.path.split("/")[0]).result()
    count += zw.push_all(SCORES, [[1], [2]], key=lambda scores: None if not scores else str(scores[0])).result()
    reminder = zw.push("mail.remind", {"to": "ann"}, delay=60, ttl=3600, id="remind-ann")
    other: Receipt = zw.push(REMIND, Reminder(to="ann"), at=datetime(2030, 1, 1, tzinfo=UTC), priority="low")
    handled: Pending[None] = reminder.handled
    try:
        handled.result(timeout=90)
    except Dead as dead:
        print(dead.reason, dead.attempts)
    try:
        zw.push(SCORES, [1, 2])
        zw.push(TICK, None, headers={"by": "hand"}, key="a")
    except QueueFull as full:
        full.room.result(timeout=5)


async def feed(zw: Client) -> str:
    receipt = await zw.push(PARSE, RawMail("a.eml", b""))
    await receipt.handled
    return receipt.id


async def upload() -> None:
    async with Client("api") as zw:
        await zw.push(PARSE, RawMail("upload", b""))
