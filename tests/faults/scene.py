"""A sender, workers, what is done to them, and what became of every message."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.faults.checker import SETTLING_S, Cut, Report, check
from tests.faults.history import SIZE, Kind, Record, read, read_all
from tests.faults.nursery import BROKE, Nursery
from tests.faults.plan import Plan
from tests.waiting import wait_until
from zerowait import Settings
from zerowait.cli.reach import Reach, Reply
from zerowait.snapshot import ChannelStatus, Question, Status

RESUMED_S = 1.0  # after which an owner that is back has heard of everything, and settled it


class Life:
    """One process. All signals go by its descriptor: never to another that has its number by then."""

    def __init__(self, plan: Plan, pid: int) -> None:
        self.plan = plan
        self.pid = pid
        self.born_at = time.monotonic()
        self.died_at: float | None = None
        self.may_end = bool(plan.point)  # there it is killed
        try:
            self._fd: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = None
            self.died_at = time.monotonic()

    def is_over(self) -> bool:
        if self._fd is not None and select.select([self._fd], [], [], 0)[0]:
            self.close()
            self.died_at = time.monotonic()
        return self._fd is None

    def until_over(self, within: float = 15) -> float:
        try:
            wait_until(self.is_over, within=within, that=f"the {self.plan.role} {self.pid} ended")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-4_000:]}") from None
        assert self.died_at is not None
        return self.died_at

    def signal(self, number: signal.Signals) -> None:
        if not self.is_over():
            assert self._fd is not None
            self.may_end = self.may_end or number in (signal.SIGKILL, signal.SIGTERM)
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> float:
        """When it was killed; it is gone afterwards."""
        at = time.monotonic()
        self.signal(signal.SIGKILL)
        self.until_over()
        self.died_at = at
        return at

    def log(self) -> str:
        log = Path(self.plan.log)
        return log.read_text(errors="replace") if log.is_file() else ""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _Away(Struct):
    """An owner was not there to settle anything."""

    since: float
    until: float


class Scene:
    """folder: for histories and logs. home: of all processes, unless their settings say otherwise."""

    def __init__(self, nursery: Nursery, folder: Path, home: Path, namespace: str) -> None:
        self._nursery = nursery
        self.folder = folder
        # It is the scene that kills, time and again, and no message: none may be found guilty of it.
        self.settings: dict[str, Any] = {"home": str(home), "namespace": namespace, "crash_limit": 1_000}
        self.lives: list[Life] = []
        self.cuts: list[Cut] = []
        self._away: list[_Away] = []
        self._dark: dict[int, float] = {}
        self._seen: dict[Path, int] = defaultdict(int)
        self._records: list[Record] = []
        self._reaches: dict[tuple[Any, Any], Reach] = {}
        self._senders = 0
        self._files: set[Path] = set()
        self._processes: list[subprocess.Popen[bytes]] = []

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(self, plan: Plan) -> Life:
        log = self.folder / f"{len(self.lives)}-{plan.role}.log"
        settings = self.settings | plan.settings
        plan = msgspec.structs.replace(plan, folder=str(self.folder), log=str(log), settings=settings)
        life = Life(plan, self._nursery.born(plan))
        self.lives.append(life)
        return life

    def sender(self, **plan: Any) -> Life:
        self._senders += 1
        return self.start(Plan(role="sender", sender=self._senders, **plan))

    def traced_sender(self, inject: str, **plan: Any) -> Life:
        """A sender some of whose system calls fail: `strace -e inject=`. Not of the nursery."""
        self._senders += 1
        log = self.folder / f"{len(self.lives)}-sender.log"
        whole = Plan(
            role="sender", sender=self._senders, folder=str(self.folder), log=str(log), settings=self.settings, **plan
        )
        program = [sys.executable, "-m", "tests.faults.lives", msgspec.json.encode(whole).decode()]
        calls = inject.split(":")[0]
        # -D: the sender is our child, and the tracer is its.
        trace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}"]
        root = Path(__file__).parents[2]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*trace, *program], cwd=root, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )
        self._processes.append(process)
        life = Life(whole, process.pid)
        life.may_end = "signal=KILL" in inject
        self.lives.append(life)
        return life

    def stage(self, stage: int, **plan: Any) -> Life:
        return self.start(Plan(role="stage", stage=stage, **plan))

    def worker(self, **plan: Any) -> Life:
        return self.start(Plan(role="worker", **plan))

    def close(self) -> None:
        for life in self.lives:
            life.signal(signal.SIGKILL)
        for life in self.lives:
            life.until_over()
            life.close()
        for process in self._processes:
            process.wait(10)

    def whole(self) -> bool:
        """Fails at once if a life ended by an error of its own, or though nobody had it end."""
        broke = self.folder / BROKE
        assert not broke.exists(), broke.read_text()
        for life in self.lives:
            if not life.may_end and life.is_over():
                raise AssertionError(f"{life.plan.role} {life.pid} has ended by itself:\n{life.log()[-4_000:]}")
        return True

    # -- what they wrote -----------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """All so far, but for what was written in the dark."""
        for file in self.folder.glob("*.history"):
            if file.stat().st_size >= (self._seen[file] + 1) * SIZE:
                new = read(file, self._seen[file])
                self._seen[file] += len(new)
                self._records.extend(new)
        return self._lit(self._records) if self._dark else self._records

    def _lit(self, records: list[Record]) -> list[Record]:
        return [r for r in records if r.kind is Kind.ATTEMPT or r.at < self._dark.get(r.pid, float("inf"))]

    def of(self, kind: Kind, *, by: Life | None = None, after: float = 0.0) -> list[Record]:
        return [
            record
            for record in self.records()
            if record.kind is kind and record.at > after and (by is None or record.pid == by.pid)
        ]

    def until(
        self, kind: Kind, count: int = 1, *, by: Life | None = None, after: float = 0.0, within: float = 15
    ) -> float:
        """Waits for so many such records, after that time; gives when the last of these was written."""
        what = f"{count} × {kind.name} by {by.plan.role if by else 'anybody'}"
        wait_until(lambda: self.whole() and len(self.of(kind, by=by, after=after)) >= count, within=within, that=what)
        return sorted(record.at for record in self.of(kind, by=by, after=after))[count - 1]

    # -- what is done to them ------------------------------------------------------------------------------------------

    def killed(self, life: Life, last: float | None = None) -> None:
        """It is dead: what that may excuse, and what it does not. last: when it wrote its last record, where that is
        known."""
        at = life.until_over()
        self._look()
        if life.plan.role == "sender":
            self.away(at - SETTLING_S)
        else:
            if last is None:
                last = max((record.at for record in self.of_pid(life.pid)), default=at)
            self.cuts.append(Cut(life.pid, at, min(last, at), max(last, at), life.plan.concurrency))

    def of_pid(self, pid: int) -> list[Record]:
        return [record for record in self.records() if record.pid == pid]

    def kill(self, life: Life) -> float:
        at = life.kill()
        self.killed(life)
        return at

    def cut_off(self, life: Life, since: float, until: float) -> None:
        """It could not be reached from then on, longer than every grace; what it began until that time others may run
        again."""
        self.cuts.append(Cut(life.pid, since, since, until, life.plan.concurrency))

    def dark(self, life: Life, since: float) -> None:
        """Its machine was without power from then on, although it lived a moment longer: what it heard and said in that
        moment never happened."""
        self._dark[life.pid] = since

    def away(self, since: float) -> None:
        """From then on nobody is there who settles; see `back`."""
        self._away.append(_Away(since, float("inf")))

    def back(self) -> None:
        for away in self._away:
            away.until = min(away.until, time.monotonic() + RESUMED_S)

    def forget(self, before: float) -> None:
        """What was done before that time explains nothing any more."""
        self.cuts = [cut for cut in self.cuts if cut.until >= before]
        self._away = [away for away in self._away if away.until >= before]

    def next_sender(self, **plan: Any) -> Life:
        """Another life of the sender; all that the one before left is its own now."""
        life = self.sender(**plan)
        self.back()
        return life

    # -- the end -------------------------------------------------------------------------------------------------------

    def reaches(self) -> Iterable[Reach]:
        for life in self.lives:
            if life.plan.role != "host":
                place = (life.plan.settings["home"], life.plan.settings["namespace"])
                if place not in self._reaches and (Path(place[0]) / place[1]).is_dir():
                    self._reaches[place] = Reach(Settings(home=place[0], namespace=place[1]))
        return self._reaches.values()

    def look_anew(self) -> None:
        """The disk below the homes is another one: nothing that was seen there counts."""
        self._reaches.clear()
        self._files.clear()

    def _told_by_all(self) -> list[Reply]:
        return [reply for reach in self.reaches() for reply in reach.ask_all(Question("status"), living_only=True)]

    def boxes_of(self, life: Life) -> list[str]:
        """The names of the outboxes that it has open."""
        statuses = [status for reply in self._told_by_all() if (status := reply.value(Status)) is not None]
        return [box.name for status in statuses if status.pid == life.pid for box in status.boxes]

    def ledgers(self) -> list[ChannelStatus] | None:
        """Of all outboxes; None while nobody answers for one of them."""
        rows: list[ChannelStatus] = []
        for reach in self.reaches():
            replies = reach.ask_all(Question("status"), living_only=True)
            statuses = [status for reply in replies if (status := reply.value(Status)) is not None]
            boxes = [box for status in statuses for box in status.boxes]
            if len(statuses) < len(replies) or {str(file.path) for file in reach.files()} != {
                box.path for box in boxes if box.durable
            }:
                return None  # one that is being taken over has an owner and no ledger yet
            rows.extend(row for box in boxes for row in box.channels)
        return rows

    def until_quiet(self, within: float = 20) -> list[ChannelStatus]:
        """Waits until nothing waits or is in flight anywhere."""

        def quiet() -> list[ChannelStatus] | None:
            self.whole()
            rows = self.ledgers()
            if rows is None or any(row.unsettled for row in rows):
                return None
            return rows or [ChannelStatus(channel="nothing was pushed")]

        try:
            return wait_until(quiet, within=within, that="nothing waits or is in flight") or []
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.ledgers()}\n{self.testimony()}") from None

    def testimony(self) -> str:
        """What every life has logged, and where the threads of the living are."""
        living = [life for life in self.lives if not life.is_over()]
        said = {life.pid: len(life.log()) for life in living}
        for life in living:
            life.signal(signal.SIGUSR2)
        with suppress(AssertionError):
            wait_until(lambda: all(len(life.log()) > said[life.pid] for life in living), within=2)
        statuses = [f"-- {reply.who}: {reply.answer.value}" for reply in self._told_by_all()]
        logs = [
            f"-- {life.plan.role} {life.plan.stage} {life.pid}, {'living' if life in living else 'dead'}\n"
            f"{life.log()[-6_000:] if life in living else life.log()[-2_000:]}"
            for life in self.lives
        ]
        return "\n".join([*statuses, *logs])

    def report(self, *, within: float = 20) -> Report:
        """When all is quiet: what became of the messages."""
        rows = self.until_quiet(within)
        self._told()
        # Who took an outbox over for another closes it when it is empty, and then its ledger is gone with it.
        whole = all(file.exists() for file in self._files)
        return check(self._lit(read_all(self.folder)), rows, self.judged(), whole=whole)

    def _look(self) -> None:
        for reach in self.reaches():
            self._files.update(file.path for file in reach.files())

    def _told(self) -> None:
        """Receipts are told after the ledger: the living senders have heard of all that they pushed."""

        def told() -> bool:
            for life in self.lives:
                if life.plan.role == "sender" and not life.is_over():
                    own = [record.kind for record in self.of_pid(life.pid)]
                    if own.count(Kind.ACCEPTED) > own.count(Kind.SETTLED):
                        return False
            return True

        try:
            wait_until(told, within=10, that="every receipt knows that its message was handled")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.ledgers()}\n{self.testimony()}") from None

    def assert_accounted(self, *, within: float = 20) -> Report:
        report = self.report(within=within)
        assert not report.violations, f"{report}\nhistories in {self.folder}"
        return report

    def judged(self) -> list[Cut]:
        """What had ended at a cut process and was not settled: of the last moments, and of all the time that its owner
        was away just before."""
        judged: list[Cut] = []
        for cut in self.cuts:
            since, before = cut.since - SETTLING_S, float("inf")
            while since < before:
                before = since
                for away in self._away:
                    if away.since < cut.until and away.until >= since:
                        since = min(since, away.since - SETTLING_S)
            judged.append(Cut(cut.pid, since, cut.again, cut.until, cut.concurrency))
        return judged
