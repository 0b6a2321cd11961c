from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from zerowait import settings as module
from zerowait.errors import SettingsError
from zerowait.plain import Plain
from zerowait.retry import Retry
from zerowait.settings import Settings
from zerowait.settings_channels import ChannelSettings
from zerowait.settings_fields import documentation


def loaded(tmp_path: Path, text: str = "", env: dict[str, str] | None = None, **flags: object) -> Settings:
    file = tmp_path / "zerowait.toml"
    file.write_text(text)
    return Settings.load(file, env or {}, flags)


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = Settings()

    assert (settings.outbox_messages, settings.outbox_bytes) == (1_000_000, 2 * 1024**3)
    assert (settings.memory_messages, settings.memory_bytes) == (100_000, 64 * 1024**2)
    assert (settings.message_bytes, settings.headers_bytes, settings.traceback_bytes) == (16 << 20, 8 << 10, 16 << 10)
    assert (settings.prefetch, settings.ping, settings.silence) == (50_000, 1, 3)
    assert (settings.resume_grace, settings.drain, settings.store_grace) == (5, 5, 30)
    assert (settings.dead_letters, settings.dead_letter_days, settings.crash_limit) == (10_000, 30, 3)
    assert (settings.ids, settings.ids_hours, settings.outcomes_days, settings.undecided_after) == (100_000, 24, 7, 600)
    assert (settings.connections, settings.handshakes, settings.handshake_timeout) == (4_096, 256, 5)
    assert (settings.check, settings.durable, settings.namespace) == ("type", True, "default")


@pytest.mark.parametrize("kind", [Settings, ChannelSettings], ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_decides(kind: type[Settings | ChannelSettings]) -> None:
    said = documentation(kind)

    assert set(said) == set(kind.__struct_fields__)
    assert all(len(text) > 15 for text in said.values()), said


def test_a_file_is_read_with_the_line_of_each_value(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
listen = "tcp://0.0.0.0:5511"
outbox_bytes = 2_147_483_648
[addresses]
"mail.*" = "tcp://mail.internal:5511"
[channels."mail.parse"]
concurrency = 8
plain = { encoding = "text", bind = "tcp://*:5559" }
""",
    )

    assert settings.listen == ("tcp://0.0.0.0:5511",)
    assert settings.addresses == {"mail.*": ("tcp://mail.internal:5511",)}
    assert settings.channel("mail.parse").concurrency == 8
    assert settings.channel("mail.parse").plain == Plain("text", bind="tcp://*:5559")
    assert settings.channel("other") == ChannelSettings()
    assert settings.origins["outbox_bytes"].endswith("zerowait.toml:3")
    assert settings.origins["addresses"].endswith("zerowait.toml:4")
    assert "drain" not in settings.origins


def test_a_flag_wins_over_a_variable_and_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    text, env = "ping = 0.1\ndrain = 1\nsilence = 2", {"ZEROWAIT_PING": "0.2", "ZEROWAIT_DRAIN": "2"}

    settings = loaded(tmp_path, text, env, ping="0.3", silence=None)

    assert (settings.ping, settings.drain, settings.silence, settings.resume_grace) == (0.3, 2, 2, 5)
    assert settings.origins["ping"] == "--ping"
    assert settings.origins["drain"] == "ZEROWAIT_DRAIN"


def test_variables_can_say_everything(tmp_path: Path) -> None:
    env = {
        "ZEROWAIT_DURABLE": "false",
        "ZEROWAIT_OUTBOX_BYTES": "1048576",
        "ZEROWAIT_LISTEN": "tcp://*:1, tcp://[::1]:2",
        "ZEROWAIT_ADDRESSES": "mail.*=tcp://a:1, mail.*=tcp://b:1,x=ipc:///run/x",
        "ZEROWAIT_CHANNELS": '{"mail.parse": {"attempts": 3}}',
        "ZEROWAIT_HOME": "/var/lib/zerowait",
    }

    settings = loaded(tmp_path, "", env)

    assert settings.durable is False
    assert settings.outbox_bytes == 1 << 20
    assert settings.listen == ("tcp://*:1", "tcp://[::1]:2")
    assert settings.addresses == {"mail.*": ("tcp://a:1", "tcp://b:1"), "x": ("ipc:///run/x",)}
    assert settings.channel("mail.parse").attempts == 3
    assert settings.home_folder() == Path("/var/lib/zerowait")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\noutbox_byte = 3", "zerowait.toml:2: there is no setting outbox_byte. Did you mean outbox_bytes?"),
        ('outbox_bytes = "3"', "zerowait.toml:1: outbox_bytes = '3': expected `int`, got `str`"),
        ("outbox_messages = 0", "zerowait.toml:1: outbox_messages = 0: expected `int` >= 1"),
        ('check = "deeply"', "zerowait.toml:1: check = 'deeply': it is one of 'type', 'deep'"),
        (
            '[channels."a.b"]\n\nconcurency = 8',
            "zerowait.toml:3: there is no setting of channel a.b concurency. Did you",
        ),
        ('[channels."a.b"]\nconcurrency = 0', "zerowait.toml:2: concurrency = 0: expected `int` >= 1"),
        ("[channels]\nmail = 3", "zerowait.toml:2: channels.mail is a table"),
        ('[channels.a]\nplain = { encoding = "text" }', "zerowait.toml:2: plain: Plain(…) needs an endpoint"),
        (
            '[channels.a]\nplain = { encodin = "text" }',
            "zerowait.toml:2: there is no key of plain encodin. Did you mean enc",
        ),
        ('[channels."a b"]\nttl = 3', "zerowait.toml:1: 'a b' cannot be the name of a channel"),
        ('listen = "0.0.0.0:5511"', "zerowait.toml:1: listen: '0.0.0.0:5511' is no endpoint: write \"tcp://"),
        ('listen = "tcp://*:70000"', "port 70000 is out of range"),
        ('listen = "tcp://h"', "'tcp://h' has no port: write tcp://h:5511"),
        ('[addresses]\n"mail..x" = "tcp://h:1"', "zerowait.toml:2: addresses: 'mail..x' is no channel and no pattern"),
        ('[addresses]\na = "tcp://h:1"\nb = "tcp://h:70000"', "zerowait.toml:3: addresses.b: 'tcp://h:70000': port"),
        ("[addresses]\na = 'tcp://h:1'\nb = 3", "zerowait.toml:3: addresses.b = 3: expected"),
        ('[addresses]\nmail.x = "tcp://h:1"', "zerowait.toml:2: addresses: a name with a dot stands in quotes"),
        ("[channels.mail.x]\nttl = 3", 'write "mail.x"'),
        ("[channels.mail.retry]\nattempts = 3", "there is no setting of channel mail retry. Did you mean retry_"),
        ("ping = 4", "zerowait.toml:1: silence = 3 must be longer than ping = 4"),
        ('namespace = "a/b"', "zerowait.toml:1: 'a/b' cannot be the name of a namespace"),
        ("x = [", "zerowait.toml: this is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(tmp_path, text)

    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ZEROWAIT_OUTBOX_BYTE", "3", "ZEROWAIT_OUTBOX_BYTE: there is no variable ZEROWAIT_OUTBOX_BYTE. Did you mean"),
        ("ZEROWAIT_PING", "soon", "ZEROWAIT_PING: ping = 'soon': expected `float`"),
        ("ZEROWAIT_DURABLE", "maybe", "ZEROWAIT_DURABLE: durable = 'maybe'"),
        ("ZEROWAIT_ADDRESSES", "tcp://a:1", "ZEROWAIT_ADDRESSES: 'tcp://a:1' should be channel=endpoint"),
        ("ZEROWAIT_CHANNELS", "{", "ZEROWAIT_CHANNELS: this is not a JSON object"),
        (
            "ZEROWAIT_CHANNELS",
            '{"a": {"tll": 3}}',
            "ZEROWAIT_CHANNELS: there is no setting of channel a tll. Did you mean",
        ),
        ("ZEROWAIT_PORT", "5511", "ZEROWAIT_PORT: there is no variable"),
    ],
)
def test_what_is_wrong_in_a_variable_is_said_with_its_name(
    tmp_path: Path, variable: str, value: str, says: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(tmp_path, "", {variable: value})

    assert says in str(raised.value)


def test_what_kubernetes_puts_into_a_pod_is_no_mistake(tmp_path: Path) -> None:
    """A service called zerowait-mail gives every pod of its namespace these."""
    env = {
        "ZEROWAIT_MAIL_SERVICE_HOST": "10.0.0.1",
        "ZEROWAIT_MAIL_SERVICE_PORT": "5511",
        "ZEROWAIT_MAIL_SERVICE_PORT_ZMTP": "5511",
        "ZEROWAIT_MAIL_PORT": "tcp://10.0.0.1:5511",
        "ZEROWAIT_MAIL_PORT_5511_TCP": "tcp://10.0.0.1:5511",
        "ZEROWAIT_MAIL_PORT_5511_TCP_ADDR": "10.0.0.1",
        "ZEROWAIT_PORT": "tcp://10.0.0.1:5511",
    }

    assert loaded(tmp_path, "", env) == Settings()


def test_variables_for_the_tests_of_this_project_are_no_settings(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", {"ZEROWAIT_TEST_EMAILS": "/data/emails", "ZEROWAIT_TEST_": ""}) == Settings()
    with pytest.raises(SettingsError, match="ZEROWAIT_TESTS"):
        loaded(tmp_path, "", {"ZEROWAIT_TESTS": "1"})


def test_the_file_is_the_one_named_else_that_of_the_variable_else_that_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load(env={}).drain == 5

    (tmp_path / "zerowait.toml").write_text("drain = 1")
    (tmp_path / "other.toml").write_text("drain = 2")
    (tmp_path / "third.toml").write_text("drain = 3")
    variable = {"ZEROWAIT_CONFIG": str(tmp_path / "other.toml")}

    assert Settings.load(env={}).drain == 1
    assert Settings.load(env=variable).drain == 2
    assert Settings.load(tmp_path / "third.toml", env=variable).drain == 3


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such settings file"):
        Settings.load(env={"ZEROWAIT_CONFIG": str(tmp_path / "gone.toml")})


@pytest.mark.parametrize(
    "wrong",
    [
        {"ping": "x"},
        {"outbox_bytes": 1},
        {"listen": 3},
        {"channels": {"a b": ChannelSettings()}},
        {"channels": {"mail": {"concurency": 8}}},
        {"home": "state"},
        {"home": ""},
        {"drain": float("inf")},
        {"drain": 1e300},
    ],
    ids=repr,
)
def test_settings_made_in_code_are_looked_at_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Settings(**wrong)


def test_a_home_may_be_a_path(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).home_folder() == tmp_path


def test_an_address_that_is_named_twice_is_one() -> None:
    assert list(Settings(listen=["tcp://127.0.0.1:5511", "tcp://127.0.0.1:5511"]).listen) == ["tcp://127.0.0.1:5511"]


def test_the_home_is_that_of_the_password_database_whatever_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    folder = Settings().home_folder()

    assert folder.parts[-3:] == (".local", "state", "zerowait")
    assert tmp_path not in folder.parents


def test_a_channels_settings_change_only_what_they_say_of_a_retry() -> None:
    policy = Retry(attempts=5, unless=KeyError)

    assert ChannelSettings().retry(policy) is policy
    changed = ChannelSettings(attempts=2, retry_max_age=60).retry(policy)
    assert (changed.attempts, changed.max_age, changed.unless) == (2, 60, (KeyError,))


def test_nothing_is_read_when_it_is_imported() -> None:
    for source in (module, __import__("zerowait.settings_sources", fromlist=["load"])):
        tree = ast.parse(inspect.getsource(source))
        outside = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert "environ" not in "".join(map(ast.unparse, outside))
