"""Once-only writes: the record of a completed mutation, committed with it (design rule 4).

A record holds the head's digest and the whole answer under (guest, client nonce, GUID). `find` replays it; `InFlight`
joins a resubmission to an execution that has not ended. Records live for at least RETENTION_S of host uptime, which
must be at least twice the longest request timeout: a guest resubmits only within its deadline, so a resubmission
without a record has never run and may run. A caller that lets requests live longer must refuse their resubmission
itself (the key carries no age).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3

from pvblob.blobs.answers import Refusal
from pvblob.http import Fields, OnceKey, Response

RETENTION_S = 600

Key = tuple[str, bytes, bytes]


def find(connection: sqlite3.Connection, key: OnceKey) -> Response | None:
    """Return the recorded answer of *key*, or None. Refuses a key that was used for another request."""
    row = connection.execute(
        "SELECT digest, status, fields, content FROM once WHERE guest = ? AND nonce = ? AND guid = ?", key[:3]
    ).fetchone()
    if row is None:
        return None
    digest, status, fields, content = row
    if digest != key.digest:
        raise Refusal("OperationIdReused")
    return Response(status, Fields.lowered([(name, value) for name, value in json.loads(fields)]), content)


def record(connection: sqlite3.Connection, key: OnceKey, response: Response, now: int) -> None:
    """Record *response* as the answer of *key*. Mutations answer with bytes, never with files."""
    assert isinstance(response.content, bytes)
    connection.execute(
        "INSERT INTO once VALUES (?,?,?,?,?,?,?,?)",
        (*key[:4], now, response.status, json.dumps(response.fields.pairs()), response.content),
    )


class InFlight:
    """The once-only mutations that run now, so that a resubmission joins instead of running beside."""

    def __init__(self) -> None:
        self._running: dict[Key, tuple[bytes, asyncio.Future[Response | None]]] = {}

    async def join(self, key: OnceKey) -> Response | None:
        """Wait while *key* runs; its answer, or None when it does not run (any more) and nobody has its answer."""
        while (running := self._running.get(key[:3])) is not None:
            digest, outcome = running
            if digest != key.digest:
                raise Refusal("OperationIdReused")
            response = await asyncio.shield(outcome)
            if response is not None:
                return Response(response.status, Fields.lowered(list(response.fields.pairs())), response.content)
        return None

    def begin(self, key: OnceKey) -> None:
        """Note that *key* runs; the caller owes `end`."""
        self._running[key[:3]] = (key.digest, asyncio.get_running_loop().create_future())

    def end(self, key: OnceKey, response: Response | None) -> None:
        """Announce the outcome; None: it was cancelled, whoever joined may run it."""
        _, outcome = self._running.pop(key[:3])
        outcome.set_result(response)
