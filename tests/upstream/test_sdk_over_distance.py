"""The programs of tests/end_to_end over guest → host → network → TLS → a service far away: the same values.

Issue 5, "Shown by": fault-injecting proxies in between (latency 2/10/50 ms), identical results. Here 10 ms; all,
five minutes, with PVBLOB_TEST_LATENCIES_MS=2,10,50.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from pvblob.integrations.azure_core import AsyncPvblobTransport, PvblobTransport
from tests.end_to_end.all_programs import ASYNC_PROGRAMS, PROGRAMS
from tests.end_to_end.programs import Program
from tests.upstream.network import ProxyThread
from tests.upstream.proxy import Faults
from tests.upstream.world import ACCOUNT, GUEST_URL, Authority, Elsewhere, ServingHost, upstream_table

# One program writes 5001 blobs one after the other: at 50 ms each way it takes two minutes on an idle machine.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
ASKED = os.environ.get("PVBLOB_TEST_LATENCIES_MS", "")
LATENCIES_MS = [int(text) for text in ASKED.split(",")] if ASKED else [10]
# Asked for by name only: a round trip for each of its requests.
TRIED = PROGRAMS if ASKED else [program for program in PROGRAMS if program.name != "list_5001_blobs"]


@pytest.fixture(scope="module", params=LATENCIES_MS, ids=lambda latency_ms: f"{latency_ms} ms")
def far_host(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[ServingHost]:
    """A host whose account, empty at first, is so far away each way."""
    directory = tmp_path_factory.mktemp("far")
    elsewhere = Elsewhere(directory, authority.issue(f"far-{request.param}"))
    elsewhere.start()
    between = ProxyThread(elsewhere.port)
    between.proxy.faults = Faults(latency_s=request.param / 1000)
    key_file = directory / "account-key"
    key_file.write_text(elsewhere.key)
    endpoint = f"https://127.0.0.1:{between.proxy.listening_port}/{ACCOUNT}"
    host = ServingHost(directory / "host", upstream_table(endpoint, authority.file, account_key_file=str(key_file)))
    host.start()
    yield host
    host.stop()
    between.stop()
    elsewhere.stop()


@pytest.mark.parametrize("program", TRIED, ids=lambda program: program.name)
def test_a_sync_program_gives_its_value_from_far_away(far_host: ServingHost, program: Program, tmp_path: Path) -> None:
    transport = PvblobTransport(str(far_host.socket_path))
    with BlobServiceClient(GUEST_URL, transport=transport, retry_total=0, **program.client_options) as service:
        assert program.run(service, tmp_path) == program.expected


@pytest.mark.parametrize("program", ASYNC_PROGRAMS, ids=lambda program: program.name)
async def test_an_async_program_gives_its_value_from_far_away(
    far_host: ServingHost, program: Program, tmp_path: Path
) -> None:
    transport = AsyncPvblobTransport(str(far_host.socket_path))
    options = {"transport": transport, "retry_total": 0, **program.client_options}
    async with AsyncBlobServiceClient(GUEST_URL, **options) as service:
        assert await program.run(service, tmp_path) == program.expected
