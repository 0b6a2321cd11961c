"""Many answers to one question: a slow reader holds the producer, and leaving the loop stops it.

python -m examples.stream
"""

import asyncio
from collections.abc import AsyncIterator

from zerowait import App, Client, StreamChannel

LINES = StreamChannel[str, str]("text.lines")
app = App("reader")  # zerowait run examples.stream:app


@app.reply(LINES)
async def lines(text: str) -> AsyncIterator[str]:
    number = 0
    while True:  # endless: it is held, and ends when nobody reads any more
        number += 1
        yield f"{number}: {text}"


async def main() -> None:
    async with app, Client("asker") as zw, zw.stream(LINES, "hello") as stream:
        async for line in stream:
            print(line)
            if line.startswith("3"):
                break


if __name__ == "__main__":
    asyncio.run(main())
