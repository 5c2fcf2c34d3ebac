"""What goes on with the accounts elsewhere and in their cache, as plain values: for status, metrics and `pvblob cache`.

Connections, bytes held and blocks are those of this moment; everything else counts from the host's start.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pvblob.upstream.attempts import Attempts
from pvblob.upstream.blocks import BlockStore
from pvblob.upstream.s3fifo import NOBODY
from pvblob.upstream.tallies import Tally
from pvblob.upstream.versions import CacheRule

if TYPE_CHECKING:
    from pvblob.upstream.accounts import Accounts


def account_counters(accounts: Accounts) -> dict[str, dict[str, int]]:
    """Return, for each account, its counters by name."""
    return {name: _of_account(backend.attempts, accounts.cache) for name, backend in accounts.backends.items()}


def _of_account(attempts: Attempts, cache: BlockStore | None) -> dict[str, int]:
    places = [place.connections for place in (attempts.primary, attempts.secondary) if place is not None]
    counted = asdict(attempts.counters)
    counters = {
        "connections_open": sum(place.open for place in places),
        "connections_idle": sum(place.idle for place in places),
        "connections_made": sum(place.dialed for place in places),
        "requests": counted.pop("attempts"),
        **counted,
        "waited": attempts.budget.waited,
    }
    if cache is not None:
        total = cache.tallies.total(attempts.account)
        counters |= {f"cache_{name}": total[name] for name in ("hits", "misses", "hit_bytes")}
    return counters


def upstream_state(accounts: Accounts) -> list[dict[str, Any]]:
    """Return one object for each account: its endpoint and its counters."""
    counters = account_counters(accounts)
    return [
        {"account": name, "endpoint": str(backend.attempts.primary.url), **counters[name]}
        for name, backend in accounts.backends.items()
    ]


def cache_state(accounts: Accounts) -> dict[str, Any] | None:
    """Return what the cache holds and has done, by container and by guest; None when there is none."""
    cache = accounts.cache
    if cache is None:
        return None
    return {
        "directory": str(cache.directory),
        "size_bytes": cache.size_bytes,
        "size_bytes_max": cache.bytes_max,
        "blocks": len(cache),
        "guest_bytes_max": cache.guest_bytes_max,
        "rules": [_rule(name, rule) for name, account in accounts.cached.items() for rule in account.rules],
        "containers": _containers(cache),
        "guests": [
            {"guest": guest if guest != NOBODY else None, "blocks": blocks, "size_bytes": size_bytes}
            for guest, (blocks, size_bytes) in sorted(cache.guests().items())
        ],
    }


def _rule(account: str, rule: CacheRule) -> dict[str, Any]:
    prefix = rule.prefix.decode(errors="replace")
    said = {"account": account, "container": rule.container, "prefix": prefix, "mode": rule.mode}
    return {**said, "max_age_s": rule.max_age_s} if rule.mode == "revalidate" else said


def _containers(cache: BlockStore) -> list[dict[str, Any]]:
    held, tallies = cache.holdings(), dict(cache.tallies.items())
    rows = []
    for account, container in sorted(held.keys() | tallies.keys()):
        blocks, size_bytes, lent = held.get((account, container), (0, 0, 0))
        place = {"account": account, "container": container}
        now = {"blocks": blocks, "size_bytes": size_bytes, "offloaded": lent}
        rows.append({**place, **now, **asdict(tallies.get((account, container), Tally()))})
    return rows
