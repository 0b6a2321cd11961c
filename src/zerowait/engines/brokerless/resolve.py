"""Host names → all their addresses, kept fresh, off every thread that must not wait.

A system resolver may take half a minute, or hang for ever, and cannot be interrupted. So each lookup has a thread of
its own that nobody waits for, and one more thread watches the clock: when to look up again, and which lookup is
overdue. What was known stays known until there is a better answer. The first thread is made for the first name.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from zerowait.engines.brokerless.addresses import Address, in_order, parse_address, tcp_endpoint

log = logging.getLogger("zerowait.resolve")

INTERVAL_S = 5.0
DEADLINE_S = 5.0  # a resolver with two servers and a retry needs 4 s at best when the first is down
FIRST_RETRY_S = 0.5  # doubles up to the interval
UNUSED_S = 60.0  # a name that nobody asks for so long is not looked up any more
HUNG_AT_MOST = 2  # lookups of one name that hang before no further one is tried
LOOKUPS_AT_MOST = 32  # threads at work at once, those that hang not counted

Lookup = Callable[..., Sequence[tuple[Any, ...]]]


class _Name:
    """What is known of one host name. Guarded by the resolver's lock."""

    def __init__(self, host: str, now: float) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        self.trouble = ""
        self.used = now
        self.due = now
        self.asked = -math.inf  # when the last lookup began
        self.failures = 0
        self.ticket = 0  # of the last lookup begun
        self.answered = 0  # ticket of the last one that came back
        self.began: float | None = None  # when the one that is waited for began
        self.hung: set[int] = set()


class Resolver:
    """Addresses of endpoints. Any thread; no call waits for the network.

    interval_s: how often a name in use is looked up again. deadline_s: after which a lookup is not waited for any more.
    on_change: called on a thread of the resolver's when an answer has changed; it must be quick and not raise.
    lookup: as socket.getaddrinfo; may raise, be slow, or never return.
    """

    def __init__(
        self,
        *,
        interval_s: float = INTERVAL_S,
        deadline_s: float = DEADLINE_S,
        on_change: Callable[[], None] | None = None,
        lookup: Lookup = socket.getaddrinfo,
    ) -> None:
        self._interval_s = interval_s
        self._deadline_s = deadline_s
        self._on_change = on_change
        self._lookup = lookup
        self._parsed: dict[str, Address] = {}
        self._names: dict[str, _Name] = {}
        self._turn = threading.Condition(threading.Lock())
        self._watcher: threading.Thread | None = None
        self._changed = False
        self._closed = False
        self._pid = os.getpid()

    def resolve(self, endpoint: str) -> list[str]:
        """All that the endpoint stands for, as known now, in an order that does not depend on the answer's.

        Itself for ipc and IP addresses; [] until a name is known. To ask is to use: the name is kept fresh from then on
        until nobody has asked for a minute. Raises SettingsError for what is not an address.
        """
        address = self._parsed.get(endpoint)
        if address is None:
            address = self._parsed[endpoint] = parse_address(endpoint)
        if not address.is_name:
            return [address.endpoint]
        if self._pid != os.getpid():
            self.after_fork_in_child()
        with self._turn:
            name = self._names.get(address.host)
            now = time.monotonic()
            if name is None:
                name = self._names[address.host] = _Name(address.host, now)
                self._wake()
            elif now - name.used > UNUSED_S:
                name.due = now
                self._wake()
            elif self._watcher is None:
                self._wake()
            name.used = now
            return [tcp_endpoint(host, address.port) for host in name.addresses]

    def refresh(self, endpoint: str) -> None:
        """Looks the name up again soon: what it stands for did not answer. At most twice a second."""
        address = self._parsed.get(endpoint)
        if address is not None and address.is_name:
            with self._turn:
                name = self._names.get(address.host)
                if name is not None and name.began is None:
                    name.due = min(name.due, max(time.monotonic(), name.asked + FIRST_RETRY_S))
                    self._wake()

    def changed(self) -> bool:
        """Whether any answer has changed since this was last asked."""
        changed, self._changed = self._changed, False
        return changed

    def trouble(self, endpoint: str) -> str | None:
        """The last lookup's failure, as a sentence for status and doctor; None if it went well or is on its way."""
        address = self._parsed.get(endpoint)
        if address is None:
            return None
        with self._turn:
            name = self._names.get(address.host)
            if name is None or not name.trouble:
                return None
            known = ", ".join(name.addresses)
        return f"{name.trouble} {f'What was known before is used: {known}.' if known else 'Messages for it wait.'}"

    def close(self) -> None:
        """Stops looking up. Waits for nothing: a lookup that hangs is left behind and its answer ignored."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def after_fork_in_child(self) -> None:
        """Threads and whoever held the lock stayed in the parent; what is known is kept and looked up again."""
        self._turn = threading.Condition(threading.Lock())
        self._watcher = None
        self._pid = os.getpid()
        now = time.monotonic()
        for name in self._names.values():
            name.began, name.due = None, now
            name.hung = set()
            name.answered = name.ticket  # the parent's lookups will never answer here

    def _wake(self) -> None:
        """With the lock held."""
        if self._closed:
            return
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="zerowait-resolve", daemon=True)
            self._watcher.start()
        else:
            self._turn.notify_all()

    def _watch(self) -> None:
        turn = self._turn
        with turn:
            while not self._closed:
                now = time.monotonic()
                wake_at = math.inf
                busy = sum(name.began is not None for name in self._names.values())
                for name in self._names.values():
                    if name.began is not None and now - name.began >= self._deadline_s:
                        busy -= 1
                        self._give_up(name, now)
                    if name.began is None and now - name.used <= UNUSED_S and len(name.hung) < HUNG_AT_MOST:
                        if now >= name.due and busy < LOOKUPS_AT_MOST:
                            busy += 1
                            self._begin(name, now)
                        elif now < name.due:
                            wake_at = min(wake_at, name.due)
                    if name.began is not None:
                        wake_at = min(wake_at, name.began + self._deadline_s)
                turn.wait(None if wake_at == math.inf else max(0.0, wake_at - now))

    def _begin(self, name: _Name, now: float) -> None:
        name.ticket += 1
        name.began = name.asked = now
        asker = threading.Thread(
            target=self._ask, args=(name, name.ticket), name=f"zerowait-resolve-{name.host}", daemon=True
        )
        try:
            asker.start()
        except RuntimeError as error:  # no more threads: later, perhaps
            name.began = None
            self._failed(name, now, str(error))

    def _give_up(self, name: _Name, now: float) -> None:
        name.hung.add(name.ticket)
        name.began = None
        self._failed(name, now, f"no answer from the system's resolver within {self._deadline_s:g} s")

    def _failed(self, name: _Name, now: float, why: str) -> None:
        name.failures += 1
        name.due = now + min(self._interval_s, FIRST_RETRY_S * 2 ** min(name.failures - 1, 10))
        trouble = f"The host name {name.host} cannot be looked up: {why.rstrip('.')}."
        if trouble != name.trouble:
            name.trouble = trouble
            log.warning("%s It is tried again every few seconds.", trouble)

    def _ask(self, name: _Name, ticket: int) -> None:
        why = ""
        addresses: tuple[str, ...] = ()
        try:
            addresses = in_order(self._lookup(name.host, None, type=socket.SOCK_STREAM))
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
        except Exception as error:  # a name that cannot be encoded, or whatever a resolver of the user's own raises
            why = f"{type(error).__name__}: {error}"
        with self._turn:
            now = time.monotonic()
            name.hung.discard(ticket)
            if ticket == name.ticket:
                name.began = None
            # Late is better than never, but an answer older than one we have is not.
            if self._closed or ticket <= name.answered:
                return
            name.answered = ticket
            changed = False
            if addresses:
                name.failures, name.trouble = 0, ""
                if ticket == name.ticket:
                    name.due = now + self._interval_s
                changed = addresses != name.addresses
                name.addresses = addresses
            else:
                self._failed(name, now, why or "it has no address")
            self._changed = self._changed or changed
            self._turn.notify_all()
        if changed and self._on_change is not None:
            self._on_change()
