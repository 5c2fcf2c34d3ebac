"""Containers: create, delete, properties, metadata, list; and what little the account level answers.

A deleted container vanishes in one commit; `reclaim` gives its blobs' space back piece by piece when the committer
has nothing else to do.
Source: Azure REST, "Create Container" … "List Containers", "Get Blob Service Properties", "Get Account Information".
"""

from __future__ import annotations

import sqlite3
from xml.sax.saxutils import escape

from pvblob.blobs import catalog, leases, snapshots
from pvblob.blobs.answers import Call, Pairs, Refusal, answer, answer_xml, etag, http_date
from pvblob.blobs.catalog import ContainerRow, dump_json, load_json
from pvblob.blobs.conditions import Conditions
from pvblob.blobs.extents import Run, block_runs
from pvblob.blobs.listing_query import decode_marker, encode_marker, page_size
from pvblob.blobs.mutation import Transaction
from pvblob.blobs.properties import metadata_of, metadata_pairs
from pvblob.blobs.store import Store, container_in
from pvblob.http import Response

_PUBLIC_ACCESS = ("container", "blob")
_INCLUDES = frozenset({"metadata", "deleted", "system"})


def _head(row: ContainerRow) -> Pairs:
    return [("etag", etag(row.version)), ("last-modified", http_date(row.modified))]


async def create_container(store: Store, call: Call) -> Response:
    """Create Container: 201, or 409 ContainerAlreadyExists."""
    target = call.target
    metadata = dump_json(metadata_of(call.fields))
    access = call.fields.get("x-ms-blob-public-access", "") or ""
    if access and access not in _PUBLIC_ACCESS:
        raise Refusal("InvalidHeaderValue", "x-ms-blob-public-access is container or blob.")
    assert target.container is not None
    name = target.container

    def apply(transaction: Transaction) -> Response:
        if catalog.find_container(transaction.connection, target.account, name) is not None:
            raise Refusal("ContainerAlreadyExists")
        version = transaction.next_version()
        transaction.connection.execute(
            "INSERT INTO containers (account, name, version, modified, metadata, public_access) VALUES (?,?,?,?,?,?)",
            (target.account, name, version, transaction.now, metadata, access),
        )
        return answer(call.request, 201, [("etag", etag(version)), ("last-modified", http_date(transaction.now))])

    return await store.commit(call, apply)


async def delete_container(store: Store, call: Call) -> Response:
    """Delete Container: 202; its blobs are gone at once, their space comes back later."""
    conditions = Conditions.parse(call.fields)

    def apply(transaction: Transaction) -> Response:
        row = container_in(transaction, call)
        if conditions is not None:
            conditions.check_write(row.version, row.modified)
        leases.check_write(row.lease, call.fields, transaction.now_ms, leases.OF_CONTAINER)
        transaction.delete_container(row.id)
        return answer(call.request, 202)

    return await store.commit(call, apply)


def _readable(store: Store, call: Call) -> ContainerRow:
    """Return the container a read is about; a lease that the read names must be the active one."""
    row = store.container(call)
    leases.check_read(row.lease, call.fields, store.now_ms, leases.OF_CONTAINER)
    return row


def get_properties(store: Store, call: Call) -> Response:
    """Get Container Properties (GET or HEAD)."""
    row = _readable(store, call)
    pairs = [
        *_head(row),
        *leases.lease_pairs(row.lease, store.now_ms),
        ("x-ms-has-immutability-policy", "false"),
        ("x-ms-has-legal-hold", "false"),
        ("x-ms-immutable-storage-with-versioning-enabled", "false"),
        ("x-ms-default-encryption-scope", "$account-encryption-key"),
        ("x-ms-deny-encryption-scope-override", "false"),
    ]
    if row.public_access:
        pairs.append(("x-ms-blob-public-access", row.public_access))
    return answer(call.request, 200, pairs + metadata_pairs(load_json(row.metadata)))


def get_metadata(store: Store, call: Call) -> Response:
    """Get Container Metadata (GET or HEAD)."""
    row = _readable(store, call)
    return answer(call.request, 200, _head(row) + metadata_pairs(load_json(row.metadata)))


async def set_metadata(store: Store, call: Call) -> Response:
    """Set Container Metadata: replaces all of it."""
    metadata = dump_json(metadata_of(call.fields))
    conditions = Conditions.parse(call.fields)

    def apply(transaction: Transaction) -> Response:
        row = container_in(transaction, call)
        if conditions is not None:
            conditions.check_write(row.version, row.modified)
        leases.check_read(row.lease, call.fields, transaction.now_ms, leases.OF_CONTAINER)
        changed = row._replace(version=transaction.next_version(), modified=transaction.now, metadata=metadata)
        transaction.connection.execute(
            "UPDATE containers SET version = ?, modified = ?, metadata = ? WHERE id = ?",
            (changed.version, changed.modified, metadata, row.id),
        )
        return answer(call.request, 200, _head(changed))

    return await store.commit(call, apply)


def list_containers(store: Store, call: Call) -> Response:
    """List Containers: prefix, marker, maxresults, include=metadata."""
    query, account = call.target.query, call.target.account
    includes = set(filter(None, query.get("include", "").lower().split(",")))
    if includes - _INCLUDES:
        raise Refusal("InvalidQueryParameterValue", "include may name metadata, deleted and system.")
    limit = page_size(query)
    prefix, marker = query.get("prefix", ""), query.get("marker", "")
    start = decode_marker(marker).decode("utf-8", "replace") if marker else ""
    rows = catalog.list_containers(store.reader, account, prefix, start, limit + 1)
    following = encode_marker(rows[limit].name.encode()) if len(rows) > limit else ""
    parts = [f'<EnumerationResults ServiceEndpoint="{endpoint(call)}">', f"<Prefix>{escape(prefix)}</Prefix>"]
    if marker:
        parts.append(f"<Marker>{escape(marker)}</Marker>")
    parts.append(f"<MaxResults>{limit}</MaxResults><Containers>")
    parts += [_container_xml(row, "metadata" in includes, store.now_ms) for row in rows[:limit]]
    parts.append(f"</Containers><NextMarker>{following}</NextMarker></EnumerationResults>")
    return answer_xml(call.request, 200, "".join(parts))


def _container_xml(row: ContainerRow, with_metadata: bool, now_ms: int) -> str:
    access = f"<PublicAccess>{row.public_access}</PublicAccess>" if row.public_access else ""
    text = (
        f"<Container><Name>{row.name}</Name><Properties><Last-Modified>{http_date(row.modified)}</Last-Modified>"
        f"<Etag>{escape(etag(row.version))}</Etag>{leases.lease_xml(row.lease, now_ms)}"
        f"{access}<DefaultEncryptionScope>$account-encryption-key"
        "</DefaultEncryptionScope><DenyEncryptionScopeOverride>false</DenyEncryptionScopeOverride>"
        "<HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold></Properties>"
    )
    if with_metadata:
        text += metadata_xml(load_json(row.metadata))
    return text + "</Container>"


def metadata_xml(metadata: dict[str, str]) -> str:
    """Format metadata for a listing."""
    return "<Metadata>" + "".join(f"<{key}>{escape(value)}</{key}>" for key, value in metadata.items()) + "</Metadata>"


def endpoint(call: Call) -> str:
    """Return the service endpoint a listing names, escaped for an attribute."""
    request, account = call.request, call.target.account
    path = "" if request.target.partition("?")[0].strip("/").split("/")[0] != account else f"{account}/"
    return escape(f"{request.scheme}://{request.authority}/{path}", {'"': "&quot;"})


def get_service_properties(store: Store, call: Call) -> Response:
    """Get Blob Service Properties: the fixed state of this host (no logging, no soft delete, no CORS)."""
    off = "<Version>1.0</Version><Enabled>false</Enabled>"
    retention = "<RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
    text = (
        "<StorageServiceProperties><Logging><Version>1.0</Version><Delete>false</Delete><Read>false</Read>"
        f"<Write>false</Write>{retention}</Logging><HourMetrics>{off}{retention}</HourMetrics>"
        f"<MinuteMetrics>{off}{retention}</MinuteMetrics><Cors />"
        "<DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy>"
        "<StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>"
    )
    return answer_xml(call.request, 200, text)


def get_account_information(store: Store, call: Call) -> Response:
    """Get Account Information: a general-purpose v2 account without a hierarchical namespace."""
    pairs = [("x-ms-sku-name", "Standard_LRS"), ("x-ms-account-kind", "StorageV2"), ("x-ms-is-hns-enabled", "false")]
    return answer(call.request, 200, pairs)


def reclaim(connection: sqlite3.Connection, limit: int) -> tuple[list[Run], bool]:
    """Delete up to *limit* blobs of deleted containers inside the caller's transaction.

    Returns the runs they held, to be freed after the commit, and whether anything was done.
    """
    gone = connection.execute("SELECT id FROM containers WHERE deleted = 1 LIMIT 1").fetchone()
    if gone is None:
        return [], False
    runs: set[Run] = set()
    blobs = connection.execute("SELECT name FROM blobs WHERE container_id = ? LIMIT ?", (*gone, limit))
    names = blobs.fetchall()
    for (name,) in names:
        row = catalog.find_blob(connection, gone[0], name)
        assert row is not None
        runs |= snapshots.delete_all(connection, gone[0], name, row) | snapshots.unshared(connection, row, None, None)
        catalog.delete_blob(connection, gone[0], name)
    staged = connection.execute("SELECT name FROM staged WHERE container_id = ? LIMIT ?", (*gone, limit)).fetchall()
    for (name,) in staged:
        runs |= block_runs(catalog.delete_staged(connection, gone[0], name))
    if not names and not staged:
        connection.execute("DELETE FROM tags WHERE container_id = ?", gone)
        connection.execute("DELETE FROM containers WHERE id = ?", gone)
    return list(runs), True
