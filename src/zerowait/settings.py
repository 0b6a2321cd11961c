"""Everything an operator may decide, each with its default, its bounds, its unit and what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from zerowait.errors import SettingsError, UsageError
from zerowait.names import check_channel, check_process, is_pattern
from zerowait.plain import endpoint_fault
from zerowait.settings_channels import ChannelSettings
from zerowait.settings_fields import LONGEST, check_fields

if TYPE_CHECKING:
    from typing import Self


class Settings(Struct, frozen=True, kw_only=True, dict=True):
    """What the machine decides. Made in code, or by `Settings.load()`, which is what is used when none is given.

    Each field is a key of `zerowait.toml` and, in capitals after `ZEROWAIT_`, an environment variable. Seconds unless
    the name ends in another unit. Raises SettingsError for a value of a wrong type or out of bounds.
    """

    # Where
    namespace: Annotated[str, Meta(description="processes of different namespaces on a machine never meet")] = "default"
    home: Annotated[
        str | Path | None,
        Meta(description="folder of outboxes and sockets; unset: ~/.local/state/zerowait of this user"),
    ] = None
    listen: Annotated[
        str | Sequence[str],
        Meta(description="endpoints where other machines reach this process; unset: this machine only"),
    ] = ()
    addresses: Annotated[
        Mapping[str, str | Sequence[str]],
        Meta(description="channel, or pattern such as mail.*, to the endpoints of its workers; the most specific wins"),
    ] = {}
    channels: Annotated[Mapping[str, ChannelSettings], Meta(description="what is decided for one channel by name")] = {}

    # Outboxes: what waits there counts its payload and 64 bytes
    outbox_messages: Annotated[int, Meta(ge=1, description="messages that the outbox on disk may hold")] = 1_000_000
    outbox_bytes: Annotated[int, Meta(ge=4096, description="bytes that the outbox on disk may hold; costs disk")] = (
        2 << 30
    )
    memory_messages: Annotated[int, Meta(ge=1, description="messages that wait in memory (durable=False)")] = 100_000
    memory_bytes: Annotated[int, Meta(ge=4096, description="bytes that wait in memory (durable=False)")] = 64 << 20
    store_grace: Annotated[
        float,
        Meta(ge=0, description="seconds that a failing outbox file may take to come back before waiters are told"),
    ] = 30.0

    # A message
    durable: Annotated[bool, Meta(description="whether pushes are stored on disk, where nothing else says so")] = True
    message_bytes: Annotated[
        int,
        Meta(
            ge=1, le=(1 << 31) - 1, description="bytes of the largest message; a receiver may have to hold one a peer"
        ),
    ] = 16 << 20
    headers_bytes: Annotated[int, Meta(ge=0, le=64 << 10, description="bytes of the user's headers of a message")] = (
        8 << 10
    )
    traceback_bytes: Annotated[
        int, Meta(ge=0, le=1 << 20, description="bytes of a traceback that a dead letter keeps; the middle is cut")
    ] = 16 << 10
    check: Annotated[
        Literal["type", "deep"],
        Meta(description="what a call looks at: the value's type (15 ns), or all of it, by decoding it (from 0.1 µs)"),
    ] = "type"

    # Links
    prefetch: Annotated[
        int, Meta(ge=1, le=1_000_000, description="messages of a channel that a worker may be sent ahead; costs memory")
    ] = 50_000
    ping: Annotated[float, Meta(gt=0, description="seconds of quiet after which a peer is asked whether it lives")] = (
        1.0
    )
    silence: Annotated[float, Meta(gt=0, description="seconds without a sign of life that break a link")] = 3.0
    resume_grace: Annotated[
        float, Meta(ge=0, description="seconds that a peer's link may be away before its messages go to another")
    ] = 5.0
    connections: Annotated[int, Meta(ge=1, description="links of a process, as far as it may open descriptors")] = 4_096
    handshakes: Annotated[int, Meta(ge=1, description="unfinished handshakes that a listener bears")] = 256
    handshake_timeout: Annotated[float, Meta(gt=0, description="seconds that a handshake may take")] = 5.0

    # Requests
    request_timeout: Annotated[
        float, Meta(gt=0, description="seconds until a request expires, where nothing else says so")
    ] = 30.0
    no_responder: Annotated[
        float, Meta(gt=0, description="seconds after which a request fails whose channel nobody serves")
    ] = 1.0

    # Leaving, and what is kept
    crash_limit: Annotated[
        int, Meta(ge=3, description="workers that die while they run a message before it is a dead letter")
    ] = 3
    drain: Annotated[
        float, Meta(ge=0, description="seconds that leaving waits for what runs and for what is taken")
    ] = 5.0
    dead_letters: Annotated[int, Meta(ge=0, description="dead letters kept; the oldest go first, and are counted")] = (
        10_000
    )
    dead_letter_days: Annotated[float, Meta(gt=0, description="days that a dead letter is kept")] = 30.0
    ids: Annotated[int, Meta(ge=0, description="ids (`id=`) remembered, to know a second push with the same")] = 100_000
    ids_hours: Annotated[float, Meta(gt=0, description="hours that an id is remembered")] = 24.0
    outcomes_days: Annotated[
        float, Meta(gt=0, description="days that an outcome is kept for a sender that does not come back")
    ] = 7.0
    undecided_after: Annotated[
        float, Meta(gt=0, description="seconds after which outputs leave unchosen whose input's sender is away")
    ] = 600.0

    # Processes of `zerowait run`
    processes: Annotated[
        int, Meta(ge=1, le=1_024, description="processes that serve the app; each has its own interpreter, so a core")
    ] = 1
    stuck_after: Annotated[
        float,
        Meta(ge=0, description="seconds without a turn of its loop until one of several processes is killed; 0: never"),
    ] = 0.0

    # Telling
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="of the command line; a library's user decides")
    ] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="of the command line's log")] = "text"

    def __post_init__(self) -> None:
        if isinstance(self.home, Path):
            force_setattr(self, "home", str(self.home))
        check_fields(self)
        for name in ("store_grace", "resume_grace", "no_responder", "drain", "undecided_after"):
            if not getattr(self, name) <= LONGEST:
                raise _wrong(name, f"{name} = {getattr(self, name)!r}: write seconds, at most a hundred years of them.")
        if self.home is not None and not Path(self.home).expanduser().is_absolute():
            raise _wrong(
                "home",
                f"home = {str(self.home)!r} is no whole path: two processes started in different folders would never "
                "meet. Write it from / or ~ on, or leave it out.",
            )
        force_setattr(self, "listen", _endpoints("listen", self.listen))
        addresses: dict[str, tuple[str, ...]] = {}
        for pattern, given in self.addresses.items():
            if not is_pattern(pattern):
                raise _wrong(
                    f"addresses.{pattern}",
                    f'addresses: {pattern!r} is no channel and no pattern such as "mail.*" or "mail.>".',
                )
            addresses[pattern] = _endpoints(f"addresses.{pattern}", given)
        force_setattr(self, "addresses", addresses)
        try:
            check_process(self.namespace, "a namespace")
        except UsageError as error:
            raise _wrong("namespace", str(error)) from None
        for name, decided in self.channels.items():
            try:
                check_channel(name)
            except UsageError as error:
                raise _wrong(f"channels.{name}", str(error)) from None
            if not isinstance(decided, ChannelSettings):  # a dict would pass for one, whatever its keys are
                raise _wrong(
                    f"channels.{name}",
                    f"channels: what is decided for {name} is said as ChannelSettings(…), not as {decided!r}.",
                )
        if self.silence <= self.ping:
            raise SettingsError(
                f"silence = {self.silence:g} must be longer than ping = {self.ping:g}, or links break between pings."
            )

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
    ) -> Self:
        """The settings of this machine: flag over `ZEROWAIT_*` over `zerowait.toml` over default.

        path: the file; else the one that ZEROWAIT_CONFIG names; else `zerowait.toml` in the current folder, if there is
        one. env: in place of the process's environment. flags: of a command line, by field name; None is not said.
        Raises SettingsError with its origin (file and line, or variable) and, for what is unknown, the nearest name.
        """
        from zerowait.settings_sources import load

        return load(cls, path, env, flags)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value that is not a default came from: field → file and line, variable, or flag."""
        found: Mapping[str, str] = vars(self).get("origins_loaded", {})
        return found

    def channel(self, name: str) -> ChannelSettings:
        """What is decided for this channel; nothing, if it is not named."""
        return self.channels.get(name) or ChannelSettings()

    def home_folder(self) -> Path:
        """The folder of this user's namespaces. The home comes from the password database, so that cron, systemd,
        `env -i` and a login shell all meet there, whatever HOME says."""
        if self.home is not None:
            return Path(self.home).expanduser()
        from os import getuid
        from pwd import getpwuid

        try:
            return Path(getpwuid(getuid()).pw_dir) / ".local" / "state" / "zerowait"
        except KeyError:
            raise SettingsError(
                f"user {getuid()} has no home in the password database: name a folder it may write, as in "
                "ZEROWAIT_HOME=/var/lib/zerowait.",
                origin="home",
            ) from None


def _endpoints(field: str, given: str | Sequence[str]) -> tuple[str, ...]:
    endpoints = (given,) if isinstance(given, str) else tuple(given)
    for endpoint in endpoints:
        if (wrong := port_fault(endpoint) or endpoint_fault(endpoint)) is not None:
            raise _wrong(field, f"{field}: {wrong}")
    return tuple(dict.fromkeys(endpoints))


def _wrong(key: str, said: str) -> SettingsError:
    error = SettingsError(said)
    error.origin = key  # until it is known where the key was said; the sentence itself names it
    return error


def port_fault(endpoint: object) -> str | None:
    """What is wrong with the port of a tcp endpoint, as a sentence, or None."""
    found = re.fullmatch(r"tcp://(\[[^\[\]]*\]|[^\[\]:/]+)(:(\d*))?", endpoint) if isinstance(endpoint, str) else None
    if found is None:
        return None
    if not found[3]:
        return f"{endpoint!r} has no port: write tcp://{found[1]}:5511."
    if len(found[3]) > 5 or int(found[3]) > 65_535:
        return f"{endpoint!r}: port {found[3]} is out of range: ports are 1 to 65535."
    return None
