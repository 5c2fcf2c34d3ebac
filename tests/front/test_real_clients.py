"""obstore (object_store in Rust) and adlfs, unmodified, over the front and the embedded service (ecosystem.md §4)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import obstore
import pytest
from adlfs import AzureBlobFileSystem
from azure.storage.blob import BlobServiceClient
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import AzureStore

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT

# The SDK's asyncio transport, under adlfs, gives aiohttp's client large bodies as raw bytes: not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")

ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CREDENTIAL = {"account_name": DEVELOPMENT_ACCOUNT, "account_key": ACCOUNT_KEY}
DATA = random.Random(11).randbytes(3_000_000)


@pytest.fixture
def container(http_host: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a container for one test, named after it, and remove it afterwards."""
    name = request.node.name.replace("_", "-").lower()[:60].rstrip("-")
    with BlobServiceClient(f"{http_host}/{DEVELOPMENT_ACCOUNT}", CREDENTIAL) as service:
        with service.create_container(name):
            yield name
        service.delete_container(name)


@pytest.fixture
def store(http_host: str, container: str) -> AzureStore:
    return AzureStore(
        container,
        endpoint=f"{http_host}/{DEVELOPMENT_ACCOUNT}",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        **CREDENTIAL,
    )


@pytest.fixture
def files(http_host: str) -> AzureBlobFileSystem:
    endpoint = f"BlobEndpoint={http_host}/{DEVELOPMENT_ACCOUNT}"
    connection = f"DefaultEndpointsProtocol=http;AccountName={DEVELOPMENT_ACCOUNT};AccountKey={ACCOUNT_KEY};{endpoint}"
    return AzureBlobFileSystem(connection_string=connection, skip_instance_cache=True)


def test_obstore_puts_and_gets(store: AzureStore) -> None:
    obstore.put(store, "dir/a b+ü.bin", DATA)
    assert obstore.get(store, "dir/a b+ü.bin").bytes() == DATA
    meta = obstore.head(store, "dir/a b+ü.bin")
    assert (meta["path"], meta["size"]) == ("dir/a b+ü.bin", len(DATA))


def test_obstore_reads_ranges(store: AzureStore) -> None:
    obstore.put(store, "ranges", DATA)
    assert obstore.get_range(store, "ranges", start=1000, end=200_000) == DATA[1000:200_000]
    assert obstore.get_range(store, "ranges", start=len(DATA) - 10, length=10) == DATA[-10:]
    starts = [0, 1_000_000, 2_500_000]
    found = obstore.get_ranges(store, "ranges", starts=starts, lengths=[100, 100_000, 5])
    assert [bytes(piece) for piece in found] == [DATA[0:100], DATA[1_000_000:1_100_000], DATA[2_500_000:2_500_005]]
    assert b"".join(obstore.get(store, "ranges").stream(min_chunk_size=65536)) == DATA


async def test_obstore_reads_many_ranges_at_once(store: AzureStore) -> None:
    await obstore.put_async(store, "many", DATA)
    spans = [(n * 1000, n * 1000 + 50_000) for n in range(64)]
    found = await asyncio.gather(*(obstore.get_range_async(store, "many", start=a, end=b) for a, b in spans))
    assert [bytes(piece) for piece in found] == [DATA[a:b] for a, b in spans]


def test_obstore_uploads_in_parts(store: AzureStore) -> None:
    obstore.put(store, "parts", DATA * 4, use_multipart=True, chunk_size=5 * 1024 * 1024, max_concurrency=3)
    assert obstore.get(store, "parts").bytes() == DATA * 4
    with obstore.open_writer(store, "written", buffer_size=1024 * 1024) as writer:
        for start in range(0, len(DATA), 100_000):
            writer.write(DATA[start : start + 100_000])
    assert obstore.get(store, "written").bytes() == DATA


def test_obstore_lists(store: AzureStore) -> None:
    names = [f"d{n % 3}/e/{n:02d}" for n in range(30)] + ["top", "with space/ü+%"]
    for name in names:
        obstore.put(store, name, b"x")
    pages = obstore.list(store, chunk_size=7)
    assert sorted(meta["path"] for page in pages for meta in page) == sorted(names)
    assert {m["path"] for page in obstore.list(store, "d1") for m in page} == {n for n in names if n.startswith("d1/")}
    result = obstore.list_with_delimiter(store)
    assert sorted(result["common_prefixes"]) == ["d0", "d1", "d2", "with space"]
    assert [meta["path"] for meta in result["objects"]] == ["top"]
    later = [meta["path"] for page in obstore.list(store, offset="d1/e/28") for meta in page]
    assert sorted(later) == sorted(name for name in names if name > "d1/e/28")


def test_obstore_deletes_by_batch(store: AzureStore) -> None:
    """ecosystem.md §4: object_store deletes even one blob through Blob Batch."""
    names = [f"victim {n}/ü" for n in range(20)]
    for name in [*names, "kept"]:
        obstore.put(store, name, b"x")
    obstore.delete(store, names[0])
    obstore.delete(store, names[1:])
    assert [meta["path"] for page in obstore.list(store) for meta in page] == ["kept"]


def test_obstore_copies_and_renames(store: AzureStore) -> None:
    obstore.put(store, "source ü", DATA)
    obstore.copy(store, "source ü", "copy")
    assert obstore.get(store, "copy").bytes() == DATA
    with pytest.raises(AlreadyExistsError):
        obstore.copy(store, "source ü", "copy", overwrite=False)
    obstore.rename(store, "copy", "renamed")
    assert sorted(meta["path"] for page in obstore.list(store) for meta in page) == ["renamed", "source ü"]


def test_obstore_puts_only_if_absent_or_unchanged(store: AzureStore) -> None:
    """delta-rs and Lance depend on it."""
    first = obstore.put(store, "once", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "once", b"second", mode="create")
    obstore.put(store, "once", b"third", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "once", b"fourth", mode={"e_tag": first["e_tag"]})
    assert obstore.get(store, "once").bytes() == b"third"
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "absent")


def test_obstore_keeps_attributes(store: AzureStore) -> None:
    attributes = {"Content-Type": "text/plain", "Content-Language": "de", "key": "two words"}
    obstore.put(store, "attributes", b"x", attributes=attributes)
    assert obstore.get(store, "attributes").attributes == attributes


def test_adlfs_reads_and_writes(files: AzureBlobFileSystem, container: str) -> None:
    path = f"{container}/dir/a b+ü.bin"
    files.pipe_file(path, DATA)
    assert files.cat_file(path) == DATA
    assert files.cat_file(path, start=100, end=1000) == DATA[100:1000]
    assert files.info(path)["size"] == len(DATA)
    with files.open(path) as stream:
        stream.seek(1_000_000)
        assert stream.read(500) == DATA[1_000_000:1_000_500]
    with files.open(f"{container}/written", "wb") as stream:
        stream.write(DATA)
        stream.write(DATA)
    assert files.cat_file(f"{container}/written") == DATA * 2


def test_adlfs_appends(files: AzureBlobFileSystem, container: str) -> None:
    for number in range(3):
        with files.open(f"{container}/log", "ab") as file:
            file.write(b"line %d\n" % number)
    assert files.cat(f"{container}/log") == b"line 0\nline 1\nline 2\n"


def test_adlfs_walks(files: AzureBlobFileSystem, container: str) -> None:
    names = [f"{container}/{name}" for name in ("a/1", "a/2", "b/c/3", "top")]
    for name in names:
        files.pipe_file(name, b"x")
    assert files.find(container) == names
    assert sorted(files.ls(container, detail=False)) == [f"{container}/a", f"{container}/b", f"{container}/top"]
    assert files.glob(f"{container}/*/[13]") == [f"{container}/a/1"]
    assert files.exists(f"{container}/b/c")
    assert not files.exists(f"{container}/b/d")
    assert files.isdir(f"{container}/a")


def test_adlfs_copies_moves_and_removes(files: AzureBlobFileSystem, container: str) -> None:
    files.pipe_file(f"{container}/from ü", DATA)
    files.cp_file(f"{container}/from ü", f"{container}/copy")
    assert files.cat_file(f"{container}/copy") == DATA
    files.mv(f"{container}/copy", f"{container}/moved")
    assert sorted(files.find(container)) == [f"{container}/from ü", f"{container}/moved"]
    files.rm([f"{container}/from ü", f"{container}/moved"])
    assert files.find(container) == []
