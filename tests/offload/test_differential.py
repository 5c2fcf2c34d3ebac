"""Issue "Offload entries": what an entry answers is, byte for byte, what Python would have answered.

Thousands of generated requests go over two real channels, one that entries answer and one that they do not, while the
blobs change in between. Compared are the device status, the response message and the data buffer as they lie in the
guests' pages; Date and x-ms-request-id aside. The guests share no code with ours (tests.faults).
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from pvblob.errors import PvblobError
from tests.conftest import pattern
from tests.faults.buffers import bhttp_request
from tests.faults.guest import SLOT_DATA, SLOT_REQUEST, SLOTS, RawGuest
from tests.faults.ring import PAGE_BYTES
from tests.offload.conftest import Stage

REQUESTS = 4500
BATCH = 30
BLOBS = ("empty", "one", "page", "large", "blocks", "sp%20ace", "%C3%BC", "absent", "deep/er/name", "log")
MASKED = re.compile(rb"\x04date\x1d.{29}|\x0fx-ms-request-id\x24.{36}", re.DOTALL)
ETAG = "the current etag"  # stands for it in generated values

RANGES = (
    "bytes=0-", "bytes=0-0", "bytes=5-4095", "bytes=1-", "bytes=4095-4096", "bytes=0-99999999", "bytes=4096-",
    "bytes=99999999-", "bytes=3-2", "bytes=-5", "bytes=", "bytes=a-b", "Bytes=0-3", "bytes = 0-3", "bytes=0-1,3-4",
    "bytes=+1-2", "bytes=0-18446744073709551616", "bytes=00000000000000000001-2", "items=0-1", "0-1", "bytes=0-1 ", "",
    "bytes=\xb21-2",
)  # fmt: skip
TAGS = (
    ETAG, f'"{ETAG}"', "*", '"0x8DF0"', '"*"', f'W/"{ETAG}"', f'"{ETAG}", "other"', f'"other",{ETAG}', "", '"', '""',
    f'"{ETAG}', f'""{ETAG}""', f"{ETAG} ", "0x8DF0, *", "\xfc",
)  # fmt: skip
DATES = ("Wed, 25 Nov 2026 10:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT", "tomorrow")
VALUES = {
    "x-ms-range": RANGES,
    "range": RANGES,
    "if-match": TAGS,
    "if-none-match": TAGS,
    "if-modified-since": DATES,
    "if-unmodified-since": DATES,
    "x-ms-version": ("2021-12-02", "2026-10-06", "", "new\xad", "v", "1\x7f"),
    "x-ms-client-request-id": ("abc", "", "x" * 1024, "x" * 1025, "with blank", "\xe9", "tab\there", "\x01"),
    "x-ms-range-get-content-md5": ("true", "false"),
    "x-ms-range-get-content-crc64": ("true", "false"),
    "x-ms-if-tags": ("x = 'y'",),
    "x-ms-structured-body": ("XSM/1.0; properties=crc64",),
    "x-ms-lease-id": ("11111111-1111-4111-8111-111111111111",),
    "authorization": ("SharedKey devstoreaccount1:AAAA", "Bearer x"),
    "x-ms-date": DATES,
    "date": DATES,
    "user-agent": ("test/1.0", ""),
    "accept": ("*/*", "application/xml"),
    "accept-encoding": ("gzip, deflate", "identity"),
    "connection": ("keep-alive", "close"),
    "host": ("elsewhere.example", ""),
    "content-type": ("application/octet-stream",),
    "content-length": ("0",),
    "x-ms-return-client-request-id": ("true", "false"),
    "traceparent": ("00-0-0-00",),
    "x-unknown": ("1",),
    "pvblob-resubmission": ("1",),
    "pvblob-body-release": ("1",),
}
LIKELY = ("x-ms-range", "range", "if-match", "if-none-match", "x-ms-version", "x-ms-client-request-id")
QUERIES = ("", "", "", "", "", "", "", "", "", "?", "?comp=metadata", "?snapshot=", "?timeout=5", "?sv=2020&sig=x")
AUTHORITIES = (
    ("devstoreaccount1.blob.core.windows.net", ""),
    ("DevStoreAccount1.blob.core.windows.net", ""),
    ("127.0.0.1:10000", "/devstoreaccount1"),
)


class Generator:
    """Draws requests and changes of the blobs they ask for."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage = stage
        self.changing_guest = stage.guest(offloaded=False)
        self.rng = rng
        for blob in BLOBS:
            if blob != "absent":
                self.write(blob)

    def fields(self, etag: str) -> list[tuple[str, str]]:
        rng = self.rng
        names = [
            rng.choice(LIKELY) if rng.random() < 0.8 else rng.choice(list(VALUES))
            for _ in range(rng.choice((0, 1, 1, 2, 3)))
        ]
        return [(name, rng.choice(VALUES[name]).replace(ETAG, etag.strip('"'))) for name in names]

    def request(self) -> tuple[bytes, dict[str, int]]:
        """Return a request message and what the device request says of the buffers."""
        rng = self.rng
        blob = rng.choice(BLOBS)
        authority, prefix = rng.choices(AUTHORITIES, (20, 1, 1))[0]
        target = f"{prefix}/con/{blob}{rng.choice(QUERIES)}"
        method = rng.choices(("GET", "HEAD", "OPTIONS", "get"), (70, 25, 1, 1))[0]
        fields = [] if rng.random() < 0.3 else self.fields(self.etag(blob))
        content = b"x" if rng.random() < 0.02 else b""
        device = {}
        if rng.random() < 0.1:
            device["data_length"] = rng.choice((0, 1, 4095, 4096))
        if rng.random() < 0.05:
            device["response_length"] = rng.choice((1, 200, 500, 600, 700, 800))
        if rng.random() < 0.02:
            device["data_valid"] = 1
        return bhttp_request(method, target, fields, content, authority=authority), device

    def etag(self, blob: str) -> str:
        return self._etags.get(blob, '"0x0"')

    _etags: dict[str, str] = {}  # noqa: RUF012

    def write(self, blob: str) -> None:
        rng, client, name = self.rng, self.stage.client, _decoded(blob)
        if blob == "log":
            self.put("/con/log", ("x-ms-blob-type", "AppendBlob"))
            self.put("/con/log?comp=appendblock", ("x-ms-client-request-id", "the first"), content=b"first")
            self._etags[blob] = client.stat("con", name).etag
            return
        size = {"empty": 0, "one": 1, "page": 4096, "large": 70_000, "blocks": 3 << 20}.get(blob, rng.randrange(9000))
        metadata = {"Mixed": "Case", "lower": "\xe9"} if rng.random() < 0.3 else None
        client.put("con", name, pattern(size + 1)[1:], metadata=metadata)
        self._etags[blob] = client.stat("con", name).etag

    def change(self) -> None:
        """Change one blob in one of the ways there are."""
        blob = self.rng.choice([blob for blob in BLOBS if blob not in ("absent", "blocks")])
        name, client = _decoded(blob), self.stage.client
        kind = self.rng.choice(("write", "metadata", "delete", "tier", "lease", "append"))
        try:
            if kind == "metadata":
                client.set_metadata("con", name, {"changed": str(self.rng.random())})
            elif kind == "delete":
                client.delete("con", name, missing_ok=True)
            elif kind == "tier":
                self.tier(blob)
            elif kind == "lease":
                self.lease(blob)
            elif kind == "append":
                self.put("/con/log?comp=appendblock", content=pattern(self.rng.randrange(1, 2000)))
            else:
                self.write(blob)
            self._etags[blob] = client.stat("con", name).etag
        except PvblobError:
            self._etags.pop(blob, None)

    def tier(self, blob: str) -> None:
        self.put(f"/con/{blob}?comp=tier", ("x-ms-access-tier", self.rng.choice(("Hot", "Cool", "Cold"))))

    def lease(self, blob: str) -> None:
        """Take a lease that lasts, or break one at once: the blob can be written again, or not, as it happens."""
        target = f"/con/{blob}?comp=lease"
        if self.rng.random() < 0.3:
            duration = self.rng.choice(("-1", "15"))
            self.put(target, ("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", duration))
        else:
            self.put(target, ("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0"))

    def put(self, target: str, *fields: tuple[str, str], content: bytes = b"") -> None:
        guest = self.changing_guest
        guest.put(guest.request(9, bhttp_request("PUT", target, list(fields), content)))
        assert guest.completion()[1] == 0


def _decoded(blob: str) -> str:
    return blob.replace("%20", " ").replace("%C3%BC", "\xfc")


def answers(guest: RawGuest, batch: list[tuple[bytes, dict[str, Any]]]) -> list[tuple[int, int, bytes, bytes]]:
    """Send a batch; return for each request device status, response length, message and data, masked."""
    found = raw_answers(guest, batch)
    return [
        (status, length, MASKED.sub(b"*", response.rstrip(b"\0")), data) for status, length, response, data in found
    ]


def raw_answers(guest: RawGuest, batch: list[tuple[bytes, dict[str, Any]]]) -> list[tuple[int, int, bytes, bytes]]:
    """Send a batch; return for each request device status, response length, response buffer and data buffer."""
    guest.memory[:] = bytes(len(guest.memory))
    guest.put(*(guest.request(slot, message, slot=slot, **device) for slot, (message, device) in enumerate(batch)))
    found = {}
    for _ in batch:
        slot, status, length = guest.completion()
        data_at = guest.place(slot)
        at = data_at + (SLOT_DATA + SLOT_REQUEST) * PAGE_BYTES
        response = bytes(guest.memory[at : at + 4 * PAGE_BYTES])
        data = bytes(guest.memory[data_at : data_at + SLOT_DATA * PAGE_BYTES])
        found[slot] = (status, length, response, data)
    return [found[slot] for slot in range(len(batch))]


@pytest.mark.timeout(240)
def test_an_entry_answers_byte_for_byte_as_python_does(stage: Stage) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    generator = Generator(stage, random.Random(seed))
    offloaded, python = stage.guest(offloaded=True), stage.guest(offloaded=False)
    assert BATCH <= SLOTS
    before = stage.counters()
    for number in range(REQUESTS // BATCH):
        batch = [generator.request() for _ in range(BATCH)]
        for (message, device), one, other in zip(batch, answers(offloaded, batch), answers(python, batch), strict=True):
            assert one[:3] == other[:3], f"seed {seed}, batch {number}: {message!r} {device}"
            assert one[3] == other[3], f"seed {seed}, batch {number}: the bytes differ: {message!r} {device}"
        for _ in range(generator.rng.choice((0, 0, 1, 2))):
            generator.change()
    counted = {name: value - before[name] for name, value in stage.counters().items()}
    assert counted["hits"] > REQUESTS // 20, "so few were answered by entries that nothing was compared"
    assert counted["invalidations"] > 20
    for reason in ("method", "content", "query", "field", "value", "range", "condition", "room"):
        assert counted[reason] > 0, f"no request was generated that is not eligible for its {reason}"
