"""The policy by which a failed message is tried again: how often, after how long, and when never."""

from __future__ import annotations

from math import inf

from msgspec import Struct
from msgspec.structs import force_setattr

from zerowait.errors import UsageError


class Retry(Struct, frozen=True, kw_only=True):
    """How a handler's failures are repeated. Never raised: a handler that wants another time raises `RetryLater`.

    The n-th failure is followed by a random wait between 0 and `min(max_delay, delay * factor ** (n - 1))` seconds
    (full jitter, so that messages that failed together do not come back together). With the defaults the waits are at
    most 1, 2, 4 … 256 s, some eight minutes in all. `Retry(attempts=1)` means no second attempt.

    attempts: runs in all, the first included, at least 1. delay: seconds, 0 or more. factor: at least 1.
    max_delay: seconds, the longest wait. max_age: seconds since the message was accepted, after which a failure is the
    last (None: no such bound). unless: an exception class or several; a failure of such a class is the last at once.
    Raises UsageError when made with anything else.
    """

    attempts: int = 10
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 600.0
    max_age: float | None = None
    unless: type[BaseException] | tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if not _is_count(self.attempts):
            raise UsageError(f"Retry(attempts=…) counts runs, the first included: at least 1, not {self.attempts!r}.")
        _seconds("delay", self.delay, 0.0)
        _seconds("max_delay", self.max_delay, 0.0)
        if not _is_number(self.factor) or not 1 <= self.factor < inf:
            raise UsageError(f"Retry(factor=…) is what each wait is multiplied by: at least 1, not {self.factor!r}.")
        if self.max_age is not None:
            _seconds("max_age", self.max_age, 0.0)
        classes = self.unless if isinstance(self.unless, tuple) else (self.unless,)
        for each in classes:
            if not _is_exception_class(each):
                raise UsageError(f"Retry(unless=…) takes an exception class or a tuple of them, not {each!r}.")
        force_setattr(self, "unless", classes)

    def delay_for(self, failures: int, random: float) -> float:
        """Seconds to wait after this many failures (at least 1). random: uniform in [0, 1)."""
        try:
            longest = self.delay * self.factor ** (failures - 1)
        except OverflowError:
            longest = inf
        return min(self.max_delay, longest) * random if self.delay else 0.0

    def gives_up(self, failures: int, age_s: float) -> bool:
        """Whether a message with so many failures, accepted so many seconds ago, is tried no more."""
        return failures >= self.attempts or (self.max_age is not None and age_s >= self.max_age)

    def is_final(self, error: BaseException) -> bool:
        """Whether this failure is of a class named in `unless`, and so the last whatever the numbers say."""
        return isinstance(error, self.unless)


# What these look at comes from users, whatever its annotation says: hence `object`.


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_exception_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _seconds(field: str, value: float, least: float) -> None:
    if not _is_number(value) or not least <= value < inf:
        raise UsageError(f"Retry({field}=…) takes seconds as a number, at least {least:g} and finite, not {value!r}.")
