"""What an operator may decide for one channel."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from zerowait.plain import Plain
from zerowait.retry import Retry
from zerowait.settings_fields import check_fields


class ChannelSettings(Struct, frozen=True, kw_only=True):
    """What is decided here for one channel, by its name; None: not decided here.

    It wins over the channel's declaration and the handler's decorator, and only a call's own option wins over it.
    """

    durable: Annotated[bool, Meta(description="whether a push to it is stored on disk before it leaves")] | None = None
    ttl: Annotated[float, Meta(gt=0, description="seconds; not begun so long after it was due, it expires")] | None = (
        None
    )
    plain: Annotated[Plain, Meta(description="the bare ZeroMQ socket in place of zerowait's own links")] | None = None
    concurrency: Annotated[int, Meta(ge=1, description="handlers of it that run at once in one process")] | None = None
    timeout: (
        Annotated[float, Meta(gt=0, description="seconds that one run of an `async def` handler may take")] | None
    ) = None
    attempts: Annotated[int, Meta(ge=1, description="runs in all before it is a dead letter")] | None = None
    retry_delay: Annotated[float, Meta(ge=0, description="seconds, the first wait at most")] | None = None
    retry_factor: Annotated[float, Meta(ge=1, description="what each further wait is multiplied by")] | None = None
    retry_max_delay: Annotated[float, Meta(ge=0, description="seconds, the longest wait")] | None = None
    retry_max_age: Annotated[float, Meta(ge=0, description="seconds since accepted; then no more retries")] | None = (
        None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def retry(self, policy: Retry) -> Retry:
        """The policy of the code, with what is decided here in its place."""
        said = {
            "attempts": self.attempts,
            "delay": self.retry_delay,
            "factor": self.retry_factor,
            "max_delay": self.retry_max_delay,
            "max_age": self.retry_max_age,
        }
        decided: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        if not decided:
            return policy
        kept = {name: getattr(policy, name) for name in policy.__struct_fields__}
        return Retry(**(kept | decided))
