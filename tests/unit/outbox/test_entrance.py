"""What a push may say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.outbox.boxes import START_US, Nowhere
from zerowait.channels import PushChannel
from zerowait.errors import UsageError
from zerowait.outbox import entrance as entrance_module
from zerowait.outbox.entrance import Entrance
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.settings import Settings
from zerowait.settings_channels import ChannelSettings


def entrance(home: Path, short: dict[Any, Lane] | None = None, **settings: Any) -> Entrance:
    intakes: dict[bool, Intake] = {}

    def intake(durable: bool) -> Intake:
        if durable not in intakes:
            intakes[durable] = Intake(
                Limits(), durable=durable, wake=lambda: None, room=Nowhere, now_us=lambda: START_US
            )
        return intakes[durable]

    return Entrance(
        Settings(home=home, **settings),
        intake=intake,
        plain=lambda channel, plain: intake(False),
        short={} if short is None else short,
        want=lambda channel: None,
        declare=lambda channel, codec: None,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 1e300},
        {"ttl": 10**400},
        {"delay": 4e9},
        {"at": datetime(9999, 1, 1, tzinfo=UTC)},
        {"headers": [1]},
        {"headers": "text"},
        {"headers": 7},
        {"headers": {"a": "\ud800"}},
        {"priority": []},
        {"priority": {}},
        {"key": ""},
        {"key": 7},
        {"key": b"bytes"},
        {"key": "k" * 201},
        {"key": "ä" * 101},
        {"key": "\ud800"},
    ],
)
def test_options_that_make_no_sense_are_the_callers_mistake(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        entrance(tmp_path).accept("mail", 1, options)


def test_a_key_of_200_bytes_is_taken_and_lies_in_the_outbox_as_utf_8(tmp_path: Path) -> None:
    sheaf, _ = entrance(tmp_path).accept("mail", 1, {"key": "ä" * 100})
    assert sheaf.terms.key == ("ä" * 100).encode()


def test_a_long_but_possible_time_is_taken(tmp_path: Path) -> None:
    sheaf, _ = entrance(tmp_path).accept("mail", 1, {"ttl": 3e9, "delay": 3e9})
    assert sheaf.terms.expires is not None
    assert sheaf.terms.expires < 2**63


def test_a_ttl_beyond_a_hundred_years_is_refused_wherever_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="100 years"):
        PushChannel[int]("mail", ttl=1e12)
    decided = {"mail": ChannelSettings(ttl=float("inf"))}
    with pytest.raises(UsageError, match="settings of channel mail"):
        entrance(tmp_path, channels=decided).accept("mail", 1, {})


def test_a_second_declaration_with_other_terms_is_told_with_both(tmp_path: Path) -> None:
    here = entrance(tmp_path)
    here.accept(PushChannel[int]("mail", ttl=60), 1, {})
    here.accept(PushChannel[int]("mail", ttl=60), 1, {})
    with pytest.raises(UsageError, match=r"with ttl=60\.0 where .* with durable=False here"):
        here.accept(PushChannel[int]("mail", durable=False), 1, {})
    here.accept(PushChannel[str]("mail"), "of another type, which checks itself", {})


def test_a_program_that_makes_up_channel_names_is_remembered_in_bounds_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance_module, "REMEMBERED", 64)
    short: dict[Any, Lane] = {}
    here = entrance(tmp_path, short)
    for number in range(1_000):
        here.accept(f"made-up.{number}", number, {"durable": number % 2 == 0})
        here.accept("always", number, {})
        assert max(len(here._ways), len(here._lanes) // 2, len(short)) <= 64
    counts = here._intake(True).counts()
    assert counts["always"] == 1_000
    assert sum(counts.values()) + sum(here._intake(False).counts().values()) == 2_000
    taken = [sheaf.channel for sheaf, _ in here._intake(True).take()]
    assert taken[:2] == ["made-up.0", "always"]


def test_a_lane_that_was_forgotten_still_takes_what_is_pushed_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance_module, "REMEMBERED", 2)
    short: dict[Any, Lane] = {}
    here = entrance(tmp_path, short)
    here.accept("first", 1, {})
    lane = short["first"]  # as a push has it in hand on another thread
    for number in range(4):
        here.accept(f"made-up.{number}", number, {})
    assert "first" not in short
    lane.append(b"\x02")
    here.accept("first", 3, {})
    assert here._intake(True).counts()["first"] == 3
