"""What processes use while they work: looked at again and again, and whether it grows without end."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from msgspec import Struct, field

MIB = 1 << 20
POINTS = 400  # of a series, at most, for its slope: all pairs of them are looked at


class Limit(Struct, frozen=True):
    """A leak grows by more than noise within the run, and by more than slope in an hour, in the second half as well:
    so a short run sees a large one and a long run a small one, and who is still warming up is none."""

    unit: str
    scale: float
    noise: float
    slope: float


LIMITS = {
    "memory": Limit("MiB", MIB, 8.0, 1.0),
    "descriptors": Limit("", 1, 6, 1.0),
    "threads": Limit("", 1, 2, 0.5),
    "outbox": Limit("MiB", MIB, 8.0, 1.0),
    "log": Limit("MiB", MIB, 64.0, 1.0),  # of each outbox, it is written from the start again every 32 MiB
}


class Series(Struct):
    """Of one process or folder: seconds since the run began, and the value then."""

    who: str
    what: str
    points: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    @property
    def kind(self) -> str:
        """Of whom there may be several, one after another."""
        return self.who.rstrip(" 0123456789")


class Growth(Struct, frozen=True):
    """slope: in an hour, in the limit's unit; late: of the second half. grown: over the time that was looked at."""

    who: str
    what: str
    slope: float
    late: float
    grown: float
    seconds: float

    @property
    def is_leak(self) -> bool:
        limit = LIMITS[self.what]
        return self.grown > limit.noise and min(self.slope, self.late) > limit.slope

    def __str__(self) -> str:
        unit = LIMITS[self.what].unit
        words = f"{self.who}: {self.what} {self.slope:+.2f} {unit}".rstrip()
        words += f" an hour ({self.grown:+.2f} in {self.seconds:.0f} s; second half {self.late:+.2f} an hour)"
        return words + ("  LEAK" if self.is_leak else "")


class Watch:
    """began: of the run, on the monotonic clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.series: dict[tuple[str, str], Series] = {}
        self.faults: list[tuple[float, str]] = []

    def process(self, who: str, pid: int, now: float) -> None:
        """What it uses now; nothing if it is gone."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            return
        said = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" not in said:  # it has ended, and nobody has looked yet
            return
        self.note(who, "memory", int(said["VmRSS"].split()[0]) * 1024, now)
        self.note(who, "descriptors", descriptors, now)
        self.note(who, "threads", int(said["Threads"]), now)

    def note(self, who: str, what: str, value: float, now: float) -> None:
        series = self.series.setdefault((who, what), Series(who, what))
        series.points.append((now - self._began, value / LIMITS[what].scale))

    def fault(self, name: str, now: float) -> None:
        self.faults.append((now - self._began, name))

    def growths(self, warm_up: float, least: float) -> list[Growth]:
        """Of all that was looked at for at least so many seconds after it had warmed up for as long as that."""
        found: list[Growth] = []
        for series in self.series.values():
            start = series.points[0][0] + warm_up
            points = [point for point in series.points if point[0] >= start]
            if len(points) > 2 and points[-1][0] - points[0][0] >= least:
                seconds = points[-1][0] - points[0][0]
                a_second, late = slope(points), slope(points[len(points) // 2 :])
                found.append(
                    Growth(series.who, series.what, a_second * 3_600, late * 3_600, a_second * seconds, seconds)
                )
        return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs (Theil–Sen): a peak, or a step back, does not count for more than the
    time that it lasts."""
    thin = points[:: max(1, len(points) // POINTS)]
    slopes = [
        (value - before) / (at - since)
        for number, (since, before) in enumerate(thin)
        for at, value in thin[number + 1 :]
        if at > since
    ]
    return statistics.median(slopes) if slopes else 0.0


def size_of(folder: Path, pattern: str) -> int:
    """Bytes of all such files below it."""
    total = 0
    for path in folder.rglob(pattern):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def draw(watch: Watch, to: Path, title: str, leaks: Iterable[Growth] = ()) -> None:
    """A picture of all of it, with the faults as lines; what leaks is red. Needs matplotlib."""
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(len(LIMITS) + 1, 1, figsize=(14, 18), sharex=True, layout="constrained")
    figure.suptitle(title)
    colours: Any = pyplot.get_cmap("tab10").colors
    kinds = list(dict.fromkeys(series.kind for series in watch.series.values()))
    leaking = {(growth.who, growth.what) for growth in leaks}
    for axis, (what, limit) in zip(axes, LIMITS.items(), strict=False):
        axis.set_ylabel(f"{what} {limit.unit}".strip())
        for series in watch.series.values():
            if series.what == what:
                is_red = (series.who, what) in leaking
                colour = "red" if is_red else colours[kinds.index(series.kind) % len(colours)]
                seconds, values = zip(*series.points, strict=True)
                axis.plot(seconds, values, color=colour, linewidth=2.0 if "elder" in series.who else 1.0)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        for at, _ in watch.faults:
            axis.axvline(at, color="grey", alpha=0.2, linewidth=0.7)
    lines: Any = import_module("matplotlib.lines")
    shown = [
        lines.Line2D([], [], color=colours[number % len(colours)], label=kind) for number, kind in enumerate(kinds)
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown))
    names = sorted({name for _, name in watch.faults})
    axes[-1].scatter(
        [at for at, _ in watch.faults], [names.index(name) for _, name in watch.faults], s=12, color="black"
    )
    axes[-1].set_yticks(range(len(names)), names)
    axes[-1].set_xlabel("seconds")
    axes[-1].grid(alpha=0.3)
    figure.savefig(to, dpi=80)
    pyplot.close(figure)
