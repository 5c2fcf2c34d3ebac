"""Prometheus metrics: what Python executed as it happens, everything else read from the host when it is scraped.

`Metrics` is the guard's `Observer` and a Prometheus collector; `MetricsServer` answers `GET /metrics` on the host's own
loop, so a scrape never sees half an update. No label comes from a guest: their number is a gauge, their names are in
`pvblob status`, and what each may be told apart by is its policy entry. The names are listed in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from pvblob.access import Operation
from pvblob.vsp.account_metrics import account_families
from pvblob.vsp.status import counters

if TYPE_CHECKING:
    from pvblob.vsp.host import Host

# From an answer out of a warm catalog to a large upload.
SECONDS_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    60.0,
)
_GAUGES = frozenset({"lent_bytes", "kept_answers", "kept_bytes", "uploads", "spooled_bytes", "connections"})


class Metrics(Collector):
    """All metrics of one host process, in a registry of their own.

    host: None until it has started.  batches: gives the committer's batch sizes as (bound, how many up to it) and
    their sum, when there is a committer.  accounts: gives the counters of each account elsewhere, if there are any.
    front: gives the HTTP front's counters, and as `connections` how many are open now; None without a front.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.host: Host | None = None
        self.batches: Callable[[], tuple[Sequence[tuple[int, int]], int]] | None = None
        self.front: Callable[[], Mapping[str, int]] | None = None
        self.accounts: Callable[[], Mapping[str, Mapping[str, int]]] | None = None
        labels = ("via", "operation")
        self._requests = Counter(
            "pvblob_requests",
            "Requests that Python answered, by HTTP status class.",
            (*labels, "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "pvblob_request_seconds",
            "Time from the guard to the answer, content that the data plane moves afterwards not included.",
            labels,
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._received = Counter("pvblob_received_bytes", "Bytes of requests' bodies.", labels, registry=self.registry)
        self._sent = Counter("pvblob_sent_bytes", "Bytes of answers' content.", labels, registry=self.registry)
        self.registry.register(self)

    def executed(self, via: str, operation: Operation, status: int, seconds: float, received: int, sent: int) -> None:
        """Take note of one answered request; see `guard.Observer`."""
        self._requests.labels(via, operation, f"{status // 100}xx").inc()
        self._seconds.labels(via, operation).observe(seconds)
        if received:
            self._received.labels(via, operation).inc(received)
        if sent:
            self._sent.labels(via, operation).inc(sent)

    def collect(self) -> Iterable[Metric]:
        """Yield what the host knows at this moment."""
        if self.host is not None:
            yield from self._of_host(self.host)
        if self.front is not None:
            yield from _families("pvblob_front", self.front(), "the HTTP front; see pvblob status")
        if self.accounts is not None:
            yield from account_families(self.accounts())
        if self.batches is not None:
            bounds, total = self.batches()
            buckets = [(str(bound), count) for bound, count in bounds]
            buckets.append(("+Inf", bounds[-1][1] if bounds else 0))
            yield HistogramMetricFamily(
                "pvblob_commit_batch_size", "Mutations per commit of the catalog.", buckets=buckets, sum_value=total
            )

    def _of_host(self, host: Host) -> Iterable[Metric]:
        yield GaugeMetricFamily("pvblob_guests", "Connected guests.", value=len(host.connections))
        channels = sum(len(guest.channels) for guest in host.connections)
        yield GaugeMetricFamily("pvblob_channels", "Open channels.", value=channels)
        in_flight = sum(1 for _ in host.dispatcher.in_flight())
        yield GaugeMetricFamily("pvblob_requests_in_flight", "Requests that Python holds.", value=in_flight)
        yield from _families("pvblob", counters(host), "see pvblob status")
        queued, _ = host.engine.waiting(0)
        yield GaugeMetricFamily("pvblob_requests_queued", "Requests that Python has not taken yet.", value=queued)
        yield from _hits_by_entry(host)
        yield from _families("pvblob_offload", host.engine.offload_counters(), "requests answered by the data plane")


def _hits_by_entry(host: Host) -> Iterable[Metric]:
    """Return the data plane's answers by policy entry: the policy bounds the number of labels, no guest does."""
    for guest in host.connections:
        guest.count_hits()
    hits = CounterMetricFamily("pvblob_entry_offload_hits", "Requests the data plane answered.", labels=["entry"])
    sizes = CounterMetricFamily("pvblob_entry_offload_bytes", "Bytes of those answers.", labels=["entry"])
    for entry, (requests, size_bytes) in host.dispatcher.offload.hits.by_entry.items():
        hits.add_metric([entry], requests)
        sizes.add_metric([entry], size_bytes)
    return hits, sizes


def _families(prefix: str, values: Mapping[str, int], text: str) -> Iterable[Metric]:
    for name, value in values.items():
        if name in _GAUGES:
            yield GaugeMetricFamily(f"{prefix}_{name}", text, value=value)
        else:
            # The channel's requests have the name of the labelled counter above.
            yield CounterMetricFamily(
                f"{prefix}_channel_{name}" if name == "requests" else f"{prefix}_{name}", text, value
            )


class MetricsServer:
    """Serves the metrics over HTTP on one address."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._address = (host, port)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        application = web.Application()
        application.router.add_get("/metrics", self._scrape)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, *self._address).start()
        except BaseException:
            await self._runner.cleanup()
            raise

    @property
    def url(self) -> str:
        """Where to scrape. Raises RuntimeError before `start`."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the metrics are not served: they have no port yet")
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    async def stop(self) -> None:
        """Stop serving. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _scrape(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
