"""Addresses as people write them in settings, and which of them a channel's messages go to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from zerowait.errors import SettingsError
from zerowait.patterns import overlap

SOCKET_PATH_BYTES = 102  # macOS takes 103 and a zero byte, Linux 107
EXAMPLE = "tcp://mail.internal:5511"

_NAME = re.compile(r"(?!-)[^\s/:\[\]@?#%*]{1,253}")
_PATTERN = re.compile(r"[*>]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.[*>])?")


class Address(Struct, frozen=True):
    """One address, checked. host: a name, `*`, or an IP address without brackets. path: of an ipc socket."""

    scheme: str
    host: str = ""
    port: int = 0  # 0: the system chooses, when listening
    path: str = ""

    @property
    def endpoint(self) -> str:
        """As ZeroMQ takes it."""
        if self.scheme == "ipc":
            return f"ipc://{self.path}"
        return tcp_endpoint(self.host, self.port)

    @property
    def is_name(self) -> bool:
        """Whether the host has to be looked up."""
        return self.scheme == "tcp" and self.host != "*" and _ip_version(self.host) == 0


class AddressBook:
    """The static addresses of settings: channel patterns → where to dial.

    A pattern is a channel's name, the beginning of one and `.*`, or `*` for all. The most specific wins, alone: a name
    over a pattern, a longer pattern over a shorter. An empty list means: nowhere but this machine.
    """

    def __init__(self, patterns: Mapping[str, str | Sequence[str]], *, origins: Mapping[str, str] | str = "") -> None:
        """origins: where the settings came from (file and line, or variable), for all or for each pattern.

        Raises SettingsError that names the pattern and what to write instead.
        """
        self._exact: dict[str, tuple[str, ...]] = {}
        self._beginnings: dict[str, tuple[str, ...]] = {}
        for pattern, written in patterns.items():
            origin = origins if isinstance(origins, str) else origins.get(pattern, "")
            where = f'{origin}, addresses."{pattern}"' if origin else f'addresses."{pattern}"'
            if _PATTERN.fullmatch(pattern) is None:
                raise SettingsError(
                    f'{pattern!r} is not a pattern: write a channel\'s name, the beginning of one as "mail.*", or "*".',
                    origin=where,
                )
            endpoints = tuple(address.endpoint for address in parse_addresses(written, origin=where))
            if pattern[-1] in "*>":  # all that begins so, as topics say it with > and channels with *
                self._beginnings[pattern[:-1]] = endpoints
            else:
                self._exact[pattern] = endpoints
        self._longest_first = sorted(self._beginnings, key=len, reverse=True)

    def of(self, channel: str) -> tuple[str, ...]:
        """The endpoints that serve this channel, as they were written; () if settings name none."""
        exact = self._exact.get(channel)
        if exact is not None:
            return exact
        return next((self._beginnings[start] for start in self._longest_first if channel.startswith(start)), ())

    def overlapping(self, pattern: str) -> tuple[str, ...]:
        """The endpoints of all names that a pattern of topics may be about."""
        start = pattern.split("*")[0].split(">")[0]
        exact = [e for name, es in self._exact.items() if overlap(name, pattern) for e in es]
        begun = [
            e for name, es in self._beginnings.items() if name.startswith(start) or start.startswith(name) for e in es
        ]
        return tuple(dict.fromkeys([*exact, *begun]))

    def endpoints(self) -> tuple[str, ...]:
        """All of them, each once, in the order they were written."""
        return tuple(dict.fromkeys(e for es in (*self._exact.values(), *self._beginnings.values()) for e in es))


def parse_addresses(written: str | Sequence[str], *, origin: str = "", listening: bool = False) -> tuple[Address, ...]:
    """One address or a list of them, each once. Raises SettingsError as `parse_address`."""
    texts = [written] if isinstance(written, str) else written
    if not isinstance(texts, (list, tuple)):
        raise SettingsError(f'{written!r} is neither an address nor a list of them. Write "{EXAMPLE}".', origin=origin)
    return tuple(dict.fromkeys(parse_address(text, origin=origin, listening=listening) for text in texts))


def parse_address(text: str, *, origin: str = "", listening: bool = False) -> Address:
    """Reads `tcp://host:port`, `tcp://[2001:db8::1]:port` or `ipc:///path/of/socket`.

    listening: `*` is all interfaces, and port 0 or `*` lets the system choose; neither can be dialled.

    Raises SettingsError that says what to write instead. origin: the file and line, or the variable, it came from.
    """
    try:
        return _parse(text, listening)
    except ValueError as error:
        raise SettingsError(f"{text!r} cannot be used as an address: {error}", origin=origin) from None


def tcp_endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port or '*'}" if ":" in host else f"tcp://{host}:{port or '*'}"


def in_order(answer: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    """Every IPv4 and IPv6 address of an answer, once, sorted: resolvers turn the order round each time."""
    hosts: set[str] = set()
    for family, *_, where in answer:
        if family == socket.AF_INET:
            hosts.add(str(where[0]))
        elif family == socket.AF_INET6:
            host = str(where[0]).partition("%")[0]
            zone = int(where[3]) if len(where) > 3 else 0
            hosts.add(f"{host}%{_interface(zone)}" if zone else host)
    return tuple(sorted(hosts, key=_rank))


def _parse(text: object, listening: bool) -> Address:
    if not isinstance(text, str):
        raise ValueError(f'it is a string, as "{EXAMPLE}".')
    scheme, found, rest = text.partition("://")
    if not found:
        raise ValueError(f'it begins with tcp:// or ipc://. Write "tcp://{text.strip() or EXAMPLE[6:]}".')
    if scheme == "ipc":
        return Address("ipc", path=_parse_path(rest))
    if scheme != "tcp":
        raise ValueError(f'there is tcp:// and ipc://, but no {scheme}://. Write "tcp://{rest or EXAMPLE[6:]}".')
    host, colon, port = rest.rpartition(":")
    if not colon or "]" in port:
        raise ValueError(f'the port is missing. Write "tcp://{rest or EXAMPLE[6:-5]}:5511".')
    return Address("tcp", _parse_host(host, port, listening), _parse_port(port, listening))


def _parse_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(
            "an ipc address has the whole path of its socket, as ipc:///run/mail/socket: a relative one would depend "
            "on the folder a process was started in, and an abstract one (@…) is open to every user."
        )
    if len(path.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"the path of a socket has at most {SOCKET_PATH_BYTES} bytes, this one {len(path.encode())}.")
    return path


def _parse_host(host: str, port: str, listening: bool) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else None
    if bare is not None:
        if _ip_version(bare) != 6:
            raise ValueError(f"in the brackets stands an IPv6 address, and {bare!r} is none.")
        host = bare
    elif ":" in host:
        whole = f"{host}:{port}"
        inside = host if _ip_version(host) == 6 else whole if _ip_version(whole) == 6 else ""
        raise ValueError(
            f'an IPv6 address stands in brackets, as "tcp://[{inside or "2001:db8::1"}]:5511".'
            if inside
            else "there is one colon too many."
        )
    if host == "*" or (_ip_version(host) and ipaddress.ip_address(host).is_unspecified):
        if not listening:
            raise ValueError(f"{host} means every interface, which one can listen at but not dial. Name the host.")
        return host
    if _ip_version(host):
        return host
    if not host:
        raise ValueError(f'the host is missing. Write "tcp://{"*" if listening else "mail.internal"}:{port or 5511}".')
    if re.fullmatch(r"[0-9.]+", host):
        raise ValueError(f"{host} is neither a name nor an IPv4 address.")
    if "/" in port or "/" in host:
        raise ValueError("nothing follows the port: channels are not paths.")
    if "@" in host:
        raise ValueError("no user or password belongs in an address.")
    if _NAME.fullmatch(host) is None:
        raise ValueError(f"{host!r} cannot be the name of a host.")
    if listening and host == "localhost":
        return "127.0.0.1"  # ZeroMQ binds to addresses and interfaces, not to names
    return host


def _parse_port(port: str, listening: bool) -> int:
    if port in ("*", "0"):
        if not listening:
            raise ValueError(f"port {port} lets the system choose, which only who listens can do. Name the port.")
        return 0
    if "/" in port:
        raise ValueError("nothing follows the port: channels are not paths.")
    if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65_535:
        raise ValueError(f"the port is a number from 1 to 65535, not {port!r}.")
    return int(port)


def _ip_version(host: str) -> int:
    """4, 6, or 0 for what is no IP address."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return 0


def _rank(host: str) -> tuple[int, int, str]:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return 9, 0, host
    return ip.version, int(ip), host


def _interface(zone: int) -> str:
    try:
        return socket.if_indextoname(zone)
    except OSError:
        return str(zone)
