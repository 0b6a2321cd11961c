"""Whose workers are looked for."""

from __future__ import annotations

from zerowait.engines.brokerless.finding import ASKED_MOST, Wanted


def test_of_names_that_were_only_asked_for_the_last_ones_are_looked_for() -> None:
    # given: as many as are kept, and a channel that something is pushed to
    wanted = Wanted(lambda: None)
    for number in range(ASKED_MOST):
        wanted.ask(f"asked.{number}")
    wanted.add("pushed")
    assert len(wanted.channels) == ASKED_MOST + 1
    # when it is asked for that one, and one anew
    wanted.ask("asked.0")
    wanted.ask("pushed")
    # then who was asked for longest ago is looked for no more
    assert "asked.1" not in wanted.channels
    assert {"asked.0", "asked.2", "pushed"} <= wanted.channels
    # and what is pushed no more is looked for as long as it is one of those asked for last
    wanted.forget(["pushed"])
    assert "pushed" in wanted.channels
    assert len(wanted.channels) == ASKED_MOST
