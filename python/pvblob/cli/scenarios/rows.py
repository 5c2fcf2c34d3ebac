"""Rows: what all rounds of a path in a stage come to. The shape is documented, and checked, by `result.schema.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

from pvblob.cli.fleet.corpus import GIB
from pvblob.cli.fleet.measurement import Measurement

FAILED = "failed: "
MEASURES = ("gib_per_s", "p50_us", "requests_per_s")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One path in one stage of a scenario: medians over the rounds.

    min, max: of *measure*, the figure the scenario is about.  in_flight: requests of a client at a time.  server,
    settings: what answered, how the client was set.  *_cpu_s_per_gib: clients and servers by their processes' own time,
    machine: all that ran, soft interrupts included.  absent: why there are no figures.  connected: clients that are
    connected, when more than are at work.  host_private_bytes: Private_Dirty of the host per connected client, lent
    memory apart.
    Of accounts elsewhere alone: blob_bytes: of one blob.  upstream_bytes, connections: what came from there, encrypted,
    and how many TCP connections were made, from a path's start to its clients' last byte.  first_byte_ms: a fresh
    process, from the making of its client to its first byte, imports done; first_byte_from_start_ms: from the process's
    start, with them.  elsewhere_cpu_s_per_gib, network_cpu_s_per_gib: of the service there, and of the network program.
    """

    scenario: str
    path: str
    operation: str
    title: str
    clients: int
    in_flight: int
    block_bytes: int
    measure: str
    server: str
    settings: str
    gib_per_s: float | None = None
    requests_per_s: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    client_cpu_s_per_gib: float | None = None
    host_cpu_s_per_gib: float | None = None
    machine_cpu_s_per_gib: float | None = None
    repeats: int = 0
    min: float | None = None
    max: float | None = None
    absent: str | None = None
    connected: int | None = None
    host_private_bytes_per_client: float | None = None
    lent_bytes_per_client: float | None = None
    blob_bytes: int | None = None
    upstream_bytes: float | None = None
    connections: float | None = None
    first_byte_ms: float | None = None
    first_byte_from_start_ms: float | None = None
    elsewhere_cpu_s_per_gib: float | None = None
    network_cpu_s_per_gib: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the path began and could not go on."""
        return self.absent is not None and self.absent.startswith(FAILED)

    def value(self, name: str) -> float | None:
        """Return a figure by its name.

        "cpu_s_per_gib" is clients and servers together, "upstream_bytes_per_blob_byte" what its name says.
        """
        if name == "cpu_s_per_gib":
            parts = (self.client_cpu_s_per_gib, self.host_cpu_s_per_gib)
            return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
        if name == "upstream_bytes_per_blob_byte":
            came, wanted = self.upstream_bytes, self.blob_bytes
            # Fewer bytes than the blob has: the section ended before all of it was read, which proves nothing.
            return None if came is None or wanted is None or came < wanted else came / wanted
        found: float | None = getattr(self, name)
        return found


FIELDS = tuple(field.name for field in fields(Row))
FIGURES: dict[str, Callable[[Measurement], float]] = {
    "gib_per_s": lambda one: one.size_bytes / GIB / one.seconds,
    "requests_per_s": lambda one: one.requests / one.seconds,
    "p50_us": lambda one: one.p50_us,
    "p99_us": lambda one: one.p99_us,
    "client_cpu_s_per_gib": lambda one: one.client_cpu_s / (one.size_bytes / GIB),
    "host_cpu_s_per_gib": lambda one: one.server_cpu_s / (one.size_bytes / GIB),
    "machine_cpu_s_per_gib": lambda one: one.machine_cpu_s / (one.size_bytes / GIB),
}


def condense(measurements: Sequence[Measurement], measure: str) -> dict[str, Any]:
    """Return a row's figures: the median of each over the rounds, least and most of *measure*, and how many rounds."""
    figures: dict[str, Any] = {name: median(map(of, measurements)) for name, of in FIGURES.items()}
    spread = [FIGURES[measure](one) for one in measurements]
    return figures | {"repeats": len(spread), "min": min(spread), "max": max(spread)}
