"""Stories as text: a command, a line of dashes, and what is seen of it.

    owner A [as=OTHER] [commit=MS]         a sender; as: it opens the outbox that OTHER had
    worker B [runners=N] [takes=S]         takes: how long a message runs
    opens A                                it looks for proofs of the death of those that its outbox has noted
             [sends=N] [keeps=yes] [as=B]  sends: so many outputs a message; keeps: all outcomes; as: with B's outbox
    choices off                            outputs are accepted by the run that sends them, as without rules §6
    outputs                                what was accepted, and in whose outbox
    dial A B · cut A B · half-cut A B      half-cut: only A notices
    partition A B [one-way] · heal         one-way: what A says does not reach B
    kill X · pause X · resume X · leave X  leave: as a deploy does
    hold X                                 its interpreter is held until `resume`: nothing of it goes on, and it lives
    asker A · replier B [runners=N] [takes=S] [kind=KIND]
    ask A N [timeout=S] [idempotent=yes] [hedge=yes] · cancel A N
    push A N [bytes=N] [key=K] [priority=low|high] · withdraw A N
    outcome B N retry|dead|unstarted [after=S]     how the next run of message N ends at B
    takes B S · serve B CHANNEL…
    killer N [with=A]                      who runs message N dies of it, in the middle of the run, and takes A along
    lists on|off                           whether a proof of death comes with what ran there
    run S                                  time passes; what happens in it is shown
    stands B S                             its handlers' loop has not turned for so long
    frames on|off                          also what is said (without PING, PONG, CREDIT, WANT and STATE)
    ledger A · held B · window B · runs N · stubs A

    publisher P [history=N]                a publisher of all topics; again after a kill: the next one of its name
    subscriber S
    subscribe S PATTERN [queue=N] [overflow=HOW] [replay=N] [group=G]
    publish P TOPIC N [retain=yes]         N events, numbered by their publisher
    take S [N]                             what has come, in the order in which a program is given it

Only the channel `work` is used, for pushes or for requests, unless `serve` says otherwise.
Proof of death is found unless `proof off`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from tests.protocol.feeds import Feed, publish
from tests.protocol.store import Store
from tests.protocol.world import Process, Run, Said, World
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.effects import Answered, Say, Unanswered, Withdrawn
from zerowait.message import Outcome, Service, Verdict
from zerowait.numbers import Numbers

CHANNEL = "work"
LINES_OF_RUNS = 6
QUIET = (frames.Ping, frames.Pong, frames.Credit, frames.Want, frames.State, frames.Hello, frames.Room)
PRIORITIES = {"low": -1, "normal": 0, "high": 1}
VERDICTS = {"retry": Verdict.RETRY, "dead": Verdict.DEAD, "unstarted": Verdict.UNSTARTED}


def ranges(found: Iterable[tuple[int, int]]) -> str:
    return " ".join(str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in Numbers(found))


class Scenario:
    def __init__(self) -> None:
        self.world = World()
        self.world.tells = self._tell
        self.processes: dict[str, Process] = {}
        self.stores: dict[str, Store] = {}
        self._lines: list[tuple[str, str, list[tuple[int, int]], str]] = []  # (who, what, numbers, the rest)
        self._openings: dict[int, list[int]] = {}  # outbox → its epochs
        self._takes: dict[str, float] = {}
        self._killers: dict[int, str] = {}
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        self._feeds: dict[str, list[Feed]] = {}
        self._published: dict[str, int] = {}

    def play(self, command: str) -> list[str]:
        words = command.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words[1:] if "=" not in word]
        act: Callable[..., list[str] | None] = getattr(self, "_do_" + words[0].replace("-", "_"))
        return act(*plain, **{"as_" if key == "as" else key: value for key, value in options.items()}) or []

    # -- what is written down ----------------------------------------------------------------------------------------

    def _tell(self, process: Process, what: Said) -> None:
        if isinstance(what, Answered):
            numbers = [(part.first, part.count) for part in what.outcome.parts]
            self._note(process.name, "has the answer to", numbers)
        elif isinstance(what, Unanswered):
            why = f"{what.why} ({what.peer or what.words})" if what.peer or what.words else what.why
            ran = "may have run" if what.sent else "not run"
            self._note(process.name, "has none to", [(what.first, what.count)], f": {why}, {ran}")
        elif isinstance(what, Say):
            if what.topic not in ("met", "state"):
                other = self.world.by_instance(what.instance)
                words = f" ({what.words})" if what.words else ""
                self._note(process.name, f"{what.topic} {other.name if other else '?'}{words}")
        elif isinstance(what, Withdrawn):
            answer = {True: "is taken back", False: "is not taken back", None: "was not in memory"}[what.taken_back]
            self._note(process.name, f"withdrawn {what.number} {answer}")
        else:
            verb, runs = what
            for run in runs:
                ended = f" {run.outcome.verdict.name.lower()}" if verb == "ends" and run.outcome is not None else ""
                self._note(process.name, verb + self._opening(run), [(run.name[2], 1)], ended)

    def _opening(self, run: Run) -> str:
        """Numbers begin again in each opening of an outbox: @2 is the second one that anything was heard of."""
        box, epoch, _ = run.name
        epochs = self._openings.setdefault(box, [])
        if epoch not in epochs:
            epochs.append(epoch)
        return f" @{epochs.index(epoch) + 1}" if epoch != epochs[0] else ""

    def _log(self, sender: Process, receiver: Process, frame: frames.Frame) -> None:
        if not isinstance(frame, QUIET):
            self._note(f"{sender.name} → {receiver.name}", self._words(frame))

    @staticmethod
    def _words(frame: frames.Frame) -> str:
        def of(parts: Iterable[frames.Part]) -> str:
            return ranges((part.first, part.count) for part in parts) or "nothing"

        match frame:
            case frames.Batch():
                return f"BATCH {ranges(frame.ranges)} (dispatch {frame.n}){('', ', aside', ', alone')[frame.lane]}"
            case frames.Outcome():
                sent = " with outputs" if frame.outputs and frame.verdict == Verdict.HANDLED else ""
                return f"OUTCOME {Verdict(frame.verdict).name.lower()} {of(frame.parts)}{sent}"
            case frames.Confirm():
                return f"CONFIRM {of(frame.parts)}{'' if frame.chosen else ' (not chosen)'}"
            case frames.Held():
                return f"HELD queued {of(frame.queued)}, running {of(frame.running)}"
            case frames.Drop():
                dropped = ranges((first, count) for _, first, count in frame.ranges) or "nothing"
                return f"DROP {dropped}{'' if frame.answers else ' (unasked)'}"
            case frames.Goodbye():
                missed = ", ".join(f"{id}: {count}" for id, count in (frame.missed or {}).items())
                return f"GOODBYE({frame.code}){f' (not sent of subscription {missed})' if missed else ''}"
            case frames.Subscribe():
                where = f" after {frame.count}" if frame.epoch else ""
                return f"SUBSCRIBE {frame.pattern}{where}{', ends' if frame.ends else ''}"
            case frames.Subscribed():
                missed = " unknown" if frame.missed < 0 else f" {frame.missed}"
                return f"SUBSCRIBED after {frame.count}, missed{missed}{', ends' if frame.ends else ''}"
            case frames.Events():
                counts = ", ".join(f"{id}: {c}" for id, c in frame.subscriptions.items())
                return f"EVENTS {sum(many for _, many in frame.topics)} (subscription {counts})"
            case _:
                return type(frame).__name__.upper()

    def _note(self, who: str, what: str, numbers: Iterable[tuple[int, int]] = (), rest: str = "") -> None:
        last = self._lines[-1] if self._lines else None
        if last is not None and numbers and (last[0], last[1], last[3]) == (who, what, rest):
            last[2].extend(numbers)
        else:
            self._lines.append((who, what, list(numbers), rest))

    def _seen(self) -> list[str]:
        """Many short runs of one process are told in two lines: what was started meanwhile, and what ended."""
        lines, self._lines = self._lines, []
        told: list[tuple[str, str, list[tuple[int, int]], str]] = []
        for (who, numbered), group in groupby(lines, lambda line: (line[0], bool(line[2]))):
            same = list(group)
            if numbered and len(same) > LINES_OF_RUNS:
                merged: dict[tuple[str, str], list[tuple[int, int]]] = {}
                for _, what, numbers, rest in same:
                    merged.setdefault((what, rest), []).extend(numbers)
                same = [(who, what, numbers, rest) for (what, rest), numbers in merged.items()]
            told.extend(same)
        return [f"{who} {what}{' ' + ranges(numbers) if numbers else ''}{rest}" for who, what, numbers, rest in told]

    # -- commands ----------------------------------------------------------------------------------------------------

    def _do_owner(self, name: str, as_: str = "", commit: str = "0") -> None:
        store = self.stores[name] = self.stores[as_] if as_ else self.stores.get(name) or Store(700 + len(self.stores))
        self.processes[name] = Process(self.world, name, boxes=[store], commit_s=float(commit) / 1_000)
        self.world.owners[store.box] = self.processes[name]

    def _do_worker(
        self, name: str, runners: str = "1", takes: str = "0.01", sends: str = "0", keeps: str = "", as_: str = ""
    ) -> None:
        home = self.stores.get(as_)
        if home is None and (keeps or int(sends)):
            home = self.stores[name] = Store(800 + len(self.stores))
        worker = self.processes[name] = Process(
            self.world, name, services={CHANNEL: int(runners)}, home=home, keeps=bool(keeps)
        )
        worker.sends = lambda run: [f"{run.name[2]}{letter}".encode() for letter in "abcdef"[: int(sends)]]
        self._takes[name] = float(takes)

        def handle(channel: str, epoch: int, number: int) -> tuple[float, Outcome | None]:
            if number in self._killers:
                others = [self.processes[each] for each in [self._killers[number]] if each]
                for process in [worker, *others]:
                    self.world.call(self.world.now + self._takes[name] / 2, process.kill)
            return self._takes[name], self._outcomes.pop((name, number), None)

        worker.handler = handle

    def _do_choices(self, how: str) -> None:
        self.world.chooses = how == "on"

    def _do_outputs(self) -> list[str]:
        told = []
        for name, store in self.stores.items():
            if store.released or any(claim.outputs for claim in store.claims.values()):
                waiting = sum(len(claim.outputs) for claim in store.claims.values())
                accepted = " ".join(sorted(payload.decode() for payload in store.released)) or "none"
                told.append(f"{name} has accepted {accepted}" + (f", and {waiting} are prepared" if waiting else ""))
        return told or ["none"]

    def _do_stubs(self, name: str) -> list[str]:
        stubs = ", ".join(str(number) for _, number in sorted(self.stores[name].stubs))
        return [f"stubs of {stubs}" if stubs else "no stubs"]

    def _do_opens(self, name: str) -> None:
        """Who opens an outbox looks whether those are over that it has noted."""
        process, store = self.processes[name], self.stores[name]
        for instance in sorted(store.noted):
            dead = self.world.by_instance(instance)
            if dead is not None and not dead.alive and self.world.proofs:
                process.core.buried(instance, self.world.now, dead.obituary())

    def _do_asker(self, name: str) -> None:
        self.processes[name] = Process(self.world, name)

    def _do_replier(self, name: str, runners: str = "1", takes: str = "0.01", kind: str = "request") -> None:
        replier = self.processes[name] = Process(self.world, name, services={CHANNEL: int(runners)})
        replier.core.serve([Service(CHANNEL, kind, int(runners))])
        self._takes[name] = float(takes)
        replier.handler = lambda channel, epoch, number: (self._takes[name], Outcome(Verdict.HANDLED, answers=b"\x01"))

    def _do_ask(self, name: str, count: str, timeout: str = "30", idempotent: str = "", hedge: str = "") -> None:
        self.processes[name].ask(
            CHANNEL, int(count), idempotent=bool(idempotent), timeout=float(timeout), hedge=bool(hedge)
        )

    def _do_cancel(self, name: str, number: str) -> None:
        process = self.processes[name]
        process.core.owner.asks.cancel(process.instance, 1, int(number))
        self.world.touch(process)

    def _do_publisher(self, name: str, history: str = "0") -> None:
        self.processes[name] = process = Process(self.world, name)
        process.core.announce_topic(">", b"", b"", int(history))
        self._published.setdefault(name, 0)

    def _do_subscriber(self, name: str) -> None:
        self.processes[name] = Process(self.world, name)

    def _do_subscribe(
        self,
        name: str,
        pattern: str,
        queue: str = "1000",
        overflow: str = "drop_oldest",
        replay: str = "0",
        group: str = "",
    ) -> None:
        feeds = self._feeds.setdefault(name, [])
        feed = Feed(
            self.world, self.processes[name], pattern, len(feeds) + 1, queue=int(queue), overflow=overflow,
            replay=int(replay), group=group,
        )  # fmt: skip
        feeds.append(feed)

    def _do_publish(self, name: str, topic: str, count: str, retain: str = "") -> list[str]:
        first = self._published[name] + 1
        self._published[name] += int(count)
        events = [(topic, number) for number in range(first, first + int(count))]
        addressed = publish(self.processes[name], *events, retain=bool(retain))
        return [f"addressed to {addressed[topic]}"]

    def _do_take(self, name: str, most: str = "1000000") -> list[str]:
        lines: list[str] = []
        for feed in self._feeds[name]:
            for (sender, topic), events in groupby(feed.take(int(most)), lambda got: got[:2]):
                run: list[str] = []
                numbers: list[tuple[int, int]] = []
                for _, _, number, missed in events:
                    if missed:
                        run += [ranges(numbers)] if numbers else []
                        run.append("(unknown how many missed)" if missed < 0 else f"({missed} missed)")
                        numbers = []
                    numbers.append((number, 1))
                run.append(ranges(numbers))
                lines.append(f"{topic} of {sender}: {' '.join(run)}")
            lines += [f"ended, {missed} lost" for missed in feed.ended]
            feed.ended.clear()
            lines += [f"{feed.lost} missed that nobody sends any more"] if feed.lost else []
            feed.lost = 0
        return lines or ["nothing"]

    def _do_dial(self, a: str, b: str) -> None:
        self.world.dial(self.processes[a], self.processes[b])

    def _do_cut(self, a: str, b: str) -> None:
        self.world.cut_all(self.processes[a], self.processes[b])

    def _do_half_cut(self, a: str, b: str) -> None:
        for conn in self.world.connections(self.processes[a], self.processes[b]):
            self.world.half_cut(self.processes[a], conn)

    def _do_partition(self, a: str, b: str, how: str = "") -> None:
        self.world.partition(self.processes[a], self.processes[b], both=how != "one-way")

    def _do_heal(self) -> None:
        self.world.heal()

    def _do_proof(self, how: str) -> None:
        self.world.proofs = how == "on"

    def _do_kill(self, name: str) -> None:
        self.processes[name].kill()

    def _do_pause(self, name: str) -> None:
        self.processes[name].pause()

    def _do_hold(self, name: str) -> None:
        self.processes[name].hold()

    def _do_resume(self, name: str) -> None:
        self.processes[name].resume()

    def _do_leave(self, name: str) -> list[str]:
        process = self.processes[name]
        process.core.drain()
        self.world.touch(process)
        until = self.world.now + process.config.drain
        self.world.run_while(lambda: not process.core.is_drained(), until)
        self._note(name, "leaves, all confirmed" if process.core.is_drained() else "leaves, it has to")
        process.core.farewell(self.world.now, final=process.core.is_drained())
        process.turn()
        process.alive = False
        return self._seen()

    def _do_push(self, name: str, count: str, bytes: str = "10", key: str = "", priority: str = "normal") -> None:
        sizes = [int(bytes)] * int(count)
        self.processes[name].push(CHANNEL, sizes, key=key.encode() or None, priority=PRIORITIES[priority])

    def _do_withdraw(self, name: str, number: str) -> None:
        process, store = self.processes[name], self.stores[name]
        process.core.owner.withdrawals.withdraw(store.box, store.epoch, int(number))
        self.world.touch(process)

    def _do_outcome(self, name: str, number: str, verdict: str, after: str = "0") -> None:
        self._outcomes[name, int(number)] = Outcome(VERDICTS[verdict], float(after))

    def _do_killer(self, number: str, **others: str) -> None:
        self._killers[int(number)] = others.get("with", "")

    def _do_lists(self, how: str) -> None:
        self.world.lists = how == "on"

    def _do_takes(self, name: str, seconds: str) -> None:
        self._takes[name] = float(seconds)

    def _do_serve(self, name: str, *channels: str) -> None:
        process = self.processes[name]
        process.core.serve([Service(channel, "push", 1) for channel in channels])
        self.world.touch(process)

    def _do_run(self, seconds: str) -> list[str]:
        self.world.run(self.world.now + float(seconds.removesuffix("s")))
        return self._seen()

    def _do_stands(self, name: str, seconds: str) -> None:
        self.processes[name].core.still_ms = int(float(seconds) * 1_000)

    def _do_frames(self, how: str) -> None:
        self.world.log = self._log if how == "on" else None

    def _do_ledger(self, name: str) -> list[str]:
        store, process = self.stores[name], self.processes[name]
        counts = store.counts
        flying = sum(process.core.owner.in_flight(store.box).values()) if process.alive else 0
        assert store.is_exact()
        told = (
            f"accepted {store.accepted} = handled {counts[Verdict.HANDLED]} + dead {counts[Verdict.DEAD]} + expired "
            f"{counts[Verdict.EXPIRED]} + dropped {counts[Verdict.DROPPED]} + waiting {len(store.rows) - flying} "
            f"+ in flight {flying}"
        )
        return [told]

    def _do_held(self, name: str) -> list[str]:
        worker = self.processes[name].core.worker
        desk = worker.desk
        return [
            f"queued {desk.queued(CHANNEL)}, running {desk.running(CHANNEL)}, unconfirmed {worker.memory.unconfirmed()}"
        ]

    def _do_window(self, name: str) -> list[str]:
        window = self.processes[name].core.worker.windows[CHANNEL]
        return [f"size {window.size}, held {window.held():.0f}, room {window.room()}"]

    def _do_runs(self, number: str) -> list[str]:
        runs = [run for run in self.world.runs if run.name[2] == int(number)]
        return [f"started {len(runs)} times: {', '.join(run.process.name for run in runs)}"]
