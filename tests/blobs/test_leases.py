"""Lease Blob and Lease Container: every state, every action, every use. Source: Azure REST, "Lease Blob", the tables
"Outcomes of use attempts by lease state" and "Outcomes of lease operation attempts by lease state"."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pvblob.blobs.service import EmbeddedService
from tests.blobs.conftest import Answer, Caller, make_old_store
from tests.blobs.test_offers import release, wanting

A, B, C = (str(uuid.UUID(int=number)) for number in (10, 11, 12))
STATES = ("available", "leased", "breaking", "broken", "expired")
SOURCE = "https://acct.blob.core.windows.net/con/source"


class Clock:
    """The service's clock, moved by the test."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Leasing(Caller):
    """A caller with a clock of its own and the blob `con/b`."""

    def __init__(self, service: EmbeddedService, clock: Clock) -> None:
        super().__init__(service)
        self.clock = clock

    async def lease(self, action: str, target: str = "/con/b", **fields: str) -> Answer:
        head = {f"x-ms-{name.replace('_', '-')}": value for name, value in fields.items()}
        joint = "&" if "?" in target else "?"
        return await self("PUT", f"{target}{joint}comp=lease", {"x-ms-lease-action": action, **head})

    async def bring_to(self, state: str, target: str = "/con/b", lease_id: str = A) -> None:
        """Lead what is not leased to *state*, its lease being *lease_id*."""
        if state != "available":
            taken = await self.lease("acquire", target, lease_duration="15", proposed_lease_id=lease_id)
            assert taken.status == 201
        if state == "expired":
            self.clock.now_s += 15
        if state in ("breaking", "broken"):
            broken = await self.lease("break", target, lease_break_period="5" if state == "breaking" else "0")
            assert broken.status == 202
        assert (await self.state(target))[0] == state

    async def state(self, target: str = "/con/b") -> tuple[str | None, str | None, str | None]:
        """State, status and duration, as Get Properties tells them."""
        fields = (await self("HEAD", target)).fields
        return (
            fields.get("x-ms-lease-state"),
            fields.get("x-ms-lease-status"),
            fields.get("x-ms-lease-duration"),
        )


@pytest.fixture
async def leasing(open_service: Callable[..., EmbeddedService]) -> Leasing:
    clock = Clock()
    caller = Leasing(open_service(clock=clock), clock)
    await caller.make()
    await caller.put("/con/b", b"body")
    await caller.put("/con/source", b"source")
    return caller


PRESENT, MISMATCH, ABSENT = (
    "LeaseAlreadyPresent",
    "LeaseIdMismatchWithLeaseOperation",
    "LeaseNotPresentWithLeaseOperation",
)
BROKEN, CHANGED = "LeaseIsBrokenAndCannotBeRenewed", "LeaseIsBreakingAndCannotBeChanged"
BREAKING = "LeaseIsBreakingAndCannotBeAcquired"
# What is asked of lease A -> for each of STATES the state afterwards, or the error's code.
ACTIONS: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
    ("acquire", {"lease_duration": "-1"}, ("leased", PRESENT, PRESENT, "leased", "leased")),
    (
        "acquire",
        {"lease_duration": "60", "proposed_lease_id": A},
        ("leased", "leased", BREAKING, "leased", "leased"),
    ),
    (
        "acquire",
        {"lease_duration": "15", "proposed_lease_id": B},
        ("leased", PRESENT, PRESENT, "leased", "leased"),
    ),
    ("renew", {"lease_id": A}, (MISMATCH, "leased", BROKEN, BROKEN, "leased")),
    ("renew", {"lease_id": B}, (MISMATCH,) * 5),
    ("change", {"lease_id": A, "proposed_lease_id": B}, (ABSENT, "leased", CHANGED, ABSENT, ABSENT)),
    ("change", {"lease_id": B, "proposed_lease_id": A}, (ABSENT, "leased", CHANGED, ABSENT, ABSENT)),
    ("change", {"lease_id": B, "proposed_lease_id": C}, (ABSENT, MISMATCH, MISMATCH, MISMATCH, MISMATCH)),
    ("release", {"lease_id": A}, (MISMATCH, *("available",) * 4)),
    ("release", {"lease_id": B}, (MISMATCH,) * 5),
    ("break", {"lease_break_period": "0"}, (ABSENT, *("broken",) * 4)),
    ("break", {"lease_break_period": "10"}, (ABSENT, "breaking", "breaking", "broken", "broken")),
    ("break", {}, (ABSENT, "breaking", "breaking", "broken", "broken")),
]


@pytest.mark.parametrize("target", ["/con/b", "/con?restype=container"])
@pytest.mark.parametrize(("action", "fields", "outcomes"), ACTIONS)
async def test_every_action_has_its_outcome_in_every_state(
    leasing: Leasing, target: str, action: str, fields: dict[str, str], outcomes: tuple[str, ...]
) -> None:
    for state, outcome in zip(STATES, outcomes, strict=True):
        await leasing.bring_to(state, target)
        got = await leasing.lease(action, target, **fields)
        if outcome in STATES:
            assert got.code is None, (state, got.code)
            assert (await leasing.state(target))[0] == outcome, state
            assert got.fields.get("etag") == (await leasing("HEAD", target)).etag, "a lease changes no ETag"
        else:
            assert got.code == outcome, state
            assert (await leasing.state(target))[0] == state, "what is refused changes nothing"
        await leasing.lease("break", target, lease_break_period="0")
        for lease_id in (A, B, got.fields.get("x-ms-lease-id") or C):
            await leasing.lease("release", target, lease_id=lease_id)


WRITES: list[tuple[str, str, dict[str, str], bytes]] = [
    ("PUT", "/con/b", {"x-ms-blob-type": "BlockBlob"}, b"new"),
    ("PUT", "/con/b?comp=block&blockid=AAAA", {}, b"block"),
    ("PUT", "/con/b?comp=blocklist", {}, b"<BlockList />"),
    ("PUT", "/con/b?comp=metadata", {"x-ms-meta-a": "1"}, b""),
    ("PUT", "/con/b?comp=properties", {"x-ms-blob-content-type": "a/b"}, b""),
    ("PUT", "/con/b?comp=tier", {"x-ms-access-tier": "Cool"}, b""),
    ("PUT", "/con/b", {"x-ms-copy-source": SOURCE}, b""),
    ("PUT", "/con/b", {"x-ms-copy-source": SOURCE, "x-ms-blob-type": "BlockBlob"}, b""),
    ("PUT", "/con/b?comp=block&blockid=AAAA", {"x-ms-copy-source": SOURCE}, b""),
    ("DELETE", "/con/b", {}, b""),
]
READS: list[tuple[str, str, dict[str, str], bytes]] = [
    ("GET", "/con/b", {}, b""),
    ("GET", "/con/b", {"range": "bytes=0-1"}, b""),
    ("HEAD", "/con/b", {}, b""),
    ("GET", "/con/b?comp=metadata", {}, b""),
]
OTHERS_BLOB, NO_BLOB_LEASE = "LeaseIdMismatchWithBlobOperation", "LeaseNotPresentWithBlobOperation"
# What is sent -> for each of STATES the error's code, or None.
WRITE_OUTCOMES: list[tuple[str | None, tuple[str | None, ...]]] = [
    (None, (None, "LeaseIdMissing", "LeaseIdMissing", None, None)),
    (A, (NO_BLOB_LEASE, None, None, "LeaseLost", "LeaseLost")),
    (A.upper(), (NO_BLOB_LEASE, None, None, "LeaseLost", "LeaseLost")),
    (B, (NO_BLOB_LEASE, *(OTHERS_BLOB,) * 4)),
    ("no guid", ("InvalidHeaderValue",) * 5),
]


@pytest.mark.parametrize("write", WRITES, ids=str)
@pytest.mark.parametrize(("sent", "outcomes"), WRITE_OUTCOMES)
async def test_a_write_needs_the_active_lease(leasing, write, sent, outcomes) -> None:  # type: ignore[no-untyped-def]
    for state, outcome in zip(STATES, outcomes, strict=True):
        await leasing("DELETE", "/con/b")
        await leasing.put("/con/b", b"body")
        await leasing.bring_to(state)
        method, target, fields, body = write
        got = await leasing(method, target, {**fields, **({"x-ms-lease-id": sent} if sent else {})}, body)
        assert got.code == outcome, state
        if outcome is not None:
            assert got.status == (400 if outcome == "InvalidHeaderValue" else 412)
            assert (await leasing("GET", "/con/b")).body == b"body"
        await leasing.lease("break", lease_break_period="0")


@pytest.mark.parametrize("read", READS, ids=str)
async def test_a_read_needs_no_lease_but_one_that_it_names_is_the_active_one(leasing, read) -> None:  # type: ignore[no-untyped-def]
    for sent, outcomes in [(None, (None,) * 5), *WRITE_OUTCOMES[1:]]:
        for state, outcome in zip(STATES, outcomes, strict=True):
            await leasing("DELETE", "/con/b")
            await leasing.put("/con/b", b"body")
            await leasing.bring_to(state)
            method, target, fields, body = read
            got = await leasing(method, target, {**fields, **({"x-ms-lease-id": sent} if sent else {})}, body)
            assert got.code == outcome, (state, sent)
            await leasing.lease("break", lease_break_period="0")


async def test_a_write_keeps_the_lease_and_deleting_the_blob_ends_it(leasing: Leasing) -> None:
    await leasing.bring_to("leased")
    for method, target, fields, body in WRITES[:-1]:
        assert (await leasing(method, target, {**fields, "x-ms-lease-id": A}, body)).code is None
        assert await leasing.state() == ("leased", "locked", "fixed")
    assert (await leasing("DELETE", "/con/b", {"x-ms-lease-id": A})).status == 202
    await leasing.put("/con/b", b"again")
    assert await leasing.state() == ("available", "unlocked", None)


@pytest.mark.parametrize("state", ["expired", "broken"])
async def test_a_write_without_a_lease_ends_what_is_left_of_one(leasing: Leasing, state: str) -> None:
    await leasing.bring_to(state)
    assert (await leasing("PUT", "/con/b?comp=metadata")).status == 200
    assert (await leasing.state())[0] == "available"
    assert (await leasing.lease("renew", lease_id=A)).code == MISMATCH


async def test_a_lease_lasts_as_long_as_it_says_and_a_renewal_begins_anew(leasing: Leasing) -> None:
    clock, begin_s = leasing.clock, leasing.clock.now_s
    taken = await leasing.lease("acquire", lease_duration="20")
    lease_id = taken.fields.get("x-ms-lease-id")
    assert lease_id == str(uuid.UUID(lease_id))
    for after_s, state in ((19.9, "leased"), (20, "expired")):
        clock.now_s = begin_s + after_s
        assert (await leasing.state())[0] == state
    assert (await leasing.lease("renew", lease_id=lease_id)).status == 200
    for after_s, state in ((39.9, "leased"), (40, "expired")):
        clock.now_s = begin_s + after_s
        assert (await leasing.state())[0] == state
    await leasing.lease("acquire", lease_duration="-1")
    clock.now_s += 1e9
    assert await leasing.state() == ("leased", "locked", "infinite")


@pytest.mark.parametrize(
    ("duration", "period", "left_s"),
    [("60", None, 50), ("60", "30", 30), ("60", "55", 50), ("60", "0", 0), ("-1", None, 0), ("-1", "60", 60)],
)
async def test_a_broken_lease_is_free_after_the_shorter_of_its_rest_and_the_period(
    leasing: Leasing, duration: str, period: str | None, left_s: int
) -> None:
    await leasing.lease("acquire", lease_duration=duration, proposed_lease_id=A)
    leasing.clock.now_s += 10
    fields = {} if period is None else {"lease_break_period": period}
    assert (await leasing.lease("break", **fields)).fields.get("x-ms-lease-time") == str(left_s)
    again = await leasing.lease("break", lease_break_period="60")
    assert again.fields.get("x-ms-lease-time") == str(left_s), "a second break never makes it longer"
    if left_s:
        assert await leasing.state() == ("breaking", "locked", None)
        assert (await leasing.lease("break", lease_break_period="1")).fields.get("x-ms-lease-time") == "1"
        leasing.clock.now_s += 1
    assert await leasing.state() == ("broken", "unlocked", None)


@pytest.mark.parametrize(
    ("action", "fields", "code"),
    [
        ("acquire", {}, "MissingRequiredHeader"),
        ("acquire", {"lease_duration": "14"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "61"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "-2"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "2x"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "15", "proposed_lease_id": "x"}, "InvalidHeaderValue"),
        ("renew", {}, "MissingRequiredHeader"),
        ("change", {"lease_id": A}, "MissingRequiredHeader"),
        ("release", {"lease_id": "{}"}, "InvalidHeaderValue"),
        ("break", {"lease_break_period": "61"}, "InvalidHeaderValue"),
        ("break", {"lease_break_period": "-1"}, "InvalidHeaderValue"),
        ("", {}, "MissingRequiredHeader"),
        ("steal", {}, "InvalidHeaderValue"),
    ],
)
async def test_an_action_that_says_too_little_or_nonsense_is_refused(leasing, action, fields, code) -> None:  # type: ignore[no-untyped-def]
    for target in ("/con/b", "/con?restype=container"):
        got = await leasing.lease(action, target, **fields)
        assert (got.status, got.code) == (400, code)


async def test_a_lease_needs_something_to_lease(leasing: Leasing) -> None:
    for target, code in (("/con/absent", "BlobNotFound"), ("/absent?restype=container", "ContainerNotFound")):
        assert (await leasing.lease("acquire", target, lease_duration="-1")).code == code
    etag = (await leasing("HEAD", "/con/b")).etag
    target, fields = "/con/b?comp=lease", {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
    assert (await leasing("PUT", target, {**fields, "if-match": '"0x1"'})).code == "ConditionNotMet"
    assert (await leasing("PUT", target, {**fields, "if-match": etag})).status == 201
    written = {"x-ms-blob-type": "BlockBlob", "x-ms-lease-id": A}
    assert (await leasing("PUT", "/con/absent", written, b"x")).code == NO_BLOB_LEASE


async def test_a_leased_container_is_deleted_with_its_lease_only(leasing: Leasing) -> None:
    target = "/con?restype=container"
    await leasing.bring_to("leased", target)
    assert (await leasing("DELETE", target)).code == "LeaseIdMissing"
    for method, asked in (("DELETE", target), ("GET", target), ("PUT", f"{target}&comp=metadata")):
        got = await leasing(method, asked, {"x-ms-lease-id": B})
        assert (got.status, got.code) == (412, "LeaseIdMismatchWithContainerOperation")
    assert (await leasing("PUT", f"{target}&comp=metadata", {"x-ms-meta-a": "1"})).status == 200
    assert (await leasing.put("/con/c", b"c")).status == 201, "it guards the container, not what is in it"
    assert (await leasing("DELETE", target, {"x-ms-lease-id": A})).status == 202
    await leasing.make()
    assert (await leasing.state(target))[0] == "available"
    got = await leasing("GET", target, {"x-ms-lease-id": A})
    assert got.code == "LeaseNotPresentWithContainerOperation"


async def test_the_source_of_a_copy_may_be_asked_to_be_leased(leasing: Leasing) -> None:
    await leasing.bring_to("leased", "/con/source")
    copied = {"x-ms-copy-source": SOURCE}
    assert (await leasing("PUT", "/con/c", copied)).status == 202
    assert (await leasing("PUT", "/con/c", {**copied, "x-ms-source-lease-id": A})).status == 202
    assert (await leasing("PUT", "/con/c", {**copied, "x-ms-source-lease-id": B})).code == OTHERS_BLOB
    assert (await leasing.state("/con/c"))[0] == "available", "a copy is not leased"


async def test_listings_tell_of_leases(leasing: Leasing) -> None:
    await leasing.bring_to("leased")
    await leasing.lease("acquire", "/con?restype=container", lease_duration="-1")
    blobs = (await leasing("GET", "/con?restype=container&comp=list")).xml
    told = [
        tuple(blob.findtext(f"Properties/Lease{name}") for name in ("State", "Status", "Duration"))
        for blob in blobs.findall("Blobs/Blob")
    ]
    assert told == [("leased", "locked", "fixed"), ("available", "unlocked", None)]
    containers = (await leasing("GET", "/?comp=list")).xml
    assert containers.findtext("Containers/Container/Properties/LeaseDuration") == "infinite"


async def test_leases_outlive_the_host(leasing: Leasing) -> None:
    await leasing.bring_to("leased")
    await leasing.bring_to("breaking", "/con/source")
    await leasing.bring_to("leased", "/con?restype=container")
    leasing.service.close()
    leasing.service.open()
    assert (await leasing("DELETE", "/con/b")).code == "LeaseIdMissing"
    assert (await leasing.state("/con/source"))[0] == "breaking"
    assert (await leasing("DELETE", "/con?restype=container")).code == "LeaseIdMissing"
    leasing.clock.now_s += 15
    assert (await leasing.state())[0] == "expired"


async def test_a_batch_obeys_leases(leasing: Leasing) -> None:
    await leasing.bring_to("leased")
    part = "--b\r\nContent-Type: application/http\r\n\r\nDELETE /con/b HTTP/1.1\r\n{}\r\n"
    multipart = {"content-type": "multipart/mixed; boundary=b"}
    for field, status in (("", b"412"), (f"x-ms-lease-id: {A}\r\n", b"202")):
        body = f"{part.format(field)}--b--\r\n".encode()
        assert b"HTTP/1.1 " + status in (await leasing("POST", "/?comp=batch", multipart, body)).body


async def test_what_time_alone_will_change_is_not_offered_to_the_data_plane(leasing: Leasing) -> None:
    """Design §7: an entry answers until a change of the blob, and a lease that ends changes nothing."""
    for state, offered in (("leased", False), ("breaking", False), ("broken", True), ("expired", True)):
        await leasing("PUT", "/con/b?comp=metadata")
        await leasing.bring_to(state)
        for method in ("GET", "HEAD"):
            response = await wanting(leasing.service, method, "/con/b")
            assert (response.offer is not None) == offered, state
            assert ("x-ms-lease-state", state) in response.fields.pairs()
            release(response)
        await leasing.lease("break", lease_break_period="0")
    await leasing.lease("acquire", lease_duration="-1")
    response = await wanting(leasing.service, "GET", "/con/b")
    assert response.offer is not None, "an infinite lease stays as it is"
    release(response)


async def test_a_store_of_before_leases_opens(tmp_path: Path, open_service: Callable[..., EmbeddedService]) -> None:
    make_old_store(tmp_path / "store", 1)
    clock = Clock()
    caller = Leasing(open_service(clock=clock), clock)
    assert await caller.state() == ("available", "unlocked", None)
    await caller.bring_to("leased")
    await caller.bring_to("leased", "/con?restype=container")
