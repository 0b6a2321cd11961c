"""The witness of the kill says what was begun, ended, and begun again by another process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from examples.totalemail.journal import Journal, Witness


def test_what_was_begun_and_not_ended_is_in_flight(tmp_path: Path) -> None:
    journal, witness = Journal(tmp_path / "journal"), Witness(tmp_path / "journal")
    with journal.entry(1), journal.entry(2):
        witness.look()
        assert witness.in_flight_at(os.getpid()) == {1, 2}
    witness.look()
    assert witness.in_flight_at(os.getpid()) == frozenset()
    journal.close()


def test_work_that_fails_has_ended(tmp_path: Path) -> None:
    journal, witness = Journal(tmp_path / "journal"), Witness(tmp_path / "journal")
    with pytest.raises(ValueError, match="broken"), journal.entry(1):
        raise ValueError("broken")
    witness.look()
    assert witness.in_flight_at(os.getpid()) == frozenset()
    journal.close()


def test_a_mail_that_two_processes_have_begun_was_redelivered_one_begun_twice_by_one_was_not(
    tmp_path: Path,
) -> None:
    # given
    (tmp_path / "journal").write_text("7 began 1\n7 began 2\n7 ended 2\n7 began 2\n8 began 1\n8 ended 1\n")
    witness = Witness(tmp_path / "journal")
    # when
    witness.look()
    # then
    assert witness.redelivered() == {1}
    assert witness.in_flight_at(7) == {1, 2}


def test_a_line_that_is_not_whole_yet_is_read_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    witness = Witness(path)
    witness.look()
    path.write_text("7 began 1\n7 began 23")
    witness.look()
    assert witness.in_flight_at(7) == {1}
    path.write_text("7 began 1\n7 began 234\n")
    witness.look()
    assert witness.in_flight_at(7) == {1, 234}
