"""Set Blob Tags, Get Blob Tags, Find Blobs by Tags. Tags change without a new version: ETag and Last-Modified stay.

A search goes over the index of the account's tags by container and name, a page at a time, each in a thread.
Source: Azure REST, "Set Blob Tags", "Get Blob Tags", "Find Blobs by Tags", "Find Blobs by Tags in Container".
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from xml.sax.saxutils import escape

from pvblob import _native
from pvblob.blobs import block_blobs, catalog
from pvblob.blobs.answers import Call, Refusal, answer, answer_xml
from pvblob.blobs.blob_changes import existing_blob
from pvblob.blobs.blob_reads import readable
from pvblob.blobs.catalog import load_json
from pvblob.blobs.containers import endpoint
from pvblob.blobs.listing import name_xml
from pvblob.blobs.listing_query import decode_marker, encode_marker, page_size
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.segment_work import to_the_end
from pvblob.blobs.store import Store, container_in
from pvblob.blobs.tag_expressions import CONTAINER, Comparison, parse_search
from pvblob.blobs.tags import TAGS_BYTES_MAX, parse_tags, tags_xml
from pvblob.http import Response


async def set_tags(store: Store, call: Call) -> Response:
    """Set Blob Tags: 204; replaces all of them, none removes them."""
    if call.body.size_bytes > TAGS_BYTES_MAX:
        raise Refusal("RequestBodyTooLarge")
    store.container_id(call)
    body = await call.body.read()
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    block_blobs.check_transfer(call.fields, _native.crc64(body), digest)
    tags = parse_tags(body)

    def apply(transaction: Transaction) -> Response:
        container_id = container_in(transaction, call).id
        row = existing_blob(transaction, call, container_id)
        assert call.target.blob is not None
        transaction.write_tags(container_id, call.target.blob, row.tags, tags)
        return answer(call.request, 204)

    return await store.commit(call, apply)


def get_tags(store: Store, call: Call) -> Response:
    """Get Blob Tags."""
    return answer_xml(call.request, 200, tags_xml(load_json(readable(store, call).current.tags)))


async def find_blobs(store: Store, call: Call) -> Response:
    """Find Blobs by Tags, in the account or in one container: the blobs with the tags that the search names."""
    query = call.target.query
    where = query.get("where", "")
    if not where:
        raise Refusal("MissingRequiredQueryParameter", "where is missing.")
    comparisons, limit = parse_search(where), page_size(query)
    containers = [one.value for one in comparisons if one.key == CONTAINER]
    if call.target.container is not None:
        store.container_id(call)
        containers.append(call.target.container)
    sought = [one for one in comparisons if one.key != CONTAINER]
    place = _place(query.get("marker", ""))
    async with store.searches:  # it may look at every tag there is, and the event loop must not wait for that
        with contextlib.closing(catalog.beside(store.reader)) as connection:
            account = call.target.account
            rows = await to_the_end(lambda: _search(connection, account, containers, sought, place, limit + 1))
    following = encode_marker(b"\0".join((rows[limit][0].encode(), rows[limit][1]))) if len(rows) > limit else ""
    keys = {one.key for one in sought}
    parts = [f'<EnumerationResults ServiceEndpoint="{endpoint(call)}"><Where>{escape(where)}</Where><Blobs>']
    for container, name, tags in rows[:limit]:
        shown = {key: value for key, value in load_json(tags).items() if key in keys}
        parts.append(f"<Blob>{name_xml(name)}<ContainerName>{container}</ContainerName>{tags_xml(shown)}</Blob>")
    parts.append(f"</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>")
    return answer_xml(call.request, 200, "".join(parts))


def _search(
    connection: sqlite3.Connection,
    account: str,
    containers: list[str],
    sought: list[Comparison],
    place: tuple[str, bytes],
    limit: int,
) -> list[tuple[str, bytes, str]]:
    """Return (container, name, tags) of up to *limit* blobs from *place* on, by container and name."""
    text = (
        "SELECT DISTINCT c.name, b.name, b.tags FROM containers c JOIN tags t ON t.container_id = c.id AND t.key = ?"
        f" AND t.value {sought[0].operator} ? JOIN blobs b ON b.container_id = c.id AND b.name = t.name"
        " WHERE c.account = ? AND c.deleted = 0 AND (c.name, b.name) >= (?, ?)"
    )
    parameters: list[object] = [sought[0].key, sought[0].value, account, *place]
    for one in containers:
        text += " AND c.name = ?"
        parameters.append(one)
    for one_more in sought[1:]:
        # The operator is one of the grammar's, never the request's own text.
        text += (
            " AND EXISTS (SELECT 1 FROM tags o WHERE o.container_id = c.id AND o.key = ?"
            f" AND o.value {one_more.operator} ? AND o.name = t.name)"
        )
        parameters += [one_more.key, one_more.value]
    return connection.execute(f"{text} ORDER BY c.name, b.name LIMIT ?", [*parameters, limit]).fetchall()


def _place(marker: str) -> tuple[str, bytes]:
    """Read a marker: the container and the name that a page begins at."""
    container, _, name = (decode_marker(marker) if marker else b"").partition(b"\0")
    return container.decode("utf-8", "replace"), name
