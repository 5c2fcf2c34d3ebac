"""The one writer: a thread that applies queued mutations in batches, one transaction and one sync per batch.

A handler submits a `Mutation` whose body bytes lie in its runs already, and awaits `Committer.submit`. The thread
takes what is queued in guests' turns (`turns.py`), applies each mutation in a savepoint (conditions are looked at
there, so they are atomic), syncs the segments, commits, and hands the outcomes back to the event loop in one call.
Invariants: an outcome is announced only after COMMIT; a mutation that did not take effect gives its runs back; a
cancelled mutation is either withdrawn whole or takes effect whole. It knows no operation.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from pvblob.blobs import once
from pvblob.blobs.answers import Refusal, refuse
from pvblob.blobs.extents import Extents
from pvblob.blobs.generations import Generations
from pvblob.blobs.mutation import Mutation, Transaction
from pvblob.blobs.turns import BATCH_MAX, MAKING_SHARE, Batch, SyncTimes, Turns
from pvblob.http import OnceKey, Request, Response

log = logging.getLogger(__name__)

IDLE_AFTER_S = 5.0
BUSY_EVERY_S = 0.1
_TICKS_TO_1970 = 621_355_968_000_000_000  # 100 ns ticks from year 1, the unit Azure's ETags count in


class BatchSizes:
    """How many mutations went into each commit, in powers of two. One thread notes, any thread reads."""

    BOUNDS = tuple(1 << power for power in range(BATCH_MAX.bit_length()))

    def __init__(self) -> None:
        self._counts = [0] * len(self.BOUNDS)
        self._total = 0

    def note(self, size: int) -> None:
        """Count one commit of *size* mutations (1 to BATCH_MAX)."""
        self._counts[(size - 1).bit_length()] += 1
        self._total += size

    def cumulative(self) -> tuple[list[tuple[int, int]], int]:
        """Return (bound, commits of at most that many mutations) in ascending order, and the sum of all sizes."""
        return list(zip(self.BOUNDS, itertools.accumulate(self._counts), strict=True)), self._total


class Committer:
    """Owns the writing connection and its thread.

    idle: one piece of background work, called on that thread; told whether nobody can still reach the blobs of
    deleted containers, and says whether there is more to do.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        extents: Extents,
        *,
        generations: Generations,
        clock: Callable[[], float] = time.time,
        idle: Callable[[sqlite3.Connection, bool], bool] | None = None,
        containers_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._extents = extents
        self._generations = generations
        self._clock = clock
        self._idle = idle
        self.containers_changed = containers_changed
        self.batch_sizes = BatchSizes()
        self._queue: SimpleQueue[Mutation | None] = SimpleQueue()
        self._turns: Turns[Mutation] = Turns()
        self._sync_times = SyncTimes()
        self._stopping = False
        self._worked = time.monotonic()
        # Deletions of containers; each has one writer (this thread, the event loop). While they differ, no cached id
        # may be used, and the loop may still be using one, so the blobs' runs must not be freed.
        self._deletions_begun = 0
        self._deletions_settled = 0
        self._version: int
        (self._version,) = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        self._thread = threading.Thread(target=self._run, name="pvblob-committer", daemon=True)

    @property
    def deleting(self) -> bool:
        """Whether the deletion of a container may be visible already and is not settled."""
        return self._deletions_begun != self._deletions_settled

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued, then end the thread; what comes later is refused. Blocks."""
        self._stopping = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        left: list[Mutation] = []
        while True:
            try:
                late = self._queue.get_nowait()
            except Empty:
                break
            if late is not None and late.claim():
                late.response = refuse(late.request, Refusal("ServerBusy", "The store is closing."))
                left.append(late)
        self._announce(left)

    async def submit(self, mutation: Mutation) -> Response:
        """Queue *mutation* and wait for its outcome.

        Cancelled while it is queued: it is withdrawn, leaves no trace, and the cancellation goes on. Cancelled later:
        it takes effect all the same, and its real outcome is returned.
        """
        if self._stopping:
            self._extents.give_back(mutation.written)
            raise Refusal("ServerBusy", "The store is closed.")
        loop = asyncio.get_running_loop()
        mutation.future = loop.create_future()
        self._queue.put(mutation)
        while not mutation.settled:
            try:
                await mutation.future
            except asyncio.CancelledError:
                if mutation.claim():
                    self._extents.give_back(mutation.written)
                    raise
                if not mutation.settled:
                    mutation.future = loop.create_future()
        assert mutation.response is not None
        return mutation.response

    def _run(self) -> None:
        pause = 0.0
        while True:
            if not self._turns:
                try:
                    first = self._queue.get(timeout=pause)
                except Empty:
                    pause = self._work_idle()
                    continue
                if first is None:
                    return
                self._wait_in_turn(first)
                # A mutation holds its request's body, that is a guest's pages, which must not wait for the next one.
                del first
            self._receive()
            self._pause()
            self._commit()
            # Background work gets its turn under constant load too.
            if time.monotonic() - self._worked > (IDLE_AFTER_S if pause else BUSY_EVERY_S):
                pause = self._work_idle()

    def _wait_in_turn(self, mutation: Mutation) -> None:
        self._turns.put(mutation.submitter, mutation, time.monotonic())

    def _receive(self) -> None:
        """Let what else has been submitted wait for its turn; a stop request goes back to the queue."""
        try:
            while (mutation := self._queue.get_nowait()) is not None:
                self._wait_in_turn(mutation)
            self._queue.put(None)
        except Empty:
            pass

    def _pause(self) -> None:
        """Give those who ask for one thing at a time the moment they need to ask again."""
        while (left_s := self._turns.pause_until_s(now_s := time.monotonic()) - now_s) > 0:
            try:
                mutation = self._queue.get(timeout=left_s)
            except Empty:
                return
            if mutation is None:
                self._queue.put(None)
                return
            self._wait_in_turn(mutation)

    def _commit(self) -> None:
        """Apply, sync, commit and announce one batch."""
        batch: list[Mutation] = []
        try:
            self._apply_in_turns(batch)
            if not batch:
                return
            began_s = time.monotonic()
            self._extents.sync([run for mutation in batch if mutation.outcome for run in mutation.written])
            self._publish([mutation.outcome for mutation in batch if mutation.outcome])
            self._sync_times.note(time.monotonic() - began_s)
            self.batch_sizes.note(len(batch))
        except (sqlite3.Error, OSError) as error:
            self._abandon(batch, error)
        self._announce(batch)
        now_s = time.monotonic()
        for mutation in batch:
            self._turns.answered(mutation.submitter, now_s)
        self._turns.forget_idle(now_s)

    def _apply_in_turns(self, batch: list[Mutation]) -> None:
        """Begin a transaction and apply in it what takes part in this batch, which is appended to *batch*."""
        connection, before = self._connection, self._version
        making = Batch(self._turns, time.monotonic(), self._sync_times.shortest_s * MAKING_SHARE)
        now_ms = int(self._clock() * 1000)
        while (mutation := making.take(time.monotonic())) is not None:
            if mutation.claim():
                batch.append(mutation)
                if len(batch) == 1:
                    connection.execute("BEGIN IMMEDIATE")
                self._apply(mutation, now_ms)
            else:
                self._turns.answered(mutation.submitter, time.monotonic())
            self._receive()
        if self._version != before:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'version'", (self._version,))

    def _publish(self, outcomes: list[Transaction]) -> None:
        """COMMIT. From before the commit can be seen until after it, no answer of before is given as one of now."""
        touched = {key for outcome in outcomes for key in outcome.touched}
        deletions = sum(outcome.deletes_container for outcome in outcomes)
        self._deletions_begun += deletions
        try:
            with self._generations.moving(touched):
                try:
                    self._connection.execute("COMMIT")
                except sqlite3.Error:
                    self._roll_back()
                    raise
        except BaseException:
            self._deletions_begun -= deletions
            raise

    def _apply(self, mutation: Mutation, now_ms: int) -> None:
        """Apply one mutation in its savepoint; a refusal or a bug undoes it and becomes its answer."""
        connection = self._connection
        if mutation.once is not None:
            mutation.response = self._replay(mutation.request, mutation.once)
            if mutation.response is not None:
                return
        now = now_ms // 1000
        transaction = Transaction(connection, now, now_ms, self._next_version)
        connection.execute("SAVEPOINT mutation")
        try:
            self._extents.check(mutation.written)
            mutation.response = mutation.apply(transaction)
            mutation.outcome = transaction
        except Refusal as refusal:
            connection.execute("ROLLBACK TO mutation")
            mutation.response = refuse(mutation.request, refusal)
        except Exception:
            if not connection.in_transaction:
                raise  # SQLite gave the whole transaction up (disk full, I/O): the batch is lost, not one mutation
            log.exception("a mutation failed: %s %s", mutation.request.method, mutation.request.target)
            connection.execute("ROLLBACK TO mutation")
            mutation.response = refuse(mutation.request, Refusal("InternalError"))
        connection.execute("RELEASE mutation")
        if mutation.once is not None and mutation.response.status < 500:
            once.record(connection, mutation.once, mutation.response, now)

    def _replay(self, request: Request, key: OnceKey) -> Response | None:
        try:
            return once.find(self._connection, key)
        except Refusal as refusal:
            return refuse(request, refusal)

    def _abandon(self, batch: list[Mutation], error: Exception) -> None:
        """The batch could not be committed: undo it, answer every mutation with the failure."""
        log.error("a batch of %d mutations could not be committed: %s", len(batch), error)
        self._roll_back()
        refusal = storage_failure(error)
        for mutation in batch:
            mutation.outcome = None
            mutation.response = refuse(mutation.request, refusal)

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("a failed batch could not be rolled back")

    def _announce(self, batch: list[Mutation]) -> None:
        """Hand the outcomes to the event loops that wait: one call per loop (one loop, in practice)."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Mutation]] = {}
        for mutation in batch:
            assert mutation.future is not None
            by_loop.setdefault(mutation.future.get_loop(), []).append(mutation)
        for loop, mutations in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._settle, mutations)
            except RuntimeError:  # the loop is closed: nobody waits, but space and caches are still to be settled
                self._settle(mutations)

    def _settle(self, mutations: list[Mutation]) -> None:
        """On the event loop: free what is no longer referred to, then wake the callers."""
        for mutation in mutations:
            try:
                self._settle_space(mutation)
            except Exception:  # a bug of ours; the commit stands, and whoever waits must hear of it
                log.exception("the space of a mutation could not be settled")
            mutation.settled = True
            assert mutation.future is not None
            assert mutation.response is not None
            if not mutation.future.done():
                mutation.future.set_result(mutation.response)

    def _settle_space(self, mutation: Mutation) -> None:
        outcome = mutation.outcome
        if outcome is None:
            self._extents.give_back(mutation.written)
            return
        self._extents.adopt(mutation.written)
        self._extents.free(outcome.freed)
        if outcome.deletes_container:
            self.containers_changed()
            self._deletions_settled += 1

    def _next_version(self) -> int:
        """Return a version number greater than every earlier one: the time in ticks where the clock allows."""
        self._version = max(self._version + 1, int(self._clock() * 10_000_000) + _TICKS_TO_1970)
        return self._version

    def _work_idle(self) -> float:
        """Do one piece of background work; return how long to wait for a mutation before the next one."""
        more = False
        try:
            more = self._idle is not None and self._idle(self._connection, not self.deleting)
        except (sqlite3.Error, OSError):
            log.exception("background work on the store failed")
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._worked = time.monotonic()
        return 0.0 if more else IDLE_AFTER_S


def storage_failure(error: Exception) -> Refusal:
    """Say what a failing disk means to a client: 503 when it is full (room may be made), else 500."""
    code = getattr(error, "sqlite_errorcode", None)
    full = code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in _FULL
    if full:
        return Refusal("ServerBusy", "The host's disk is full.")
    return Refusal("InternalError")


_FULL = frozenset({28, 122})  # ENOSPC, EDQUOT
