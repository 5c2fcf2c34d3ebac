"""`pvblob cache`: look into the cache that all guests of a host share, fill it, empty it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import typer

from pvblob.cli import options, output
from pvblob.cli.locator import SCHEME, Locator
from pvblob.errors import SettingsError
from pvblob.settings import default_socket_path

if TYPE_CHECKING:
    from rich.table import Table

HELP = """Look into, fill or empty the cache of accounts elsewhere that all guests of a host share.

Only the host's own user and root may ask. What is cached is said in the host's settings
(`cache_dir` and the tables `upstream.cache`, docs/upstream.md).

Examples:

  pvblob cache stats

  pvblob cache warm models/v3/

  pvblob cache drop --all
"""
_STATS = """Show what the cache holds and has done: by container, and by guest against its quota.

Hits are those that Python answered; what the data plane answered from cached blocks by itself is counted with the
other offload entries (pvblob status), and "offloaded" says from how many blocks it may.

Examples:

  pvblob cache stats

  pvblob cache stats --json | jq '.containers[] | {container, size_bytes, hits, misses}'
"""
_WARM = """Fetch blobs into the host's cache before a guest asks for them; nothing travels to this process.

A PLACE is a container, CONTAINER/PREFIX, pvblob://ACCOUNT/CONTAINER/PREFIX, or the URL of one of them: every blob whose
name begins so. What is there already is not fetched again. Ctrl-C stops; what has been fetched stays.

Examples:

  pvblob cache warm models/v3/

  pvblob cache warm https://contoso.blob.core.windows.net/models/v3/ data/2026/ --parallel 16
"""
_DROP = """Delete blocks from the cache; guests that read those blobs go on, and they are fetched again.

A PLACE that ends with "/", and a container alone, means everything below it, any other PLACE that one blob.

Examples:

  pvblob cache drop models/v3/model.bin

  pvblob cache drop models/v2/ data

  pvblob cache drop --all
"""

_COLUMNS = (
    "blocks",
    "size_bytes",
    "hits",
    "hit_bytes",
    "misses",
    "joined",
    "admitted",
    "evicted",
    "dropped",
    "damaged",
    "full",
    "ahead",
    "offloaded",
)
# The first columns are always there; of the others those that say something, for all would fit no terminal.
_COLUMNS_ALWAYS = 5
_HEADINGS = {"size_bytes": "size", "hit_bytes": "given"}

Account = Annotated[
    str | None, typer.Option("--account", help="The account; may be left out when the host caches only one.")
]
commands = typer.Typer(add_completion=False, no_args_is_help=True, help=HELP)


class Place(NamedTuple):
    """account: None leaves it to --account, and then to the host.  name: a blob, the beginning of names, or ""."""

    account: str | None
    container: str
    name: str

    @classmethod
    def parse(cls, text: str, account: str | None) -> Place:
        """Parse what a person wrote. Raises SettingsError."""
        if not text.startswith(("http://", "https://")):
            found = Locator.parse(text)
            return cls(found.account or account, found.container, found.blob)
        url = urlsplit(text)
        host_style = ".blob." in url.netloc
        if url.query or url.fragment:
            raise SettingsError(f"{text.partition('?')[0]}: leave the query out; the host has its own credential")
        own, _, path = (url.netloc, "", url.path[1:]) if host_style else url.path[1:].partition("/")
        container, _, name = path.partition("/")
        if not own or not container:
            raise SettingsError(f"{text!r} names no container: write CONTAINER/PREFIX, {SCHEME}…, or a blob's URL")
        return cls(own.partition(".")[0] if host_style else own, unquote(container), unquote(name))

    def __str__(self) -> str:
        return f"{self.container}/{self.name}" if self.name else self.container


@commands.command(help=_STATS, short_help="Show what the cache holds and has done.")
def stats(socket: options.Socket = None, as_json: options.Json = False) -> None:
    """Print the cache's state."""
    from pvblob.cli.status import ask

    state = ask(_path(socket)).get("cache")
    if state is None:
        raise SettingsError("this host has no cache: set cache_dir, and [[upstream.cache]] of an account")
    if as_json:
        output.json_line(state)
    else:
        _print(state)


@commands.command(help=_WARM, short_help="Fetch blobs into the cache.")
def warm(
    places: Annotated[list[str], typer.Argument(metavar="PLACE...", help="What to fetch.")],
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Blocks of 4 MiB that are fetched at once.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each blob.")] = False,
    socket: options.Socket = None,
    account: Account = None,
) -> None:
    """Fetch, with progress on a terminal; exit code 1 when something could not be fetched."""
    skipped = 0
    for place in [Place.parse(text, account) for text in places]:
        skipped += _warm(_path(socket), place, parallel, as_json=as_json)
    if skipped:
        raise typer.Exit(1)


@commands.command(help=_DROP, short_help="Delete blocks from the cache.")
def drop(
    places: Annotated[list[str] | None, typer.Argument(metavar="[PLACE...]", help="What to delete.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every block of every account.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    socket: options.Socket = None,
    account: Account = None,
) -> None:
    """Delete, and say how much it was."""
    if everything == bool(places):
        raise SettingsError("name what to drop, or say --all for everything")
    requests: list[dict[str, Any]] = [{"all": True}] if everything else []
    for place in [Place.parse(text, account) for text in places or ()]:
        exact = bool(place.name) and not place.name.endswith("/")
        requests.append({**_named(place), "exact": exact})
    blocks = size_bytes = 0
    for request in requests:
        for event in _command(_path(socket), {"command": "cache.drop", **request}):
            blocks += event["blocks"]
            size_bytes += event["size_bytes"]
    if as_json:
        output.json_line({"blocks": blocks, "size_bytes": size_bytes})
    else:
        output.text_line(f"dropped {blocks:,} blocks, {output.size_text(size_bytes)}")


def _warm(socket: Path, place: Place, parallel: int, *, as_json: bool) -> int:
    """Fetch what *place* names, print what became of it; return how many blobs were skipped."""
    blobs = skipped = had_bytes = fetched_bytes = 0
    request = {"command": "cache.warm", **_named(place), "parallel": parallel}
    with output.progress_bar() as progress, closing(_command(socket, request)) as events:
        task = progress.add_task(str(place), total=None)
        for event in events:
            if "blob" not in event:
                fetched_bytes += event["fetched_bytes"]
                progress.advance(task, event["fetched_bytes"])
                continue
            blobs += 1
            had_bytes += event["had_bytes"]
            if as_json:
                output.json_line({"container": place.container, **event})
            if event["skipped"]:
                skipped += 1
                if not as_json:
                    output.text_line(f"skipped {place.container}/{event['blob']}: {event['skipped']}")
    if not as_json:
        there = f"{output.size_text(had_bytes)} were there" if had_bytes else "nothing was there"
        text = f"{place}: {blobs:,} blobs, {output.size_text(fetched_bytes)} fetched, {there}"
        output.text_line(f"{text}, {skipped:,} skipped" if skipped else text)
    return skipped


def _named(place: Place) -> dict[str, Any]:
    return {"account": place.account, "container": place.container, "prefix": place.name}


def _path(socket: str | None) -> Path:
    return Path(socket) if socket else default_socket_path()


def _command(socket: Path, request: dict[str, Any]) -> Any:
    from pvblob.cli.admin import command

    return command(socket, request)


def _print(state: dict[str, Any]) -> None:
    held, room = output.size_text(state["size_bytes"]), output.size_text(state["size_bytes_max"])
    text = f"{state['directory']}: {held} of {room}, {state['blocks']:,} blocks"
    output.show(text, _containers(state["containers"]), _guests(state))


def _containers(rows: list[dict[str, Any]]) -> Table:
    told = [name for name in _COLUMNS[_COLUMNS_ALWAYS:] if any(row[name] for row in rows)]
    columns = [*_COLUMNS[:_COLUMNS_ALWAYS], *told]
    table = _table("Containers", "place", *columns)
    for row in rows:
        table.add_row(f"{row['account']}/{row['container']}", *(_cell(name, row[name]) for name in columns))
    return table


def _guests(state: dict[str, Any]) -> Table:
    quota = state["guest_bytes_max"]
    table = _table("Guests", "guest", "blocks", "size_bytes", "quota")
    for row in state["guests"]:
        who = row["guest"] or "nobody yet"
        text = "-" if quota is None or row["guest"] is None else output.size_text(quota)
        over = quota is not None and row["guest"] is not None and row["size_bytes"] > quota
        size = _cell("size_bytes", row["size_bytes"])
        table.add_row(who, f"{row['blocks']:,}", size, f"{text} (above)" if over else text)
    return table


def _table(title: str, *columns: str) -> Table:
    return output.table(title, {name: _HEADINGS.get(name, name) for name in columns}, ("place", "guest"))


def _cell(name: str, value: int) -> str:
    return output.size_text(value) if name.endswith("_bytes") else f"{value:,}"
