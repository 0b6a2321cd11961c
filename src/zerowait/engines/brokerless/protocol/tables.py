"""The states and what happens in each of them, as data: the protocol, its test and the diagrams in the documentation
read these.

`LINK` is asked for every frame. `MESSAGE` and `ITEM` say what custody and desk must do: their test brings a message
into each state, lets each event happen, and compares what it sees with the cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.frames import Frame
from zerowait.engines.brokerless.protocol.link import LinkPhase

# -- a link: (phase, frame) → what happens -------------------------------------------------------------------------

ACCEPT = "accept"
VIOLATION = "violation"  # GOODBYE with UNEXPECTED (or NOT_OURS, where no HELLO was heard yet), and the link is over
IGNORE = "ignore"

_BEFORE_STATE = {frames.State, frames.Ping, frames.Pong, frames.Goodbye, frames.Control, frames.Fragment}

LINK: dict[tuple[LinkPhase, type], str] = {}
_frame: type
for _frame in frames.FRAMES:
    LINK[LinkPhase.DIALLED, _frame] = ACCEPT if _frame in (frames.Hello, frames.Goodbye) else VIOLATION
    LINK[LinkPhase.GREETED, _frame] = ACCEPT if _frame in _BEFORE_STATE else VIOLATION
    LINK[LinkPhase.READY, _frame] = VIOLATION if _frame is frames.Hello else ACCEPT
    LINK[LinkPhase.LOST, _frame] = IGNORE


# For each frame, as it is asked for each: to find the pair in a table would call Python for the hash of the phase.
_EXPECTED = {frame: tuple(phase for phase in LinkPhase if LINK[phase, frame] != VIOLATION) for frame in frames.FRAMES}


def is_expected(phase: LinkPhase, frame: Frame) -> bool:
    return phase in _EXPECTED[frame.__class__]


# (from, event, to)
LIFE: tuple[tuple[str, str, str], ...] = (
    ("dialled", "HELLO", "greeted"),
    ("greeted", "STATE", "resuming"),
    ("resuming", "HELD answered by DROP, for each outbox", "ready"),
    ("dialled", "no HELLO in time", "lost"),
    ("greeted", "no STATE in time, or another connection stays", "lost"),
    ("resuming", "closed, silent or a violation", "lost"),
    ("ready", "closed, silent or a violation", "lost"),
    ("lost", "a new session", "dialled"),
    ("lost", "resume_grace over", "gone"),
    ("lost", "proof, or GOODBYE", "dead"),
    ("gone", "a new session", "dialled"),
)

# -- a message at its owner: (event, state) → what happens ---------------------------------------------------------

IMPOSSIBLE = "–"  # asserted, or such a thing cannot be said

WAITING, IN_FLIGHT, STUB, SETTLED = "waiting, due", "claimed, in flight", "stub", "settled, letter"
MESSAGE_STATES = (WAITING, IN_FLIGHT, STUB, SETTLED)
_CONFIRM_ONLY = "CONFIRM"
_ASIDE = "marked; once durable aside"

_MESSAGE_ROWS: dict[str, tuple[str, str, str, str]] = {
    "take, worker noted": ("in flight, BATCH", IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE),
    "take, worker not noted": ("claimed; once durable BATCH", IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE),
    "`handled`, from its holder": (IMPOSSIBLE, "settle, CONFIRM", _CONFIRM_ONLY, _CONFIRM_ONLY),
    "`handled`, from another": (
        "settle, CONFIRM",
        "settle, CONFIRM, DROP at its holder",
        _CONFIRM_ONLY,
        _CONFIRM_ONLY,
    ),
    "`handled` with outputs, from its holder": (
        IMPOSSIBLE,
        "settle, stub, CONFIRM chosen",
        "CONFIRM chosen",
        "CONFIRM not chosen",
    ),
    "`handled` with outputs, from another": (
        "settle, stub, CONFIRM chosen",
        "settle, stub, CONFIRM chosen, DROP at its holder",
        "CONFIRM not chosen",
        "CONFIRM not chosen",
    ),
    "`released`": ("CONFIRM not chosen", "CONFIRM not chosen", "stub gone, CONFIRM not chosen", "CONFIRM not chosen"),
    "`retry`, last dispatch": ("apply, CONFIRM", "apply, CONFIRM", _CONFIRM_ONLY, _CONFIRM_ONLY),
    "`dead`, last dispatch": ("apply, CONFIRM", "apply, CONFIRM", _CONFIRM_ONLY, _CONFIRM_ONLY),
    "`expired`, last dispatch": ("apply, CONFIRM", "apply, CONFIRM", _CONFIRM_ONLY, _CONFIRM_ONLY),
    "`unstarted`, last dispatch": (_CONFIRM_ONLY, "waiting, CONFIRM", _CONFIRM_ONLY, _CONFIRM_ONLY),
    "another verdict, older dispatch": (_CONFIRM_ONLY, _CONFIRM_ONLY, _CONFIRM_ONLY, _CONFIRM_ONLY),
    "HELD, running, from its holder": (IMPOSSIBLE, "keep", IMPOSSIBLE, IMPOSSIBLE),
    "HELD, running, from another": ("adopt", "let run", "let run", "let run"),
    "HELD, queued, from its holder": (IMPOSSIBLE, "keep", IMPOSSIBLE, IMPOSSIBLE),
    "HELD, queued, from another": ("DROP", "DROP", "DROP", "DROP"),
    "not in its holder's HELD": (IMPOSSIBLE, "waiting", IMPOSSIBLE, IMPOSSIBLE),
    "its holder has left": (IMPOSSIBLE, "waiting", IMPOSSIBLE, IMPOSSIBLE),
    "its holder is gone, after silence": (IMPOSSIBLE, "waiting", IMPOSSIBLE, IMPOSSIBLE),
    "its holder is gone, its connection was closed": (IMPOSSIBLE, _ASIDE, IMPOSSIBLE, IMPOSSIBLE),
    "its holder is held, and has not begun it": (IMPOSSIBLE, "waiting", IMPOSSIBLE, IMPOSSIBLE),
    "its holder is held, and may have begun it": (IMPOSSIBLE, "keep", IMPOSSIBLE, IMPOSSIBLE),
    "its holder is dead, its list names it": (IMPOSSIBLE, _ASIDE, IMPOSSIBLE, IMPOSSIBLE),
    "its holder is dead, its list does not name it": (IMPOSSIBLE, "waiting", IMPOSSIBLE, IMPOSSIBLE),
    "its holder is dead, without a list": (IMPOSSIBLE, _ASIDE, IMPOSSIBLE, IMPOSSIBLE),
    "the list of another that is dead names it": (_ASIDE, "marked when it comes back", "nothing", "nothing"),
    "ttl over": ("expired", "the worker judges", IMPOSSIBLE, IMPOSSIBLE),
    "withdraw, it had not begun": ("dropped: True", "DROP; dropped: True", "its row says", "its row says"),
    "withdraw, it had begun": (IMPOSSIBLE, "DROP; False", "its row says", "its row says"),
}
MESSAGE: dict[tuple[str, str], str] = {
    (event, state): cell
    for event, row in _MESSAGE_ROWS.items()
    for state, cell in zip(MESSAGE_STATES, row, strict=True)
}

# -- a request at who asks: (event, state) → what becomes of it (rules §9) -------------------------------------------

ENDED = "answered, failed or cancelled"
REQUEST_STATES = (WAITING, IN_FLIGHT, ENDED)

_REQUEST_ROWS: dict[str, tuple[str, str, str]] = {
    "an answer, from its worker": (IMPOSSIBLE, "answered, CONFIRM", _CONFIRM_ONLY),
    "an answer, from another": ("answered, CONFIRM", "answered, CONFIRM, DROP with cancel", _CONFIRM_ONLY),
    "`unstarted`, last dispatch": (_CONFIRM_ONLY, "waiting, CONFIRM", _CONFIRM_ONLY),
    "`expired`, last dispatch": (_CONFIRM_ONLY, "expired, not run, CONFIRM", _CONFIRM_ONLY),
    "HELD, running, from another": ("adopt", "let run", "DROP with cancel"),
    "not in its worker's HELD": (IMPOSSIBLE, "waiting", IMPOSSIBLE),
    "its worker is gone or dead": (IMPOSSIBLE, "lost", IMPOSSIBLE),
    "its worker is gone or dead, idempotent": (IMPOSSIBLE, "waiting", IMPOSSIBLE),
    "its worker is held, and has not begun it": (IMPOSSIBLE, "waiting", IMPOSSIBLE),
    "its worker is held, and may have begun it": (IMPOSSIBLE, "lost", IMPOSSIBLE),
    "nobody serves it for `no_responder`": ("nobody, not run", IMPOSSIBLE, IMPOSSIBLE),
    "the same, and another had it before": ("lost", IMPOSSIBLE, IMPOSSIBLE),
    "its time is over": ("expired, not run", "expired, DROP with cancel", IMPOSSIBLE),
    "cancelled": ("forgotten", "forgotten, DROP with cancel", "nothing"),
    "hedged, and its worker is slow": (IMPOSSIBLE, "BATCH to another", IMPOSSIBLE),
}
ASKED: dict[tuple[str, str], str] = {
    (event, state): cell
    for event, row in _REQUEST_ROWS.items()
    for state, cell in zip(REQUEST_STATES, row, strict=True)
}

# -- a message at a worker: (event, state) → what happens ----------------------------------------------------------

UNKNOWN, QUEUED, RUNNING, KNOWN = "unknown", "queued", "running", "outcome known"
ITEM_STATES = (UNKNOWN, QUEUED, RUNNING, KNOWN)
_FENCED = "GOODBYE(fenced)"

_ITEM_ROWS: dict[str, tuple[str, str, str, str]] = {
    "BATCH, fence too low": (_FENCED, _FENCED, _FENCED, _FENCED),
    "BATCH": ("queue", "newer dispatch taken", "newer dispatch taken", "said again"),
    "BATCH after another outcome than `handled` or `dead`": (IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, "queue"),
    "BATCH to run alone, and nothing stands still for it": (
        "`unstarted`",
        "newer dispatch taken",
        "newer dispatch taken",
        "said again",
    ),
    "BATCH while draining": ("`unstarted`", IMPOSSIBLE, "newer dispatch taken", "said again"),
    "a runner, with permission": (IMPOSSIBLE, "running", IMPOSSIBLE, IMPOSSIBLE),
    "a runner, without permission": (IMPOSSIBLE, "stays", IMPOSSIBLE, IMPOSSIBLE),
    "a runner, while another is to run alone": (IMPOSSIBLE, "stays", IMPOSSIBLE, IMPOSSIBLE),
    "DROP": ("nothing", "gone, `unstarted`", "`started`", "nothing"),
    "DROP in answer to HELD": ("nothing", "gone, `unstarted`", "nothing", "nothing"),
    "DROP with cancel": ("nothing", "gone, `unstarted`", "cancelled", "nothing"),
    "end of its run, cancelled": (IMPOSSIBLE, IMPOSSIBLE, "forgotten", IMPOSSIBLE),
    "end of its run": (IMPOSSIBLE, IMPOSSIBLE, "known, OUTCOME", IMPOSSIBLE),
    "CONFIRM of that dispatch": (IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, "forgotten"),
    "CONFIRM of another dispatch": ("nothing", "nothing", "nothing", "nothing"),
    "all runners busy for 0.2 s": (IMPOSSIBLE, "gone, `unstarted`", "runs on", "nothing"),
    "its channel is served no more": (IMPOSSIBLE, "gone, `unstarted`", "runs on", "nothing"),
    "draining": (IMPOSSIBLE, "gone, `unstarted`", "runs on", "nothing"),
    "owner gone for the grace": (IMPOSSIBLE, "dropped", "runs on", "kept, if the outbox is durable"),
}
ITEM: dict[tuple[str, str], str] = {
    (event, state): cell for event, row in _ITEM_ROWS.items() for state, cell in zip(ITEM_STATES, row, strict=True)
}

# -- an outcome with outputs at a worker: (event, state) → what happens -----------------------------------------------

UNSAID, SAID, RELEASED = "on its way to the disk", "on disk, said", "chosen, accepted"
CLAIM_STATES = (UNSAID, SAID, RELEASED)

_CLAIM_ROWS: dict[str, tuple[str, str, str]] = {
    "it is durable": ("OUTCOME", IMPOSSIBLE, IMPOSSIBLE),
    "its outbox is opened again": ("once durable OUTCOME", "nothing", "nothing"),
    "BATCH": ("nothing", "OUTCOME", "OUTCOME"),
    "a new session": ("once durable OUTCOME", "OUTCOME", "`released`"),
    "another life": ("nothing", "OUTCOME", "`released`"),
    "CONFIRM chosen": ("nothing", "accepted; once durable `released`", "`released`"),
    "CONFIRM not chosen": ("nothing", "dropped, forgotten", "forgotten"),
    "no link to its owner for undecided_after": ("nothing", "accepted", "nothing"),
    "its owner's last word: nothing is left": ("dropped, forgotten", "dropped, forgotten", "forgotten"),
    "its outbox belongs to another": ("forgotten", "forgotten", "forgotten"),
}
CLAIM: dict[tuple[str, str], str] = {
    (event, state): cell for event, row in _CLAIM_ROWS.items() for state, cell in zip(CLAIM_STATES, row, strict=True)
}

# -- for the documentation -----------------------------------------------------------------------------------------

BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"


def markdown() -> str:
    """The tables and the diagram, as docs/protocol.md shows them between its two marks."""
    parts = [
        "### A message at its owner\n",
        _grid("event", MESSAGE_STATES, list(_MESSAGE_ROWS), MESSAGE),
        f"`{IMPOSSIBLE}`: cannot happen. A stub says of whom the run was that was chosen, until `released`.\n",
        "### A request at who asks (§9)\n",
        _grid("event", REQUEST_STATES, list(_REQUEST_ROWS), ASKED),
        "### A message at a worker\n",
        _grid("event", ITEM_STATES, list(_ITEM_ROWS), ITEM),
        f"`{IMPOSSIBLE}`: cannot happen. Cancelling is for requests; what is pushed is never cancelled.\n",
        "### An outcome with outputs, at a worker\n",
        _grid("event", CLAIM_STATES, list(_CLAIM_ROWS), CLAIM),
        'The same without outputs is an outcome of a channel with `inbox="disk"`: each CONFIRM makes it forgotten.\n',
        "### A link\n",
        _mermaid(),
        "Which frame has its place in which phase:\n",
        _grid("frame", [phase.value for phase in LinkPhase], [f.__name__.upper() for f in frames.FRAMES], _link()),
    ]
    return "\n".join(parts)


def _link() -> dict[tuple[str, str], str]:
    return {(frame.__name__.upper(), phase.value): what for (phase, frame), what in LINK.items()}


def _grid(corner: str, columns: Sequence[str], rows: Sequence[str], cells: Mapping[tuple[str, str], str]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(cells[row, column] for column in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _mermaid() -> str:
    arrows = [f"    {before} --> {after}: {event}" for before, event, after in LIFE]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> dialled", *arrows, "```"]) + "\n"
