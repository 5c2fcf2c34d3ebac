"""`Device.register`: the program's own shared memory, lent as it lies (design rules 1 and 10; wire protocol, W-15)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import mmap
import multiprocessing
import os
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

from pvblob import AsyncClient, Client
from pvblob.client.exchange import AsyncExchange, Exchange
from pvblob.errors import DeviceStatusError, LentMemoryExhausted
from pvblob.http import Request
from pvblob.vsc.device import Device
from tests.waiting import until

MIB = 1 << 20
CONTENT = bytes(np.random.default_rng(9).integers(0, 256, 8 * MIB, dtype=np.uint8))


@pytest.fixture
def client(live_host: Any) -> Iterator[Client]:
    """A client with 9 MiB to lend, whose container `con` has `blob` of 8 MiB."""
    with Client.connect(live_host.socket_path) as other:
        other.create_container("con")
        other.put("con", "blob", CONTENT)
    with Client(Exchange(device=Device(live_host.socket_path, lent_bytes_max=9 * MIB))) as made:
        yield made


@pytest.fixture
def shm() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=8 * MIB)
    yield memory
    memory.close()
    memory.unlink()


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(made, 8 * MIB)
    yield made
    os.close(made)


def in_use(client: Client) -> int:
    return int(client._exchange.device().current().memory.usage()[2])


# ---- what can be registered


def kinds(shm: SharedMemory, fd: int) -> dict[str, Any]:
    mapped = mmap.mmap(fd, 8 * MIB)
    return {
        "SharedMemory": shm,
        "its buf": shm.buf,
        "mmap": mapped,
        "a part of an mmap": memoryview(mapped)[12_345 : 3 * MIB],
        "numpy": np.frombuffer(mapped, dtype=np.float32)[1001:],
        "(fd, offset, size)": (fd, 4096 * 3 + 17, MIB),
        "fileno": open(fd, "r+b", closefd=False),  # the test's own descriptor
    }


@pytest.mark.parametrize(
    "kind", ["SharedMemory", "its buf", "mmap", "a part of an mmap", "numpy", "(fd, offset, size)", "fileno"]
)
def test_any_memory_with_a_descriptor_is_read_into_and_uploaded_in_place(
    client: Client, shm: SharedMemory, fd: int, kind: str
) -> None:
    memory = kinds(shm, fd)[kind]
    with client.register(memory) as registered:
        view = registered.view
        assert (len(view), registered.sealed) == (len(registered), False)
        view[:] = bytes(len(view))
        used = in_use(client)
        client.read_into("con", "blob", view[5:-3], offset=7)
        assert bytes(view) == bytes(5) + CONTENT[7 : 7 + len(view) - 8] + bytes(3)
        assert in_use(client) == used, "nothing but the envelope was lent, and it is back"
        client.put("con", "copy", view[1:])
        assert client.get("con", "copy") == bytes(view[1:])
        del view
    del memory


def test_the_programs_own_views_are_found_by_address(client: Client, shm: SharedMemory) -> None:
    array = np.frombuffer(shm.buf, dtype=np.uint32)
    with client.register(shm):
        client.read_into("con", "blob", array)
        assert array.tobytes() == CONTENT
        client.read_into("con", "blob", shm.buf[MIB : 2 * MIB], offset=5 * MIB)
        assert bytes(shm.buf[MIB : 2 * MIB]) == CONTENT[5 * MIB : 6 * MIB]
    del array


def test_reads_and_uploads_in_place_need_no_other_memory(client: Client, live_host: Any, shm: SharedMemory) -> None:
    """Nothing is copied: there is room for the messages, and for no buffer to copy through."""
    with Client(Exchange(device=Device(live_host.socket_path, lent_bytes_max=8 * MIB + (64 << 10)))) as tight:
        with tight.register(shm):
            tight.read_into("con", "blob", shm.buf)
            assert bytes(shm.buf) == CONTENT
            tight.put("con", "copy", shm.buf)
            with pytest.raises(LentMemoryExhausted):
                tight.read_into("con", "blob", bytearray(MIB))
        assert client.get("con", "copy") == CONTENT


def test_asyncio_clients_register_too(client: Client, live_host: Any, shm: SharedMemory) -> None:
    async def use() -> None:
        device = Device(live_host.socket_path, lent_bytes_max=9 * MIB)
        async with AsyncClient(AsyncExchange(device=device)) as aclient:
            registered = await aclient.register(shm)
            await aclient.read_into("con", "blob", shm.buf)
            assert bytes(shm.buf) == CONTENT
            await aclient.put("con", "from", shm.buf[:1000])
            registered.deregister()

    asyncio.run(use())
    assert client.get("con", "from") == CONTENT[:1000]


def test_a_tensor_in_shared_memory_is_registered(client: Client) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.empty(MIB, dtype=torch.uint8).share_memory_()
    with client.register(tensor):
        client.read_into("con", "blob", tensor.numpy())
        assert bytes(tensor.numpy()) == CONTENT[:MIB]


def test_memory_that_is_sealed_is_lent_as_sealed(client: Client, fd: int) -> None:
    """Rule 1: what cannot shrink is ordinary lent memory."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    with client.register((fd, 0, 8 * MIB)) as registered:
        assert registered.sealed
        client.read_into("con", "blob", registered.view)
        assert bytes(registered.view) == CONTENT


# ---- what cannot


@contextlib.contextmanager
def disk_mapping() -> Iterator[Any]:
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:  # noqa: PTH109  # the checkout lies on a disk
        file.truncate(MIB)
        with mmap.mmap(file.fileno(), MIB) as mapped:
            yield mapped


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda fd: bytearray(MIB), "private memory"),
        (lambda fd: np.zeros(MIB, np.uint8), "private memory"),
        (lambda fd: b"constant", "private memory"),
        (lambda fd: mmap.mmap(fd, MIB, flags=mmap.MAP_PRIVATE), "private memory"),
        (lambda fd: mmap.mmap(-1, MIB), "no open descriptor"),
        (lambda fd: mmap.mmap(fd, MIB)[:0], "no bytes"),
        (lambda fd: "text", "is no memory"),
        (lambda fd: 7, "is no memory"),
        (lambda fd: (fd, 0), "three integers"),
        (lambda fd: (fd, -1, 5), "begin at 0"),
        (lambda fd: (fd, 0, 0), "not be empty"),
        (lambda fd: (fd, 8 * MIB - 10, 11), "pass the descriptor's end"),
        (lambda fd: np.frombuffer(mmap.mmap(fd, MIB), np.uint8)[::2], "not contiguous"),
    ],
)
def test_other_memory_is_refused_with_what_would_do(
    client: Client, fd: int, make: Callable[[int], Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        client.register(make(fd))


def test_other_kinds_of_descriptor_are_refused(client: Client, fd: int) -> None:
    """Rule 1: a page fault on anything but memory may wait for somebody else."""
    with disk_mapping() as mapped, pytest.raises(ValueError, match="no shared memory of ordinary pages"):
        client.register(mapped)
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    near, far = socket.socketpair()
    try:
        with pytest.raises(ValueError, match="not open for reading and writing"):
            client.register((read_only, 0, MIB))
        with pytest.raises(ValueError, match="no bytes"):
            client.register(near)
        with pytest.raises(OSError, match="Bad file descriptor"):
            client.register((10**6, 0, MIB))
    finally:
        os.close(read_only)
        near.close()
        far.close()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    with pytest.raises(PermissionError):
        client.register((fd, 0, MIB))


# ---- limits, lives


def test_registered_memory_counts_as_lent(client: Client, shm: SharedMemory, fd: int) -> None:
    """Rule 10: one limit for all that is lent; what is given back makes room."""
    registered = client.register(shm)
    with pytest.raises(LentMemoryExhausted, match=r"lent_bytes_max"):
        client.register((fd, 0, 2 * MIB))
    registered.deregister()
    until(lambda: not registered.is_lent, "the host did not let go")
    with client.register((fd, 0, 8 * MIB)):
        pass


def test_the_memory_cannot_go_away_under_a_registration(client: Client, shm: SharedMemory) -> None:
    """Else another mapping could take its addresses, and reads into that would land elsewhere."""
    other = SharedMemory(shm.name)
    registered = client.register(other)
    with pytest.raises(BufferError):
        other.close()
    registered.deregister()
    other.close()


def test_a_deregistered_buffer_is_copied_into_as_any_other(client: Client, shm: SharedMemory) -> None:
    client.register(shm).deregister()
    client.read_into("con", "blob", shm.buf)
    assert bytes(shm.buf) == CONTENT


def test_what_a_request_uses_is_given_back_after_it(
    gated_host: Any, gate: Any, shm: SharedMemory, request_to: Callable[..., Request]
) -> None:
    """Rule 2: from send to completion the host owns the buffers, whatever the program does meanwhile."""

    def lent() -> int:
        return max(gated_host.call(lambda: [guest._lent.lent_bytes for guest in gated_host.host._guests]))

    exchange = Exchange(gated_host.socket_path)
    registered = exchange.register(shm)
    into = registered.view[:1000]
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(exchange.perform_into(request_to("GET", "/wait/1000"), into)))
    thread.start()
    assert gate.began.acquire(timeout=10)
    registered.deregister()
    assert registered.is_lent
    held = lent()
    gate.open_gate()
    thread.join(30)
    assert (done[0].written, bytes(into)[:3]) == (1000, bytes([0, 1, 2]))
    until(lambda: not registered.is_lent, "the host did not let go")
    assert lent() == held - 8 * MIB
    exchange.close()


def test_a_restarted_host_gets_it_again_at_the_next_use(client: Client, live_host: Any, shm: SharedMemory) -> None:
    """Rule 3: handles recover by themselves."""
    with client.register(shm):
        live_host.stop()
        live_host.start()
        client.read_into("con", "blob", shm.buf)
        assert bytes(shm.buf) == CONTENT
        assert in_use(client) >= 8 * MIB, "it is attached to the new connection, not copied into"
        client.put("con", "copy", shm.buf[:MIB])
        assert client.get("con", "copy") == CONTENT[:MIB]


def _read_in_child(client: Client, shm: SharedMemory, at: int, answers: Any) -> None:
    client.read_into("con", "blob", shm.buf[at : at + MIB], offset=at)
    answers.put((at, in_use(client) >= 8 * MIB))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_children_of_a_fork_read_into_the_same_memory(client: Client, shm: SharedMemory) -> None:
    """Rule 7: a child opens its own channel at first use, and lends the memory there."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with client.register(shm):
        children = [context.Process(target=_read_in_child, args=(client, shm, n * MIB, answers)) for n in range(4)]
        for child in children:
            child.start()
        assert sorted(answers.get(timeout=60) for _ in children) == [(n * MIB, True) for n in range(4)]
        for child in children:
            child.join(30)
            assert child.exitcode == 0
        assert bytes(shm.buf[: 4 * MIB]) == CONTENT[: 4 * MIB]
        client.read_into("con", "blob", shm.buf)
        assert bytes(shm.buf) == CONTENT


def test_eight_threads_attach_once_and_read_side_by_side(client: Client, live_host: Any, shm: SharedMemory) -> None:
    with client.register(shm):
        live_host.stop()
        live_host.start()

        def read(n: int) -> None:
            client.read_into("con", "blob", shm.buf[n * MIB : (n + 1) * MIB], offset=n * MIB)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read, range(8)))
        assert bytes(shm.buf) == CONTENT
        assert client._exchange.device().current().memory.usage()[1] <= 9 * MIB


def test_a_closed_device_frees_its_link_at_once(live_host: Any, shm: SharedMemory) -> None:
    """Its end closes descriptors, which must not wait for the garbage collector: the host watches for it."""
    device = Device.open(live_host.socket_path)
    device.register(shm).deregister()
    link = weakref.ref(device.current())
    gc.disable()
    try:
        device.close()
        assert link() is None
    finally:
        gc.enable()


# ---- memory that shrinks


def test_a_read_into_memory_that_was_cut_fails_alone(client: Client, fd: int) -> None:
    """Rule 1, W-15: EFAULT is 0x80070057; the next request is served as ever."""
    with client.register((fd, 0, 8 * MIB)) as registered:
        out = registered.view[:]
        os.ftruncate(fd, 4096)
        with pytest.raises(DeviceStatusError, match="0x80070057"):
            client.read_into("con", "blob", out)
        os.ftruncate(fd, 8 * MIB)
        client.read_into("con", "blob", out)
        assert bytes(out) == CONTENT
    assert client.get("con", "blob") == CONTENT


@pytest.mark.parametrize("size", [1000, 8 * MIB])
def test_an_upload_from_memory_that_was_cut_stores_nothing(client: Client, fd: int, size: int) -> None:
    with client.register((fd, 0, 8 * MIB)) as registered:
        body = registered.view[MIB:][:size]
        os.ftruncate(fd, MIB)
        with pytest.raises(DeviceStatusError, match="0x80070057"):
            client.put("con", "never", body)
        assert [blob.name for blob in client.list("con")] == ["blob"]
        os.ftruncate(fd, 8 * MIB)
        client.put("con", "now", body)
        assert client.stat("con", "now").size_bytes == len(body)
