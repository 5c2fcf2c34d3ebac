"""Design rule 7: processes fork, share, and end; no interpreter hangs at its exit, whatever is still on its way."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pvblob import Client
from pvblob.http import Request

RequestTo = Callable[..., Request]

# Each ends while requests that will never be answered are in flight.
ENDINGS = {
    "daemon threads": """
import threading
from pvblob.client.exchange import Exchange
exchange = Exchange(sys.argv[1])
exchange.connect()
for _ in range(4):
    threading.Thread(target=exchange.perform, args=(ask("/wait/1"),), daemon=True).start()
say()
""",
    "a submitted request nobody waits for": """
from pvblob.vsc.device import Device
device = Device.open(sys.argv[1])
envelope = device.allocate(8192)
length = envelope.write_request("GET", "https", "a.blob.x", "/wait/1", [], 4096)
completions = [device.submit(envelope.slice(0, length), device.allocate(4096)) for _ in range(4)]
say()
""",
    "an abandoned event loop": """
import asyncio
from pvblob.client.exchange import AsyncExchange
exchange = AsyncExchange(sys.argv[1])
loop = asyncio.new_event_loop()
async def main():
    global tasks
    tasks = [asyncio.ensure_future(exchange.perform(ask("/wait/1"))) for _ in range(4)]
    await asyncio.sleep(0.2)
loop.run_until_complete(main())
say()
""",
    "a loop that is cancelled": """
import asyncio
from pvblob.client.exchange import AsyncExchange
exchange = AsyncExchange(sys.argv[1])
async def main():
    tasks = [asyncio.ensure_future(exchange.perform(ask("/wait/1"))) for _ in range(4)]
    await asyncio.sleep(0.2)
    say()
asyncio.run(main())
""",
}
HEAD = """
import sys
from pvblob.http import Fields, Request
def ask(target):
    return Request("GET", "https", "devstoreaccount1.blob.core.windows.net", target, Fields())
def say():
    sys.stdout.write("ending\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interpreter_with_requests_in_flight_ends(gated_host: Any, gate: Any, ending: str) -> None:
    command = [sys.executable, "-c", HEAD + ENDINGS[ending], gated_host.socket_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ending\n"), done.stderr


def test_ctrl_c_ends_a_program_at_once(gated_host: Any, gate: Any) -> None:
    code = HEAD + "from pvblob.client.exchange import Exchange\nExchange(sys.argv[1]).perform(ask('/wait/1'))"
    with subprocess.Popen([sys.executable, "-c", code, gated_host.socket_path], stderr=subprocess.PIPE) as program:
        assert gate.began.acquire(timeout=60)
        program.send_signal(signal.SIGINT)
        _, error = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in error


# ---- workers as PyTorch's DataLoader runs them


class BlobDataset:
    """A map-style data set over a client that was opened, and used, in the parent."""

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> bytes:
        if index >= self._count:
            raise IndexError(index)
        return self._client.get("set", str(index))


def load(dataset: BlobDataset, indices: Any, batches: Any) -> None:
    """A worker's loop: index batches in, samples out, until None."""
    for batch in iter(indices.get, None):
        batches.put((batch, [dataset[index] for index in batch]))


@pytest.fixture
def dataset(live_host: Any) -> Any:
    with Client.connect(live_host.socket_path) as client:
        client.create_container("set")
        for index in range(40):
            client.put("set", str(index), bytes([index]) * 5000)
        yield BlobDataset(client, 40)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_load_batches_while_the_parent_reads_on(dataset: BlobDataset, method: str) -> None:
    """What `DataLoader(num_workers=2)` does: the data set travels to the workers, queues carry indices and batches."""
    context = multiprocessing.get_context(method)
    indices = [context.SimpleQueue() for _ in range(2)]
    batches = context.SimpleQueue()
    workers = [context.Process(target=load, args=(dataset, queue, batches)) for queue in indices]
    for worker in workers:
        worker.start()
    order = [list(range(start, start + 4)) for start in range(0, 40, 4)]
    for number, batch in enumerate(order):
        indices[number % 2].put(batch)
    for queue in indices:
        queue.put(None)
    seen = {}
    for _ in order:
        batch, samples = batches.get()
        seen.update(zip(batch, samples, strict=True))
        assert dataset[batch[0]] == bytes([batch[0]]) * 5000, "the parent's channel is its own"
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert seen == {index: bytes([index]) * 5000 for index in range(40)}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_real_data_loader_reads_through_the_channel(dataset: BlobDataset, method: str) -> None:
    data = pytest.importorskip("torch.utils.data", reason="torch is not installed")
    loader = data.DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method, collate_fn=list)
    assert [sample for batch in loader for sample in batch] == list(dataset)
