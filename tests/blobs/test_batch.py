"""Blob Batch. Source: Azure REST, "Blob Batch"; obstore deletes even one blob this way."""

from __future__ import annotations

import re

import pytest


def multipart(boundary: str, requests: list[str], newline: str = "\r\n", extra: str = "") -> bytes:
    parts = [
        f"--{boundary}\nContent-Type: application/http\nContent-Transfer-Encoding: binary\nContent-ID: {number}\n\n"
        f"{line} HTTP/1.1\nx-ms-date: now\n{extra}Content-Length: 0\n\n\n"
        for number, line in enumerate(requests)
    ]
    return ("".join(parts) + f"--{boundary}--\n").replace("\n", newline).encode()


async def send(call, target: str, requests: list[str], boundary: str = "batch_1", **options: str):
    body = multipart(boundary, requests, **options)
    return await call("POST", target, {"content-type": f"multipart/mixed; boundary={boundary}"}, body)


def statuses(answer) -> list[tuple[str, int]]:
    mark = re.fullmatch(r"multipart/mixed; boundary=(\S+)", answer.fields.get("content-type")).group(1)
    parts = answer.body.decode().split(f"--{mark}")
    assert parts[0] == ""
    assert parts[-1] == "--\r\n"
    found = []
    for part in parts[1:-1]:
        head, _, inner = part.lstrip("\r\n").partition("\r\n\r\n")
        content_id = re.search(r"Content-ID: (\S+)", head)
        found.append((content_id.group(1) if content_id else "", int(re.match(r"HTTP/1.1 (\d+) ", inner).group(1))))
    return found


@pytest.fixture
async def full(call):
    for number in range(5):
        await call.put(f"/con/b{number}", b"x")
    return call


@pytest.mark.parametrize("boundary", ["batch_1", "a=b=c", "x" * 70])
@pytest.mark.parametrize("newline", ["\r\n", "\n"])
async def test_a_container_batch_deletes_what_exists_and_reports_the_rest(full, boundary, newline):
    lines = ["DELETE /con/b0", "DELETE /con/none", "DELETE /con/b%31", "GET /con/b2"]
    got = await send(full, "/con?restype=container&comp=batch", lines, boundary, newline=newline)
    assert got.status == 202
    assert statuses(got) == [("0", 202), ("1", 404), ("2", 202), ("3", 501)]
    assert [(await full("HEAD", f"/con/b{n}")).status for n in range(3)] == [404, 404, 200]


async def test_an_account_batch_reaches_its_containers_by_path_or_url(full):
    await full.make("box")
    await full.put("/box/y", b"1")
    lines = ["DELETE /con/b0?x=y", "DELETE https://acct.blob.core.windows.net/box/y", "DELETE con/b1"]
    got = await send(full, "/?comp=batch", lines)
    assert [status for _, status in statuses(got)] == [202, 202, 202]


async def test_in_path_style_the_account_may_be_left_out_of_the_parts(call):
    local = "127.0.0.1:10000"
    await call("PUT", "/dev/con?restype=container", authority=local)
    for name in ("a", "b"):
        await call("PUT", f"/dev/con/{name}", {"x-ms-blob-type": "BlockBlob"}, b"", authority=local)
    body = multipart("q", ["DELETE /con/a", "DELETE /dev/con/b"])
    fields = {"content-type": 'multipart/mixed; boundary="q"'}
    got = await call("POST", "/dev/con?restype=container&comp=batch", fields, body, authority=local)
    assert [status for _, status in statuses(got)] == [202, 202]


async def test_a_batch_cannot_leave_its_account_or_container(full):
    await full.make("box")
    await full.put("/box/y", b"1")
    lines = ["DELETE /box/y", "DELETE https://other.blob.core.windows.net/con/b0", "DELETE /Bad/x"]
    got = await send(full, "/con?restype=container&comp=batch", lines)
    assert [status for _, status in statuses(got)] == [400, 400, 400]
    assert (await full("HEAD", "/box/y")).status == 200


async def test_conditions_and_tiers_work_in_a_batch(full):
    got = await send(full, "/con?restype=container&comp=batch", ["DELETE /con/b0"], extra='If-Match: "0x1"\n')
    assert statuses(got) == [("0", 412)]
    got = await send(full, "/?comp=batch", ["PUT /con/b0?comp=tier"], extra="x-ms-access-tier: Cool\n")
    assert statuses(got) == [("0", 200)]
    assert (await full("HEAD", "/con/b0")).fields.get("x-ms-access-tier") == "Cool"


async def test_256_parts_are_allowed_and_257_are_not(full):
    line = "DELETE /con/none"
    assert len(statuses(await send(full, "/?comp=batch", [line] * 256))) == 256
    assert (await send(full, "/?comp=batch", [line] * 257)).code == "ExceedsMaxBatchRequestCount"


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("multipart/mixed; boundary=x", b"", "InvalidInput"),
        ("multipart/mixed; boundary=x", b"--x--", "InvalidInput"),
        ("multipart/mixed; boundary=x", b"--x\r\nno part\r\n--x--", "InvalidInput"),
        (
            "multipart/mixed; boundary=x",
            b"--x\r\nContent-Type: application/http\r\n\r\nnonsense\r\n--x--",
            "InvalidInput",
        ),
        ("multipart/mixed", b"", "InvalidHeaderValue"),
        ("text/plain; boundary=x", b"", "InvalidHeaderValue"),
    ],
)
async def test_a_batch_that_cannot_be_read_is_refused(full, content_type, body, code):
    got = await full("POST", "/?comp=batch", {"content-type": content_type}, body)
    assert (got.status, got.code) == (400, code)
