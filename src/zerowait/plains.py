"""Bare ZeroMQ sockets of one client or app, from the verbs and handlers to the network thread.

Pushes have outboxes of their own, in memory, and so has what is asked of bare peers. What bare peers send us is
accepted or asked as if this process had pushed or asked it: from there on it walks as everything else does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from zerowait.channels import Channel
from zerowait.codec import Codec
from zerowait.engines.brokerless.plainly.requests import PlainRequests
from zerowait.errors import UsageError, ZerowaitError
from zerowait.failures import NO_ERRORS
from zerowait.names import new_id
from zerowait.outbox.intake import Intake
from zerowait.outbox.lane import Lane
from zerowait.outbox.plaincodec import plain_decoder, plain_encoder, plain_reader
from zerowait.plain import Plain, check_plain
from zerowait.requests.box import Requests
from zerowait.requests.bundle import AskLane, Bundle

if TYPE_CHECKING:
    from zerowait.engines.brokerless.node import Node
    from zerowait.engines.brokerless.plainly.ports import PlainPorts
    from zerowait.estate import Estate
    from zerowait.handlers.registry import HandlerSpec
    from zerowait.outbox.intake import Limits
    from zerowait.settings import Settings
    from zerowait.topics.bundle import Press


class Whole(Protocol):
    """What they are of: see `opening.Opened`."""

    name: str
    settings: Settings
    memory_limits: Limits
    node: Node
    ports: PlainPorts
    estate: Estate

    def now_us(self) -> int: ...
    def asked(self) -> Requests: ...
    def use(self, channel: str, kind: str, idempotent: bool, codec: Codec[Any]) -> None: ...


class Plains:
    def __init__(self, opened: Whole) -> None:
        self._opened = opened
        self._ports = opened.ports
        self._lock = Lock()
        self._pushes: dict[str, Intake] = {}
        self._asks: PlainRequests | None = None
        self._closed = ""
        self._error: ZerowaitError | None = None

    # -- what is sent --------------------------------------------------------------------------------------------------

    def intake(self, channel: str, plain: Plain) -> Intake:
        """Where pushes to this channel gather."""
        opened = self._opened
        intake = self._pushes.get(channel)
        if intake is None:
            intake = opened.estate.new_intake(durable=False, limits=opened.memory_limits, wake=opened.node.wake)
            intake.is_plain = True
            self._pushes[channel] = intake
            self._ports.push_to(channel, plain, intake)
            opened.node.wake()
        return intake

    def requests(self, channel: str, plain: Plain, answer: Codec[Any], idempotent: bool) -> Requests:
        """Where what is asked at this channel gathers."""
        opened = self._opened
        with self._lock:
            if self._asks is None:
                intake = opened.estate.new_intake(durable=False, limits=opened.memory_limits, wake=opened.node.wake)
                # An id of its own, so that no request of it has that of another of this process.
                intake.box, intake.make = new_id(), Bundle
                requests = Requests(
                    intake.box,
                    opened.name,
                    intake,
                    epoch=opened.now_us() // 1_000,
                    drop=self._drop,
                    feed=self._feed,
                    wake=opened.node.wake,
                    served=self._served,
                    no_responder=opened.settings.no_responder,
                )
                if self._closed:
                    intake.close(self._closed)
                if self._error is not None:
                    requests.refuse(self._error)
                self._asks = self._ports.asks(requests, opened.settings.no_responder)
            self._asks.ask_at(channel, plain, plain_reader(plain, answer), idempotent=idempotent)
            return self._asks.requests

    def _drop(self, epoch: int, first: int, count: int) -> None:
        assert self._asks is not None
        self._asks.drop(first, count)

    def _feed(self, number: int, limit: int, over: bool) -> None:
        """There are no streams here."""

    def _served(self, channel: str) -> str:
        assert self._asks is not None
        return self._asks.served(channel)

    def publish_to(self, topic: str, plain: Plain, press: Press) -> None:
        self._ports.publish_to(topic, plain, press)
        self._opened.node.wake()

    def refuse_peers(self, name: str, of: object, verb: str) -> None:
        """Raises UsageError where these are bare sockets, which do not say who they are: `at_least` would never end."""
        plain = self._opened.settings.channel(name).plain
        if plain is None and isinstance(of, Channel):
            plain = of.terms.plain
        if plain is not None:
            others = " publish() gives how many have subscribed." if verb == "subscribers" else ""
            raise UsageError(f"{verb}({name!r}): bare ZeroMQ sockets do not say who is there.{others}")

    # -- what is served ------------------------------------------------------------------------------------------------

    def serve(self, spec: HandlerSpec, settings: Settings) -> None:
        """Opens the bare socket of this handler's channel, if it is to have one. Subscriptions have theirs when they
        begin.

        Raises UsageError where the settings name one for what none can be.
        """
        plain = settings.channel(spec.channel).plain or getattr(spec.declared, "plain", None)
        if plain is None or spec.kind == "topic":
            return
        check_plain(plain, spec.kind, spec.channel)
        decode = plain_decoder(plain, spec.codec)
        if spec.kind == "push":
            self._ports.pull_from(spec.channel, plain, decode, self._entrance(spec, settings))
        else:
            lane = self._lane(spec, settings)
            self._ports.reply_to(spec.channel, plain, decode, lane, plain_encoder(plain, Codec(Any)))
        self._opened.node.wake()

    def _entrance(self, spec: HandlerSpec, settings: Settings) -> Callable[[bytes], None]:
        """Takes what a bare PUSH sends: our own outbox, in memory unless the channel says otherwise."""
        said = settings.channel(spec.channel).durable
        if said is None:
            said = getattr(spec.declared, "durable", None)
        lane = Lane(self._opened.estate.intake(bool(said)), spec.channel)

        def accept(payload: bytes) -> None:
            lane.append(payload)

        return accept

    def _lane(self, spec: HandlerSpec, settings: Settings) -> Any:
        """Takes what a bare REQ asks, as a request of this process to whoever serves the channel."""
        opened = self._opened
        said = settings.channel(spec.channel).timeout
        if said is None and spec.declared is not None:
            said = spec.declared.terms.timeout
        timeout = settings.request_timeout if said is None else said
        opened.use(spec.channel, spec.kind, spec.idempotent, spec.codec)
        requests = opened.asked()
        lane = AskLane(
            requests.intake,
            spec.channel,
            None,
            None,
            timeout=None if timeout == inf else timeout,
            out=Codec(Any),
            errors=NO_ERRORS,
            requests=requests,
        )
        return lane.append

    # -- the whole -----------------------------------------------------------------------------------------------------

    def asked(self) -> list[Requests]:
        return [self._asks.requests] if self._asks is not None else []

    def close(self, name: str) -> None:
        """Accepts nothing more."""
        self._closed = name
        for intake in [*self._pushes.values(), *(requests.intake for requests in self.asked())]:
            intake.close(name)

    def fail(self, error: ZerowaitError) -> None:
        """Nothing will ever be sent."""
        self._error = error
        for requests in self.asked():
            requests.refuse(error)
