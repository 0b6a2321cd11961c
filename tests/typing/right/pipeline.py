# pyright: strict
"""Stages and fan-out."""

from collections.abc import Iterator

from contracts import BODY, LINES, PARSE, RawMail

from zerowait import App

app = App("pipeline")


@app.pull(PARSE, to=BODY)
def clean(mail: RawMail) -> RawMail | None:
    return mail if mail.data else None


@app.pull(BODY, to=LINES)
def split(mail: RawMail) -> Iterator[str]:
    yield from mail.data.decode(errors="replace").splitlines()


@app.pull(LINES)
async def store(line: str) -> None:
    print(line)
