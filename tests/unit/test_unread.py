"""What has come and was not read yet, where a turn reads only a part of it."""

from __future__ import annotations

import os
import socket

from zerowait.engines.brokerless.descriptors import has_unread
from zerowait.engines.brokerless.dialled import FRAMES_A_TURN
from zerowait.engines.brokerless.unread import Unread

ALL = float("inf")


def test_while_every_turn_reads_all_nothing_may_lie_unread() -> None:
    unread = Unread()
    assert [unread.read(3_000, now, is_behind=False) for now in (1.0, 2.0)] == [ALL, ALL]


def test_what_had_come_before_as_many_turns_as_give_each_peer_his_was_read() -> None:
    # given four times as many peers as a turn reads frames
    unread, peers = Unread(), 4 * FRAMES_A_TURN
    unread.read(peers, 10.0, is_behind=False)
    # when turn after turn leaves something
    read = [unread.read(peers, 11.0 + turn, is_behind=True) for turn in range(8)]
    # then what came before the first of them may be among it, until four turns and one have begun after it
    assert read == [10.0, 10.0, 10.0, 10.0, 10.0, 11.0, 12.0, 13.0]


def test_who_has_read_all_is_behind_no_more() -> None:
    unread = Unread()
    unread.read(1, 1.0, is_behind=True)
    assert unread.read(1, 2.0, is_behind=False) == ALL
    assert unread.read(1, 3.0, is_behind=True) == 2.0


def test_a_connection_has_unread_what_was_said_and_not_taken_off() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not has_unread(ours.fileno())
        theirs.send(b"word")
        assert has_unread(ours.fileno())
        ours.recv(4)
        assert not has_unread(ours.fileno())
        gone = os.dup(ours.fileno())
        os.close(gone)
        assert not has_unread(gone)
    assert not has_unread(-1)
