"""From an `[[upstream]]` table to what `upstream.accounts` takes: the one place that knows both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvblob.upstream.accounts import AccountSettings, Authorization
from pvblob.upstream.versions import CacheRule

if TYPE_CHECKING:
    from pvblob.vsp.settings import UpstreamSettings


def account_settings(table: UpstreamSettings) -> AccountSettings:
    """Return the account that *table*, which has exactly one credential, describes."""
    authorization: Authorization
    if table.account_key_file or table.account_key_env:
        authorization = "key"
    elif table.sas_file or table.sas_env:
        authorization = "sas"
    elif table.identity:
        authorization = "identity"
    else:
        authorization = table.authorization or "none"
    return AccountSettings(
        account=table.account,
        authorization=authorization,
        endpoint=table.endpoint,
        secondary_endpoint=table.secondary_endpoint,
        secret_file=table.account_key_file or table.sas_file,
        secret_variable=table.account_key_env or table.sas_env,
        identity=table.identity or "default",
        client_id=table.client_id,
        addresses=tuple(map(str, table.addresses)),
        ca_file=table.ca_file,
        proxy=table.proxy,
        proxy_secret_file=table.proxy_credential_file,
        proxy_secret_variable=table.proxy_credential_env,
        connections_max=table.connections_max,
        connections_warm=table.connections_warm,
        requests_per_s=table.requests_per_s,
        bytes_per_s=table.bytes_per_s,
        part_size_bytes=table.part_size,
        parallel=table.parallel,
        put_block_bytes=table.put_block_size,
        hedge_after_s=table.hedge_after_s,
        stall_timeout_s=table.stall_timeout_s,
        cache=tuple(CacheRule(rule.container, rule.prefix.encode(), rule.mode, rule.max_age_s) for rule in table.cache),
        read_ahead=table.read_ahead,
    )
