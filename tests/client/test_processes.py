"""Clients among threads, forks, pickles, and without a host (design rule 7: handles pickle as settings)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pvblob


def test_connecting_without_a_host_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(pvblob.HostUnavailable, match="pvblob serve") as caught:
        pvblob.Client.connect(str(tmp_path / "none.sock"))
    assert isinstance(caught.value, ConnectionError)


async def test_connecting_async_without_a_host_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(pvblob.HostUnavailable):
        await pvblob.AsyncClient.connect(str(tmp_path / "none.sock"))


def test_the_socket_is_found_by_the_environment(live_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVBLOB_SOCKET", live_host.socket_path)
    with pvblob.Client.connect() as client:
        assert list(client.list_containers()) == []


def test_a_client_pickles_as_its_settings(live_host: Any) -> None:
    with pvblob.Client.connect(live_host.socket_path, account="other", timeout_s=7.0) as client:
        copy = pickle.loads(pickle.dumps(client))
        copy.create_container("made")
        assert (copy.account, repr(copy)) == ("other", repr(client))
        assert [container.name for container in client.list_containers()] == ["made"]
        copy.close()


def test_accounts_are_apart(live_host: Any, client: pvblob.Client) -> None:
    with pvblob.Client.connect(live_host.socket_path, account="other") as other:
        assert list(other.list_containers()) == []


def test_a_forked_child_uses_the_clients_it_inherits(client: pvblob.Client) -> None:
    client.put("things", "b", b"from the parent")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, client.get("things", "b"))
            client.put("things", "c", b"from the child")
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"from the parent"
    assert status == 0
    assert client.get("things", "c") == b"from the child"


def test_threads_share_a_client(client: pvblob.Client) -> None:
    for number in range(8):
        client.put("things", str(number), bytes([number]) * 100_000)

    def read(turn: int) -> bool:
        number = turn % 8
        return client.get("things", str(number)) == bytes([number]) * 100_000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def loaded_by(program: str) -> set[str]:
    """Return the modules that a fresh process has when *program* has run, those of the interpreter's start left out."""
    code = f"import sys; before = set(sys.modules); {program}; print(*(set(sys.modules) - before))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_pvblob_loads_almost_nothing() -> None:
    """`import pvblob` stays under 30 ms because it loads no module that costs more than a moment."""
    loaded = loaded_by("import pvblob")
    assert "pvblob" in loaded
    assert not {name for name in loaded if name.startswith("pvblob.")} | (loaded & {"asyncio", "inspect", "xml", "re"})


# What a program that reads a blob has no use for, and would wait for: each is a millisecond to a hundred.
NOT_FOR_A_READ = {
    "the event loop's side": {"asyncio", "pvblob.client.aclient", "pvblob.vsc.aio", "pvblob.client.awaited_reads"},
    "HTTP, TLS and logs, which are the host's": {"ssl", "http.client", "http", "email", "logging", "secrets"},
    "parsers and formats for rarer names and answers": {"re", "urllib.parse", "base64", "xml", "json", "datetime"},
    "what compiles classes or describes types": {"dataclasses", "inspect", "typing", "typing_extensions"},
    "conveniences": {"pathlib", "uuid", "platform", "ipaddress", "random", "hashlib", "tempfile", "subprocess"},
    "writes, lists, handles": {"pvblob.client.bodies", "pvblob.client.batch", "pvblob.client.handles"},
    "values and registered memory": {"pvblob.client.properties", "pvblob.client.many", "pvblob.vsc.shared_memory"},
    "the host": {
        "pvblob.http",
        "pvblob.vsp",
        "pvblob.blobs",
        "pvblob.upstream",
        "pvblob.front",
        "pvblob.vmbus.diagram",
    },
}


def test_a_process_that_reads_a_blob_loads_only_what_that_takes(client: pvblob.Client, live_host: Any) -> None:
    """A fresh process has its first bytes after some ten milliseconds, and imports are most of them."""
    client.create_container("lean")
    client.put("lean", "blob", b"bytes")
    program = (
        f"import pvblob; client = pvblob.Client.connect({str(live_host.socket_path)!r});"
        "assert client.get('lean', 'blob', offset=1, length=3) == b'yte'; assert client.get('lean', 'blob') == b'bytes'"
    )
    loaded = loaded_by(program)
    assert {"pvblob.client.client", "pvblob.vsc.device", "pvblob.vmbus.session"} <= loaded
    surplus = {why: loaded & modules for why, modules in NOT_FOR_A_READ.items()}
    assert not any(surplus.values()), surplus


def test_the_client_needs_no_package_beside_its_own() -> None:
    code = (
        "import sys, pvblob; pvblob.Client, pvblob.AsyncClient, pvblob.NotFound;"
        "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    # The interpreter's own start-up may bring its site hooks.
    assert not set(loaded) & {"aiohttp", "azure", "pydantic", "typer", "rich", "obstore", "typing_extensions", "numpy"}


def test_the_public_names_are_all_there() -> None:
    for name in dir(pvblob):
        assert getattr(pvblob, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = pvblob.nothing_like_it  # type: ignore[attr-defined]
