"""Unmodified azure-storage-blob programs over guest → host → TLS → a service elsewhere: the values are those over HTTP.

Issue 5: requests are forwarded whole; the guest holds no key. The programs are those of tests/end_to_end.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from pvblob.integrations.azure_core import AsyncPvblobTransport, PvblobTransport
from tests.end_to_end.all_programs import ASYNC_PROGRAMS, PROGRAMS
from tests.end_to_end.programs import Program
from tests.upstream.world import GUEST_URL, Elsewhere, ServingHost


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_sync_program_gives_its_value(serving: ServingHost, program: Program, tmp_path: Path) -> None:
    transport = PvblobTransport(str(serving.socket_path))
    with BlobServiceClient(GUEST_URL, transport=transport, retry_total=0, **program.client_options) as service:
        assert program.run(service, tmp_path) == program.expected


@pytest.mark.parametrize("program", ASYNC_PROGRAMS, ids=lambda program: program.name)
async def test_an_async_program_gives_its_value(serving: ServingHost, program: Program, tmp_path: Path) -> None:
    transport = AsyncPvblobTransport(str(serving.socket_path))
    options = {"transport": transport, "retry_total": 0, **program.client_options}
    async with AsyncBlobServiceClient(GUEST_URL, **options) as service:
        assert await program.run(service, tmp_path) == program.expected


def test_one_host_serves_an_account_elsewhere_and_its_own(serving: ServingHost) -> None:
    """Issue 5: one account may be embedded, another upstream, in the same host."""
    for url in (GUEST_URL, "https://devstoreaccount1.blob.core.windows.net"):
        transport = PvblobTransport(str(serving.socket_path))
        with BlobServiceClient(url, transport=transport, retry_total=0) as service:
            container = service.create_container("both")
            container.upload_blob("b", url.encode())
            assert container.download_blob("b").readall() == url.encode()
            assert list(container.list_blob_names()) == ["b"]


def test_no_secret_is_in_any_log(serving: ServingHost, elsewhere: Elsewhere) -> None:
    """Issue 5: credentials are never logged. Runs last, over what all the programs have made the host say."""
    log = serving.log.read_text()
    assert elsewhere.key not in log
    assert "SharedKey" not in log
