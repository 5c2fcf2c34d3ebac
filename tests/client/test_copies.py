"""`copy` and `begin_upload`, over a real channel. Source: Azure REST, "Copy Blob", "Put Block List"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pvblob
from pvblob import Client
from pvblob.client import operations
from pvblob.client.bodies import BLOCK_BYTES

Content = Callable[[int], bytes]


def test_a_copy_has_the_content_settings_and_metadata_of_its_source(either: Any, content: Content) -> None:
    data = content(BLOCK_BYTES + 10)
    either.put("things", "from ü/a", data, metadata={"k": "v"}, content_type="x/y")
    written = either.copy("things", "from ü/a", "things", "b")
    known = either.stat("things", "b")
    assert (known.etag, known.content_type, dict(known.metadata)) == (written.etag, "x/y", {"k": "v"})
    assert either.get("things", "b") == data


def test_a_copy_takes_conditions_and_metadata_of_its_own(either: Any) -> None:
    old = either.put("things", "a", b"old", metadata={"k": "v"})
    either.put("things", "a", b"new")
    with pytest.raises(pvblob.PreconditionFailed):
        either.copy("things", "a", "things", "b", source_if_match=old.etag)
    either.copy("things", "a", "things", "b", metadata={"n": "1"})
    assert dict(either.stat("things", "b").metadata) == {"n": "1"}
    with pytest.raises(pvblob.AlreadyExists):
        either.copy("things", "a", "things", "b", overwrite=False)
    with pytest.raises(pvblob.NotFound):
        either.copy("things", "absent", "things", "c")


def answered_with(client: Client, monkeypatch: pytest.MonkeyPatch, *statuses: str) -> list[str]:
    """Let the next answers say these copy statuses, as a service that takes its time does; return the methods."""
    perform, left, sent = client._exchange.perform, list(statuses), list[str]()

    def altered(request: Any, *arguments: Any, **options: Any) -> Any:
        answer = perform(request, *arguments, **options)
        pairs = [pair for pair in answer.fields.pairs() if pair[0] != "x-ms-copy-status"]
        sent.append(request.method)
        answer.fields = type(answer.fields)([*pairs, ("x-ms-copy-status", left.pop(0))])
        return answer

    monkeypatch.setattr(client._exchange, "perform", altered)
    return sent


def test_a_copy_that_goes_on_at_the_service_is_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.put("things", "a", b"data")
    sent = answered_with(client, monkeypatch, "pending", "pending", "success")
    client.copy("things", "a", "things", "b")
    assert sent == ["PUT", "HEAD", "HEAD"]


def test_a_copy_that_fails_at_the_service_is_an_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.put("things", "a", b"data")
    answered_with(client, monkeypatch, "pending", "failed")
    with pytest.raises(pvblob.Conflict, match="failed"):
        client.copy("things", "a", "things", "b")


def test_waiting_for_a_copy_ends_at_the_deadline() -> None:
    with pytest.raises(pvblob.DeadlineExceeded, match="goes on"):
        list(operations.copy_pauses_s(0.0))


def test_an_upload_is_invisible_until_it_is_finished(client: Client, content: Content) -> None:
    data = content(3000)
    upload = client.begin_upload("things", "u", content_type="x/y", metadata={"k": "v"})
    upload.write(data[:1000])
    upload.write(b"")
    upload.write(memoryview(data)[1000:2000])
    with pytest.raises(pvblob.NotFound):
        client.stat("things", "u")
    written = upload.finish(data[2000:])
    known = client.stat("things", "u")
    assert (known.etag, known.size_bytes, known.content_type) == (written.etag, 3000, "x/y")
    assert client.get("things", "u") == data


def test_an_upload_of_one_piece_or_of_none_is_one_write(client: Client) -> None:
    client.begin_upload("things", "one").finish(b"piece")
    client.begin_upload("things", "none").finish()
    assert (client.get("things", "one"), client.get("things", "none")) == (b"piece", b"")
    with pytest.raises(pvblob.AlreadyExists):
        client.begin_upload("things", "one", overwrite=False).finish(b"other")
