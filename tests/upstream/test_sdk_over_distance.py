"""The programs of tests/end_to_end over guest → host → network → TLS → a service far away: the same values.

Issue 5, "Shown by": fault-injecting proxies in between (latency 2/10/50 ms), identical results. Short programs at all
three, the others at 10 ms; at all three, five minutes, with PVBLOB_TEST_LATENCIES_MS=2,10,50.
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
from tests.upstream.world import GUEST_URL, Authority, Elsewhere, ServingHost, serving_through

ASKED = os.environ.get("PVBLOB_TEST_LATENCIES_MS", "")
LATENCIES_MS = [int(text) for text in ASKED.split(",")] if ASKED else [10]
# Asked for by name only: 5001 round trips, which at 50 ms each way take two minutes.
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
    with serving_through(between.proxy.listening_port, directory / "host", elsewhere, authority) as host:
        yield host
    between.stop()
    elsewhere.stop()


@pytest.fixture(scope="module")
def distant_host(
    tmp_path_factory: pytest.TempPathFactory, elsewhere: Elsewhere, authority: Authority, between: ProxyThread
) -> Iterator[ServingHost]:
    """A host whose distance to its account a test sets."""
    directory = tmp_path_factory.mktemp("distant")
    with serving_through(between.proxy.listening_port, directory / "host", elsewhere, authority) as host:
        yield host


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", TRIED, ids=lambda program: program.name)
def test_a_sync_program_gives_its_value_from_far_away(far_host: ServingHost, program: Program, tmp_path: Path) -> None:
    transport = PvblobTransport(str(far_host.socket_path))
    with BlobServiceClient(GUEST_URL, transport=transport, retry_total=0, **program.client_options) as service:
        assert program.run(service, tmp_path) == program.expected


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ASYNC_PROGRAMS, ids=lambda program: program.name)
async def test_an_async_program_gives_its_value_from_far_away(
    far_host: ServingHost, program: Program, tmp_path: Path
) -> None:
    transport = AsyncPvblobTransport(str(far_host.socket_path))
    options = {"transport": transport, "retry_total": 0, **program.client_options}
    async with AsyncBlobServiceClient(GUEST_URL, **options) as service:
        assert await program.run(service, tmp_path) == program.expected


# The short programs that need most kinds of requests.
SHORT = {"read_ranges", "refuse_to_overwrite", "commit_block_lists", "read_an_empty_blob"}


@pytest.mark.parametrize("latency_ms", [2, 10, 50])
@pytest.mark.parametrize("program", [one for one in PROGRAMS if one.name in SHORT], ids=lambda program: program.name)
def test_programs_give_their_values_over_a_distance(
    distant_host: ServingHost, between: ProxyThread, program: Program, latency_ms: int, tmp_path: object
) -> None:
    """Issue 5, shown by: latency 2, 10 and 50 ms; the values are those without it."""
    between.proxy.faults = Faults()
    transport = PvblobTransport(str(distant_host.socket_path))
    with BlobServiceClient(GUEST_URL, transport=transport, retry_total=0, **program.client_options) as service:
        for container in list(service.list_containers()):  # programs make theirs anew
            service.delete_container(container)
        between.proxy.faults = Faults(latency_s=latency_ms / 1000)
        assert program.run(service, tmp_path) == program.expected
