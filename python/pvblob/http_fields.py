"""Fields between HTTP/1.1, where names have a case, and `http.Fields`, where they have none.

The HTTP front and the transport to accounts elsewhere both pass here: inside, names are lower case; metadata names are
sent as they were set (docs/decisions/0003). Knows no connection.
"""

from __future__ import annotations

from pvblob.http import METADATA, METADATA_NAMES, Fields, metadata_spelling, spelled_metadata


def received_fields(raw: list[tuple[str, str]]) -> Fields:
    """Return the fields of a message that came over HTTP, as (name, value) in its order and case.

    Fields of ours (`pvblob-`) have a meaning between guest and host only; from elsewhere they are dropped.
    """
    pairs = [(name.lower(), value) for name, value in raw]
    pairs = [pair for pair in pairs if not pair[0].startswith("pvblob-")]
    pairs += metadata_spelling(name[len(METADATA) :] for name, _ in raw if name.lower().startswith(METADATA))
    return Fields.lowered(pairs)


def spelled_fields(fields: Fields) -> list[tuple[str, str]]:
    """Return the (name, value) pairs to send over HTTP: the other side may look at the case of metadata names."""
    if METADATA_NAMES not in fields:
        return fields.pairs()
    spelling = spelled_metadata(fields)
    return [(spelling.get(name, name), value) for name, value in fields if name != METADATA_NAMES]
