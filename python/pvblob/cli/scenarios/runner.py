"""Runs scenarios: venue up, paths standing, stages measured, rows made.

`run(scenario, options, narrate)` → rows. A path that cannot run, or fails, becomes a row that says why; everything else
goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pvblob.cli.fleet.contestants import contestant
from pvblob.cli.fleet.failure import ContestFailure
from pvblob.cli.fleet.fill import FillFailure
from pvblob.cli.fleet.limit import PROGRAM, limit_program
from pvblob.cli.fleet.measurement import Measurement
from pvblob.cli.fleet.paths import Path as ContestPath
from pvblob.cli.fleet.rounds import Stage, run_stage
from pvblob.cli.fleet.servers import ServerFailure, file_system
from pvblob.cli.fleet.venue import Narrate, Venue, VenuePlan, open_venue
from pvblob.cli.fleet.workers.contract import Task
from pvblob.cli.scenarios import scale, upstream
from pvblob.cli.scenarios.catalogue import SMALL, Effort, Heat, Scenario, Shape
from pvblob.cli.scenarios.rows import FAILED, Row, condense
from pvblob.errors import SettingsError


class Options(NamedTuple):
    """What a run is narrowed to. paths, clients: empty for all of a scenario's.  directory: for what lies on disk."""

    effort: Effort
    paths: Sequence[str] = ()
    clients: Sequence[int] = ()
    directory: Path | None = None

    def wants(self, path: ContestPath) -> bool:
        """Whether the path takes part."""
        return not self.paths or path.name in self.paths or path.key in self.paths

    def shapes(self, heat: Heat) -> list[Shape]:
        """Return the heat's stages, at the numbers of clients that are asked for."""
        return [shape for shape in heat.shapes if not self.clients or shape.clients in self.clients]


def check(scenarios: Sequence[Scenario], options: Options) -> None:
    """Raise SettingsError for paths or numbers of clients that none of the scenarios has."""
    heats = [heat for scenario in scenarios for heat in scenario.heats]
    known = {name for heat in heats for path in heat.paths for name in (path.name, path.key)}
    if unknown := [name for name in options.paths if name not in known]:
        raise SettingsError(f"there is no path {', '.join(unknown)}: {', '.join(sorted(known))}")
    counts = {shape.clients for heat in heats for shape in heat.shapes}
    if strange := [count for count in options.clients if count not in counts]:
        raise SettingsError(f"no stage has {strange[0]} clients: {', '.join(map(str, sorted(counts)))}")


def run(scenario: Scenario, options: Options, narrate: Narrate) -> list[Row]:
    """Measure a scenario. Raises SettingsError when it cannot begin."""
    rows: list[Row] = []
    for heat in scenario.heats:
        paths, shapes = [path for path in heat.paths if options.wants(path)], options.shapes(heat)
        try:
            if paths and shapes:
                rows += _run_heat(scenario, heat, paths, shapes, options, narrate)
        except (ContestFailure, ServerFailure, FillFailure) as failure:
            why = FAILED + " ".join(str(failure).split())
            rows += [_blank(scenario, path, shape, why) for shape in shapes for path in paths]
    return rows


def _run_heat(
    scenario: Scenario,
    heat: Heat,
    paths: Sequence[ContestPath],
    shapes: Sequence[Shape],
    options: Options,
    narrate: Narrate,
) -> list[Row]:
    if scenario.name in (upstream.DISTINCT, upstream.SHARED):
        blank = {path.key: _blank(scenario, path, shapes[0], None) for path in paths}
        return upstream.run(scenario.name, paths, shapes[0], blank, narrate, options.effort, options.directory)
    nginx = any(path.server == "nginx" for path in paths)
    blobs = options.effort.blobs if heat.corpus else 0
    parent = heat.parent or options.directory
    if heat.parent is not None and file_system(heat.parent) != "tmpfs":
        return [_blank(scenario, path, shape, f"{heat.parent} is no tmpfs") for shape in shapes for path in paths]
    with open_venue(VenuePlan(heat.hosts, nginx, blobs, parent, heat.bytes_wanted), narrate) as venue:
        if scenario.name == "scale":
            return scale.run(paths[0], shapes, venue, options.effort, narrate)
        return _run_stages(_Course(scenario, heat, venue, options.effort), paths, shapes, narrate)


class _Course(NamedTuple):
    scenario: Scenario
    heat: Heat
    venue: Venue
    effort: Effort


def _run_stages(course: _Course, paths: Sequence[ContestPath], shapes: Sequence[Shape], narrate: Narrate) -> list[Row]:
    """Let all paths stand by, measure stage after stage; return the rows, stage by stage, in the catalogue's order."""
    missing = {path.key: why for path in paths if (why := _missing(path, course.venue))}
    rows: list[Row] = []
    with ExitStack() as stack:
        most = max(shape.clients for shape in shapes)
        narrate(f"{course.scenario.name}: starting {most} client processes for each path", 0, 1)
        able = [path for path in paths if path.key not in missing]
        standing = {path.key: stack.enter_context(contestant(path, course.venue, most)) for path in able}
        for one in standing.values():
            one.await_standing()
        for number, shape in enumerate(shapes):
            taking_part = [path for path in paths if shape.in_flight == 1 or path.batches]
            contestants = [standing[path.key] for path in taking_part if path.key not in missing]
            found = run_stage(contestants, _stage(course, shape), narrate, check_all=number == 0)
            missing |= {key: FAILED + why for key, why in found.failed.items()}
            rows += [
                _blank(course.scenario, path, shape, missing[path.key])
                if path.key in missing
                else _filled(course, path, shape, found.measured[path.key])
                for path in taking_part
            ]
    return rows


def _stage(course: _Course, shape: Shape) -> Stage:
    corpus, effort = course.venue.corpus, course.effort
    task = Task(shape.clients, shape.block_bytes, shape.in_flight, corpus.blob_count, corpus.blob_bytes)
    seconds = 0 if course.heat.once else effort.seconds * shape.weight
    cold = str(course.venue.directory) if course.heat.once else ""
    return Stage(f"{course.scenario.name}, {shape_text(shape)}", task, seconds, effort.rounds, cold)


def shape_text(shape: Shape) -> str:
    """Return a stage's size for people."""
    size = shape.block_bytes
    block = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    flight = f", {shape.in_flight} in flight" if shape.in_flight > 1 else ""
    return f"{block}, {shape.clients} client{'s' if shape.clients > 1 else ''}{flight}"


def _missing(path: ContestPath, venue: Venue) -> str | None:
    """Return why a path cannot take part."""
    if path.is_limit:
        return None if limit_program() else f"{PROGRAM} is not built"
    return venue.absent.get(path.server)


def _filled(course: _Course, path: ContestPath, shape: Shape, measurements: Sequence[Measurement]) -> Row:
    scenario, servers = course.scenario, course.venue.servers
    server = "the program's own process" if path.is_limit else servers[path.server].settings
    figures = condense(measurements, measure_of(scenario, shape))
    return replace(_blank(scenario, path, shape, None), server=server, **figures)


def measure_of(scenario: Scenario, shape: Shape) -> str:
    """Return the figure that a stage is about: small blocks in a scenario of throughput are about requests."""
    small = scenario.measure == "gib_per_s" and shape.block_bytes <= SMALL
    return "requests_per_s" if small else scenario.measure


def _blank(scenario: Scenario, path: ContestPath, shape: Shape, why: str | None) -> Row:
    return Row(
        scenario=scenario.name,
        path=path.name,
        operation=path.operation,
        title=path.title,
        clients=shape.clients,
        in_flight=shape.in_flight,
        block_bytes=shape.block_bytes,
        measure=measure_of(scenario, shape),
        server=path.server,
        settings=path.settings,
        absent=why,
    )
