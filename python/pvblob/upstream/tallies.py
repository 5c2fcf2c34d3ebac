"""What has happened with the cached blocks of each container since the host began."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pvblob.upstream.block_files import Label


@dataclass(slots=True)
class Tally:
    """hits, misses: blocks asked for, without the data plane's own hits.  hit_bytes: given from blocks that were here.

    joined: readers that waited for a block which was on its way already.  admitted, evicted, dropped: blocks that came,
    that had to make room, that a person had deleted.  damaged: blocks whose checksum was wrong.  full: blocks there was
    no room for on the disk.  ahead: blocks fetched before anybody asked;  ahead_used: of these, asked for later.
    """

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    joined: int = 0
    admitted: int = 0
    evicted: int = 0
    dropped: int = 0
    damaged: int = 0
    full: int = 0
    ahead: int = 0
    ahead_used: int = 0


class Tallies:
    """The tally of each (account, container)."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}

    def of(self, label: Label) -> Tally:
        """Return the tally that counts what happens with blocks of *label*."""
        key = label.account, label.container
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally()
        return found

    def items(self) -> list[tuple[tuple[str, str], Tally]]:
        """Return ((account, container), tally), in the order of the names."""
        return sorted(self._tallies.items())

    def total(self, account: str | None = None) -> dict[str, int]:
        """Return the sums over the containers of *account*, or of all."""
        sums = asdict(Tally())
        for (whose, _), tally in self._tallies.items():
            if account in (None, whose):
                for name in sums:
                    sums[name] += getattr(tally, name)
        return sums
