"""The account of a run that is too long to be kept whole: what is over is checked (`checker`) and forgotten."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.faults.checker import Cut, Name, Report, check, check_balance
from tests.faults.history import SIZE, Kind, Record, read
from zerowait.numbers import Numbers
from zerowait.snapshot import ChannelStatus

OVER_S = 60.0  # whoever has a message still by then had it all the time: nothing more is heard of it
FATES = (Kind.ACCEPTED, Kind.REFUSED, Kind.UNKNOWN)


class Tally:
    """folder: of histories. cuts: what was done to whom, so far."""

    def __init__(self, folder: Path, cuts: Callable[[], Sequence[Cut]]) -> None:
        self._folder = folder
        self._cuts = cuts
        self._seen: dict[Path, int] = defaultdict(int)
        self._open: dict[Name, list[Record]] = {}
        self._over: dict[int, Numbers] = defaultdict(Numbers)  # sender → numbers that are accounted for
        self.counts: Counter[Kind] = Counter()
        self.of: dict[int, Counter[Kind]] = defaultdict(Counter)  # by process
        self.last_at: dict[int, float] = {}
        self.repeated: Counter[int] = Counter()  # by the process whose run was not the last
        self.report = Report()

    def look(self, now: float) -> None:
        """Reads what has been written since, and settles the account of what is over."""
        for file in sorted(self._folder.glob("*.history")):
            if file.stat().st_size >= (self._seen[file] + 1) * SIZE:
                new = read(file, self._seen[file])
                self._seen[file] += len(new)
                for record in new:
                    self._take(record)
        self._close([name for name, records in self._open.items() if _is_over(records, now)])

    def _take(self, record: Record) -> None:
        self.counts[record.kind] += 1
        self.of[record.pid][record.kind] += 1
        self.last_at[record.pid] = max(record.at, self.last_at.get(record.pid, 0.0))
        if record.kind in (Kind.READY, Kind.LEFT):
            return
        name = (record.sender, record.number)
        if name not in self._open and record.number in self._over[record.sender]:
            self.report.violations.append(f"{record.kind.name} {OVER_S:g} s after all was over: {name}")
            return
        self._open.setdefault(name, []).append(record)

    def _close(self, names: Sequence[Name]) -> None:
        if not names:
            return
        found = check((record for name in names for record in self._open[name]), (), self._cuts(), whole=False)
        report = self.report
        report.violations += found.violations
        report.accepted += found.accepted
        report.runs += found.runs
        report.repeated += found.repeated
        report.recovered += found.recovered
        report.refused += found.refused
        for name in names:
            records = self._open.pop(name)
            runs = sorted((record.at, record.pid) for record in records if record.kind is Kind.STARTED)
            self.repeated.update(pid for _, pid in runs[:-1])
            self._over[name[0]].add(name[1], 1)

    def knows_all(self, pid: int) -> bool:
        """Whether that sender knows of each of its pushes what became of it, to the end."""
        kinds = self.of[pid]
        stored = kinds[Kind.ATTEMPT] == sum(kinds[fate] for fate in FATES)
        return stored and kinds[Kind.ACCEPTED] <= kinds[Kind.SETTLED]

    def end(self, ledgers: Sequence[ChannelStatus]) -> Report:
        """All is quiet: whatever is still open is over as well."""
        most = self.counts[Kind.ATTEMPT] - self.counts[Kind.REFUSED]
        self._close(list(self._open))
        self.report.violations += check_balance(ledgers, delivered=0, most=most, whole=False)
        return self.report

    def waiting(self) -> int:
        """Messages whose account is open."""
        return len(self._open)

    def causes(self, fates: Mapping[int, str]) -> Counter[str]:
        """Why runs were repeated: what was done to the process that had begun before."""
        found: Counter[str] = Counter()
        for pid, count in self.repeated.items():
            found[fates.get(pid, "no cause")] += count
        return found


def _is_over(records: Sequence[Record], now: float) -> bool:
    kinds = {record.kind for record in records}
    if Kind.HANDLED not in kinds and Kind.REFUSED not in kinds:
        return False
    return max(record.at for record in records) < now - OVER_S
