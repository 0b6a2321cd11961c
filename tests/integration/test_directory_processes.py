"""The directory between real processes: killed, stopped, forked, started from anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait.engines.brokerless.directory import Directory

PRELUDE = """
import json, os, pathlib, secrets, sys, time
from zerowait.engines.brokerless.directory import Directory, Entry, state_home
def say(**what):
    print(json.dumps(what), flush=True)
def hear():
    return sys.stdin.readline().strip()
def enter(directory, name="mail", **more):
    me = directory.enter(secrets.randbits(64), name)
    entry = Entry(me.instance, name, os.getpid(), me.boot, me.device, me.inode, (me.socket,), {"mail.parse": "push"},
                  (), time.time_ns() // 1000)
    return me, entry
def proof(me):
    return [me.instance, me.boot, me.device, me.inode]
home, namespace = pathlib.Path(sys.argv[1]), sys.argv[2]
"""


class Program:
    """A process of its own that talks in lines of JSON."""

    def __init__(self, source: str, home: Path, namespace: str, **options: Any) -> None:
        path = f"import sys; sys.path[:] = {sys.path!r}\n"
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", path + PRELUDE + textwrap.dedent(source), str(home), namespace],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait(5)}"
        heard: dict[str, Any] = json.loads(line)
        return heard

    def say(self, line: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


Start = Callable[..., Program]

LIVING = """
directory = Directory(home, namespace)
me, entry = enter(directory)
directory.announce(entry)
say(proof=proof(me))
hear()
directory.leave()
"""


@pytest.fixture
def start(home: Path, namespace: str) -> Iterator[Start]:
    started: list[Program] = []

    def begin(source: str, **options: Any) -> Program:
        started.append(Program(source, options.pop("home", home), options.pop("namespace", namespace), **options))
        return started[-1]

    yield begin
    for program in started:
        program.end()


@pytest.fixture
def directory(home: Path, namespace: str) -> Iterator[Directory]:
    made = Directory(home, namespace)
    yield made
    made.leave()


def test_a_killed_process_is_proved_dead_within_300_ms_and_its_entry_goes(start: Start, directory: Directory) -> None:
    program = start(LIVING)
    proof = program.hear()["proof"]
    assert [entry.instance for entry in directory.look() or []] == [proof[0]]
    assert not directory.is_dead(*proof)
    program.kill()
    begun = time.monotonic()
    wait_until(lambda: directory.is_dead(*proof), within=0.3)  # nobody has waited for it: it is a zombie, and dead
    print(f"{(time.monotonic() - begun) * 1e3:.1f} ms")
    assert directory.look() == []


def test_a_stopped_process_is_never_proved_dead(start: Start, directory: Directory) -> None:
    program = start(LIVING)
    proof = program.hear()["proof"]
    os.kill(program.process.pid, signal.SIGSTOP)
    _, status = os.waitpid(program.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert not directory.is_dead(*proof)
    os.kill(program.process.pid, signal.SIGKILL)
    wait_until(lambda: directory.is_dead(*proof), within=0.3)


def test_one_that_leaves_takes_its_entry_along(start: Start, directory: Directory) -> None:
    program = start(LIVING)
    proof = program.hear()["proof"]
    assert len(directory.look() or []) == 1
    program.say()
    assert program.process.wait(5) == 0
    assert directory.look() == []
    assert not directory.is_dead(*proof)  # it said goodbye; a missing file is no proof


PROVER = """
directory = Directory(home, namespace)
proof = json.loads(hear())
say(ready=True)
asked, wrong = 0, 0
while not os.path.exists(home / "doomed"):
    wrong += directory.is_dead(*proof) and not os.path.exists(home / "doomed")
    asked += 1
deadline = time.monotonic() + 2
while not directory.is_dead(*proof) and time.monotonic() < deadline:
    pass
say(asked=asked, wrong=wrong, proved=directory.is_dead(*proof))
"""


def test_provers_in_a_crowd_never_prove_a_living_one_dead_and_all_get_the_proof_of_a_dead_one(
    start: Start, home: Path
) -> None:
    victim = start(LIVING)
    proof = victim.hear()["proof"]
    provers = [start(PROVER) for _ in range(3)]
    for prover in provers:
        prover.say(json.dumps(proof))
        assert prover.hear()["ready"]
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 0.5, within=5)
    (home / "doomed").touch()
    victim.kill()
    for prover in provers:
        report = prover.hear()
        assert report["wrong"] == 0
        assert report["proved"]
        assert report["asked"] > 100


def test_a_forked_child_keeps_its_parents_lock_until_it_lets_go(start: Start, directory: Directory) -> None:
    program = start(
        """
        directory = Directory(home, namespace)
        me, entry = enter(directory)
        directory.announce(entry)
        path, box, lock = directory.new_outbox("mail")
        path.touch()
        directory.try_elect()
        child = os.fork()
        if child:
            say(proof=proof(me), child=child, outbox=str(path))
            time.sleep(60)
        hear()
        directory.after_fork_in_child()
        say(let_go=True)
        hear()
        again, entry = enter(directory)
        directory.announce(entry)
        say(proof=proof(again), elected=directory.try_elect())
        hear()
        """
    )
    told = program.hear()
    proof, outbox = told["proof"], Path(told["outbox"])
    program.kill()
    program.process.wait(5)
    try:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            assert not directory.is_dead(*proof)
        assert directory.lock_outbox(outbox) is None
        assert not directory.try_elect()
        program.say()
        assert program.hear()["let_go"]
        assert directory.is_dead(*proof)
        lock = directory.lock_outbox(outbox)
        assert lock is not None
        lock.release()
        program.say()  # the child is as good a process as any
        born_again = program.hear()
        assert born_again["elected"]
        assert not directory.is_dead(*born_again["proof"])
        assert [entry.instance for entry in directory.look() or []] == [born_again["proof"][0]]
    finally:
        os.kill(told["child"], signal.SIGKILL)
    wait_until(lambda: directory.is_dead(*born_again["proof"]), within=0.3)


def test_a_child_that_leaves_or_ends_takes_nothing_from_its_parent(start: Start, directory: Directory) -> None:
    program = start(
        """
        directory = Directory(home, namespace)
        me, entry = enter(directory)
        directory.announce(entry)
        path, box, lock = directory.new_outbox("mail")
        path.touch()
        directory.try_elect()
        for way in ("leave", "release", "after_fork", "exit"):
            child = os.fork()
            if child == 0:
                if way == "leave":
                    directory.leave()
                elif way == "release":
                    lock.release()
                elif way == "after_fork":
                    directory.after_fork_in_child()
                os._exit(0)
            os.waitpid(child, 0)
        say(proof=proof(me), outbox=str(path), held=lock.held)
        hear()
        """
    )
    told = program.hear()
    assert told["held"]
    assert not directory.is_dead(*told["proof"])
    assert directory.lock_outbox(Path(told["outbox"])) is None
    assert not directory.try_elect()
    assert len(directory.look() or []) == 1


def test_a_program_started_by_the_dead_one_keeps_nothing_of_it(start: Start, directory: Directory) -> None:
    program = start(
        """
        import subprocess
        directory = Directory(home, namespace)
        me, entry = enter(directory)
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
        say(proof=proof(me), sleeper=sleeper.pid)
        hear()
        """
    )
    told = program.hear()
    program.kill()
    try:
        wait_until(lambda: directory.is_dead(*told["proof"]), within=0.3)
        os.kill(told["sleeper"], 0)
    finally:
        os.kill(told["sleeper"], signal.SIGKILL)


def test_cron_systemd_an_empty_environment_and_a_login_shell_meet(start: Start, directory: Directory) -> None:
    places: list[dict[str, Any]] = [
        {"env": dict(os.environ), "umask": 0o022},
        {"env": {}, "umask": 0o077},
        {"env": {"HOME": "/nonexistent", "PATH": "/bin"}, "umask": 0o000, "cwd": "/"},
        {"env": {"HOME": "/", "XDG_STATE_HOME": "/tmp/state", "TMPDIR": "/tmp", "USER": "x"}, "umask": 0o777},
    ]
    source = """
        directory = Directory(home, namespace)
        me, entry = enter(directory)
        directory.announce(entry)
        say(home=str(state_home(None)), instance=me.instance)
        hear()
        say(seen=sorted(entry.instance for entry in Directory(home, namespace).look()))
        hear()
    """
    programs = [start(source, **place) for place in places]
    told = [program.hear() for program in programs]
    assert len({one["home"] for one in told}) == 1
    for program in programs:
        program.say()
        assert program.hear()["seen"] == sorted(one["instance"] for one in told)
    everything = [directory.root, *directory.root.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in everything if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in everything if path.is_file()} == {0o600}


def test_namespaces_never_meet(start: Start, directory: Directory, home: Path) -> None:
    other = start(LIVING, namespace="other")
    proof = other.hear()["proof"]
    assert directory.look() == []
    other.kill()
    other.process.wait(5)
    assert not directory.is_dead(*proof)
    assert Directory(home, "other").is_dead(*proof)


STORM = """
directory = Directory(home, namespace)
me, entry = enter(directory)
turns, seen = int(hear()), 0
from msgspec.structs import replace
known = {}
def look():
    global known, seen
    found = directory.look()
    if found is not None:
        seen += 1
        lost = known.keys() - {entry.instance for entry in found}
        assert not lost, ("a living one was lost", lost)
        for entry in found:
            before = known.get(entry.instance, -1)
            assert entry.boxes[0] >= before, "an older entry after a newer one"
            known[entry.instance] = entry.boxes[0]
for turn in range(turns):
    directory.announce(replace(entry, boxes=(turn,), serves={f"c{n}": "push" for n in range(turn % 40)}))
    look()
deadline = time.monotonic() + 10
while sorted(known.values()) != [turns - 1] * 4 and time.monotonic() < deadline:
    look()
    time.sleep(0.001)
say(known=sorted(known.values()), seen=seen)
hear()
"""


@pytest.mark.long
def test_in_a_storm_of_announcements_nobody_is_lost_and_the_last_word_of_each_arrives(start: Start) -> None:
    programs = [start(STORM) for _ in range(4)]
    for program in programs:
        program.say("300")
    for program in programs:
        report = program.hear()
        assert report["known"] == [299] * 4
        assert report["seen"] > 10


def test_of_many_that_want_an_outbox_one_at_a_time_has_it_whoever_lists_meanwhile(
    start: Start, directory: Directory, home: Path
) -> None:
    path, _, lock = directory.new_outbox("mail")
    path.touch()
    lock.release()
    taker = """
        directory = Directory(home, namespace)
        path = pathlib.Path(hear())
        had, both = 0, 0
        while had < 100:
            lock = directory.lock_outbox(path)
            if lock is None:
                continue
            try:
                os.close(os.open(home / "inside", os.O_CREAT | os.O_EXCL))
                had += 1
                os.unlink(home / "inside")
            except FileExistsError:
                both += 1
            lock.release()
        say(had=had, both=both)
    """
    takers = [start(taker) for _ in range(3)]
    lister = start(
        """
        directory = Directory(home, namespace)
        say(ready=True)
        while not os.path.exists(home / "enough"):
            directory.outboxes()
        say(done=True)
        """
    )
    assert lister.hear()["ready"]
    for program in takers:
        program.say(str(path))
    for program in takers:
        assert program.hear() == {"had": 100, "both": 0}
    (home / "enough").touch()
    assert lister.hear()["done"]


def test_a_lister_never_makes_a_free_outbox_look_owned(start: Start, directory: Directory, home: Path) -> None:
    path, _, lock = directory.new_outbox("mail")
    path.touch()
    lock.release()
    lister = start(
        """
        directory = Directory(home, namespace)
        say(ready=True)
        while not os.path.exists(home / "enough"):
            directory.outboxes()
        """
    )
    assert lister.hear()["ready"]
    for _ in range(300):
        taken = directory.lock_outbox(path)
        assert taken is not None
        taken.release()
    (home / "enough").touch()


def test_the_outbox_and_the_election_of_a_killed_process_are_free_at_once(start: Start, directory: Directory) -> None:
    program = start(
        """
        directory = Directory(home, namespace)
        path, box, lock = directory.new_outbox("mail")
        path.touch()
        say(path=str(path), elected=directory.try_elect())
        hear()
        """
    )
    told = program.hear()
    path = Path(told["path"])
    assert told["elected"]
    assert not directory.try_elect()
    assert directory.lock_outbox(path) is None
    assert [file.owned for file in directory.outboxes()] == [True]
    program.kill()
    wait_until(lambda: [file.owned for file in directory.outboxes()] == [False], within=0.3)
    lock = wait_until(lambda: directory.lock_outbox(path), within=0.3)
    assert lock is not None
    assert lock.held
    lock.release()
    assert directory.try_elect()


def test_processes_killed_at_any_moment_of_entering_leave_nothing_that_lives(
    start: Start, directory: Directory
) -> None:
    source = """
        say(ready=True)
        while True:
            directory = Directory(home, namespace)
            me, entry = enter(directory)
            directory.announce(entry)
            directory.new_outbox("mail")[2].release()
    """
    for turn in range(8):
        program = start(source)
        program.hear()
        begun = time.monotonic()
        wait_until(lambda begun=begun, turn=turn: time.monotonic() - begun > 0.004 * turn, within=1)  # type: ignore[misc]
        program.kill()
        program.process.wait(5)
    wait_until(lambda: directory.look() == [] or directory._entries._shown == [], within=2)
    assert [path.name for path in (directory.root / "peers").iterdir() if not path.name.startswith(".")] == []
    fresh = Directory(directory.root.parent, directory.root.name)
    assert fresh.look() == []
