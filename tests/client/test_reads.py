"""Reads in one native call give what the general path gives: results, errors, restarts, forks, deadlines, Ctrl-C."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pvblob import BlobError, Client, DeadlineExceeded
from pvblob.client.exchange import Exchange
from pvblob.client.reads import Reads

CONTAINER = "things"


class NoReads(Reads):
    """What a client has that always takes the general path."""

    def plan(self, key: object) -> None:
        return None


@pytest.fixture
def general(live_host: Any) -> Iterator[Client]:
    with Client.connect(live_host.socket_path) as connected:
        connected._reads = NoReads(connected._exchange.device(), connected._operations, 60.0)
        yield connected


def outcome(call: Callable[[], object]) -> object:
    """Return what *call* returns, or its error as something that can be compared."""
    try:
        value = call()
    except BlobError as error:
        return type(error), error.status, error.code, str(error)
    return bytes(value) if isinstance(value, memoryview) else value


def read_into(client: Client, blob: str, size_bytes: int, offset: int, if_match: str | None) -> object:
    out = bytearray(b"\xee" * size_bytes)
    properties = outcome(lambda: client.read_into(CONTAINER, blob, out, offset, if_match=if_match))
    return properties, bytes(out)


def read_into_lent(client: Client, blob: str, size_bytes: int, offset: int, if_match: str | None) -> object:
    out = client._exchange.device().allocate(max(size_bytes, 1)).slice(0, size_bytes)
    memoryview(out)[:] = b"\xee" * size_bytes
    properties = outcome(lambda: client.read_into(CONTAINER, blob, out, offset, if_match=if_match))
    return properties, bytes(out)


def get(client: Client, blob: str, size_bytes: int, offset: int, if_match: str | None) -> object:
    return outcome(lambda: client.get(CONTAINER, blob, offset=offset, length=size_bytes, if_match=if_match))


def view(client: Client, blob: str, size_bytes: int, offset: int, if_match: str | None) -> object:
    return outcome(lambda: client.view(CONTAINER, blob, offset=offset, length=size_bytes, if_match=if_match))


def change(draw: random.Random, client: Client, blob: str, known: dict[str, str]) -> None:
    """Replace the blob by a larger, smaller or empty one, give it metadata, or delete it."""
    choice = draw.random()
    if choice < 0.15:
        client.delete(CONTAINER, blob, missing_ok=True)
    elif choice < 0.3 and blob in known:
        outcome(lambda: client.set_metadata(CONTAINER, blob, {"n": str(draw.random()), "long": "x" * 5000}))
    else:
        size_bytes = draw.choice([0, 1, 4096, 5000, 100_000, 300_000])
        known[blob] = client.put(CONTAINER, blob, draw.randbytes(size_bytes), content_type="a/b").etag


def test_both_paths_agree_over_a_thousand_generated_reads(client: Client, general: Client) -> None:
    """Issue 3: whole and short reads, 404, 412, 416, blobs replaced in between, heads that need more room."""
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    etags: dict[str, str] = {}
    blobs = ["b", "folder/ü %", "c"]
    seen: set[object] = set()
    for _ in range(1000):
        blob = draw.choice(blobs)
        if draw.random() < 0.12:
            change(draw, client, blob, etags)
        size_bytes = draw.choice([0, 1, 100, 4096, 4097, 70_000, 300_000])
        offset = draw.choice([0, 1, 4095, 4096, 99_999, 100_000, 299_000])
        if_match = draw.choice([None, None, None, etags.get(blob), '"0x0"'])
        kind = draw.choice([get, view, read_into, read_into_lent])
        fast, slow = (kind(one, blob, size_bytes, offset, if_match) for one in (client, general))
        assert fast == slow, (seed, kind.__name__, blob, size_bytes, offset, if_match)
        result = fast[0] if isinstance(fast, tuple) else fast
        seen.add(result[1] if isinstance(result, tuple) else type(result).__name__)
    assert seen >= {404, 412, 416, "bytes", "BlobProperties"}, seen


def counted(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that grows by one for each request of the general path."""
    calls: list[str] = []
    for name in ("perform", "perform_into", "perform_view"):
        whole = getattr(Exchange, name)

        def count(*args: Any, _whole: Any = whole, _name: str = name, **options: Any) -> Any:
            calls.append(_name)
            return _whole(*args, **options)

        monkeypatch.setattr(Exchange, name, count)
    return calls


def test_reads_of_a_known_blob_stay_on_the_short_path(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once memory is lent, no read of one piece, nor its error, goes the general way."""
    etag = client.put(CONTAINER, "b", bytes(range(250)) * 100).etag
    out, lent = bytearray(1000), client._exchange.device().allocate(1000)
    client.get(CONTAINER, "b", length=1)
    calls = counted(client, monkeypatch)
    first = client.read_into(CONTAINER, "b", out, 7)
    assert (first.etag, first.size_bytes, out[:3]) == (etag, 25_000, b"\x07\x08\x09")
    assert client.read_into(CONTAINER, "b", out, 500) is first, "properties that are known are not made again"
    assert client.read_into(CONTAINER, "b", lent, 500) is first
    assert bytes(lent) == bytes(out)
    assert client.get(CONTAINER, "b", offset=24_990, length=100) == bytes(out)[240:250]
    assert client.view(CONTAINER, "b", offset=250, length=3) == b"\0\1\2"
    for missing in ("none", "none"):
        assert outcome(lambda name=missing: client.get(CONTAINER, name, length=10))[1] == 404  # type: ignore[index, misc]
    assert calls == []


def test_a_replaced_blob_is_read_as_it_is_now(client: Client) -> None:
    """What was learnt of one version is never returned for another."""
    out = bytearray(10)
    for round_ in range(20):
        data = bytes([round_]) * (10 + round_)
        etag = client.put(CONTAINER, "b", data, metadata={"round": str(round_)}).etag
        for _ in range(3):
            known = client.read_into(CONTAINER, "b", out)
            assert (known.etag, known.size_bytes, known.metadata, out) == (
                etag, 10 + round_, {"round": str(round_)}, data[:10],
            )  # fmt: skip


@pytest.mark.parametrize("small", [True, False])
def test_memory_that_cannot_be_filled_is_the_general_paths_error(client: Client, small: bool) -> None:
    client.put(CONTAINER, "b", b"0123456789")
    client.get(CONTAINER, "b", length=1)
    out = memoryview(bytes(10)) if small else memoryview(bytearray(20))[::2]
    with pytest.raises((TypeError, BufferError, ValueError)):
        client.read_into(CONTAINER, "b", out)


def test_any_memory_is_filled_in_place(client: Client) -> None:
    """numpy arrays of any type, parts of a bytearray, a view of lent memory."""
    np = pytest.importorskip("numpy")
    data = os.urandom(800)
    client.put(CONTAINER, "b", data)
    array, part, lent = np.zeros((10, 10)), bytearray(900), client._exchange.device().allocate(800)
    for _ in range(2):
        client.read_into(CONTAINER, "b", array)
        client.read_into(CONTAINER, "b", memoryview(part)[50:850])
        client.read_into(CONTAINER, "b", memoryview(lent))
        assert array.tobytes() == part[50:850] == bytes(lent) == data
        array[:] = 0


def test_a_view_keeps_its_pages_while_others_read(client: Client) -> None:
    data = os.urandom(100_000)
    client.put(CONTAINER, "b", data)
    views = [client.view(CONTAINER, "b", offset=1000 * index, length=1000) for index in range(50)]
    for _ in range(50):
        client.get(CONTAINER, "b", length=1000)
    assert b"".join(views) == data[:50_000]
    assert all(view.readonly for view in views)


def test_a_restarted_host_is_a_pause_for_planned_reads_too(live_host: Any, client: Client) -> None:
    """Rule 3: a plan of an ended connection is not used again; its blob is read through the new one."""
    client.put(CONTAINER, "b", b"0123456789")
    out = bytearray(10)
    for _ in range(3):
        client.read_into(CONTAINER, "b", out)
        live_host.stop()
        live_host.start()
        assert client.read_into(CONTAINER, "b", out).size_bytes == 10
        assert client.get(CONTAINER, "b", offset=2, length=3) == b"234"


def test_a_fork_reads_through_a_channel_of_its_own(client: Client, live_host: Any) -> None:
    """Rule 7: the child's first planned read opens its channel, while the parent goes on with its own."""
    data = os.urandom(10_000)
    client.put(CONTAINER, "b", data)
    out = bytearray(5000)
    client.read_into(CONTAINER, "b", out, 5000)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            right = all(
                client.get(CONTAINER, "b", offset=offset, length=10) == data[offset : offset + 10]
                for offset in range(100)
            )
            client.read_into(CONTAINER, "b", out, 1)
            os.write(writer, b"y" if right and out == data[1:5001] else b"n")
        finally:
            os._exit(0)
    for offset in range(100):
        assert client.get(CONTAINER, "b", offset=offset, length=10) == data[offset : offset + 10]
    assert os.read(reader, 1) == b"y"
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)


def test_a_pickled_client_plans_anew(client: Client) -> None:
    client.put(CONTAINER, "b", b"0123456789")
    client.get(CONTAINER, "b", length=4)
    with pickle.loads(pickle.dumps(client)) as other:
        assert other.get(CONTAINER, "b", offset=1, length=4) == b"1234"


def test_many_threads_share_the_plans(client: Client) -> None:
    """Rule 7: the leader rule holds for planned reads and general ones together."""
    blobs = {f"t{index}": os.urandom(20_000 + index) for index in range(8)}
    for blob, data in blobs.items():
        client.put(CONTAINER, blob, data)

    def read(seed: int) -> None:
        draw, out = random.Random(seed), bytearray(1000)
        for _ in range(150):
            blob, offset = draw.choice(list(blobs)), draw.randrange(19_000)
            if draw.random() < 0.3:
                assert client.get(CONTAINER, blob)[offset : offset + 10] == blobs[blob][offset : offset + 10]
            assert client.read_into(CONTAINER, blob, out, offset).size_bytes == len(blobs[blob])
            assert out == blobs[blob][offset : offset + 1000]

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(read, seed) for seed in range(8)]:
            one.result(60)
    link = client._exchange.device().current()
    assert link is not None
    assert link.channel.counts() == (0, 0, 0)
    assert link.memory.usage()[2] == 0, "every page came back"


@pytest.fixture
def gated(gated_host: Any) -> Iterator[Client]:
    with Client.connect(gated_host.socket_path) as connected:
        connected._exchange.device().allocate(1)
        yield connected


def test_ctrl_c_leaves_a_planned_read_and_cancels_it(gated: Client, gate: Any) -> None:
    """Rule 5: the interrupt leaves at once, the host is told, the pages stay away until it answers."""

    def interrupt() -> None:
        assert gate.began.acquire(timeout=10)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        gated.get("wait", "100", length=100)
    interrupter.join()
    assert gated._exchange.perform(gated._operations.read("after", "10", 0, 10, None, None)).status == 200
    assert gate.cancelled == ["/wait/100"]
    link = gated._exchange.device().current()
    assert link is not None
    assert (link.channel.counts(), link.memory.usage()[2]) == ((0, 0, 0), 0)


def test_a_planned_reads_deadline_passes_once(gated_host: Any, gate: Any) -> None:
    """Rule 5: neither path waits after the other has."""
    with Client.connect(gated_host.socket_path, timeout_s=0.3) as client:
        client._exchange.device().allocate(1)
        with pytest.raises(DeadlineExceeded, match="GET /wait/10: the host did not finish within the deadline"):
            client.get("wait", "10", length=10)
    assert gate.cancelled == ["/wait/10"]


def test_the_asyncio_client_agrees(either: Any, client: Client, content: Callable[[int], bytes]) -> None:
    client.put(CONTAINER, "b", content(10_000))
    out = bytearray(100)
    for _ in range(3):
        assert either.get(CONTAINER, "b", offset=9_990, length=100) == content(10_000)[9_990:]
        assert either.read_into(CONTAINER, "b", out, 5).size_bytes == 10_000
        assert out == content(10_000)[5:105]
        assert bytes(either.view(CONTAINER, "b", offset=3, length=4)) == content(10_000)[3:7]
