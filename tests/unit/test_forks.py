"""Locks after a fork (rules §11.5): parent and child share the description, so a child only closes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.locks import FileLock, is_owned


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[FileLock]:
    taken = FileLock.take(tmp_path / "a.lock")
    assert taken is not None
    yield taken
    taken.release()


def in_child(does: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            does()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_a_child_that_lets_go_of_a_lock_leaves_it_to_its_parent(lock: FileLock) -> None:
    in_child(lock.abandon)
    assert is_owned(lock.path)


def test_a_child_that_releases_a_lock_leaves_it_to_its_parent_and_removes_nothing(lock: FileLock) -> None:
    in_child(lambda: lock.release(remove=True))
    assert lock.path.exists()
    assert is_owned(lock.path)


def test_a_lock_that_its_holder_gives_up_is_free_although_a_child_has_it_open(lock: FileLock) -> None:
    """Without: what a worker has forked holds an outbox for as long as it runs."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.read(told, 1)  # until the parent closes its end
        os._exit(0)
    lock.release()
    assert not is_owned(lock.path)
    os.close(tell)
    os.waitpid(child, 0)
    os.close(told)


def test_a_child_is_a_process_of_its_own_and_may_live_here_too(home: Path) -> None:
    directory = Directory(home, "test")
    me = directory.enter(7, "parent")
    path, _, lock = directory.new_outbox("parent")
    path.touch()
    assert directory.try_elect()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            elected = directory.try_elect()  # the parent is
            mine = directory.enter(8, "child")
            free = directory.lock_outbox(path)
            os.write(tell, repr((elected, mine.instance, free)).encode())
            directory.leave()
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    said = os.read(told, 100).decode()
    os.close(told)
    assert said == repr((False, 8, None))
    assert lock.held
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)
    assert directory.try_elect()
    lock.release()
    directory.leave()
