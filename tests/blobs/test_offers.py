"""Design §7: what a read offers to the data plane, and what becomes of it when the blob's container goes meanwhile."""

from __future__ import annotations

from pvblob.blobs.service import EmbeddedService
from pvblob.http import BytesBody, Fields, FileContent, Request, Response
from tests.blobs.conftest import HOST, Caller


async def wanting(service: EmbeddedService, method: str, target: str, *fields: tuple[str, str]) -> Response:
    request = Request(method, "https", HOST, target, Fields(fields), wants_offload=True)
    return await service.execute(request, BytesBody())


def release(response: Response) -> None:
    if isinstance(response.content, FileContent):
        response.content.release()
    if response.offer is not None:
        response.offer.content.release()


async def test_only_a_read_that_wants_it_and_succeeds_brings_an_offer(call: Caller) -> None:
    await call.put("/con/b", b"x" * 100)
    for method, target, fields, offered in (
        ("GET", "/con/b", (), True),
        ("HEAD", "/con/b", (), True),
        ("GET", "/con/b", (("range", "bytes=1-2"),), True),
        ("GET", "/con/b", (("range", "bytes=100-"),), False),
        ("GET", "/con/b", (("if-match", '"other"'),), False),
        ("GET", "/con/absent", (), False),
        ("GET", "/con?restype=container&comp=list", (), False),
    ):
        response = await wanting(call.service, method, target, *fields)
        assert (response.offer is not None) == offered, (method, target, fields)
        release(response)
    assert (await call.raw("HEAD", "/con/b")).offer is None
    assert call.service._store is not None
    assert not call.service._store.extents._pins


async def test_a_container_found_deleted_in_the_middle_of_a_read_leaves_nothing_pinned(call: Caller) -> None:
    """The deletion is visible from the second look at the container's id on, for every point in the read."""
    await call.put("/con/b", b"x" * 100)
    store = call.service._store
    assert store is not None
    ask = type(store).container_id
    for looks in range(1, 8):
        seen = 0

        def found(self, asked, looks=looks):  # type: ignore[no-untyped-def]
            nonlocal seen
            seen += 1
            if seen == looks:
                self.reader.execute("PRAGMA query_only = OFF")
                self.reader.execute("UPDATE containers SET deleted = 1")
                self.container_ids.clear()
            return ask(self, asked)

        type(store).container_id = found  # type: ignore[method-assign]
        try:
            response = await wanting(call.service, "GET", "/con/b")
        finally:
            type(store).container_id = ask  # type: ignore[method-assign]
            store.reader.execute("UPDATE containers SET deleted = 0")
            store.container_ids.clear()
        assert response.status in (200, 404)
        release(response)
        assert not store.extents._pins, f"look {looks}: {response.status}"
