"""Where the runners get their jobs: the desk, as the seam of engines has it. Any thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zerowait.engines.brokerless.protocol.worker.desk import Desk, Parcel, Taken
from zerowait.engines.brokerless.protocol.worker.streams import Outflow
from zerowait.engines.brokerless.protocol.worker.worker import Finished
from zerowait.engines.engine import Job
from zerowait.message import Outcome


class Counter:
    """Between the runners and the desk: jobs out, ends of runs in. What has ended gathers until the network thread
    takes it."""

    def __init__(self, desk: Desk, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._desk = desk
        self._clock = clock
        self._wake = wake
        self._finished: deque[Finished] = deque()
        self._flows: deque[Outflow] = deque()

    def start(self, channel: str, most: int) -> Job | None:
        taken = self._desk.start(channel, most, self._clock())
        if taken is None:
            return None
        return Job(taken.delivery, taken.start, taken.stop)

    def finish(self, job: Job, start: int, stop: int, outcome: Outcome | None) -> None:
        delivery = job.delivery
        parcels: tuple[Parcel, ...] = delivery.token
        parcel = parcels[0]  # one, mostly; more where DROP or an earlier run has cut the delivery
        if len(parcels) > 1:
            # The one cut last: the others it was cut from cover this message, too, and it was not begun as theirs.
            parcel = next(each for each in reversed(parcels) if each.begin <= start < each.stop)
        if delivery.key is not None and outcome is None:
            self._desk.handled(parcel, start)  # whoever asks next, perhaps this very runner, goes on with its key
        self._finished.append((Taken(delivery, job.start, job.stop, parcel), start, stop, outcome))
        self._wake()

    def take(self) -> list[Finished]:
        """All that has ended since the last call."""
        finished: list[Finished] = []
        try:
            while True:
                finished.append(self._finished.popleft())
        except IndexError:
            return finished

    def flow(self, job: Job, index: int) -> Outflow:
        return Outflow(job.delivery.box, job.delivery.epoch, job.delivery.number(index))

    def flowing(self, flow: Outflow) -> None:
        if not flow.is_noted:
            flow.is_noted = True
            self._flows.append(flow)
            self._wake()

    def take_flows(self) -> list[Outflow]:
        """The streams of which something has been given since the last call."""
        flows: list[Outflow] = []
        while self._flows:
            flows.append(self._flows.popleft())
        return flows

    def __bool__(self) -> bool:
        return bool(self._finished or self._flows)
