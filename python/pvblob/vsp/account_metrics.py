"""Metrics of accounts elsewhere: one family for each counter, labelled with the account, whose names are settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

# Of this moment; everything else counts from the host's start.
_GAUGES = frozenset({"connections_open", "connections_idle"})


def account_families(accounts: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """Yield `pvblob_upstream_NAME` for every counter of *accounts*, which all have the same ones."""
    names = next(iter(accounts.values()), {})
    for name in names:
        made = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
        family = made(f"pvblob_upstream_{name}", "of accounts elsewhere; see pvblob status", labels=("account",))
        for account, counters in accounts.items():
            family.add_metric((account,), counters[name])
        yield family
