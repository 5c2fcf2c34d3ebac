"""Conditional headers, as a table. Source: Azure REST, "Specifying conditional headers for Blob service operations"."""

from __future__ import annotations

import base64

import pytest

OTHER = '"0x1234"'
PAST, FUTURE = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
MINE = "<etag>"

# condition fields -> status of GET, of a change (Set Blob Metadata), of Put Blob; all on an existing blob
EXISTING = [
    ({}, 200, 200, 201),
    ({"if-match": MINE}, 200, 200, 201),
    ({"if-match": "<bare>"}, 200, 200, 201),
    ({"if-match": "*"}, 200, 200, 201),
    ({"if-match": OTHER}, 412, 412, 412),
    ({"if-none-match": MINE}, 304, 412, 412),
    ({"if-none-match": OTHER}, 200, 200, 201),
    ({"if-none-match": "*"}, 400, 412, 409),
    ({"if-modified-since": PAST}, 200, 200, 201),
    ({"if-modified-since": FUTURE}, 304, 412, 412),
    ({"if-unmodified-since": PAST}, 412, 412, 412),
    ({"if-unmodified-since": FUTURE}, 200, 200, 201),
    ({"if-match": MINE, "if-unmodified-since": PAST}, 412, 200, 201),
    ({"if-none-match": MINE, "if-modified-since": PAST}, 200, 412, 412),
    ({"if-none-match": MINE, "if-modified-since": FUTURE}, 304, 412, 412),
    ({"if-none-match": OTHER, "if-modified-since": FUTURE}, 200, 200, 201),
    ({"if-match": MINE, "if-none-match": OTHER}, 200, 400, 400),
    ({"if-match": f"{OTHER}, <etag>"}, 200, 400, 400),
    ({"if-modified-since": "yesterday"}, 400, 400, 400),
]
CODES = {304: "ConditionNotMet", 412: "ConditionNotMet", 409: "BlobAlreadyExists"}


def filled(fields: dict[str, str], etag: str) -> dict[str, str]:
    bare = etag.strip('"')
    return {name: value.replace("<etag>", etag).replace("<bare>", bare) for name, value in fields.items()}


@pytest.mark.parametrize(("fields", "read", "change", "create"), EXISTING)
async def test_conditions_on_an_existing_blob(call, fields, read, change, create):
    etag = (await call.put("/con/b", b"body")).etag
    for method, status in (("GET", read), ("HEAD", read)):
        got = await call(method, "/con/b", filled(fields, etag))
        assert got.status == status
        assert got.code == CODES.get(status, got.code)
        if status == 304:
            assert got.body == b""
            assert got.etag == etag
    got = await call("PUT", "/con/b", {"x-ms-blob-type": "BlockBlob", **filled(fields, etag)}, b"new")
    assert got.status == create
    assert got.code == CODES.get(create, got.code)
    assert (await call("GET", "/con/b")).body == (b"new" if create == 201 else b"body")
    etag = (await call.put("/con/c", b"body")).etag
    got = await call("PUT", "/con/c?comp=metadata", filled(fields, etag))
    assert got.status == change


@pytest.mark.parametrize(
    ("fields", "create"),
    [
        ({"if-none-match": "*"}, 201),
        ({"if-none-match": OTHER}, 201),
        ({"if-match": "*"}, 412),
        ({"if-match": OTHER}, 412),
        ({"if-modified-since": FUTURE}, 201),
        ({"if-unmodified-since": PAST}, 201),
    ],
)
async def test_conditions_on_a_missing_blob(call, fields, create):
    assert (await call("GET", "/con/b", fields)).code == "BlobNotFound"
    assert (await call("DELETE", "/con/b", fields)).code == "BlobNotFound"
    assert (await call("PUT", "/con/b", {"x-ms-blob-type": "BlockBlob", **fields}, b"1")).status == create


async def test_a_block_list_with_if_none_match_any_is_a_conflict(call):
    await call.put("/con/b", b"body")
    name = base64.b64encode(b"1").decode()
    await call("PUT", f"/con/b?comp=block&blockid={name}", {}, b"x")
    body = f"<BlockList><Latest>{name}</Latest></BlockList>".encode()
    assert (await call("PUT", "/con/b?comp=blocklist", {"if-none-match": "*"}, body)).code == "BlobAlreadyExists"
    assert (await call("PUT", "/con/b?comp=blocklist", {"if-match": OTHER}, body)).code == "ConditionNotMet"
    assert (await call("PUT", "/con/b?comp=blocklist", {"if-match": "*"}, body)).status == 201


async def test_of_many_creators_at_once_exactly_one_wins(call):
    import asyncio

    fields = {"x-ms-blob-type": "BlockBlob", "if-none-match": "*"}
    answers = await asyncio.gather(*[call("PUT", "/con/once", fields, b"%d" % n) for n in range(40)])
    assert sorted(answer.status for answer in answers) == [201] + [409] * 39
    winner = next(n for n, answer in enumerate(answers) if answer.status == 201)
    assert (await call("GET", "/con/once")).body == b"%d" % winner


async def test_containers_obey_dates_and_etags(call):
    assert (await call("DELETE", "/con?restype=container", {"if-unmodified-since": PAST})).status == 412
    assert (await call("PUT", "/con?restype=container&comp=metadata", {"if-modified-since": FUTURE})).status == 412
    assert (await call("DELETE", "/con?restype=container", {"if-unmodified-since": FUTURE})).status == 202
