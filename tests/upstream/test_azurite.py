"""The same host before a service that is not ours: Azurite 3.35.0 (npm), where it is installed.

`make azurite` puts it under node_modules; $PVBLOB_AZURITE names another azurite-blob.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT
from pvblob.integrations.azure_core import PvblobTransport
from tests.end_to_end.all_programs import PROGRAMS
from tests.end_to_end.programs import Program
from tests.end_to_end.test_sdk_over_http import ACCOUNT_KEY
from tests.upstream.world import ServingHost

INSTALLED = Path(__file__).parents[2] / "node_modules" / ".bin" / "azurite-blob"
AZURITE = os.environ.get("PVBLOB_AZURITE") or (str(INSTALLED) if INSTALLED.exists() else None)

pytestmark = pytest.mark.skipif(
    AZURITE is None or shutil.which("node") is None, reason="Azurite is not installed: make azurite (needs node, npm)"
)

# The others meet what Azurite 3.35.0 itself answers otherwise than Azure, whoever asks.
NAMES = {
    "upload_64_mib_in_one_request",
    "download_in_chunks",
    "delete_blobs_in_batches",
    "honour_conditions",
    "commit_block_lists",
    "read_an_empty_blob",
    "lease_a_blob",
    "break_leases",
    "lease_a_container",
    "append_lines",
    "take_snapshots",
}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = tmp_path_factory.mktemp("azurite")
    command = [str(AZURITE), "--silent", "--skipApiVersionCheck", "--blobPort", str(port), "--location", str(place)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline_s = time.monotonic() + 30
            while not _listens(port):
                assert time.monotonic() < deadline_s, "Azurite does not listen"
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def before_azurite(module_dir: Path, azurite: int) -> Iterator[ServingHost]:
    key_file = module_dir / "azurite-key"
    key_file.write_text(ACCOUNT_KEY)
    endpoint = f"http://127.0.0.1:{azurite}/{DEVELOPMENT_ACCOUNT}"
    table = (
        f'[[upstream]]\naccount = "{DEVELOPMENT_ACCOUNT}"\nendpoint = "{endpoint}"\naccount_key_file = "{key_file}"\n'
    )
    host = ServingHost(module_dir / "azurite-host", table)
    host.start()
    yield host
    host.stop()


@pytest.mark.parametrize("program", [one for one in PROGRAMS if one.name in NAMES], ids=lambda program: program.name)
def test_a_program_gives_its_value(before_azurite: ServingHost, program: Program, tmp_path: Path) -> None:
    url = f"https://{DEVELOPMENT_ACCOUNT}.blob.core.windows.net"
    transport = PvblobTransport(str(before_azurite.socket_path))
    with BlobServiceClient(url, transport=transport, retry_total=0, **program.client_options) as service:
        assert program.run(service, tmp_path) == program.expected
