"""A question and its answer: one service counts, another asks, with a deadline, and gets the service's own exception.

python -m examples.request_reply
"""

import asyncio
from dataclasses import dataclass

from zerowait import App, Client, NoResponder, RequestChannel


@dataclass
class UnknownDomain(Exception):
    domain: str


COUNT = RequestChannel[str, int]("mail.count", errors=[UnknownDomain], idempotent=True)
app = App("counter")  # zerowait run examples.request_reply:app
MAILS = {"example.org": 7, "example.net": 12}


@app.reply(COUNT)
async def count(domain: str) -> int:
    if domain not in MAILS:
        raise UnknownDomain(domain)  # arrives at the caller as itself
    return MAILS[domain]


async def main() -> None:
    async with app, Client("asker") as zw:
        replies = [zw.request(COUNT, domain, timeout=5) for domain in MAILS]  # both are asked before one is waited for
        print(*[await reply for reply in replies])
        try:
            await zw.request(COUNT, "example.com", timeout=5)
        except UnknownDomain as error:
            print("unknown:", error.domain)
        except (NoResponder, TimeoutError) as error:
            print("counting is away:", error)


if __name__ == "__main__":
    asyncio.run(main())
