"""The batch protocol as a state machine, small enough to look at every state of it.

Row versions are in a table; runs lock, settle what is pending, extract, write a manifest, delete, write a receipt, as
`engine/plan.py`, `reconcile.py` and `delete.py` do. Any run may be killed at any instant, lose the session of its lock
or that of its work without noticing, and have a write on its way to the store that arrives later or never. A server
may be told to commit by a client that never hears the answer. Rows are updated, deleted and inserted meanwhile. The
store may lie: say OK to a document and lose it, leave a pending batch out of a listing, give back the manifest of
another batch.

What is left out, because tests on real servers cover it: bytes and their hashes (an object holds what was extracted),
holds, protections, the local fallback, several batches of one run at once.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

Versions = frozenset[str]
"""Names of row versions: the first letter is the row's key, the rest tells its versions apart."""

NONE: Versions = frozenset()


class Mistake(Enum):
    """Protocols that somebody might write, each with one thing less; the search must find what that costs."""

    delete_by_key = auto()
    delete_without_look_at_lock = auto()
    receipt_before_commit = auto()
    receipt_without_look_at_lock = auto()
    receipt_outside_settle_lock = auto()
    fate_read_without_settle_lock = auto()
    receipt_beside_another = auto()
    superseded_for_any_shared_row = auto()
    superseded_for_rows_that_are_gone = auto()
    fate_without_reading_trail = auto()
    link_again_without_look = auto()
    manifest_not_read_back = auto()
    document_of_another_batch_believed = auto()


class At(Enum):
    """Where a run stands."""

    off = auto()
    listing = auto()
    choosing = auto()
    fate_lock = auto()
    fate_look = auto()
    fate = auto()
    mark_wait = auto()
    extracting = auto()
    recount = auto()
    manifest_look = auto()
    manifest_wait = auto()
    delete_lock = auto()
    delete_look = auto()
    deleting = auto()
    commit_wait = auto()
    receipt_lock = auto()
    receipt_look = auto()
    link_wait = auto()
    receipt_wait = auto()
    void_lock = auto()
    void_look = auto()
    void_wait = auto()


class Batch(NamedTuple):
    """What the store has of a batch."""

    versions: Versions
    manifest: bool = False
    receipt: bool = False
    superseded: bool = False

    @property
    def is_pending(self) -> bool:
        return self.manifest and not self.receipt and not self.superseded


class Transaction(NamedTuple):
    """A transaction at the server: how it holds the settle lock, and what COMMIT, once sent, will remove."""

    exclusive: bool
    removes: Versions = NONE
    is_committing: bool = False
    has_client: bool = True


class Run(NamedTuple):
    """One process. `batch` is the one at work, `todo` are those to settle, `remembers` is a batch that it verified
    before it was interrupted."""

    at: At = At.off
    batch: int = -1
    todo: tuple[int, ...] = ()
    deferred: tuple[int, ...] = ()
    remembers: int = -1
    starts: int = 0
    own: bool = False


class State(NamedTuple):
    """`removed` is what deletes of runs took out of the table; `wire` are documents that may still arrive, and
    `sent_links` are links of the audit trail that may, each for one place in `links`. `said_ok` are documents that the
    store said it took, and lost."""

    table: Versions
    removed: Versions
    batches: tuple[Batch, ...]
    wire: frozenset[tuple[str, int, int]]
    links: tuple[int, ...]
    sent_links: frozenset[tuple[int, int, int]]
    lock: int
    transactions: tuple[Transaction | None, ...]
    runs: tuple[Run, ...]
    kills: int
    cuts: int
    lies: int
    said_ok: frozenset[tuple[str, int]]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Scope:
    """How much may happen.

    `changes` are what applications do, in any order, each at most once: `+b` inserts a row version, `-a` deletes one,
    `a>A` puts another in its place (the second letter's key is that of the first). With `trail` a batch's archiving is
    a link of the audit trail before it is a receipt. With `late_marks` receipts, marks and links may arrive when their
    run and its sessions are long gone. The store lies up to `lies` times.
    """

    table: str = "a"
    changes: tuple[str, ...] = ()
    runs: int = 2
    starts: int = 1
    kills: int = 1
    cuts: int = 0
    lies: int = 0
    late_marks: bool = False
    trail: bool = False
    mistake: Mistake | None = None


class ViolationError(AssertionError):
    """A row version was lost or doubled; the text is the way there."""


@dataclass(frozen=True)
class Explored:
    """What a search has looked at."""

    states: int
    steps: int
    longest_way: int


def explore(scope: Scope, *, most_states: int = 5_000_000) -> Explored:
    """Look at every state that can be reached. Raises ViolationError with the shortest way to a bad one."""
    first = _first(scope)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    depth = {first: 0}
    queue, steps = deque([first]), 0
    while queue:
        state = queue.popleft()
        for what, following in _steps(scope, state):
            steps += 1
            if following in came_from:
                continue
            came_from[following] = (state, what)
            depth[following] = depth[state] + 1
            if broken := _broken(following):
                raise ViolationError("\n".join([broken, *_way(came_from, following)]))
            if len(came_from) > most_states:
                raise OverflowError(f"more than {most_states} states")
            queue.append(following)
    return Explored(len(came_from), steps, max(depth.values()))


def _first(scope: Scope) -> State:
    nothing: tuple[Transaction | None, ...] = (None,) * scope.runs
    runs = (Run(),) * scope.runs
    table = frozenset(scope.table)
    return State(
        table=table,
        removed=NONE,
        batches=(),
        wire=frozenset(),
        links=(),
        sent_links=frozenset(),
        lock=-1,
        transactions=nothing,
        runs=runs,
        kills=scope.kills,
        cuts=scope.cuts,
        lies=scope.lies,
        said_ok=frozenset(),
        changes=scope.changes,
    )


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way = [str(state)]
    before = came_from[state]
    while before is not None:
        state, what = before
        way.append(what)
        before = came_from[state]
    return way[::-1]


def _broken(state: State) -> str:
    """The invariant, in words when it is broken: every version that a run removed is in exactly one object that is
    receipted or pending, and no version is in two receipted objects, or in one and in the table."""
    receipted = [batch.versions for batch in state.batches if batch.receipt]
    archived: set[str] = set()
    for versions in receipted:
        if archived & versions:
            return f"doubled: {sorted(archived & versions)} in two receipted objects"
        archived |= versions
    if archived & state.table:
        return f"doubled: {sorted(archived & state.table)} in the table and in a receipted object"
    waiting = {version for batch in state.batches if batch.is_pending for version in batch.versions}
    lost = state.removed - archived - waiting
    return f"lost: {sorted(lost)}" if lost else ""


def _steps(scope: Scope, state: State) -> Iterator[tuple[str, State]]:
    for number, run in enumerate(state.runs):
        yield from _steps_of_run(scope, state, number, run)
        yield from _accidents(scope, state, number, run)
    yield from _server(scope, state)
    for kind, index, sender in state.wire:
        yield f"{kind} of batch {index} arrives", _arrive(state, kind, index)
        if state.lies:
            yield f"the store loses the {kind} of batch {index} and says OK", _lose(state, kind, index, sender)
    for sequence, index, sender in state.sent_links:
        yield f"link {sequence} of batch {index} arrives", _arrive_link(state, sequence, index, sender)
    for change in state.changes:
        yield from _application(state, change)


def _application(state: State, change: str) -> Iterator[tuple[str, State]]:
    rest = tuple(other for other in state.changes if other != change)
    if change.startswith("+"):
        yield f"application {change}", state._replace(table=state.table | {change[1:]}, changes=rest)
    elif change.startswith("-") and change[1:] in state.table:
        yield f"application {change}", state._replace(table=state.table - {change[1:]}, changes=rest)
    elif ">" in change and change[0] in state.table:
        table = state.table - {change[0]} | {change[2:]}
        yield f"application {change}", state._replace(table=table, changes=rest)


def _accidents(scope: Scope, state: State, number: int, run: Run) -> Iterator[tuple[str, State]]:
    if run.at is not At.off and state.kills:
        killed = _with_run(state, number, _off(run))._replace(kills=state.kills - 1)
        orphan = state.transactions[number]
        if orphan is not None or state.lock == number:
            # The server notices when it does: lock and transaction stay until then.
            left = orphan and orphan._replace(has_client=False)
            yield f"run {number} is killed", _with_transaction(killed, number, left)
        yield f"run {number} is killed, and its sessions end", _without_sessions(scope, killed, number)
    if not state.cuts or run.at is At.off:
        return
    cut = state._replace(cuts=state.cuts - 1)
    if state.lock == number:
        yield f"the lock's session of run {number} ends", cut._replace(lock=-1)
    transaction = state.transactions[number]
    if transaction is not None and transaction.has_client:
        yield f"the working session of run {number} ends", _without_client(scope, cut, number)


def _server(scope: Scope, state: State) -> Iterator[tuple[str, State]]:
    """What the server does by itself: commits what it was told to, ends what has no client."""
    for number, transaction in enumerate(state.transactions):
        if transaction is None:
            continue
        if transaction.is_committing:
            gone = transaction.removes & state.table
            done = state._replace(table=state.table - gone, removed=state.removed | gone)
            yield f"commit of run {number}", _heard(done, number, transaction)
        if not transaction.has_client:
            yield f"rollback of run {number}", _ended(scope, state, number)
    for number, run in enumerate(state.runs):
        if state.lock == number and run.at is At.off:
            yield f"the lock of run {number} ends", state._replace(lock=-1)


def _heard(state: State, number: int, transaction: Transaction) -> State:
    state = _with_transaction(state, number, None)
    return _at(state, number, At.receipt_lock) if transaction.has_client else state


def _steps_of_run(scope: Scope, state: State, number: int, run: Run) -> Iterator[tuple[str, State]]:
    if run.at is At.off:
        yield from _begin(scope, state, number, run)
        return
    what = f"run {number}: {run.at.name} {run.batch if run.batch >= 0 else ''}".rstrip()
    following = _STEPS[run.at](scope, state, number, run)
    if following is not None:
        yield what, following
        yield from _lied_to(scope, state, number, run, following)


def _lied_to(scope: Scope, state: State, number: int, run: Run, following: State) -> Iterator[tuple[str, State]]:
    """The same step when what it reads is a lie."""
    if not state.lies:
        return
    if run.at is At.listing:
        listing = following.runs[number]
        for hidden in listing.todo:
            shown = listing._replace(todo=tuple(index for index in listing.todo if index != hidden))
            yield f"run {number} is not shown batch {hidden}", _with_run(_lied(following), number, shown)
    if run.at is At.fate and any(batch.receipt for batch in state.batches):
        # Another archive's manifest, asked for its rows, is said to be this one.
        if scope.mistake is Mistake.document_of_another_batch_believed:
            lied = _send(_lied(state), number, "superseded", At.mark_wait)
        else:
            lied = _stop(scope, _lied(state), number)
        yield f"run {number} is given the manifest of another batch", lied


def _lied(state: State) -> State:
    return state._replace(lies=state.lies - 1)


def _begin(scope: Scope, state: State, number: int, run: Run) -> Iterator[tuple[str, State]]:
    if state.lock >= 0 or run.starts >= scope.starts or state.transactions[number] is not None:
        return
    locked = state._replace(lock=number)
    anew = Run(At.listing, starts=run.starts + 1)
    yield f"run {number} begins", _with_run(locked, number, anew)
    if run.remembers >= 0:
        again = anew._replace(remembers=run.remembers)
        yield f"run {number} goes on with batch {run.remembers}", _with_run(locked, number, again)


def _listing(scope: Scope, state: State, number: int, run: Run) -> State:
    pending = [index for index, batch in enumerate(state.batches) if batch.is_pending]
    if scope.mistake is not Mistake.superseded_for_any_shared_row:
        pending.sort(key=lambda index: len(state.batches[index].versions), reverse=True)
    return _with_run(state, number, run._replace(at=At.choosing, todo=tuple(pending), own=False))


def _choosing(scope: Scope, state: State, number: int, run: Run) -> State:
    if run.todo:
        return _with_run(state, number, run._replace(at=At.fate_lock, batch=run.todo[0]))
    if run.deferred:
        return _with_run(state, number, run._replace(at=At.fate_lock, batch=run.deferred[0]))
    if run.own:
        return _stop(scope, state, number)
    if run.remembers >= 0:
        return _with_run(state, number, run._replace(at=At.recount, batch=run.remembers))
    return _with_run(state, number, run._replace(at=At.extracting, batch=-1))


def _fate_lock(scope: Scope, state: State, number: int, run: Run) -> State | None:
    if scope.mistake is Mistake.fate_read_without_settle_lock:
        return _at(state, number, At.fate_look)
    return _enter(scope, state, number, exclusive=True, then=At.fate_look)


def _fate_look(scope: Scope, state: State, number: int, run: Run) -> State:
    return _at(state, number, At.fate) if state.lock == number else _stop(scope, state, number)


def _fate(scope: Scope, state: State, number: int, run: Run) -> State:
    if state.transactions[number] is None and scope.mistake is not Mistake.fate_read_without_settle_lock:
        return _stop(scope, state, number)
    versions = state.batches[run.batch].versions
    present = versions & state.table
    if present == versions:
        return _at(_with_transaction(state, number, None), number, At.delete_lock)
    if present or scope.mistake is Mistake.superseded_for_rows_that_are_gone:
        return _send(state, number, "superseded", At.mark_wait)
    reads_trail = scope.trail and scope.mistake is not Mistake.fate_without_reading_trail
    decided = set(state.links) if reads_trail else set()
    if run.batch in decided:
        return _send(state, number, "receipt", At.mark_wait)
    others = [
        batch.versions
        for index, batch in enumerate(state.batches)
        if (batch.receipt or index in decided) and index != run.batch
    ]
    shared = versions & frozenset().union(*others)
    if scope.mistake is Mistake.receipt_beside_another:
        shared = NONE
    if not shared:
        return _send_link(state, number) if scope.trail else _send(state, number, "receipt", At.mark_wait)
    if shared == versions or scope.mistake is Mistake.superseded_for_any_shared_row:
        return _send(state, number, "superseded", At.mark_wait)
    return _defer(scope, state, number, run)


def _defer(scope: Scope, state: State, number: int, run: Run) -> State:
    """Some of its rows are archived elsewhere, and others nowhere: perhaps another pending batch has those."""
    if run.deferred and not run.todo:
        return _stop(scope, state, number)
    open_ = _with_transaction(state, number, None)
    later = run._replace(at=At.choosing, todo=run.todo[1:], deferred=(*run.deferred, run.batch))
    return _with_run(open_, number, later)


def _mark_wait(scope: Scope, state: State, number: int, run: Run) -> State | None:
    """The mark is in the store, and its writer heard so."""
    if not _has_arrived(state, run.batch, ("receipt", "superseded")):
        return None
    if state.transactions[number] is None and scope.mistake is not Mistake.fate_read_without_settle_lock:
        return _stop(scope, state, number)
    return _settled(scope, _with_transaction(state, number, None), number)


def _settled(scope: Scope, state: State, number: int) -> State:
    run = state.runs[number]
    if run.todo:
        rest = run._replace(at=At.choosing, todo=run.todo[1:])
    elif run.deferred:
        rest = run._replace(at=At.choosing, deferred=run.deferred[1:])
    else:
        return _stop(scope, state, number)
    return _with_run(state, number, rest)


def _extracting(scope: Scope, state: State, number: int, run: Run) -> State:
    """Rows are read, uploaded and verified under a key of their own; nothing refers to the object yet."""
    if not state.table:
        return _stop(scope, state, number)
    batches = (*state.batches, Batch(state.table))
    own = len(batches) - 1
    following = run._replace(at=At.manifest_look, batch=own, remembers=own)
    return _with_run(state._replace(batches=batches), number, following)


def _recount(scope: Scope, state: State, number: int, run: Run) -> State:
    batch = state.batches[run.batch]
    if batch.receipt or batch.superseded:
        return _stop(scope, state, number)
    if batch.manifest:
        settling = run._replace(at=At.choosing, todo=(run.batch,), own=True, remembers=-1)
        return _with_run(state, number, settling)
    if batch.versions <= state.table:
        return _send(state, number, "manifest", At.manifest_wait)
    return _stop(scope, state, number)


def _manifest_look(scope: Scope, state: State, number: int, run: Run) -> State:
    if state.lock != number:
        return _stop(scope, state, number)
    return _send(state, number, "manifest", At.manifest_wait)


def _manifest_wait(scope: Scope, state: State, number: int, run: Run) -> State | None:
    """The store said that it has the manifest, which is then read back."""
    if not _has_arrived(state, run.batch, ("manifest",)):
        return None
    if not state.batches[run.batch].manifest and scope.mistake is not Mistake.manifest_not_read_back:
        return _stop(scope, state, number)
    return _at(state, number, At.delete_lock)


def _delete_lock(scope: Scope, state: State, number: int, run: Run) -> State | None:
    if scope.mistake is Mistake.receipt_before_commit:
        return _enter(scope, _arrive(state, "receipt", run.batch), number, exclusive=False, then=At.delete_look)
    return _enter(scope, state, number, exclusive=False, then=At.delete_look)


def _delete_look(scope: Scope, state: State, number: int, run: Run) -> State:
    if state.lock != number and scope.mistake is not Mistake.delete_without_look_at_lock:
        return _stop(scope, state, number)
    return _at(state, number, At.deleting)


def _deleting(scope: Scope, state: State, number: int, run: Run) -> State:
    transaction = state.transactions[number]
    if transaction is None:
        return _stop(scope, state, number)
    versions = state.batches[run.batch].versions
    if scope.mistake is Mistake.delete_by_key:
        keys = {version[0].lower() for version in versions}
        removes = frozenset(version for version in state.table if version[0].lower() in keys)
    else:
        removes = versions & state.table
    if len(removes) != len(versions):
        return _at(_with_transaction(state, number, None), number, At.void_lock)
    committing = transaction._replace(removes=removes, is_committing=True)
    return _at(_with_transaction(state, number, committing), number, At.commit_wait)


def _commit_wait(scope: Scope, state: State, number: int, run: Run) -> State | None:
    """The answer comes from the server; without a connection it never does."""
    transaction = state.transactions[number]
    return _stop(scope, state, number) if transaction is None or not transaction.has_client else None


def _receipt_lock(scope: Scope, state: State, number: int, run: Run) -> State | None:
    if scope.mistake is Mistake.receipt_outside_settle_lock:
        return _at(state, number, At.receipt_look)
    return _enter(scope, state, number, exclusive=False, then=At.receipt_look)


def _receipt_look(scope: Scope, state: State, number: int, run: Run) -> State:
    if state.lock != number and scope.mistake is not Mistake.receipt_without_look_at_lock:
        return _stop(scope, state, number)
    if state.transactions[number] is None and scope.mistake is not Mistake.receipt_outside_settle_lock:
        return _stop(scope, state, number)
    if scope.trail and run.batch not in state.links:
        return _send_link(state, number)
    return _send(state, number, "receipt", At.receipt_wait)


def _link_wait(scope: Scope, state: State, number: int, run: Run) -> State | None:
    if any(one[1:] == (run.batch, number) for one in state.sent_links):
        return None
    transaction = state.transactions[number]
    if run.batch in state.links:
        then = At.mark_wait if transaction is not None and transaction.exclusive else At.receipt_wait
        return _send(state, number, "receipt", then)
    if scope.mistake is Mistake.link_again_without_look:
        return _send_link(state, number)
    if transaction is None:
        return _stop(scope, state, number)
    return _at(state, number, At.fate if transaction.exclusive else At.receipt_look)


def _receipt_wait(scope: Scope, state: State, number: int, run: Run) -> State | None:
    if not _has_arrived(state, run.batch, ("receipt",)):
        return None
    return _settled(scope, _with_transaction(state, number, None), number)


def _void_lock(scope: Scope, state: State, number: int, run: Run) -> State | None:
    return _enter(scope, state, number, exclusive=True, then=At.void_look)


def _void_look(scope: Scope, state: State, number: int, run: Run) -> State:
    if state.lock != number or state.transactions[number] is None:
        return _stop(scope, state, number)
    return _send(state, number, "superseded", At.void_wait)


def _void_wait(scope: Scope, state: State, number: int, run: Run) -> State | None:
    if not _has_arrived(state, run.batch, ("superseded",)):
        return None
    return _settled(scope, _with_transaction(state, number, None), number)


_STEPS = {
    At.listing: _listing,
    At.choosing: _choosing,
    At.fate_lock: _fate_lock,
    At.fate_look: _fate_look,
    At.fate: _fate,
    At.mark_wait: _mark_wait,
    At.extracting: _extracting,
    At.recount: _recount,
    At.manifest_look: _manifest_look,
    At.manifest_wait: _manifest_wait,
    At.delete_lock: _delete_lock,
    At.delete_look: _delete_look,
    At.deleting: _deleting,
    At.commit_wait: _commit_wait,
    At.receipt_lock: _receipt_lock,
    At.receipt_look: _receipt_look,
    At.link_wait: _link_wait,
    At.receipt_wait: _receipt_wait,
    At.void_lock: _void_lock,
    At.void_look: _void_look,
    At.void_wait: _void_wait,
}


def _enter(scope: Scope, state: State, number: int, *, exclusive: bool, then: At) -> State | None:
    """Begin a transaction with the settle lock; None while somebody else's keeps it waiting."""
    others = [one for index, one in enumerate(state.transactions) if one is not None and index != number]
    if state.transactions[number] is not None or any(exclusive or one.exclusive for one in others):
        return None
    return _at(_with_transaction(state, number, Transaction(exclusive)), number, then)


def _send(state: State, number: int, kind: str, then: At) -> State:
    """Writes are created only once: one that is there already stays as it is."""
    run = state.runs[number]
    on_its_way = state.wire if getattr(state.batches[run.batch], kind) else state.wire | {(kind, run.batch, number)}
    return _at(state._replace(wire=on_its_way), number, then)


def _arrive(state: State, kind: str, index: int) -> State:
    batch = state.batches[index]._replace(**{kind: True})
    batches = (*state.batches[:index], batch, *state.batches[index + 1 :])
    return state._replace(batches=batches, wire=frozenset(one for one in state.wire if one[:2] != (kind, index)))


def _lose(state: State, kind: str, index: int, sender: int) -> State:
    lost = state._replace(wire=state.wire - {(kind, index, sender)}, said_ok=state.said_ok | {(kind, index)})
    return _lied(lost)


def _send_link(state: State, number: int) -> State:
    """The batch at work is the archive of its rows: said in the trail behind what was read of it."""
    run = state.runs[number]
    sent = state.sent_links | {(len(state.links), run.batch, number)}
    return _at(state._replace(sent_links=sent), number, At.link_wait)


def _arrive_link(state: State, sequence: int, index: int, sender: int) -> State:
    """A link is created at its place, or refused because another is there."""
    links = (*state.links, index) if sequence == len(state.links) else state.links
    return state._replace(links=links, sent_links=state.sent_links - {(sequence, index, sender)})


def _has_arrived(state: State, index: int, kinds: tuple[str, ...]) -> bool:
    is_under_way = any(one[:2] == (kind, index) for kind in kinds for one in state.wire)
    batch = state.batches[index]
    return not is_under_way and any(getattr(batch, kind) or (kind, index) in state.said_ok for kind in kinds)


def _stop(scope: Scope, state: State, number: int) -> State:
    """The process ends by itself, and its sessions with it."""
    return _without_sessions(scope, _with_run(state, number, _off(state.runs[number])), number)


def _off(run: Run) -> Run:
    return Run(remembers=run.remembers, starts=run.starts)


def _without_sessions(scope: Scope, state: State, number: int) -> State:
    state = _without_client(scope, state, number)
    return state._replace(lock=-1) if state.lock == number else state


def _without_client(scope: Scope, state: State, number: int) -> State:
    transaction = state.transactions[number]
    if transaction is not None and transaction.is_committing:
        return _with_transaction(state, number, transaction._replace(has_client=False))
    return _ended(scope, state, number)


def _at(state: State, number: int, at: At) -> State:
    return _with_run(state, number, state.runs[number]._replace(at=at))


def _with_run(state: State, number: int, run: Run) -> State:
    return state._replace(runs=(*state.runs[:number], run, *state.runs[number + 1 :]))


def _with_transaction(state: State, number: int, transaction: Transaction | None) -> State:
    others = state.transactions
    return state._replace(transactions=(*others[:number], transaction, *others[number + 1 :]))


def _ended(scope: Scope, state: State, number: int) -> State:
    """The server has ended a transaction whose client is gone or cut off. A mark on its way got there before, or, with
    `late_marks`, may still."""
    if not scope.late_marks:
        wire = frozenset(one for one in state.wire if one[0] == "manifest" or one[2] != number)
        state = state._replace(wire=wire)
    return _with_transaction(state, number, None)
