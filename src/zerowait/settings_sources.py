"""Where settings come from: flag over variable over file over default, each value with its origin."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import DecodeError, ValidationError, convert, json

from zerowait.errors import SettingsError, UsageError
from zerowait.names import nearest
from zerowait.plain import Plain
from zerowait.settings_channels import ChannelSettings
from zerowait.settings_fields import field_types, reason_of

if TYPE_CHECKING:
    from msgspec import Struct

S = TypeVar("S", bound="Struct")

PREFIX = "ZEROWAIT_"
FILE_VARIABLE = "ZEROWAIT_CONFIG"
FILE_NAME = "zerowait.toml"
# Of this project's own tests, which may run programs that load their settings in the same environment.
TEST_PREFIX = "ZEROWAIT_TEST_"

# Kubernetes puts the addresses of a service called zerowait or zerowait-mail into every pod's environment
# (ZEROWAIT_MAIL_PORT_5511_TCP_ADDR …): those are not mistaken settings, and a pod that refused them would not start.
_KUBERNETES = re.compile(
    r"ZEROWAIT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)=.*"
    r"|ZEROWAIT_(\w+_)?PORT=(tcp|udp|sctp)://.*"
)


def load(of: type[S], path: str | Path | None, env: Mapping[str, str] | None, flags: Mapping[str, object] | None) -> S:
    """See `Settings.load`."""
    env = os.environ if env is None else env
    types = field_types(of)
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    file = _file(path, env)
    lines = _from_file(file, types, values, origins) if file is not None else None
    _from_variables(env, types, values, origins)
    for name, value in (flags or {}).items():
        if value is not None:
            origin = "--" + name.replace("_", "-")
            values[name] = _converted(name, value, origin, types)
            origins[name] = origin
    try:
        settings = of(**values)
    except SettingsError as error:  # bounds between fields, names, endpoints
        raise SettingsError(error.message, origin=_origin(error, origins, lines)) from None
    vars(settings)["origins_loaded"] = origins
    return settings


def _origin(error: SettingsError, origins: Mapping[str, str], lines: _Lines | None) -> str:
    """Where what is wrong was said: the field, or the key of its table, that the error names."""
    field, _, key = error.origin.partition(".")
    if field not in origins:
        return next((origins[word] for word in re.findall(r"\w+", error.message) if word in origins), "")
    if lines is None or not origins[field].startswith(f"{lines.file}:"):
        return origins[field]  # a variable or a flag came in place of what the file says
    return lines.origin((field, key) if key else (field,))


def _file(path: str | Path | None, env: Mapping[str, str]) -> Path | None:
    if path is not None:
        return Path(path)
    if named := env.get(FILE_VARIABLE):
        return Path(named)
    file = Path(FILE_NAME)
    return file if file.is_file() else None


def _from_file(file: Path, types: Mapping[str, Any], values: dict[str, object], origins: dict[str, str]) -> _Lines:
    try:
        text = file.read_text(encoding="utf-8")
        read = tomllib.loads(text)
    except FileNotFoundError:
        raise SettingsError("there is no such settings file.", origin=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file cannot be read: {error}.", origin=str(file)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"this is not TOML: {error}.", origin=str(file)) from None
    lines = _Lines(file, text)
    for name, value in read.items():
        origin = lines.origin((name,))
        _must_be_known(name, list(types), origin, "setting")
        if name == "channels" and (tables := _table(value)) is not None:
            values[name] = {each: _channel(each, table, lines) for each, table in tables.items()}
        elif name == "addresses" and (given := _table(value)) is not None:
            values[name] = {each: _address(each, endpoints, lines) for each, endpoints in given.items()}
        else:
            values[name] = _converted(name, value, origin, types)
        origins[name] = origin
    return lines


def _address(pattern: str, endpoints: object, lines: _Lines) -> object:
    origin = lines.origin(("addresses", pattern))
    if inner := _table(endpoints):
        raise SettingsError(_unquoted("addresses", pattern, inner), origin=origin)
    try:
        return convert(endpoints, str | list[str])
    except ValidationError as error:
        raise SettingsError(f"addresses.{pattern} = {endpoints!r}: {reason_of(error)}.", origin=origin) from None


def _unquoted(field: str, name: str, inner: Mapping[str, Any]) -> str:
    whole = f"{name}.{next(iter(inner))}"
    return f'{field}: a name with a dot stands in quotes, or TOML takes it for a table in a table: write "{whole}".'


def _channel(name: str, table: object, lines: _Lines) -> ChannelSettings:
    if (keys := _table(table)) is None:
        raise SettingsError(
            f'channels.{name} is a table: [channels."{name}"] and its keys below.',
            origin=lines.origin(("channels", name)),
        )
    types = field_types(ChannelSettings)
    values: dict[str, Any] = {}
    for key, value in keys.items():
        origin = lines.origin(("channels", name, key))
        if key not in types and _table(value) is not None and nearest(key, list(types)) is None:
            raise SettingsError(_unquoted("channels", name, {key: value}), origin=origin)
        _must_be_known(key, list(types), origin, f"setting of channel {name}")
        for part in (_table(value) or {}) if key == "plain" else ():
            where = lines.origin(("channels", name, key, part))
            _must_be_known(part, list(Plain.__struct_fields__), where, "key of plain")
        values[key] = _converted(key, value, origin, types)
    return ChannelSettings(**values)


def _from_variables(
    env: Mapping[str, str], types: Mapping[str, Any], values: dict[str, object], origins: dict[str, str]
) -> None:
    known = {PREFIX + name.upper(): name for name in types}
    for variable in sorted(env):
        if (
            not variable.startswith(PREFIX)
            or variable.startswith(TEST_PREFIX)
            or variable == FILE_VARIABLE
            or _KUBERNETES.fullmatch(f"{variable}={env[variable]}")
        ):
            continue
        _must_be_known(variable, [*known, FILE_VARIABLE], variable, "variable")
        name, text = known[variable], env[variable]
        value: object = text
        if name == "listen":
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif name == "addresses" and not text.lstrip().startswith("{"):
            value = _addresses(text, variable)
        elif name in ("addresses", "channels"):
            try:
                value = json.decode(text)
            except DecodeError as error:
                raise SettingsError(f"this is not a JSON object: {error}.", origin=variable) from None
            if name == "channels" and (tables := _table(value)) is not None:
                value = {each: _channel(each, table, _Variable(variable)) for each, table in tables.items()}
        values[name] = _converted(name, value, variable, types)
        origins[name] = variable


def _addresses(text: str, variable: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, endpoint = part.partition("=")
        if not equals:
            raise SettingsError(
                f"{part!r} should be channel=endpoint, as in mail.*=tcp://mail.internal:5511 (several: with commas).",
                origin=variable,
            )
        found.setdefault(pattern.strip(), []).append(endpoint.strip())
    return found


def _converted(name: str, value: object, origin: str, types: Mapping[str, Any]) -> object:
    _must_be_known(name, list(types), origin, "setting")
    try:
        # Text comes from variables and flags, where "8" is the only way to write 8; in a file it is a mistake.
        strict = not isinstance(value, str) or not origin.startswith((PREFIX, "--"))
        return convert(value, types[name], strict=strict)
    except ValidationError as error:
        raise SettingsError(f"{name} = {value!r}: {reason_of(error, types[name])}.", origin=origin) from None
    except UsageError as error:
        raise SettingsError(f"{name}: {error}", origin=origin) from None


def _table(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _must_be_known(name: str, known: list[str], origin: str, what: str) -> None:
    if name in known:
        return
    meant = nearest(name, known)
    hint = f" Did you mean {meant}?" if meant else f" There are: {', '.join(sorted(known))}."
    raise SettingsError(f"there is no {what} {name}.{hint}", origin=origin)


class _Lines:
    """Finds the line of a key in a TOML file, as far as reading line by line can (tomllib keeps no positions)."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self._found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[([^\[\]]+)\]\s*(#.*)?$", line):
                table = _path(header[1])
                self._remember(table, number)
            elif entry := re.match(r"""\s*([\w."'\s*>-]+?)\s*=""", line):
                self._remember((*table, *_path(entry[1])), number)

    def _remember(self, path: tuple[str, ...], number: int) -> None:
        for depth in range(1, len(path) + 1):
            self._found.setdefault(path[:depth], number)

    def origin(self, path: tuple[str, ...]) -> str:
        """The file with the line of the key, or of the nearest table around it."""
        for depth in range(len(path), 0, -1):
            if number := self._found.get(path[:depth]):
                return f"{self.file}:{number}"
        return str(self.file)


class _Variable(_Lines):
    """The same for a value that came in a variable: there are no lines."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def origin(self, path: tuple[str, ...]) -> str:
        return self._variable


def _path(key: str) -> tuple[str, ...]:
    try:
        read: dict[str, Any] | None = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while read:
        name, inner = next(iter(read.items()))
        path.append(name)
        read = _table(inner)
    return tuple(path)
