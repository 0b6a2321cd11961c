"""A pipeline: stages, and a fan-out. `python -m examples.pipeline` runs all of it in one process."""

import time
from collections.abc import Iterator

from examples.contracts import BODY, LINES, PARSE, RawMail
from zerowait import App

app = App("pipeline")
lines: list[str] = []


@app.pull(PARSE, to=BODY)  # to=[A, B]: both get it
def clean(mail: RawMail) -> RawMail | None:
    return mail if mail.data else None  # None: nothing goes on


@app.pull(BODY, to=LINES)
def split(mail: RawMail) -> Iterator[str]:  # a generator fans out
    yield from mail.data.decode(errors="replace").splitlines()


@app.pull(LINES)  # the sink
async def store(line: str) -> None:
    lines.append(line)
    print(line, flush=True)


if __name__ == "__main__":
    with app as zw:
        zw.push(PARSE, RawMail("a.eml", b"three\nshort\nlines"))
        zw.push(PARSE, RawMail("empty.eml", b""))
        while any(box.unsettled for box in zw.status().boxes):
            time.sleep(0.01)
