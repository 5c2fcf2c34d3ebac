"""Fixtures of the upstream tests: one service elsewhere and one host for a module, both real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pvblob.upstream.accounts import Accounts, AccountSettings
from pvblob.upstream.azure import AzureUpstream
from pvblob.upstream.versions import CacheRule
from tests.upstream.answers import OpenAccount
from tests.upstream.network import ProxyThread
from tests.upstream.stage import MakeStage, Stage
from tests.upstream.world import ACCOUNT, Authority, Elsewhere, ServingHost, upstream_table


@pytest.fixture(scope="module")
def module_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upstream")


@pytest.fixture(scope="module")
def authority(module_dir: Path) -> Authority:
    return Authority(module_dir)


@pytest.fixture(scope="module")
def elsewhere(module_dir: Path, authority: Authority) -> Iterator[Elsewhere]:
    service = Elsewhere(module_dir, authority.issue())
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def between(elsewhere: Elsewhere) -> Iterator[ProxyThread]:
    """A proxy before the service, for what a network does."""
    made = ProxyThread(elsewhere.port)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def serving(module_dir: Path, elsewhere: Elsewhere, authority: Authority) -> Iterator[ServingHost]:
    key_file = module_dir / "account-key"
    key_file.write_text(elsewhere.key + "\n")
    table = upstream_table(elsewhere.endpoint, authority.file, account_key_file=str(key_file))
    host = ServingHost(module_dir / "host", table)
    host.start()
    yield host
    host.stop()


@pytest.fixture
async def account(authority: Authority) -> AsyncIterator[OpenAccount]:
    async with AsyncExitStack() as stack:

        async def open_account(port: int, **settings: Any) -> AzureUpstream:
            endpoint = f"https://127.0.0.1:{port}/{ACCOUNT}"
            given = {
                "endpoint": endpoint,
                "authorization": "none",
                "ca_file": authority.file,
                "connections_warm": 0,
                **settings,
            }
            accounts = Accounts([AccountSettings(ACCOUNT, **given)])
            await accounts.open()
            stack.push_async_callback(accounts.close)
            backend = accounts.backends[ACCOUNT]
            assert isinstance(backend, AzureUpstream)
            return backend

        yield open_account


@pytest.fixture
def make_stage(elsewhere: Elsewhere, authority: Authority, tmp_path: Path) -> Iterator[MakeStage]:
    stages: list[Stage] = []
    key = tmp_path / "key"
    key.write_text(elsewhere.key)

    def make(rule: CacheRule, **host: object) -> Stage:
        settings = AccountSettings(
            ACCOUNT, "key", endpoint=elsewhere.endpoint, ca_file=authority.file, secret_file=key, cache=(rule,)
        )
        stages.append(Stage(settings, tmp_path, **host))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()
