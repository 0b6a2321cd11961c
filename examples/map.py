"""Work spread over all workers there are, its results gathered in the order of the inputs.

    python -m examples.map

Start more of them in other terminals, before it or meanwhile: `zerowait run examples.map:app`.
"""

from __future__ import annotations

from zerowait import App, Client, RequestChannel

LENGTH = RequestChannel[str, int]("examples.length")

app = App("lengths")


@app.reply(LENGTH)
async def length(word: str) -> int:
    return len(word)


def main() -> None:
    words = ["one", "three", "five", "seventeen"]
    with app, Client("asker") as zw:
        zw.workers(LENGTH).at_least(1).result(10)  # the synchronised start: no sleeping
        for word, count in zip(words, zw.map(LENGTH, words), strict=True):
            print(word, count)
        slow = [item.input for item in zw.map(LENGTH, words).as_completed() if item.error]
        print("failed:", slow)


if __name__ == "__main__":
    main()
