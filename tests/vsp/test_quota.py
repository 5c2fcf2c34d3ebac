"""Issue 4, flow control: what is begun and kept for guests is bounded for all together (0x800705AA), and given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pvblob.client.exchange import Exchange
from pvblob.errors import OutOfCredits
from pvblob.http import Request
from pvblob.vsp.budget import Limits

RequestTo = Callable[..., Request]
PIECE_BYTES = 8 << 20


class Slow:
    """A source that gives its second piece only when it may."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def chunks(self) -> Iterator[bytes]:
        yield bytes(PIECE_BYTES)
        self.begun.set()
        assert self.go_on.wait(30)
        yield bytes(self.size_bytes - PIECE_BYTES)


@pytest.fixture
def tight_host(make_host: Callable[..., Any]) -> Any:
    return make_host(limits=Limits(uploads_max=2, kept_answers_max=4))


def test_a_guest_beyond_its_share_of_uploads_is_told_and_another_guest_is_not(
    tight_host: Any, request_to: RequestTo
) -> None:
    first, other = Exchange(tight_host.socket_path), Exchange(tight_host.socket_path)
    first.perform(request_to("PUT", "/con?restype=container"))

    def put(exchange: Exchange, name: str, source: Any) -> int:
        size = ("content-length", str(source.size_bytes))
        return exchange.perform(request_to("PUT", f"/con/{name}", ("x-ms-blob-type", "BlockBlob"), size), source).status

    slow = Slow(2 * PIECE_BYTES)
    statuses: list[int] = []
    uploading = threading.Thread(target=lambda: statuses.append(put(first, "slow", slow)))
    uploading.start()
    assert slow.begun.wait(30)
    quick = Slow(2 * PIECE_BYTES)
    quick.go_on.set()
    with pytest.raises(OutOfCredits):
        put(first, "too-many", quick)
    again = Slow(2 * PIECE_BYTES)
    again.go_on.set()
    assert put(other, "other", again) == 201
    slow.go_on.set()
    uploading.join(30)
    assert statuses == [201]
    spent = tight_host.host.dispatcher.spent
    assert tight_host.call(lambda: (spent.uploads.count, spent.uploads.size_bytes)) == (0, 0)
    first.close()
    other.close()
