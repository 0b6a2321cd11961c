"""The directory on one machine: folders, presence, entries, outboxes. One process; several are in tests/integration."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pwd
import resource
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from zerowait.engines.brokerless import presence
from zerowait.engines.brokerless.directory import Directory, Entry, Me, Mended, state_home
from zerowait.engines.brokerless.home import filesystem, open_folders, socket_path
from zerowait.engines.brokerless.locks import FileLock, is_owned
from zerowait.errors import SettingsError, StoreError, UsageError


@pytest.fixture
def home(home: Path) -> Path:
    return home / "state"


@pytest.fixture
def directory(home: Path) -> Iterator[Directory]:
    made = Directory(home, "test")
    yield made
    made.leave()


def random_id() -> int:
    return secrets.randbits(64)


def entry_of(me: Me, **changes: object) -> Entry:
    entry = Entry(
        instance=me.instance,
        name=me.name,
        pid=os.getpid(),
        boot=me.boot,
        device=me.device,
        inode=me.inode,
        endpoints=(me.socket,),
        serves={"mail.parse": "push"},
        since=time.time_ns() // 1000,
    )
    return replace(entry, **changes)


def die(directory: Directory) -> None:
    """What the kernel does at the end of a process: the lock goes, every file stays."""
    assert directory._life is not None
    directory._life.release()


def settled_look(directory: Directory) -> list[Entry]:
    """Looks until nothing changes any more; gives what is there."""
    seen: list[Entry] = []
    deadline = time.monotonic() + 2
    while not directory._entries._settled or directory._entries._shown is None:
        found = directory.look()
        seen = found if found is not None else seen
        assert time.monotonic() < deadline
    found = directory.look()
    return found if found is not None else (directory._entries._shown or [])


# The folders


def test_without_a_setting_the_home_is_the_password_databases_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/somewhere/else")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/else")
    assert state_home(None) == Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".local/state/zerowait"


def test_a_relative_home_is_refused() -> None:
    with pytest.raises(SettingsError, match="relative") as raised:
        state_home(Path("state"))
    assert raised.value.origin == "ZEROWAIT_HOME"


def test_a_user_without_a_home_is_told_to_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> object:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(StoreError, match="Set ZEROWAIT_HOME to a folder that this user may write"):
        state_home(None)


def test_a_service_account_without_a_writable_home_is_told_to_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def mailer(user: int) -> SimpleNamespace:
        return SimpleNamespace(pw_dir="/proc/nonexistent", pw_name="mailer")

    monkeypatch.setattr(pwd, "getpwuid", mailer)
    with pytest.raises(StoreError, match=r"cannot be made: .*ZEROWAIT_HOME.*/var/lib/mailer"):
        Directory(None, "test")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        directory = Directory(tmp_path / "a" / "b" / "home", "test")
        me = directory.enter(random_id(), "mail")
        directory.announce(entry_of(me))
        _, _, box = directory.new_outbox("mail")
        assert directory.try_elect()
    finally:
        os.umask(before)
    everything = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in everything}
    assert len(modes) >= 12
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes
    box.release()
    directory.leave()


def test_a_folder_that_others_may_write_to_is_refused_and_left_as_it_is(home: Path) -> None:
    Directory(home, "test")
    (home / "test" / "peers").chmod(0o770)
    with pytest.raises(StoreError, match=r"Others than .* may write .*0770.*chmod 700"):
        Directory(home, "test")
    assert stat.S_IMODE((home / "test" / "peers").stat().st_mode) == 0o770


def test_a_shared_temporary_folder_as_home_is_refused_without_bad_advice(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(StoreError, match="ZEROWAIT_HOME to a folder of its own below it") as raised:
        Directory(tmp_path, "test")
    assert "chmod" not in str(raised.value)


def test_a_folder_that_others_may_read_is_closed_to_them_but_the_home_is_the_users_business(home: Path) -> None:
    Directory(home, "test")
    for folder in (home, home / "test", home / "test" / "outbox"):
        folder.chmod(0o755)
    Directory(home, "test")
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (home, home / "test", home / "test" / "outbox")]
    assert modes == [0o755, 0o700, 0o700]


def test_another_users_folder_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Directory(home, "test")
    stranger = os.geteuid() + 4_711
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(StoreError, match=rf"belongs to .* runs as user {stranger}.*ZEROWAIT_HOME"):
        Directory(home, "test")


def test_a_link_in_place_of_a_folder_is_refused_but_the_home_may_be_one(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    assert Directory(tmp_path / "link", "test").root == elsewhere / "test"
    (elsewhere / "other").symlink_to(elsewhere / "test")
    with pytest.raises(StoreError, match="is a link"):
        Directory(elsewhere, "other")


@pytest.mark.parametrize("namespace", ["", "a/b", "..", "a b", "ä", "x" * 65])
def test_a_namespace_that_cannot_be_a_folders_name_is_refused(home: Path, namespace: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Directory(home, namespace)
    assert raised.value.origin == "namespace"
    assert not home.exists()


MOUNTS = r"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /mnt/net rw - nfs4 server:/x rw
31 21 0:41 / /mnt/with\040blank rw - fuse.sshfs host:/ rw
32 21 0:42 / /mnt/memory rw - tmpfs tmpfs rw
33 32 0:43 / /mnt/memory/disk rw - xfs /dev/vdb rw
34 21 0:44 / /layer rw shared:3 master:2 - overlay overlay rw
35 30 0:45 / /mnt/net rw - ext4 /dev/vdc rw
this line is no mount
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/u", "ext4"),
        ("/mnt/with blank/x", "fuse.sshfs"),
        ("/mnt/memory/x", "tmpfs"),
        ("/mnt/memory/disk/x", "xfs"),
        ("/mnt/memoryless", "ext4"),
        ("/layer/x", "overlay"),
        ("/mnt/net/x", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_longest_and_topmost_mount(path: str, kind: str) -> None:
    assert filesystem(Path(path), MOUNTS) == kind


def test_a_file_system_where_locks_do_not_hold_is_refused(home: Path) -> None:
    with pytest.raises(StoreError, match=r"network or shared file system \(nfs4\).*ZEROWAIT_HOME"):
        open_folders(home, "test", mounts=f"30 21 0:40 / {home} rw - nfs4 server:/x rw")
    assert not (home / "test").exists()


def test_a_file_system_that_forgets_is_named(home: Path) -> None:
    assert open_folders(home, "test", mounts="30 21 0:40 / / rw - ext4 /dev/vda rw").notices == ()
    (notice,) = open_folders(home, "test", mounts="30 21 0:40 / / rw - tmpfs tmpfs rw").notices
    assert "gone after a reboot" in notice


def test_a_socket_lies_in_its_namespace_or_if_that_is_too_long_in_a_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "t"
    short.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(short))
    deep = open_folders(tmp_path / ("d" * 60) / ("e" * 60), "test", mounts="")
    path = socket_path(deep, 7)
    assert path.name == "0000000000000007"
    assert len(os.fsencode(path)) <= 100
    assert not path.is_relative_to(deep.root)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    # the folder was put there by somebody, as a link
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to(path.parent.with_name("real"))
    with pytest.raises(StoreError, match="is a link"):
        socket_path(deep, 7)


# Life and death


def test_a_living_instance_is_not_dead_and_a_dead_one_is(directory: Directory, home: Path) -> None:
    other = Directory(home, "test")
    me = other.enter(random_id(), "mail")
    proof = (me.instance, me.boot, me.device, me.inode)
    assert not directory.is_dead(*proof)
    assert not other.is_dead(*proof)
    assert is_owned(directory.root / "instances" / f"{me.instance:016x}")
    die(other)
    assert directory.is_dead(*proof)


def test_everybody_gets_the_proof_not_only_who_asks_first(directory: Directory, home: Path) -> None:
    dead = Directory(home, "test")
    me = dead.enter(random_id(), "mail")
    die(dead)
    for _ in range(3):
        assert directory.is_dead(me.instance, me.boot, me.device, me.inode)
        assert Directory(home, "test").is_dead(me.instance, me.boot, me.device, me.inode)
    content = (directory.root / "instances" / f"{me.instance:016x}").read_text()
    assert content.count("dead ") == 1


def test_several_may_ask_at_the_same_moment(directory: Directory, home: Path) -> None:
    dead = Directory(home, "test")
    me = dead.enter(random_id(), "mail")
    die(dead)
    asking = os.open(directory.root / "instances" / f"{me.instance:016x}", os.O_RDWR)
    import fcntl

    fcntl.flock(asking, fcntl.LOCK_SH)
    assert directory.is_dead(me.instance, me.boot, me.device, me.inode)
    os.close(asking)


def test_nothing_but_the_very_file_of_this_boot_is_a_proof(directory: Directory, home: Path) -> None:
    dead = Directory(home, "test")
    me = dead.enter(random_id(), "mail")
    die(dead)
    path = directory.root / "instances" / f"{me.instance:016x}"
    assert not directory.is_dead(me.instance, "another-boot", me.device, me.inode)
    assert not directory.is_dead(me.instance, "", me.device, me.inode)
    assert not directory.is_dead(me.instance, me.boot, me.device + 1, me.inode)
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode + 1)
    assert not directory.is_dead(me.instance ^ 1, me.boot, me.device, me.inode)
    content = path.read_bytes()
    path.write_bytes(b"0" * 16 + content[16:])  # the same inode, about somebody else
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)
    path.write_bytes(b"")
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)
    path.unlink()
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)
    os.mkfifo(path)
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)


def test_without_a_boot_id_nothing_is_proved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "boot_id", lambda: "")
    directory = Directory(home, "test")
    me = directory.enter(random_id(), "mail")
    die(directory)
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)


def test_the_boot_id_is_the_same_for_everybody_and_not_empty() -> None:
    assert presence.boot_id() == presence.boot_id() != ""


def test_a_lock_file_is_never_seen_unlocked(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    rename = os.rename

    def watched(source: Path, target: Path) -> None:
        seen.append(is_owned(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    directory.enter(random_id(), "mail")
    assert seen == [True]


def test_an_instance_id_is_used_once_and_a_process_enters_once(directory: Directory, home: Path) -> None:
    instance = random_id()
    directory.enter(instance, "mail")
    with pytest.raises(UsageError, match="has entered already"):
        directory.enter(random_id(), "mail")
    with pytest.raises(UsageError, match="used before"):
        Directory(home, "test").enter(instance, "mail")


def test_leaving_removes_what_entering_made_and_may_be_said_twice(directory: Directory) -> None:
    me = directory.enter(random_id(), "mail")
    directory.announce(entry_of(me))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(me.socket.removeprefix("ipc://"))
    directory.leave()
    directory.leave()
    assert [path for path in directory.root.rglob("*") if not path.is_dir()] == []
    assert directory.enter(random_id(), "mail").instance != me.instance


def test_leaving_with_something_unconfirmed_leaves_the_proof(directory: Directory, home: Path) -> None:
    me = directory.enter(random_id(), "mail")
    directory.leave(settled=False)
    assert Directory(home, "test").is_dead(me.instance, me.boot, me.device, me.inode)


def test_old_proofs_and_half_made_files_are_tidied_away_and_young_ones_are_not(
    directory: Directory, home: Path
) -> None:
    instances = directory.root / "instances"
    old, young, alive = Directory(home, "test"), Directory(home, "test"), Directory(home, "test")
    olds, youngs, alives = (d.enter(random_id(), "mail") for d in (old, young, alive))
    die(old)
    die(young)
    assert directory.is_dead(olds.instance, olds.boot, olds.device, olds.inode)
    long_ago = time.time() - 2 * presence.PROOF_KEPT_S
    for me in (olds, youngs, alives):  # of these only the first is known to be dead since then
        os.utime(instances / f"{me.instance:016x}", (long_ago, long_ago))
    half = instances / ".00ff.abcd.new"
    half.touch()
    os.utime(half, (long_ago, long_ago))
    directory._tidied = -presence.PROOF_KEPT_S
    directory.look()
    assert {path.name for path in instances.iterdir()} == {f"{me.instance:016x}" for me in (youngs, alives)}
    assert not directory.is_dead(alives.instance, alives.boot, alives.device, alives.inode)


# Entries


def test_what_one_announces_another_sees_and_a_second_look_has_nothing_new(directory: Directory, home: Path) -> None:
    other = Directory(home, "test")
    me = other.enter(random_id(), "mail")
    entry = entry_of(me, endpoints=(me.socket, "tcp://10.0.0.1:5511"), boxes=(random_id(), 2**64 - 1))
    other.announce(entry)
    assert directory.look() == [entry]
    assert directory.look() is None
    changed = replace(entry, serves={"mail.parse": "push", "mail.store": "push"})
    other.announce(changed)
    assert directory.look() == [changed]
    other.leave()
    assert directory.look() == []
    assert directory.look() is None


def test_the_first_look_at_nothing_is_an_empty_list(directory: Directory) -> None:
    assert directory.look() == []
    assert directory.look() is None


def test_two_changes_in_one_tick_of_the_file_systems_clock_are_both_seen(directory: Directory, home: Path) -> None:
    other = Directory(home, "test")
    entry = entry_of(other.enter(random_id(), "mail"))
    peers = directory.root / "peers"
    for turn in range(200):
        other.announce(replace(entry, serves={f"a{turn}": "push"}))
        directory.look()
        tick = peers.stat().st_mtime_ns
        other.announce(replace(entry, serves={f"b{turn}": "push"}))
        os.utime(peers, ns=(tick, tick))  # as if the clock had not moved on
        assert directory.look() == [replace(entry, serves={f"b{turn}": "push"})]


def test_namespaces_never_meet(home: Path) -> None:
    one, two = Directory(home, "one"), Directory(home, "two")
    me = one.enter(random_id(), "mail")
    one.announce(entry_of(me))
    path, _, box = one.new_outbox("mail")
    path.touch()
    box.release()
    assert two.look() == []
    assert two.outboxes() == []
    assert one.try_elect()
    assert two.try_elect()
    with pytest.raises(UsageError, match="not an outbox of this namespace"):
        two.lock_outbox(path)
    one._life.release()  # type: ignore[union-attr]
    assert not two.is_dead(me.instance, me.boot, me.device, me.inode)
    assert one.is_dead(me.instance, me.boot, me.device, me.inode)


def test_entries_of_the_dead_are_left_out_and_removed_with_their_sockets(directory: Directory, home: Path) -> None:
    dead = Directory(home, "test")
    me = dead.enter(random_id(), "mail")
    dead.announce(entry_of(me))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(me.socket.removeprefix("ipc://"))
    die(dead)
    assert directory.look() == []
    assert list((directory.root / "peers").iterdir()) == []
    assert list((directory.root / "s").iterdir()) == []


def test_a_proof_takes_the_entry_along_so_that_everybody_sees_it_at_the_next_look(
    directory: Directory, home: Path
) -> None:
    dying, third = Directory(home, "test"), Directory(home, "test")
    me = dying.enter(random_id(), "mail")
    dying.announce(entry_of(me))
    assert third.look() == directory.look() == [entry_of(me, since=third._entries._shown[0].since)]  # type: ignore[index]
    die(dying)
    assert directory.is_dead(me.instance, me.boot, me.device, me.inode)
    assert third.look() == []


def test_a_death_that_nobody_proved_is_seen_within_ten_seconds(
    directory: Directory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Directory(home, "test")
    dying.announce(entry_of(dying.enter(random_id(), "mail")))
    assert len(settled_look(directory)) == 1
    die(dying)
    assert directory.look() is None
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 1.1)
    assert directory.look() == []


def test_among_many_entries_a_few_are_looked_at_each_second(
    directory: Directory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = [Directory(home, "test") for _ in range(25)]
    for life in lives:
        life.announce(entry_of(life.enter(random_id(), "mail")))
    assert len(settled_look(directory)) == 25
    for life in lives:
        die(life)
    now, left = time.monotonic, [25]
    for second in range(1, 11):
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda second=second: now() + 1.1 * second)
            left.append(len(directory.look() or []))
    assert all(0 <= before - after <= 3 for before, after in itertools.pairwise(left)), left
    assert left[-1] == 0


def test_an_entry_without_proof_goes_only_if_nobody_answers_at_its_socket(directory: Directory, home: Path) -> None:
    gone, there = Directory(home, "test"), Directory(home, "test")
    mine, theirs = gone.enter(random_id(), "mail"), there.enter(random_id(), "mail")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(theirs.socket.removeprefix("ipc://"))
        listener.listen(1)
        for who, me in ((gone, mine), (there, theirs)):
            who.announce(entry_of(me))
            (directory.root / "instances" / f"{me.instance:016x}").unlink()  # something cleaned up
        assert [entry.instance for entry in directory.look() or []] == [theirs.instance]
    # the one that was wronged says so again
    gone.look()
    assert (directory.root / "peers" / f"{mine.instance:016x}").exists()


def test_entries_of_another_boot_are_left_out_unless_somebody_answers(directory: Directory, home: Path) -> None:
    other = Directory(home, "test")
    me = other.enter(random_id(), "mail")
    other.announce(entry_of(me, boot="the last boot", endpoints=("tcp://127.0.0.1:5511",)))
    assert directory.look() == []


def test_whose_entry_or_folder_was_removed_announces_itself_again(
    directory: Directory, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    me = directory.enter(random_id(), "mail")
    directory.announce(entry_of(me))
    assert len(settled_look(directory)) == 1
    for path in (directory.root / "peers").iterdir():
        path.unlink()
    (directory.root / "peers").rmdir()
    directory.look()
    assert [entry.instance for entry in Directory(home, "test").look() or []] == [me.instance]
    assert [entry.instance for entry in settled_look(directory)] == [me.instance]
    assert "announced again" in caplog.text


def mended(directory: Directory) -> Mended | None:
    directory._mended = -1e9  # it looks at most once a second
    return directory.mend()


def test_whose_socket_was_removed_is_told_to_bind_it_again_until_it_has(directory: Directory) -> None:
    me = directory.enter(random_id(), "mail")
    path = Path(me.socket.removeprefix("ipc://"))
    assert mended(directory) is None  # not bound yet
    with contextlib.closing(bind(path)):
        directory.listening()
        assert mended(directory) is None
        path.unlink()
        path.parent.rmdir()
        for _ in range(2):
            assert mended(directory) == Mended(me, listen=True)
        assert directory.mend() is None  # at most once a second
    with contextlib.closing(bind(path)):
        directory.listening()
        assert mended(directory) is None


def test_a_life_whose_lock_file_was_removed_gets_another_that_proves_it_again(directory: Directory, home: Path) -> None:
    me = directory.enter(random_id(), "mail")
    (directory.root / "instances" / f"{me.instance:016x}").unlink()
    again = mended(directory)
    assert again is not None
    assert not again.listen
    assert again.me != me
    assert (again.me.instance, again.me.socket) == (me.instance, me.socket)
    other = Directory(home, "test")
    for each in (me, again.me):
        assert not other.is_dead(each.instance, each.boot, each.device, each.inode)
    die(directory)
    assert not other.is_dead(me.instance, me.boot, me.device, me.inode)  # that file is gone: no proof
    assert other.is_dead(again.me.instance, again.me.boot, again.me.device, again.me.inode)


def test_all_folders_are_made_again_under_a_living_process(directory: Directory, home: Path) -> None:
    me = directory.enter(random_id(), "mail")
    with contextlib.closing(bind(Path(me.socket.removeprefix("ipc://")))):
        directory.listening()
        shutil.rmtree(home)
        again = mended(directory)
    assert again is not None
    assert again.listen
    for name in ("outbox", "instances", "peers", "s"):
        assert stat.S_IMODE((directory.root / name).stat().st_mode) == 0o700
    with contextlib.closing(bind(Path(me.socket.removeprefix("ipc://")))):
        directory.listening()
        assert mended(directory) is None


def test_folders_that_cannot_be_made_again_are_an_error_each_time_and_then_are_made(
    directory: Directory, home: Path
) -> None:
    directory.enter(random_id(), "mail")
    shutil.rmtree(home)
    home.write_text("a file in its place")
    for _ in range(2):
        with pytest.raises(StoreError, match=str(home)):
            mended(directory)
    home.unlink()
    assert mended(directory) is not None


def bind(path: Path) -> socket.socket:
    path.parent.mkdir(exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    return bound


def test_garbage_among_the_entries_is_ignored_named_once_and_left(
    directory: Directory, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = Directory(home, "test")
    good = entry_of(other.enter(random_id(), "mail"))
    other.announce(good)
    peers = directory.root / "peers"
    whole = (peers / f"{good.instance:016x}").read_bytes()
    (peers / f"{1:016x}").write_bytes(whole[: len(whole) // 2])  # half-written
    (peers / f"{2:016x}").write_bytes(whole)  # about another
    (peers / f"{3:016x}").write_bytes(b"\xff\xfe\x00 not JSON")
    (peers / f"{4:016x}").write_bytes(b"")
    (peers / f"{5:016x}").mkdir()
    os.mkfifo(peers / f"{6:016x}")
    (peers / f"{7:016x}").symlink_to("/etc/passwd")
    (peers / f"{8:016x}").write_bytes(whole.replace(b'"push"', b"[1]"))
    (peers / f"{10:016x}").write_bytes(b'{"later":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    (peers / "README.txt").write_text("mine")
    (peers / f"{9:016X}x").write_text("mine")
    (peers / ".DS_Store").write_text("silent")
    os.truncate(peers / f"{4:016x}", 100 * 1024 * 1024)
    assert settled_look(directory) == [good]
    assert len([record for record in caplog.records if "is ignored" in record.message]) == 11
    other.announce(replace(good, boxes=(1,)))
    assert settled_look(directory) == [replace(good, boxes=(1,))]
    assert len([record for record in caplog.records if "is ignored" in record.message]) == 11
    assert len(list(peers.iterdir())) == 13


def test_an_entry_of_a_later_version_with_more_in_it_is_read(directory: Directory, home: Path) -> None:
    other = Directory(home, "test")
    entry = entry_of(other.enter(random_id(), "mail"))
    other.announce(entry)
    path = directory.root / "peers" / f"{entry.instance:016x}"
    path.write_bytes(path.read_bytes()[:-1] + b',"mood":"good"}')
    assert directory.look() == [entry]


def test_a_disk_without_room_is_an_error_of_announcing_and_none_of_looking(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    me = directory.enter(random_id(), "mail")
    directory.announce(entry_of(me))
    settled_look(directory)
    (directory.root / "peers" / f"{me.instance:016x}").unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", full)
        with pytest.raises(StoreError, match="No space left"):
            directory.announce(entry_of(me))
        assert directory.look() == []
        directory.look()
    assert len([record for record in caplog.records if "No space left" in record.message]) == 1
    assert list((directory.root / "peers").iterdir()) == []
    directory.look()
    assert [entry.instance for entry in settled_look(directory)] == [me.instance]


def test_news_that_found_no_room_are_announced_at_a_later_look(
    directory: Directory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = directory.enter(random_id(), "mail")
    directory.announce(entry_of(me))
    changed = entry_of(me, boxes=(1,))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", full)
        with pytest.raises(StoreError, match="No space left"):
            directory.announce(changed)
        directory.look()
    assert [entry.boxes for entry in settled_look(Directory(home, "test"))] == [()]
    directory.look()
    assert settled_look(Directory(home, "test")) == [changed]


def test_without_descriptors_a_look_forgets_nobody_and_sees_the_news_when_there_are_some(
    directory: Directory, home: Path
) -> None:
    other, later = Directory(home, "test"), Directory(home, "test")
    entry = entry_of(other.enter(random_id(), "mail"))
    other.announce(entry)
    assert settled_look(directory) == [entry]
    other.announce(replace(entry, boxes=(1,)))
    news = entry_of(later.enter(random_id(), "mail"))
    later.announce(news)
    me = (entry.instance, entry.boot, entry.device, entry.inode)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        assert directory.look() is None
        assert not directory.is_dead(*me)
        with pytest.raises(StoreError, match="ulimit -n"):
            directory.try_elect()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert directory.look() == [replace(entry, boxes=(1,)), news]
    assert len(list((home / "test" / "peers").iterdir())) == 2


def test_a_thousand_entries_are_read_in_50_ms_and_an_unchanged_folder_costs_20_us(home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2_000:
        pytest.skip("needs 2,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))
    lives: list[FileLock] = []
    announced: list[Entry] = []
    try:
        writer = Directory(home, "test")
        for number in range(1_000):
            instance = random_id()
            life = presence.be_born(writer.root / "instances", instance, "mail", writer.boot)
            lives.append(life)
            me = Me(instance, f"mail-{number}", writer.boot, life.device, life.inode, f"ipc:///tmp/s/{instance:016x}")
            announced.append(entry_of(me, serves={f"mail.{word}": "push" for word in ("parse", "urls", "store")}))
            writer.announce(announced[-1])
        reader = Directory(home, "test")
        full_s: list[float] = []
        unchanged_s: list[float] = []
        one_s: list[float] = []
        while len(full_s) < 5 or (min(full_s) > 0.050 and len(full_s) < 40):  # others may be at work on this machine
            reader = Directory(home, "test")
            begun = time.thread_time()
            assert len(reader.look() or []) == 1_000
            full_s.append(time.thread_time() - begun)
        settled_look(reader)
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(1_000):
                reader.look()
            unchanged_s.append((time.perf_counter() - begun) / 1_000)
        for turn in range(5):
            writer.announce(replace(announced[-1], boxes=(turn,)))
            begun = time.perf_counter()
            assert reader.look() is not None
            one_s.append(time.perf_counter() - begun)
        print(f"full {min(full_s) * 1e3:.1f} ms, one {min(one_s) * 1e3:.2f} ms, same {min(unchanged_s) * 1e6:.2f} µs")
        assert min(full_s) < 0.050
        assert min(unchanged_s) < 20e-6
    finally:
        for life in lives:
            life.release()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Outboxes


def test_a_new_outbox_is_locked_before_its_file_exists(directory: Directory, home: Path) -> None:
    path, box, lock = directory.new_outbox("mail")
    assert path.name == f"mail.{box:016x}.db"
    assert path.parent == directory.root / "outbox"
    assert not path.exists()
    assert lock.held
    path.touch()
    assert directory.lock_outbox(path) is None
    assert Directory(home, "test").lock_outbox(path) is None
    (listed,) = Directory(home, "test").outboxes()
    assert (listed.path, listed.name, listed.id, listed.owned) == (path, "mail", box, True)
    lock.release()
    lock.release()
    assert not directory.outboxes()[0].owned
    with directory.lock_outbox(path) as again:  # type: ignore[union-attr]
        assert again.held
        assert again.id == box
    assert not again.held


def test_outboxes_are_listed_by_name_and_foreign_files_are_passed_over(directory: Directory) -> None:
    made: list[Path] = []
    for name in ("mail", "store", "mail"):
        path, _, lock = directory.new_outbox(name)
        path.touch()
        made.append(path)
        lock.release()
    folder = directory.root / "outbox"
    for foreign in (
        "notes.txt",
        "mail.db",
        "mail.12.db",
        f"mail.{5:016x}.db-wal",
        f"mail.{5:016X}x.db",
        f"m.{5:016x}.db.bak",
    ):
        (folder / foreign).touch()
    (folder / f"mail.{6:016x}.db").symlink_to(made[0])
    (folder / f"mail.{7:016x}.db").mkdir()
    assert {file.path for file in directory.outboxes()} == set(made)
    assert {file.path for file in directory.outboxes("mail")} == {made[0], made[2]}
    assert directory.outboxes("nobody") == []
    assert directory.lock_outbox(folder / f"mail.{6:016x}.db") is None


def test_the_lock_of_a_file_that_is_gone_goes_too(directory: Directory) -> None:
    path, _, lock = directory.new_outbox("mail")
    path.touch()
    lock.release()
    assert len(list(path.parent.iterdir())) == 2
    with directory.lock_outbox(path):  # type: ignore[union-attr]
        path.unlink()
    assert list(path.parent.iterdir()) == []
    assert directory.lock_outbox(path) is None
    assert list(path.parent.iterdir()) == []


def test_the_lock_of_an_outbox_is_made_again_where_something_removed_it(directory: Directory, home: Path) -> None:
    path, _, lock = directory.new_outbox("mail")
    assert lock.intact()
    shutil.rmtree(path.parent)
    assert not lock.intact()
    lock.restore()
    assert lock.intact()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.touch()
    assert [file.owned for file in Directory(home, "test").outboxes()] == [True]
    lock.release()
    assert [file.owned for file in Directory(home, "test").outboxes()] == [False]


def test_a_lock_that_another_has_taken_since_it_was_removed_is_not_taken_back(directory: Directory) -> None:
    path, box, lock = directory.new_outbox("mail")
    path.touch()
    (path.parent / f"{box:016x}.lock").unlink()
    other = directory.lock_outbox(path)
    assert other is not None
    with pytest.raises(StoreError, match="End one of the two"):
        lock.restore()
    assert other.intact()
    other.release()
    lock.restore()
    assert lock.intact()
    lock.release()


def test_a_lock_whose_process_died_before_it_made_the_file_is_removed_later(directory: Directory) -> None:
    path, box, lock = directory.new_outbox("mail")
    lock_path = path.with_name(f"{box:016x}.lock")
    long_ago = time.time() - 3_600
    os.utime(lock_path, (long_ago, long_ago))
    directory.outboxes()
    assert lock_path.exists()  # held
    lock._lock.release()
    directory.outboxes()
    assert not lock_path.exists()


def draft(path: Path) -> list[Path]:
    """What lies there while an outbox is being made."""
    files = [path.with_name(f"{path.name}{end}") for end in (".new", ".new-journal")]
    for file in files:
        file.touch()
    return files


def test_what_a_process_killed_while_making_an_outbox_has_left_goes_once_its_lock_is_free(
    directory: Directory, home: Path
) -> None:
    path, _, lock = directory.new_outbox("mail")
    drafts = draft(path)
    assert Directory(home, "test").outboxes() == []
    assert all(file.exists() for file in drafts)  # held
    lock._lock.release()
    assert Directory(home, "test").outboxes("nobody") == []
    assert list(path.parent.iterdir()) == []


def test_a_draft_whose_lock_is_gone_already_is_removed(directory: Directory) -> None:
    folder = directory.root / "outbox"
    draft(folder / f"mail.{5:016x}.db")
    (folder / "mail.db.new").touch()
    assert directory.outboxes() == []
    assert [file.name for file in folder.iterdir()] == ["mail.db.new"]


def test_a_draft_beside_an_outbox_is_left_to_who_opens_it(directory: Directory) -> None:
    path, _, lock = directory.new_outbox("mail")
    path.touch()
    drafts = draft(path)
    lock.release()
    assert len(directory.outboxes()) == 1
    assert all(file.exists() for file in drafts)
    assert directory.lock_outbox(path) is not None


def test_a_copy_is_refused_beside_its_original_and_the_original_is_not(directory: Directory) -> None:
    path, box, lock = directory.new_outbox("mail")
    path.write_text("outbox")
    copy = path.with_name(f"backup.{box:016x}.db")
    copy.write_text("outbox")
    with pytest.raises(StoreError, match="is a copy of the outbox") as raised:  # while the original is open
        directory.lock_outbox(copy)
    assert str(path) in str(raised.value)
    lock.release()
    with pytest.raises(StoreError, match="is a copy of the outbox"):
        directory.lock_outbox(copy)
    with directory.lock_outbox(path) as original:  # type: ignore[union-attr]
        assert original.held
    assert copy.read_text() == "outbox"
    path.unlink()  # the copy alone is no copy any more, but the outbox
    with directory.lock_outbox(copy) as restored:  # type: ignore[union-attr]
        assert restored.path == copy
    path.write_text("outbox")
    with pytest.raises(StoreError, match="is a copy of the outbox"):
        directory.lock_outbox(path)


def test_of_two_files_with_one_id_and_no_record_neither_is_opened(directory: Directory) -> None:
    folder = directory.root / "outbox"
    one, two = folder / f"a.{5:016x}.db", folder / f"b.{5:016x}.db"
    one.touch()
    two.touch()
    for path in (one, two):
        with pytest.raises(StoreError, match="2 files claim"):
            directory.lock_outbox(path)
    two.unlink()
    assert directory.lock_outbox(one) is not None


def test_a_restored_outbox_is_opened_with_or_without_its_lock_file(directory: Directory) -> None:
    path = directory.root / "outbox" / f"mail.{5:016x}.db"
    path.touch()
    with directory.lock_outbox(path) as first:  # type: ignore[union-attr]
        assert first.held
    path.unlink()
    path.write_text("an older state")
    with directory.lock_outbox(path) as second:  # type: ignore[union-attr]
        assert second.held


def test_who_only_lists_is_never_taken_for_an_owner(directory: Directory) -> None:
    import fcntl
    import threading

    path, box, lock = directory.new_outbox("mail")
    path.touch()
    lock.release()
    lister = os.open(path.with_name(f"{box:016x}.lock"), os.O_RDWR)
    fcntl.flock(lister, fcntl.LOCK_SH)
    threading.Timer(0.01, fcntl.flock, (lister, fcntl.LOCK_UN)).start()
    taken = directory.lock_outbox(path)
    assert taken is not None
    os.close(lister)


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "x" * 65])
def test_a_name_that_cannot_be_a_files_is_refused(directory: Directory, name: str) -> None:
    with pytest.raises(UsageError):
        directory.new_outbox(name)
    with pytest.raises(UsageError):
        directory.enter(random_id(), name)


def test_a_lock_file_removed_between_opening_and_locking_it_is_not_taken_for_the_lock(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory.root / "outbox" / f"{5:016x}.lock"
    holder = FileLock.take(path)
    assert holder is not None
    others: list[FileLock | None] = []
    opening = os.open

    def slowly(*arguments: Any, **options: Any) -> int:
        descriptor = opening(*arguments, **options)
        if not others:
            others.append(None)
            holder.release(remove=True)
            others.append(FileLock.take(path))  # somebody else makes and locks a new one
        return descriptor

    monkeypatch.setattr(os, "open", slowly)
    assert FileLock.take(path) is None
    assert others[1] is not None
    assert others[1].intact()
    others[1].release()


# The adopter


def test_one_is_elected_and_stays_it_until_it_leaves(directory: Directory, home: Path) -> None:
    other = Directory(home, "test")
    assert directory.try_elect()
    assert not other.try_elect()
    assert directory.try_elect()
    directory.leave()
    assert other.try_elect()
    assert not directory.try_elect()
    other.leave()


def test_who_lost_the_file_of_its_election_stands_for_it_again(directory: Directory, home: Path) -> None:
    assert directory.try_elect()
    (directory.root / "adopter.lock").unlink()
    other = Directory(home, "test")
    assert other.try_elect()
    assert not directory.try_elect()
    other.leave()


def test_descriptors_are_not_leaked_nor_inherited(directory: Directory, home: Path) -> None:
    def descriptors() -> set[int]:
        found: set[int] = set()
        for number in range(256):
            with contextlib.suppress(OSError):
                os.fstat(number)
                found.add(number)
        return found

    before = descriptors()
    other = Directory(home, "test")
    me = other.enter(random_id(), "mail")
    other.announce(entry_of(me))
    path, _, lock = other.new_outbox("mail")
    path.touch()
    other.try_elect()
    for _ in range(3):
        directory.look()
        directory.is_dead(me.instance, me.boot, me.device, me.inode)
        directory.lock_outbox(path)
        directory.outboxes()
    held = descriptors() - before
    assert len(held) == 3
    assert not any(os.get_inheritable(number) for number in held)
    lock.release()
    other.leave()
    assert descriptors() == before


# -- the list of what has not begun ------------------------------------------------------------------------------------


def test_a_list_of_what_has_not_begun_that_cannot_be_made_is_told_with_what_follows(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    me = directory.enter(random_id(), "mail")
    directory.lying_path(me.instance).touch()  # something is there already
    assert directory.list_lying(me.instance) is None
    [said] = caplog.messages
    assert "cannot be made" in said
    assert "all that it holds is given to others" in said


def test_what_the_dead_had_not_begun_is_of_no_use_to_anybody(directory: Directory, home: Path) -> None:
    dies = Directory(home, "test")
    me = dies.enter(random_id(), "mail")
    assert dies.list_lying(me.instance) is not None
    assert not directory.is_dead(me.instance, me.boot, me.device, me.inode)
    assert directory.lying_path(me.instance).exists()
    assert dies._life is not None
    dies._life.release()  # as the kernel does it at the end of a process
    assert directory.is_dead(me.instance, me.boot, me.device, me.inode)
    assert not directory.lying_path(me.instance).exists()
