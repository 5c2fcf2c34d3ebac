"""Listings, batches and containers, held by Client and AsyncClient alike."""

from __future__ import annotations

from typing import Any

import pytest

import pvblob


@pytest.fixture
def names(either: Any) -> list[str]:
    """Seven blobs, in the byte order of their names."""
    made = ["a", "a/1", "a/2", "a/deep/3", "b", "b/1", "é"]
    for name in made:
        either.put("things", name, name.encode(), metadata={"size": str(len(name))})
    return made


@pytest.mark.parametrize("page_size", [None, 1, 2, 7, 100])
def test_a_listing_is_whole_and_in_byte_order_whatever_the_page(either: Any, names: list[str], page_size: int) -> None:
    assert [entry.name for entry in either.list("things", page_size=page_size)] == names


def test_a_prefix_and_a_start_choose_names(either: Any, names: list[str]) -> None:
    assert [entry.name for entry in either.list("things", "a/")] == ["a/1", "a/2", "a/deep/3"]
    assert [entry.name for entry in either.list("things", start_from="a/2", page_size=2)] == names[2:]


@pytest.mark.parametrize("page_size", [None, 1])
def test_a_delimiter_rolls_names_up(either: Any, names: list[str], page_size: int | None) -> None:
    entries = list(either.list("things", "", "/", page_size=page_size))
    assert [(type(entry).__name__, entry.name) for entry in entries] == [
        ("BlobProperties", "a"),
        ("BlobPrefix", "a/"),
        ("BlobProperties", "b"),
        ("BlobPrefix", "b/"),
        ("BlobProperties", "é"),
    ]


def test_a_listing_says_what_stat_says(either: Any, names: list[str]) -> None:
    for entry in either.list("things", include_metadata=True):
        assert entry == either.stat("things", entry.name)
    assert all(not entry.metadata for entry in either.list("things"))


def test_a_listed_etag_serves_as_a_condition(either: Any, names: list[str]) -> None:
    entry = next(iter(either.list("things")))
    assert either.get("things", entry.name, if_match=entry.etag) == b"a"


def test_listing_a_missing_container_is_not_found(either: Any) -> None:
    with pytest.raises(pvblob.NotFound):
        list(either.list("nowhere"))


def test_many_blobs_are_deleted_and_what_failed_is_named(either: Any) -> None:
    made = [f"{number:03}" for number in range(300)]
    for name in made:
        either.put("things", name, b"")
    failed = either.delete_many("things", [*made, "missing", made[0]])
    assert set(failed) == {"missing"}
    assert isinstance(failed["missing"], pvblob.NotFound)
    assert list(either.list("things")) == []


def test_containers_come_and_go(either: Any) -> None:
    assert either.create_container("more", metadata={"k": "v"}) is True
    with pytest.raises(pvblob.AlreadyExists):
        either.create_container("more")
    assert either.create_container("more", exist_ok=True) is False
    assert either.stat_container("more").metadata == {"k": "v"}
    assert [container.name for container in either.list_containers()] == ["more", "things"]
    assert [container.name for container in either.list_containers("th")] == ["things"]
    assert either.delete_container("more") is True
    with pytest.raises(pvblob.NotFound):
        either.delete_container("more")
    assert either.delete_container("more", missing_ok=True) is False


@pytest.mark.parametrize("name", ["", "a/b"])
def test_an_impossible_container_name_is_refused_before_anything_is_sent(either: Any, name: str) -> None:
    with pytest.raises(ValueError, match="no container name"):
        either.create_container(name)


def test_an_empty_blob_name_is_refused_before_anything_is_sent(either: Any) -> None:
    with pytest.raises(ValueError, match="empty"):
        either.delete("things", "")
