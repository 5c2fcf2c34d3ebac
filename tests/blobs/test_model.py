"""The service against a dict: puts, block lists, deletes, ranged reads, lists, pins and restarts in any order."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pvblob.blobs.service import EmbeddedService
from pvblob.http import BytesBody, Fields, FileContent, Request, Response

names = st.sampled_from(["a", "a/1", "ü/x", "b//"])
ids = st.sampled_from([b"000", b"001", b"002"])
sizes = st.one_of(st.integers(0, 40), st.sampled_from([511, 512, 513, 4096, 70_000]))
kinds = st.sampled_from(["Latest", "Committed", "Uncommitted"])


def body_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class ServiceModel(RuleBasedStateMachine):
    """model: name -> (body, committed blocks); staged: name -> {id: bytes}; pinned: content -> the bytes it showed."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.service = EmbeddedService(Path(self.directory.name), durability="none", segment_bytes=200_000)
        self.service.open()
        self.model: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {}
        self.staged: dict[str, dict[bytes, bytes]] = {}
        self.appending: set[str] = set()
        self.pinned: list[tuple[FileContent, bytes]] = []
        self.etags: set[str] = set()

    def teardown(self) -> None:
        for content, _ in self.pinned:
            content.release()
        self.service.close()
        self.loop.close()
        self.directory.cleanup()

    def send(self, method: str, target: str, body: bytes = b"", **fields: str) -> Response:
        head = Fields((name.replace("_", "-"), value) for name, value in fields.items())
        request = Request(method, "https", "acct.blob.x", target, head)
        return self.loop.run_until_complete(self.service.execute(request, BytesBody(body)))

    def read(self, content: bytes | FileContent) -> bytes:
        if isinstance(content, bytes):
            return content
        return b"".join(os.pread(extent.fd, extent.length, extent.offset) for extent in content.extents)

    def fresh_etag(self, response: Response) -> None:
        etag = response.fields.get("etag")
        assert etag is not None
        assert etag not in self.etags
        self.etags.add(etag)

    @initialize()
    def make_container(self) -> None:
        assert self.send("PUT", "/con?restype=container").status == 201

    @rule(name=names, size=sizes, seed=st.integers(0, 99), only_new=st.booleans())
    def put_blob(self, name: str, size: int, seed: int, only_new: bool) -> None:
        body = body_of(size, seed)
        fields: dict[str, Any] = {"if_none_match": "*"} if only_new else {}
        response = self.send("PUT", f"/con/{name.replace('ü', '%C3%BC')}", body, x_ms_blob_type="BlockBlob", **fields)
        if only_new and name in self.model:
            assert response.status == 409
            return
        assert response.status == 201
        self.fresh_etag(response)
        self.model[name] = (body, [])
        self.staged.pop(name, None)
        self.appending.discard(name)

    @rule(name=names)
    def create_append_blob(self, name: str) -> None:
        response = self.send("PUT", f"/con/{name.replace('ü', '%C3%BC')}", x_ms_blob_type="AppendBlob")
        assert response.status == 201
        self.fresh_etag(response)
        self.model[name] = (b"", [])
        self.staged.pop(name, None)
        self.appending.add(name)

    @rule(name=names, size=sizes.filter(bool), seed=st.integers(0, 99), at_end=st.booleans())
    def append(self, name: str, size: int, seed: int, at_end: bool) -> None:
        body, before = body_of(size, seed), self.model.get(name, (b"", []))[0]
        position: dict[str, Any] = {"x_ms_blob_condition_appendpos": str(len(before) if at_end else len(before) + 1)}
        response = self.send("PUT", f"/con/{name.replace('ü', '%C3%BC')}?comp=appendblock", body, **position)
        if name not in self.appending:
            assert response.status == (409 if name in self.model else 404)
            return
        assert response.status == (201 if at_end else 412)
        if at_end:
            assert response.fields.get("x-ms-blob-append-offset") == str(len(before))
            self.fresh_etag(response)
            self.model[name] = (before + body, [])

    @rule(name=names, block=ids, size=sizes.filter(bool), seed=st.integers(0, 99))
    def put_block(self, name: str, block: bytes, size: int, seed: int) -> None:
        body = body_of(size, seed)
        text = base64.b64encode(block).decode()
        target = f"/con/{name.replace('ü', '%C3%BC')}?comp=block&blockid={text}"
        assert self.send("PUT", target, body).status == (409 if name in self.appending else 201)
        if name in self.appending:
            return
        self.staged.setdefault(name, {})[block] = body

    @rule(name=names, order=st.permutations([b"000", b"001", b"002"]), size=sizes.filter(bool), seed=st.integers(0, 99))
    def put_blocks_and_list_them(self, name: str, order: list[bytes], size: int, seed: int) -> None:
        for number, block in enumerate(order):
            self.put_block(name, block, size + number, seed + number)
        self.put_block_list(name, [("Latest", block) for block in order])

    @precondition(lambda self: self.model)
    @rule(data=st.data(), kept=st.lists(ids, max_size=4))
    def recommit_some_blocks(self, data: st.DataObject, kept: list[bytes]) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.put_block_list(name, [("Latest", block) for block in kept])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def overwrite_what_is_being_read(self, data: st.DataObject) -> None:
        """Pin a blob, replace it, and write over every free byte a body of its size could reach."""
        name = data.draw(st.sampled_from(sorted(self.model)))
        size = len(self.model[name][0])
        self.read_range(name, 0, size or 1, True)
        for seed in (1, 2):
            self.put_blob(name, size, seed, False)

    @rule(name=names, entries=st.lists(st.tuples(kinds, ids), max_size=5))
    def put_block_list(self, name: str, entries: list[tuple[str, bytes]]) -> None:
        committed = dict(self.model.get(name, (b"", []))[1])
        staged = self.staged.get(name, {})
        blocks: list[tuple[bytes, bytes]] | None = []
        for kind, block in entries:
            places = {"Latest": (staged, committed), "Committed": (committed,), "Uncommitted": (staged,)}[kind]
            place = next((place for place in places if block in place), None)
            if place is None:
                blocks = None
                break
            blocks.append((block, place[block]))  # type: ignore[union-attr]
        xml = "".join(f"<{kind}>{base64.b64encode(block).decode()}</{kind}>" for kind, block in entries)
        target = f"/con/{name.replace('ü', '%C3%BC')}?comp=blocklist"
        response = self.send("PUT", target, f"<BlockList>{xml}</BlockList>".encode())
        if name in self.appending:
            assert response.status == 409
            return
        if blocks is None:
            assert response.fields.get("x-ms-error-code") == "InvalidBlockList"
            return
        assert response.status == 201
        self.fresh_etag(response)
        self.model[name] = (b"".join(body for _, body in blocks), blocks)
        self.staged.pop(name, None)

    @rule(source=names, copied_to=names)
    def copy(self, source: str, copied_to: str) -> None:
        quoted = source.replace("ü", "%C3%BC")
        response = self.send(
            "PUT", f"/con/{copied_to.replace('ü', '%C3%BC')}", x_ms_copy_source=f"https://acct.blob.x/con/{quoted}"
        )
        if source not in self.model:
            assert response.status == 404
            return
        if copied_to in self.model and (source in self.appending) != (copied_to in self.appending):
            assert response.status == 409
            return
        assert response.status == 202
        self.fresh_etag(response)
        if source in self.appending:
            self.appending.add(copied_to)
        self.model[copied_to] = self.model[source]
        self.staged.pop(copied_to, None)

    @rule(name=names)
    def delete(self, name: str) -> None:
        response = self.send("DELETE", f"/con/{name.replace('ü', '%C3%BC')}")
        assert response.status == (202 if name in self.model else 404)
        if self.model.pop(name, None) is not None:
            self.staged.pop(name, None)
            self.appending.discard(name)

    @rule(name=names, first=st.integers(0, 80_000), length=st.integers(1, 80_000), keep=st.booleans())
    def read_range(self, name: str, first: int, length: int, keep: bool) -> None:
        text = f"bytes={first}-{first + length - 1}"
        response = self.send("GET", f"/con/{name.replace('ü', '%C3%BC')}", range=text)
        if name not in self.model:
            assert response.status == 404
            return
        expected = self.model[name][0][first : first + length]
        assert response.status == (206 if expected else 416)
        if expected:
            assert self.read(response.content) == expected
            assert isinstance(response.content, FileContent)
            if keep:
                self.pinned.append((response.content, expected))
            else:
                response.content.release()

    @precondition(lambda self: self.pinned)
    @rule(index=st.integers(0, 1000))
    def release(self, index: int) -> None:
        content, expected = self.pinned.pop(index % len(self.pinned))
        assert self.read(content) == expected
        content.release()

    @rule()
    def restart(self) -> None:
        for content, _ in self.pinned:
            content.release()
        self.pinned.clear()
        self.service.close()
        self.service.open()

    @invariant()
    def every_blob_reads_back_and_is_listed(self) -> None:
        listing = self.read(self.send("GET", "/con?restype=container&comp=list").content).decode()
        position = 0
        for name in sorted(self.model, key=str.encode):
            position = listing.index(f"<Name>{name}</Name>", position)
            response = self.send("GET", f"/con/{name.replace('ü', '%C3%BC')}")
            assert self.read(response.content) == self.model[name][0]
            if isinstance(response.content, FileContent):
                response.content.release()
        assert listing.count("<Name>") == len(self.model)

    @invariant()
    def pinned_reads_stay_what_they_were(self) -> None:
        for content, expected in self.pinned:
            assert self.read(content) == expected

    @invariant()
    def no_space_is_lost(self) -> None:
        """Used space is exactly what blobs, staged blocks and pins of vanished versions hold."""
        if self.pinned:
            return
        store = self.service._store
        assert store is not None
        used, free = store.extents.usage()
        held: set[tuple[int, int, int]] = set()
        from pvblob.blobs import catalog, streams
        from pvblob.blobs.extents import aligned, block_runs
        from pvblob.blobs.layout import unpack

        for _, _, layout in catalog.every_layout(store.reader):
            held |= block_runs(unpack(layout))
        held |= block_runs(block for _, _, block in catalog.every_block(store.reader))
        held |= block_runs(block for _, block in streams.every_block(store.reader))
        assert used - free == sum(aligned(length) for _, _, length in held)


ServiceModel.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestServiceAgainstADict = pytest.mark.long(ServiceModel.TestCase)
