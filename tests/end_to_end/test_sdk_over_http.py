"""Unmodified azure-storage-blob programs give the right answers over the HTTP front (design §5, front)."""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT
from tests.end_to_end.all_programs import ASYNC_PROGRAMS, PROGRAMS
from tests.end_to_end.programs import Program

ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CREDENTIAL = {"account_name": DEVELOPMENT_ACCOUNT, "account_key": ACCOUNT_KEY}


# See `validate_content_by_crc64`: connections the SDK drops are not ours to close.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_sync_program_gives_its_value_over_http(http_host: str, program: Program, tmp_path: Path) -> None:
    url = f"{http_host}/{DEVELOPMENT_ACCOUNT}"
    with BlobServiceClient(url, CREDENTIAL, retry_total=0, **program.client_options) as service:
        assert program.run(service, tmp_path) == program.expected


# The SDK's asyncio transport gives aiohttp's client blocks as raw bytes; that is not ours to change.
@pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")
@pytest.mark.parametrize("program", ASYNC_PROGRAMS, ids=lambda program: program.name)
async def test_an_async_program_gives_its_value_over_http(http_host: str, program: Program, tmp_path: Path) -> None:
    url = f"{http_host}/{DEVELOPMENT_ACCOUNT}"
    async with AsyncBlobServiceClient(url, CREDENTIAL, retry_total=0, **program.client_options) as service:
        assert await program.run(service, tmp_path) == program.expected
