"""obstore, the object store library in Rust: over plain HTTP, and over the Azure endpoint of the host's HTTP front."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import AzureStore, HTTPStore

from pvblob.cli.fleet.corpus import CONTAINER, name
from pvblob.cli.fleet.workers.account import ACCOUNT, KEY
from pvblob.cli.fleet.workers.contract import Address, Call, Task, Worker, WritingWorker

if TYPE_CHECKING:
    from obstore.store import ClientConfig
    from typing_extensions import Buffer


def open_store(address: Address) -> Any:
    """Return a store on a plain HTTP server or an Azure endpoint. Its threads start with its first request."""
    options: ClientConfig = {"allow_http": True}
    if address.authorities:
        os.environ["SSL_CERT_FILE"] = (
            address.authorities
        )  # obstore has no setting for it; rustls-native-certs reads this
    if address.protocol == "http":
        return HTTPStore(address.url, client_options=options)
    url = f"{address.url}/{ACCOUNT}"
    return AzureStore(
        container_name=CONTAINER, account_name=ACCOUNT, account_key=KEY, endpoint=url, client_options=options
    )


class Get(Worker):
    """`get_range`; `get_ranges` without merging for several in flight (it runs ten at a time)."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._store = open_store(address)

    def calls(self) -> Sequence[Call]:
        """Return a GET for each blob."""
        return [self._get(name(blob)) for blob in range(self.task.blobs)]

    def _get(self, path: str) -> Call:
        store, size_bytes, get_range = self._store, self.task.block_bytes, obstore.get_range

        def call(offset: int) -> object:
            found = get_range(store, path, start=offset, length=size_bytes)
            if len(found) != size_bytes:
                raise ValueError(f"{len(found)} bytes instead of {size_bytes}")
            return found

        return call

    def many(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Buffer]]:
        """Ask for a run of ranges in one call; they come together."""
        position = 0
        while taken := list(islice(places, self.task.in_flight)):
            starts, sizes = [offset for _, offset in taken], [self.task.block_bytes] * len(taken)
            path = name(taken[0][0])
            for found in obstore.get_ranges(self._store, path, starts=starts, lengths=sizes, coalesce=0):
                yield position, found
                position += 1


class Put(WritingWorker):
    """`put` in one request: WebDAV, or one Put Blob."""

    def __init__(self, address: Address, task: Task, number: int) -> None:
        super().__init__(address, task, number)
        self._store = open_store(address)

    def calls(self) -> Sequence[Call]:
        """Return a put for each slot."""
        return [self._put(slot) for slot in range(self.SLOTS)]

    def _put(self, slot: int) -> Call:
        store, path, data, put = self._store, self.names[slot], self.data[slot], obstore.put
        return lambda _offset: put(store, path, data, use_multipart=False)

    def read_back(self, slot: int) -> Buffer:
        """Return what is stored."""
        return obstore.get(self._store, self.names[slot]).bytes()
