"""Whether what processes wrote down is what was promised: every message that was accepted is accounted for.

Pure: records, ledgers and what was done to whom go in, violations in words come out. A repetition is not merely counted
but explained: a message may run again if an earlier run of it was in a process that was killed (or cut off beyond every
grace), and was unfinished then, or had ended so shortly before that its owner had not settled it (rules §13).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from tests.faults.history import Kind, Record
from zerowait.snapshot import ChannelStatus

SETTLING_S = 0.5  # outcomes leave every 5 ms and a commit takes some more; the rest is a busy machine

Name = tuple[int, int]  # (sender, number)


class Cut(Struct, frozen=True):
    """What was done to a process that may make others run again what it ran.

    since: what ended there earlier was settled. The kill's time less SETTLING_S; earlier if the owner was away before.
    again: no run anywhere else before that time is excused. until: runs that begin there later are none that were cut.
    concurrency: how many ran at most.
    """

    pid: int
    since: float
    again: float
    until: float
    concurrency: int


class Report(Struct):
    violations: list[str] = []
    accepted: int = 0
    runs: int = 0
    repeated: int = 0  # runs beyond the first of a message
    recovered: int = 0  # its sender was killed before it knew, and it was delivered
    refused: int = 0

    def __str__(self) -> str:
        said = (
            f"{self.accepted} accepted, {self.runs} runs, {self.repeated} repeated, {self.recovered} recovered, "
            f"{self.refused} refused"
        )
        return "\n".join([said, *self.violations[:20]]) + ("\n…" if len(self.violations) > 20 else "")


def check(
    records: Iterable[Record],
    ledgers: Sequence[ChannelStatus],
    cuts: Sequence[Cut] = (),
    *,
    whole: bool = True,
) -> Report:
    """whole: no outbox was closed, and removed as it was empty: then the ledgers count all that was ever accepted."""
    records = list(records)
    by: dict[Kind, dict[Name, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        by[record.kind][record.sender, record.number].append(record)
    report = Report()
    _check_delivery(report, by)
    _check_repetitions(report, by, cuts)
    _check_ledgers(report, by, ledgers, whole=whole)
    return report


def _check_delivery(report: Report, by: Mapping[Kind, Mapping[Name, list[Record]]]) -> None:
    say = report.violations.append
    attempted = {name: records[0].hash for name, records in by[Kind.ATTEMPT].items()}
    accepted, refused, handled = by[Kind.ACCEPTED], by[Kind.REFUSED], by[Kind.HANDLED]
    report.accepted, report.refused = len(accepted), len(refused)
    report.recovered = len(handled.keys() - accepted.keys())
    for name, records in by[Kind.ATTEMPT].items():
        if len(records) > 1:
            say(f"the test itself is wrong: {name} was pushed {len(records)} times")
    for name in accepted.keys() - attempted.keys():
        say(f"unexpected: {name} was accepted and never pushed")
    for name in accepted.keys() & refused.keys():
        say(f"contradiction: {name} was accepted and refused")
    for name in sorted(accepted.keys() - handled.keys()):
        say(f"lost: {name} was accepted and never handled")
    for name in by[Kind.SETTLED].keys() - handled.keys():
        say(f"false: its sender was told that {name} was handled, and it never was")
    started = by[Kind.STARTED]
    for name in handled.keys() - started.keys():
        say(f"the test itself is wrong: {name} ended and never began")
    for name, records in started.items():
        if name not in attempted:
            say(f"unexpected: {name} was delivered and never pushed")
        elif any(record.hash != attempted[name] for record in records):
            say(f"unexpected: {name} was delivered with another payload than was pushed")
        if name in refused:
            say(f"refused, and delivered: {name}")


def _check_repetitions(report: Report, by: Mapping[Kind, Mapping[Name, list[Record]]], cuts: Sequence[Cut]) -> None:
    excuses: dict[int, list[Cut]] = defaultdict(list)
    for cut in cuts:
        excuses[cut.pid].append(cut)
    unfinished: Counter[Cut] = Counter()
    for name, records in by[Kind.STARTED].items():
        report.runs += len(records)
        report.repeated += len(records) - 1
        runs = sorted(records, key=lambda record: record.at)
        ends = sorted((record.pid, record.at) for record in by[Kind.HANDLED].get(name, ()))
        for run, after in pairwise(runs):
            ended = next((at for pid, at in ends if pid == run.pid and at >= run.at), None)
            reasons = [
                cut
                for cut in excuses[run.pid]
                if run.at <= cut.until and (ended is None or ended >= cut.since) and after.at >= cut.again
            ]
            if not reasons:
                end = f"ended {after.at - ended:.3f} s before" if ended is not None else "had not ended"
                report.violations.append(
                    f"repeated without cause: {name} began at {run.pid} (at {run.at:.3f}) and {end} it began again at "
                    f"{after.pid} (at {after.at:.3f})"
                )
            elif ended is None or all(ended > cut.until for cut in reasons):
                unfinished[reasons[0]] += 1
    for cut, count in unfinished.items():
        if count > cut.concurrency:
            report.violations.append(
                f"repeated too often: {count} messages ran at {cut.pid}, which runs {cut.concurrency} at a time"
            )


def _check_ledgers(
    report: Report, by: Mapping[Kind, Mapping[Name, list[Record]]], ledgers: Sequence[ChannelStatus], *, whole: bool
) -> None:
    delivered = len(by[Kind.ACCEPTED].keys() | by[Kind.STARTED].keys())
    most = len(by[Kind.ATTEMPT].keys() - by[Kind.REFUSED].keys())
    report.violations += check_balance(ledgers, delivered=delivered, most=most, whole=whole)


def check_balance(ledgers: Sequence[ChannelStatus], *, delivered: int, most: int, whole: bool) -> list[str]:
    """Whether the ledgers add up, are at rest, and count at most so many messages; and if whole, at least those that
    were accepted or delivered."""
    wrong: list[str] = []
    say = wrong.append
    for row in ledgers:
        settled = row.handled + row.dead + row.expired + row.dropped
        if row.accepted != settled + row.waiting + row.in_flight:
            say(f"the ledger does not add up: {row}")
        if min(row.accepted, row.handled, row.waiting, row.in_flight) < 0:
            say(f"the ledger has less than nothing: {row}")
        if row.waiting or row.in_flight:
            say(f"the ledger is not at rest: {row}")
        if row.dead or row.expired or row.dropped:
            say(f"the ledger has messages that nobody gave up: {row}")
    accepted = sum(row.accepted for row in ledgers)
    if accepted > most:
        say(f"the ledger counts {accepted} messages, and only {most} can have been accepted")
    if whole and accepted < delivered:
        say(f"the ledger counts {accepted} messages, and {delivered} were accepted")
    return wrong
