"""Ranged reads of a blob for event loops, each with one call to send it and one to take it.

An `AwaitedReads` takes the plans of a `Reads`. While nothing else of the loop is under way it looks for the answer at
once, as long as the host grants spinning: most small reads are answered before a loop could have gone to sleep. A read
that its plan cannot finish as expected returns None here and is done by the general path, with the same results.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from pvblob import _native
from pvblob.client.reads import PlanKey, Reads, in_time
from pvblob.vsc.device import HOST_GRACE_S

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pvblob.client.properties import BlobProperties
    from pvblob.vsc.aio import AsyncDevice, LoopPort

TURNS_MAX = 64
"""So many reads in a row may be answered before other tasks of the loop get their turn."""


class AwaitedReads:
    """One client's reads on the loops it is used from. timeout_s: of each read."""

    def __init__(self, reads: Reads, device: AsyncDevice, timeout_s: float) -> None:
        self._reads = reads
        self._device = device
        self._timeout_s = timeout_s
        self._turns = 0

    async def content(self, key: PlanKey, offset: int, size_bytes: int) -> bytes | None:
        """Return the bytes; see `Client.get`."""
        planned = self._reads.planned(key) if offset >= 0 and size_bytes > 0 else None
        if planned is None:
            return None
        link, plan = planned
        read = await self._read(self._device.port(link), plan, offset, size_bytes)
        if type(read) is not tuple:
            expected: bytes | None = in_time(read, key)
            return expected
        return self._reads.got(key, plan, read, offset, size_bytes)

    async def into(self, key: PlanKey, out: Buffer, offset: int) -> BlobProperties | None:
        """Fill *out*; see `Client.read_into`."""
        planned = self._reads.planned(key) if offset >= 0 else None
        if planned is None:
            return None
        link, plan = planned
        out = self._reads.memory(out)
        read = await self._read(self._device.port(link), plan, offset, out)
        if type(read) is not tuple:
            known: BlobProperties | None = in_time(read, key)  # what was learnt before
            return known
        return self._reads.filled(key, plan, read, out, offset)

    async def _read(self, port: LoopPort, plan: _native.ReadPlan, offset: int, target: int | Buffer) -> Any:
        """Return what `ReadPlan` would: a value, a tuple to be interpreted, False when too late, None for otherwise."""
        pending = _native.PendingRead.begin(plan, port.waiter, offset, target, port.is_idle)
        if pending is None:
            return None
        done = pending.take()
        if done is not None:
            self._turns += 1
            if self._turns % TURNS_MAX == 0:
                await asyncio.sleep(0)
            return done[0]
        try:
            return await self._awaited(port, pending)
        finally:
            pending.abandon()

    async def _awaited(self, port: LoopPort, pending: _native.PendingRead) -> Any:
        give_up_at = time.monotonic() + self._timeout_s + HOST_GRACE_S
        while (done := pending.take()) is None:
            if port.link.channel.is_closed():
                return None
            if time.monotonic() >= give_up_at:
                return False
            await port.completed(pending.token, give_up_at)
        return done[0]
