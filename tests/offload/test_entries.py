"""Design §7, issue "Offload entries": when entries answer, when they stop, what they pin, and what a stall holds up."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvblob.errors import BlobError
from pvblob.vsp.status import snapshot
from tests.conftest import pattern
from tests.faults.guest import RawGuest
from tests.offload.conftest import Stage
from tests.waiting import until

MakeStage = Callable[..., Stage]


def test_a_target_that_is_read_twice_is_answered_without_python_from_then_on(stage: Stage) -> None:
    stage.client.put("con", "b", pattern(10_000))
    requests = [stage.host.host.dispatcher.counters.requests]
    for number in range(4):
        assert stage.client.get("con", "b", offset=number, length=100) == pattern(10_000)[number : number + 100]
        requests.append(stage.host.host.dispatcher.counters.requests)
    assert [after - before for before, after in itertools.pairwise(requests)] == [1, 1, 0, 0]


@pytest.mark.parametrize("change", ["put", "metadata", "delete", "container"])
def test_every_mutation_ends_the_entry_and_its_pin_at_once(stage: Stage, change: str) -> None:
    stage.client.put("con", "b", b"old" * 1000)
    stage.warm("con", "b")
    assert stage.store_pins()
    if change == "put":
        stage.client.put("con", "b", b"new")
    elif change == "metadata":
        stage.client.set_metadata("con", "b", {"a": "b"})
    elif change == "delete":
        stage.client.delete("con", "b")
    else:
        stage.client.delete_container("con")
    until(lambda: not stage.store_pins(), "nobody looks the entry up again, and it must not pin its bytes all the same")
    assert not stage.engine.offload_entries()
    if change in ("delete", "container"):
        with pytest.raises(BlobError):
            stage.client.get("con", "b")
    elif change == "metadata":
        assert stage.client.stat("con", "b").metadata == {"a": "b"}
        assert stage.client.get("con", "b") == b"old" * 1000
    else:
        assert stage.client.get("con", "b") == b"new"


def test_a_deleted_and_created_container_answers_nothing_of_before(stage: Stage) -> None:
    for round_number in range(5):
        content = b"%d" % round_number * 100
        stage.client.put("con", "b", content)
        stage.warm("con", "b")
        stage.client.delete_container("con")
        with pytest.raises(BlobError):
            stage.client.get("con", "b")
        stage.client.create_container("con")
        with pytest.raises(BlobError):
            stage.client.get("con", "b")


def test_the_table_is_bounded_and_keeps_what_is_used(make_stage: MakeStage) -> None:
    stage = make_stage(offload_entries_max=8)
    for number in range(40):
        stage.client.put("con", f"b{number}", b"%02d" % number)
    stage.warm("con", "b0")
    for number in range(1, 40):
        stage.warm("con", f"b{number}")
        stage.client.get("con", "b0")  # used between any two installs: the hand passes it by
    entries = {target for _, _, _, target, _, _ in stage.engine.offload_entries()}
    assert len(entries) <= 8
    assert "/con/b0" in entries, "the entry that was used most made room"
    until(lambda: len(stage.store_pins()) <= 8, "evicted entries pin bytes")
    counters = stage.counters()
    assert counters["evictions"] >= 40 - 8
    assert counters["installs"] - counters["evictions"] == len(entries)


def test_offload_can_be_turned_off(make_stage: MakeStage) -> None:
    stage = make_stage(offload_entries_max=0)
    stage.client.put("con", "b", b"x" * 100)
    for _ in range(5):
        assert stage.client.get("con", "b") == b"x" * 100
    assert sum(stage.counters().values()) == 0
    until(lambda: not stage.store_pins(), "something is pinned for an entry that cannot be")


def test_a_channel_without_a_scope_is_never_answered_by_an_entry(stage: Stage) -> None:
    """Design rule 8: in mode "verify" every request's credential is looked at."""
    stage.client.put("con", "b", b"x" * 100)
    stage.warm("con", "b")
    guest, before = stage.guest(offloaded=False), stage.counters()
    for _ in range(5):
        assert guest.fetch("/con/b") == b"x" * 100
    assert stage.counters() == before


def test_a_new_policy_scope_finds_nothing_of_the_old_one_and_lets_it_go(stage: Stage) -> None:
    """Issue "Offload entries": a policy change invalidates."""
    stage.client.put("con", "b", b"x" * 100)
    stage.warm("con", "b")
    dispatcher = stage.host.host.dispatcher

    def change_scopes() -> None:
        for key in list(dispatcher._guests):
            dispatcher.set_scope(key, 777)
        dispatcher.retire_scopes()

    before = stage.counters()["misses"]
    stage.host.call(change_scopes)
    until(lambda: not stage.store_pins(), "an entry of a policy that nobody is under pins its bytes")
    assert stage.client.get("con", "b", offset=0, length=1) == b"x"
    assert stage.counters()["misses"] == before + 1
    stage.warm("con", "b")
    assert {scope for scope, *_ in stage.engine.offload_entries()} == {777}


def test_a_blob_of_scattered_blocks_is_read_whole_and_in_parts(stage: Stage) -> None:
    content, block = os.urandom(20 << 20), 8 << 20
    stage.client.put("con", "b", content)
    stage.warm("con", "b")
    before = stage.counters()
    for offset, length in ((0, 8 << 20), (block - 1, 2), (block, block), (12345, 3 << 20), (2 * block - 7, 4 << 20)):
        assert stage.client.get("con", "b", offset=offset, length=length) == content[offset : offset + length]
    assert stage.counters()["hits"] == before["hits"] + 5


# ---- cold reads: behind a file that does not answer


def segment_of(stage: Stage, blob: str) -> int:
    """Return the descriptor of the one segment that holds a blob; blobs of a whole segment each have their own."""
    assert stage.service._store is not None
    row = stage.service._store.reader.execute("SELECT layout FROM blobs WHERE name = ?", (blob.encode(),)).fetchone()
    return stage.extents.segments[int.from_bytes(row[0][1:5], "little")].fd  # type: ignore[no-any-return]


def ask(guest: RawGuest, target: str, transaction_id: int = 1) -> None:
    guest.put(guest.ask(target, transaction_id, fields=[("x-ms-range", "bytes=0-4095")]))


def p99_us(stage: Stage) -> float:
    """Return the p99 of 200 reads of the blob "other", once their guest alone is active again and may poll."""
    times: list[float] = []
    settled = time.perf_counter() + 0.01  # twice as long as a guest counts as active (vsp/polling.rs)
    while len(times) < 200:
        begun = time.perf_counter()
        assert len(stage.client.get("con", "other", offset=0, length=4096)) == 4096
        if begun > settled:
            times.append(time.perf_counter() - begun)
    return sorted(times)[198] * 1e6


def p99_us_beside_a_stall(stage: Stage, guest: RawGuest) -> float:
    """Return the same while eight reads of *guest*'s stand behind a disk that does not answer; then let them end."""
    stage.engine.stall(segment_of(stage, "stalled"))
    for number in range(8):
        guest.put(guest.ask("/con/stalled", number + 1, slot=number, fields=[("x-ms-range", "bytes=0-4095")]))
    until(lambda: stage.engine.stalled_reads > 0, "no read stalls")
    beside = p99_us(stage)
    assert stage.engine.stalled_reads > 0
    stage.engine.resume()
    assert sorted(guest.completion()[:2] for _ in range(8)) == [(number + 1, 0) for number in range(8)]
    return beside


def test_a_read_behind_a_stalled_disk_delays_no_other_guest(make_stage: MakeStage) -> None:
    """Issue "Movement": one guest's extents sit behind a fault wrapper that stalls; the others' p99 does not move.

    Judged by the median over pairs measured in turn, the order changing from pair to pair: what else the machine does
    meets both sides alike. A busy machine gets three attempts; a p99 that moves fails them all.
    """
    stage = make_stage(stallable=True)
    stage.client.put("con", "stalled", pattern(1 << 20))
    stage.client.put("con", "other", pattern(1 << 20)[::-1])
    stage.warm("con", "stalled")
    stage.warm("con", "other")
    assert segment_of(stage, "stalled") != segment_of(stage, "other")
    guest = stage.guest(offloaded=True)

    def ratio(pair: int) -> float:
        alone = p99_us(stage) if pair % 2 else 0.0
        beside = p99_us_beside_a_stall(stage, guest)
        return beside / (alone or p99_us(stage))

    found = []
    for _ in range(3):
        found.append(statistics.median(map(ratio, range(15))))
        if found[-1] <= 1.5:
            break
    assert min(found) <= 1.5, f"p99 beside a stalled read / without one: {found}"
    assert bytes(guest.memory[:4096]) == pattern(4096)


@pytest.mark.parametrize("offloaded", [True, False], ids=["by an entry", "by Python"])
def test_reads_that_wait_for_a_disk_are_among_the_pending_requests(make_stage: MakeStage, offloaded: bool) -> None:
    """Issue "A hostile or dying peer": seeing inside. Eight run, the others wait for their channel's turn."""
    stage, count = make_stage(stallable=True), 12
    stage.client.put("con", "b", pattern(1 << 20))
    stage.warm("con", "b")
    guest = stage.guest(offloaded=offloaded)
    stage.engine.stall(segment_of(stage, "b"))
    for number in range(count):
        guest.put(guest.ask("/con/b", number + 1, slot=number, fields=[("x-ms-range", "bytes=0-4095")]))
    until(lambda: stage.engine.reading(0)[0] == count, "the reads do not stall")
    seen: Any = stage.host.call(lambda: snapshot(stage.host.host, {}))
    assert [request["state"] for request in seen["requests"]] == ["reading"] * count
    assert len({request["data_buffer"] for request in seen["requests"]}) == count
    assert seen["requests_in_flight"] == count
    stage.engine.resume()
    assert sorted(guest.completion()[:2] for _ in range(count)) == [(number + 1, 0) for number in range(count)]
    until(lambda: stage.engine.reading(0)[0] == 0, "reads that have ended are still shown")


@pytest.mark.parametrize("end", ["overwritten", "deleted"])
def test_space_is_not_used_again_while_a_stalled_read_needs_it(make_stage: MakeStage, end: str) -> None:
    """Design §7: no extent is reused while a read can still touch it; the read answers what it was asked about."""
    stage = make_stage(stallable=True)
    old, new = pattern(1 << 20), pattern(1 << 20)[::-1]
    stage.client.put("con", "b", old)
    stage.warm("con", "b")
    guest = stage.guest(offloaded=True)
    fd = segment_of(stage, "b")
    stage.engine.stall(fd)
    ask(guest, "/con/b")
    until(lambda: stage.engine.stalled_reads == 1, "the read does not stall")
    if end == "overwritten":
        stage.client.put("con", "b", new)
    else:
        stage.client.delete("con", "b")
    # Everything that could take the space: blobs of the same size, twice as many as there are free runs.
    for number in range(4):
        stage.client.put("con", f"filler{number}", new)
    assert stage.store_pins(), "the running read holds its bytes"
    stage.engine.resume()
    assert guest.completion()[:2] == (1, 0)
    assert bytes(guest.memory[:4096]) == old[:4096]
    until(lambda: not stage.store_pins(), "the read is over and its bytes are still pinned")
    stage.client.put("con", "after", new)  # and now the space is used again
    assert stage.extents.usage()[1] < 1 << 20


def test_a_guest_that_leaves_during_a_stalled_read_leaves_nothing_behind(make_stage: MakeStage) -> None:
    stage = make_stage(stallable=True)
    stage.client.put("con", "b", pattern(1 << 20))
    stage.warm("con", "b")
    guest = RawGuest(stage.host.socket_path).opened()
    stage.engine.stall(segment_of(stage, "b"))
    ask(guest, "/con/b")
    until(lambda: stage.engine.stalled_reads == 1, "the read does not stall")
    guest.close()
    until(lambda: stage.host.host.guests == 1, "the guest is still served")
    stage.engine.resume()
    until(lambda: stage.engine.stalled_reads == 0, "the read does not end")
    assert stage.client.get("con", "b", offset=0, length=10) == pattern(10)


def test_bytes_that_left_the_page_cache_are_read_by_a_filler(make_stage: MakeStage, directory: Path) -> None:
    """RWF_NOWAIT on a real file system: what is not in the page cache goes to the pool, and the answer is the same."""
    if str(directory).startswith("/dev/shm"):
        pytest.skip("a tmpfs file cannot leave the page cache")
    stage = make_stage()
    stage.client.put("con", "b", pattern(1 << 20))
    stage.warm("con", "b")
    fd = segment_of(stage, "b")
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert stage.client.get("con", "b") == pattern(1 << 20)
    assert stage.counters()["cold"] == 1
    assert stage.client.get("con", "b") == pattern(1 << 20)
    assert stage.counters()["cold"] == 1


def test_many_guests_share_an_entry(stage: Stage) -> None:
    stage.client.put("con", "b", pattern(4096))
    stage.warm("con", "b")
    hits = stage.counters()["hits"]
    for guest in [stage.guest(offloaded=True) for _ in range(8)]:
        assert guest.fetch("/con/b") == pattern(4096)
    assert stage.counters()["hits"] == hits + 8
