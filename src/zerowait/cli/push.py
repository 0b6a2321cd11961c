"""`zerowait push`: messages from the shell."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NoReturn

import click
from msgspec import Struct

from zerowait.cli import options
from zerowait.cli.binary import Binary, NotBytes
from zerowait.cli.lines import NotJson, messages
from zerowait.cli.output import FAILED, MISUSED, OK, PARTIAL, UNAVAILABLE, Failure, colours, give_json, tell
from zerowait.cli.reach import Reach
from zerowait.words import plural

if TYPE_CHECKING:
    from zerowait.client import Client
    from zerowait.engines.brokerless.telling import Stays
    from zerowait.notices import DeadLettered
    from zerowait.opening import Opened
    from zerowait.receipts import Receipt
    from zerowait.settings import Settings

# How many receipts may be outstanding before the ids of the first are asked for: enough that commits are shared.
WINDOW = 1_000


class _Push(click.Command):
    """An argument such as -1 is a message; one such as --cuont is neither that nor a channel, but a mistyped option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not ctx.resilient_parsing:
            given, rest, _ = self.make_parser(ctx).parse_args(list(args))
            for each in (given.get("channel"), given.get("message"), *rest):
                if isinstance(each, str) and each.startswith("--") and len(each) > 2:
                    self._refuse(ctx, each.partition("=")[0])
        return super().parse_args(ctx, args)

    def _refuse(self, ctx: click.Context, option: str) -> NoReturn:
        from zerowait.names import nearest

        known = [name for param in self.get_params(ctx) for name in param.opts if name.startswith("--")]
        meant = nearest(option, known)
        raise click.NoSuchOption(option, possibilities=[meant] if meant else None, ctx=ctx)


@click.command("push", cls=_Push, context_settings={"ignore_unknown_options": True})
@click.argument("channel")
@click.argument("message", required=False, default="-", metavar="[JSON]")
@click.option("--count", type=click.IntRange(1), default=1, metavar="N", help="Push each message N times.")
@click.option("--memory", is_flag=True, help="Keep messages in memory only: what nobody takes before the end is lost.")
@click.option("--wait", is_flag=True, help="Wait until each message has been handled.")
@options.as_bytes
@options.timeout("How long --wait waits, and how long for room in a full outbox.")
@click.option(
    "--drain",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long leaving waits at most for workers to handle what is left.",
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
    paths: tuple[str, ...],
    timeout: float,
    drain: float | None,
    name: str,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Push a message to CHANNEL: JSON, or with - or nothing one message a line on stdin.

    The command ends when workers have handled the messages, or when nobody is there to take them; after --drain seconds
    (else the setting, 5) at the latest. What is left then stays in the outbox and is delivered later by any process of
    this user on this machine that reaches a worker. It fails (1; 4 if only some of them did) when messages became dead
    letters.

    Bytes are given as base64, as `zerowait dead show` prints them: where the type of a worker on this machine has
    bytes, and where --bytes says so.

    \b
    zerowait push numbers 42
    zerowait push mail.parse '{"path": "a.eml"}' --wait
    jq -c '.[]' orders.json | zerowait push orders --json
    """
    from zerowait import log
    from zerowait.client import Client
    from zerowait.names import check_channel
    from zerowait.settings import Settings

    check_channel(channel)  # before anything is opened, which would tell of all that it finds there
    settings = Settings.load(flags={"namespace": namespace, "drain": 0.0 if wait and drain is None else drain})
    way = _Way.of(channel, settings, memory=memory, wait=wait)
    log.configure("warning", "text", coloured=colours(sys.stderr))
    binary = _binary(channel, settings, paths)
    stopped: Failure | None = None
    with Client(name, settings=settings) as client:
        pushing = _Pushing(client, name, channel, way, wait=wait, timeout=timeout, as_json=as_json)
        try:
            for line, given in messages(message):
                value = _read(pushing, binary, line, given)
                for _ in range(count):
                    pushing.push(line, value)
        except NotJson as bad:
            stopped = pushing.stopped(bad.line, bad.reason)
        except Failure as failure:
            stopped = failure
        # What was accepted before an error is delivered like all else.
        pushing.finish()
        opened = client._open()
        opened.tells_left = False  # said below, of this run
        client.close().result()
        left = _Left.of(opened, name, channel)
        pushing.closed(opened)
    if stopped is None:
        return pushing.report(left)
    if pushing.pushed:
        pushing.report(left)
    raise stopped


def _binary(channel: str, settings: Settings, paths: tuple[str, ...]) -> Binary:
    """paths: those of --bytes; where there are none the type of whoever serves the channel says where bytes are."""
    try:
        return Binary((), paths) if paths else Binary(Reach(settings).types(channel))
    except NotBytes as error:
        raise Failure(f"{error}.", MISUSED) from None


def _read(pushing: _Pushing, binary: Binary, line: int | None, value: object) -> object:
    try:
        return binary.read(value)
    except NotBytes as error:
        raise pushing.stopped(line, f"{error}.", MISUSED if line is None else FAILED) from None


class _Way(Struct, frozen=True):
    """How the channel's messages go, by the settings and --memory."""

    options: dict[str, Any]  # of each push
    durable: bool
    plain: bool = False

    @classmethod
    def of(cls, channel: str, settings: Settings, *, memory: bool, wait: bool) -> _Way:
        decided = settings.channel(channel)
        if (plain := decided.plain) is not None:
            if plain.bind:
                raise Failure(
                    f"the settings bind {channel} to a bare ZeroMQ socket (plain, bind = {', '.join(plain.bind)}), and "
                    "this command would have to bind that endpoint itself. Push from the process that binds it, or "
                    "where the settings say connect =.",
                    MISUSED,
                )
            if wait:
                raise Failure(
                    f"{channel} goes to a bare ZeroMQ socket, which acknowledges nothing: leave --wait away.", MISUSED
                )
        durable = decided.durable if decided.durable is not None else settings.durable
        return cls({"durable": False} if memory else {}, durable and not memory and plain is None, plain is not None)


class _Left(Struct, frozen=True):
    """What is still in outboxes on disk when the client has closed: of this run, and of earlier ones by channel."""

    mine: Stays
    earlier: dict[str, int]
    lost: Stays  # of this run, in memory
    unstored: int  # of this run, in no outbox

    @classmethod
    def of(cls, opened: Opened, name: str, channel: str) -> _Left:
        from zerowait.engines.brokerless.telling import Stays

        left = opened.left

        mine = left.get((name, channel, True), Stays()).new()
        earlier = Counter[str]()
        for (box, of, durable), stays in left.items():
            if durable:
                earlier[of] += stays.messages - (mine.messages if (box, of) == (name, channel) else 0)
        return cls(mine, dict(+earlier), left.get((name, channel, False), Stays()), opened.unstored.get(channel, 0))

    def lines(self, channel: str) -> list[str]:
        """What stays of this run, by what it waits for."""
        mine, said = self.mine, list[str]()
        if mine.handled:
            said.append(f"{plural(mine.handled, 'message')} {_are(mine.handled)} being handled by workers")
        if mine.later:
            said.append(f"{plural(mine.later, 'message')} {_are(mine.later)} not due before {mine.due()}")
        if mine.waiting:
            wait = "waits" if mine.waiting == 1 else "wait"
            who = mine.awaited() if mine.is_served else f"for a worker: nobody takes {channel}{_tried(mine)}"
            said.append(f"{plural(mine.waiting, 'message')} in the outbox {wait} {who}")
        return said

    def tell_earlier(self, name: str) -> None:
        """That there is something of earlier runs. Not under the number of what this run has pushed: read twice, that
        would be pushed twice."""
        if self.earlier:
            each = ", ".join(f"{count:,} for {of}" for of, count in sorted(self.earlier.items()))
            count = sum(self.earlier.values())
            tell(
                f"{plural(count, 'message')} of earlier runs {_are(count)} in the outbox {name}, too ({each}): see "
                "`zerowait status`"
            )


def _tried(stays: Stays) -> str:
    """Where a worker was looked for, if settings say where, and what to do."""
    if not stays.tried or stays.is_served:
        return ""
    return (
        f". Tried {stays.tried}. Start a worker there, or correct the address ([addresses] in zerowait.toml, or "
        "ZEROWAIT_ADDRESSES)"
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


class _Pushing:
    """One run of the command: what was pushed, and what has become of it."""

    def __init__(
        self, client: Client, name: str, channel: str, way: _Way, *, wait: bool, timeout: float, as_json: bool
    ) -> None:
        self._client, self._name, self._channel, self._way = client, name, channel, way
        self._wait, self._timeout, self._as_json = wait, timeout, as_json
        self._open: deque[tuple[int | None, Receipt]] = deque()
        self._ends: Counter[str] = Counter()
        self._in_memory: list[Receipt] = []  # whose fate nothing else tells once the client is closed
        self._letters: deque[DeadLettered] = deque()  # of this run and of earlier ones
        self._dead: list[str] = []  # reasons, of this run
        self.pushed = 0
        from zerowait.notices import DeadLettered

        client.listen(DeadLettered, self._has_died)

    def _has_died(self, letter: DeadLettered) -> None:
        self._letters.append(letter)

    def push(self, line: int | None, value: object) -> None:
        from zerowait.errors import NotAccepted, QueueFull, StoreError

        try:
            try:
                receipt = self._client.push(self._channel, value, **self._way.options)
            except QueueFull as full:
                self._make_room(full)
                receipt = self._client.push(self._channel, value, **self._way.options)
        except NotAccepted as error:
            raise self.stopped(line, str(error), UNAVAILABLE if isinstance(error, StoreError) else FAILED) from error
        self.pushed += 1
        if not self._way.durable:
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

    def closed(self, opened: Opened) -> None:
        """Of whom the letters are is known now."""
        for letter in self._letters:
            if opened.estate.inventory.is_new(letter.id):
                self._dead.append(f"{letter.reason}. See `zerowait dead show {letter.id}`")
        if old := len(self._letters) - len(self._dead):
            what = "became a dead letter" if old == 1 else "became dead letters"
            tell(f"{plural(old, 'message')} of earlier runs {what}: see `zerowait dead list`")

    def report(self, left: _Left) -> int:
        """Says what became of it all, once the client is closed."""
        pushed = f"{plural(self.pushed, 'message')} pushed to {self._channel}"
        if self._wait:
            handled = self._ends["handled"]
            others = [f"{n:,} {state}" for state, n in self._ends.items() if state != "handled"]
            tried = _tried(left.mine if left.mine.messages else left.lost)
            tell(f"{pushed}: {', '.join([f'{handled:,} handled', *others])}{tried}")
            return OK if not others else PARTIAL if handled else FAILED
        if unstored := left.unstored:
            tell(f"{pushed}; {unstored:,} lost: the outbox could not be opened, as said above")
            return PARTIAL if unstored < self.pushed else UNAVAILABLE
        if lost := sum(self._is_lost(receipt) for receipt in self._in_memory):
            them, they = ("it", "it was") if lost == 1 else ("them", "they were")
            did = "took" if self._way.plain else "handled"
            why = f"nobody {did} {them} in time, and {they} only in memory{_tried(left.lost)}"
            tell(f"{pushed}; {lost:,} lost: {why}")
            return PARTIAL if lost < self.pushed else FAILED
        if self._dead:
            died = f"{plural(len(self._dead), 'dead letter')}: {self._dead[0]}"
            tell(f"{pushed}; {died}")
        if lines := left.lines(self._channel):
            tell(f"{pushed}; {', '.join(lines)}")
        if not self.pushed:
            tell(f"{pushed}: there was none on stdin")
        elif not left.mine.messages and not self._dead:
            of = "of it " if left.earlier else ""
            tell(f"{pushed}: {'the socket took all' if self._way.plain else f'nothing {of}waits any more'}")
        left.tell_earlier(self._name)
        return OK if not self._dead else PARTIAL if len(self._dead) < self.pushed else FAILED

    def _is_lost(self, receipt: Receipt) -> bool:
        # A bare socket acknowledges nothing: that it took the message is all that is ever known.
        return receipt.state == "accepted" if self._way.plain else receipt.state not in ("handled", "dead", "expired")

    def stopped(self, line: int | None, reason: str, code: int = FAILED) -> Failure:
        """Why it ends here, and what was accepted before."""
        before = f" {plural(self.pushed, 'message')} before it {'was' if self.pushed == 1 else 'were'} accepted."
        return Failure(f"{self._at(line)}{reason}{before if self.pushed else ''}", PARTIAL if self.pushed else code)

    def _end(self, line: int | None, receipt: Receipt, deadline: float | None) -> None:
        from zerowait.errors import NotHandled

        try:
            receipt.result(self._timeout)
        except TimeoutError:
            pass  # its state says so
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
