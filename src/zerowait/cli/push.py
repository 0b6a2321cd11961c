"""`zerowait push`: messages from the shell."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from zerowait.cli.output import FAILED, MISUSED, OK, PARTIAL, UNAVAILABLE, Failure, colours, give_json, plural, tell

if TYPE_CHECKING:
    from zerowait.client import Client
    from zerowait.pending import Receipt

# How many receipts may be outstanding before the ids of the first are asked for: enough that commits are shared.
WINDOW = 1_000


# An argument such as -1 is a message, not an unknown option.
@click.command("push", context_settings={"ignore_unknown_options": True})
@click.argument("channel")
@click.argument("message", required=False, default="-", metavar="[JSON]")
@click.option("--count", type=click.IntRange(1), default=1, metavar="N", help="Push each message N times.")
@click.option("--memory", is_flag=True, help="Keep messages in memory only: what nobody takes before the end is lost.")
@click.option("--wait", is_flag=True, help="Wait until each message has been handled.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits, and how long for room in a full outbox.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long leaving waits for workers to take what is left.",
)
@click.option(
    "--name", default="cli", show_default=True, help="The lasting name under which the outbox is found again."
)
@click.option("--namespace", help="Which processes to meet on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Write the id of each message, one JSON object a line.")
def command(
    channel: str,
    message: str,
    count: int,
    memory: bool,
    wait: bool,
    timeout: float,
    drain: float | None,
    name: str,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Push a message to CHANNEL: JSON, or with - or nothing one message a line on stdin.

    The command ends when workers have taken the messages, or after --drain seconds (else the setting, 5). What is left
    then stays in the outbox and is delivered later by any process of this user on this machine that reaches a worker.

    \b
    zerowait push numbers 42
    zerowait push mail.parse '{"path": "a.eml"}' --wait
    jq -c '.[]' orders.json | zerowait push orders --json
    """
    from zerowait import log
    from zerowait.client import Client
    from zerowait.settings import Settings

    settings = Settings.load(flags={"namespace": namespace, "drain": 0.0 if wait and drain is None else drain})
    log.configure("warning", "text", coloured=colours(sys.stderr))
    with Client(name, settings=settings) as client:
        pushing = _Pushing(client, channel, durable=not memory, wait=wait, timeout=timeout, as_json=as_json)
        try:
            for line, value in _messages(message):
                for _ in range(count):
                    pushing.push(line, value)
        except _NotJson as bad:
            raise pushing.stopped(bad.line, bad.reason) from None
        pushing.finish()
        stored = client.close().result()
    return pushing.report(stored)


class _Pushing:
    """One run of the command: what was pushed, and what has become of it."""

    def __init__(
        self, client: Client, channel: str, *, durable: bool, wait: bool, timeout: float, as_json: bool
    ) -> None:
        self._client, self._channel, self._durable = client, channel, durable
        self._wait, self._timeout, self._as_json = wait, timeout, as_json
        self._open: deque[tuple[int | None, Receipt]] = deque()
        self._ends: Counter[str] = Counter()
        self._in_memory: list[Receipt] = []  # whose fate nothing else tells once the client is closed
        self._pushed = 0

    def push(self, line: int | None, value: object) -> None:
        from zerowait.errors import NotAccepted, QueueFull, StoreError

        try:
            try:
                receipt = self._client.push(self._channel, value, durable=self._durable)
            except QueueFull as full:
                self._make_room(full)
                receipt = self._client.push(self._channel, value, durable=self._durable)
        except NotAccepted as error:
            raise self.stopped(line, str(error), UNAVAILABLE if isinstance(error, StoreError) else FAILED) from error
        self._pushed += 1
        if not self._durable:
            self._in_memory.append(receipt)
        if self._wait or self._as_json:
            self._open.append((line, receipt))
            if not self._wait and len(self._open) >= 2 * WINDOW:
                for _ in range(WINDOW):
                    self._end(*self._open.popleft(), None)

    def finish(self) -> None:
        """Looks at the receipts that are still open."""
        deadline = time.monotonic() + self._timeout
        while self._open:
            self._end(*self._open.popleft(), deadline)

    def report(self, stored: int) -> int:
        """Says what became of it all, once the client is closed. stored: messages that are still in its outbox."""
        pushed = f"{plural(self._pushed, 'message')} pushed to {self._channel}"
        if self._wait:
            handled = self._ends["handled"]
            others = [f"{n:,} {state}" for state, n in self._ends.items() if state != "handled"]
            tell(f"{pushed}: {', '.join([f'{handled:,} handled', *others])}")
            return OK if not others else PARTIAL if handled else FAILED
        lost = sum(receipt.state not in ("handled", "dead", "expired") for receipt in self._in_memory)
        if lost:
            tell(f"{pushed}; {lost:,} lost: nobody handled them in time, and they were only in memory")
            return PARTIAL if lost < self._pushed else FAILED
        if stored:
            tell(f"{pushed}; {plural(stored, 'message')} in the outbox wait{'s' if stored == 1 else ''} for a worker")
        else:
            tell(f"{pushed}: all were taken")
        return OK

    def stopped(self, line: int | None, reason: str, code: int = FAILED) -> Failure:
        """Why it ends here, and what was accepted before."""
        before = f" {plural(self._pushed, 'message')} before it {'was' if self._pushed == 1 else 'were'} accepted."
        return Failure(f"{self._at(line)}{reason}{before if self._pushed else ''}", PARTIAL if self._pushed else code)

    def _end(self, line: int | None, receipt: Receipt, deadline: float | None) -> None:
        from zerowait.errors import NotHandled

        receipt.result(self._timeout)
        state: str = receipt.state
        reason = None
        if self._wait and deadline is not None:
            try:
                receipt.handled.result(max(0.0, deadline - time.monotonic()))
                state = "handled"
            except TimeoutError:
                state = "expired" if receipt.state == "expired" else "still waiting"
            except NotHandled as error:
                state, reason = receipt.state, str(error)
                tell(f"{self._at(line)}{reason}")
        self._ends[state] += 1
        if self._as_json:
            told: dict[str, Any] = {"id": receipt.id, "channel": receipt.channel, "state": receipt.state}
            if line is not None:
                told["line"] = line
            if reason is not None:
                told["reason"] = reason
            give_json(told)

    def _make_room(self, full: Any) -> None:
        try:
            full.room.result(self._timeout)
        except TimeoutError:
            raise full from None

    @staticmethod
    def _at(line: int | None) -> str:
        return "" if line is None else f"line {line}: "


def _messages(given: str) -> Iterator[tuple[int | None, object]]:
    """The messages and the lines they stand on; no line for one that was given as an argument."""
    from msgspec import DecodeError, json

    if given != "-":
        try:
            yield None, json.decode(given)
        except DecodeError as error:
            hint = "" if given[:1] in '{["' else f" For the text itself write '\"{given}\"'."
            raise Failure(f"the message is not JSON: {error}.{hint}", MISUSED) from None
        return
    if sys.stdin.isatty():
        tell("Write one JSON value a line; Ctrl-D ends.")
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        try:
            yield number, json.decode(line)
        except DecodeError as error:
            raise _NotJson(number, f"this is not JSON: {error}.") from None


class _NotJson(Exception):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason
