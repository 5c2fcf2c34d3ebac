"""A fresh process that reads 4 KiB of a blob once, with one library, as that library's documentation shows.

`python -m pvblob.cli.fleet.first_byte PATH BLOB WHERE AUTHORITIES KEY` prints two readings of CLOCK_MONOTONIC in ns,
when the client was about to be made (imports are done) and when the bytes were there, and the bytes' CRC-32. It imports
nothing that a program would not.
"""

import sys
import time
import zlib
from collections.abc import Callable

SIZE_BYTES = 4096
CONTAINER = "fleet"
ACCOUNT = "devstoreaccount1"

Found = tuple[int, int, bytes]


def _tls_sdk(blob: str, where: str, authorities: str, key: str) -> Found:
    from azure.storage.blob import ContainerClient

    began_ns = time.monotonic_ns()
    credential = {"account_name": ACCOUNT, "account_key": key}
    url = f"{where}/{ACCOUNT}"
    with ContainerClient(url, CONTAINER, credential=credential, connection_verify=authorities) as container:
        content = container.download_blob(blob, offset=0, length=SIZE_BYTES).readall()
        return began_ns, time.monotonic_ns(), content


def _channel_sdk(blob: str, where: str, _authorities: str, _key: str) -> Found:
    from azure.storage.blob import ContainerClient

    from pvblob.integrations.azure_core import PvblobTransport

    began_ns = time.monotonic_ns()
    url = f"https://{ACCOUNT}.blob.core.windows.net"
    with ContainerClient(url, CONTAINER, transport=PvblobTransport(where)) as container:
        content = container.download_blob(blob, offset=0, length=SIZE_BYTES).readall()
        return began_ns, time.monotonic_ns(), content


def _tls_obstore(blob: str, where: str, authorities: str, key: str) -> Found:
    import os

    import obstore
    from obstore.store import AzureStore

    os.environ["SSL_CERT_FILE"] = authorities
    began_ns = time.monotonic_ns()
    endpoint = f"{where}/{ACCOUNT}"
    store = AzureStore(container_name=CONTAINER, account_name=ACCOUNT, account_key=key, endpoint=endpoint)
    content = bytes(obstore.get_range(store, blob, start=0, length=SIZE_BYTES))
    return began_ns, time.monotonic_ns(), content


def _channel(blob: str, where: str, _authorities: str, _key: str) -> Found:
    from pvblob import Client

    began_ns = time.monotonic_ns()
    with Client.connect(where) as client:
        content = client.get(CONTAINER, blob, offset=0, length=SIZE_BYTES)
        return began_ns, time.monotonic_ns(), content


def _channel_inplace(blob: str, where: str, _authorities: str, _key: str) -> Found:
    from pvblob import Client

    began_ns = time.monotonic_ns()
    with Client.connect(where) as client:
        content = client.view(CONTAINER, blob, offset=0, length=SIZE_BYTES)
        ended_ns = time.monotonic_ns()
        return began_ns, ended_ns, bytes(content)


PATHS: dict[str, Callable[[str, str, str, str], Found]] = {
    "tls-sdk": _tls_sdk,
    "tls-obstore": _tls_obstore,
    "channel-sdk": _channel_sdk,
    "channel": _channel,
    "channel-inplace": _channel_inplace,
}

if __name__ == "__main__":
    path, *arguments = sys.argv[1:]
    began, ended, found = PATHS[path](*arguments)
    sys.stdout.write(f"{began} {ended} {zlib.crc32(found)}\n")
