"""Answers of the exchange as the Azure SDK wants to see them: rest and legacy responses, blocking and asyncio.

The whole content of an answer is one private `bytes` when the response is made. It is handed up as that one object, so
the SDK's `b"".join(...)` copies nothing, and let go once streamed, so that a downloader that keeps its response keeps
no data. Built on azure-core's own implementation classes, as its four transports are; their attributes are set
directly, for their `__setattr__` would make this the most expensive part of a call (10 µs against 1).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, ItemsView, Iterator, KeysView
from http.client import responses as reason_phrases
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import StreamClosedError, StreamConsumedError
from azure.core.pipeline.transport import AsyncHttpResponse, HttpResponse
from azure.core.rest._http_response_impl import HttpResponseImpl
from azure.core.rest._http_response_impl_async import AsyncHttpResponseImpl

from pvblob.errors import REASON_FIELD
from pvblob.http_request import METADATA_NAMES, spelled_metadata
from pvblob.integrations.azure_content import decoded

if TYPE_CHECKING:
    from pvblob.client.exchange import Answer
    from pvblob.http_request import Fields

_Default = TypeVar("_Default")


class ResponseHeaders(dict[str, str]):
    """Header fields whose look-ups ignore case; names are lower case, fields of one name are joined by commas.

    The SDK looks up about fifty names per operation, most of them absent: hence a dict, no exception for a miss, and no
    `super()` in look-ups, which would be half of their time.
    """

    @classmethod
    def of(cls, fields: Fields) -> ResponseHeaders:
        """Return the fields of an answer. Values that are UTF-8 are given as the text they were sent as."""
        pairs = fields.pairs()
        headers = cls(pairs)
        if len(headers) != len(pairs):
            headers.clear()
            for name, value in pairs:
                dict.__setitem__(headers, name, f"{headers[name]}, {value}" if name in headers else value)
        if not "".join(headers.values()).isascii():
            for name, value in headers.items():
                headers[name] = _text(value)
        return SpelledHeaders(headers, fields) if METADATA_NAMES in headers else headers

    def __getitem__(self, name: str) -> str:
        return dict.__getitem__(self, name.lower())

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name.lower(), value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and dict.__contains__(self, name.lower())

    def get(self, name: str, default: _Default | None = None) -> str | _Default | None:  # type: ignore[override]
        """Return the value of *name*, or *default*."""
        return dict.get(self, name.lower(), default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove *name* and return its value, or the default."""
        return super().pop(name.lower(), *default)

    def setdefault(self, name: str, default: str = "") -> str:
        """Return the value of *name*, setting it first if it is absent."""
        return super().setdefault(name.lower(), default)

    def update(self, *others: Any, **named: str) -> None:
        """Set every field of the given mappings or pairs."""
        for name, value in dict(*others, **named).items():
            self[name] = value

    def copy(self) -> ResponseHeaders:
        """Return another mapping with the same fields."""
        return type(self)(self)


class SpelledHeaders(ResponseHeaders):
    """The same for an answer whose metadata names are not all lower case: iterating spells them as they were set."""

    def __init__(self, headers: ResponseHeaders, fields: Fields) -> None:
        super().__init__(headers)
        self._spelling = spelled_metadata(fields)
        del self[METADATA_NAMES]

    def __iter__(self) -> Iterator[str]:
        return (self._spelling.get(name, name) for name in super().__iter__())

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return the names."""
        return KeysView(self)

    def items(self) -> ItemsView[str, str]:  # type: ignore[override]
        """Return the fields."""
        return ItemsView(self)

    def copy(self) -> ResponseHeaders:
        """Return another mapping with the same fields."""
        copied = SpelledHeaders.__new__(SpelledHeaders)
        dict.update(copied, dict.items(self))
        copied._spelling = self._spelling
        return copied


def _text(value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _reason(answer: Answer) -> str:
    """HTTP's reason phrase, which a channel does not carry; the SDK shows it where an error has no body."""
    return answer.fields.get(REASON_FIELD) or reason_phrases.get(answer.status, "")


class ContentStream:
    """What `stream_download` gives: the content as one piece. The SDK reads and sets attributes on it.

    It has no `__len__`: `list()` would reserve eight bytes of memory per byte of content.
    """

    def __init__(self, pipeline: Any, response: Any, *, decompress: bool = True, **_ignored: Any) -> None:
        self.pipeline = pipeline
        self.request = response.request
        self.response = response
        self.content_length = int(response.headers.get("content-length", 0))
        self._decompress = decompress
        self._ended = False

    def _once(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        content: bytes = self.response._take_content(self._decompress)
        return content

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._once()
        if not piece:
            raise StopIteration
        return piece


class AsyncContentStream(ContentStream):
    """The same for the async clients."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = self._once()
        if not piece:
            raise StopAsyncIteration
        return piece


class _HeldContent:
    """Keeps an answer's content until it is read, streamed or closed; `_content` and the flags are azure-core's own."""

    _content: bytes | None
    _held: bytes | None

    def _fill(self, request: Any, answer: Answer, *, stream: bool, stream_type: type[ContentStream]) -> None:
        headers = ResponseHeaders.of(answer.fields)
        self.__dict__.update(
            _request=request,
            _internal_response=None,
            _block_size=4096,
            _status_code=answer.status,
            _reason=_reason(answer),
            _content_type=headers.get("content-type"),
            _headers=headers,
            _stream_download_generator=stream_type,
            _is_closed=not stream,
            _is_stream_consumed=not stream,
            _json=None,
            _content=None if stream else decoded(answer.content, headers),
            _text=None,
            _held=answer.content if stream else None,
        )

    def _take_content(self, decompress: bool) -> bytes:
        """Give the content away, or share it when it was read; afterwards this object no longer holds what it gave."""
        if self._content is not None:
            return self._content
        held = self._held
        if held is None:
            response: Any = self
            raise (StreamClosedError if response.is_closed else StreamConsumedError)(response)
        self.__dict__["_held"] = None
        headers: ResponseHeaders = self.__dict__["_headers"]
        return decoded(held, headers) if decompress else held

    def _let_go(self) -> None:
        self.__dict__.update(_is_closed=True, _held=None)

    def _body(self) -> bytes:
        """Read now: nothing has to be waited for. Serves `body()`, which policies call on either kind of client."""
        if self._content is None:
            self.__dict__["_content"] = self._take_content(decompress=True)
            self.__dict__["_is_stream_consumed"] = True
            self._let_go()
        assert self._content is not None
        return self._content


class PvblobRestResponse(_HeldContent, HttpResponseImpl):
    """Response to an `azure.core.rest.HttpRequest`. stream: leave the content to be read or streamed."""

    def __init__(self, request: Any, answer: Answer, *, stream: bool) -> None:
        self._fill(request, answer, stream=stream, stream_type=ContentStream)

    def close(self) -> None:
        """Let go of content that was not read."""
        self._let_go()


class AsyncPvblobRestResponse(_HeldContent, AsyncHttpResponseImpl):
    """Response to an `azure.core.rest.HttpRequest` of an async client."""

    def __init__(self, request: Any, answer: Answer, *, stream: bool) -> None:
        self._fill(request, answer, stream=stream, stream_type=AsyncContentStream)

    async def load_body(self) -> None:
        """Read the content, so that `body()` has it; the MD5 check of the async clients asks for this."""
        self._body()

    async def close(self) -> None:
        """Let go of content that was not read."""
        self._let_go()


class _LegacyContent:
    """A legacy response holds its content for good: `body()` may be called at any time."""

    def _fill(self, answer: Answer) -> None:
        response: Any = self
        response.status_code = answer.status
        response.headers = ResponseHeaders.of(answer.fields)
        response.reason = _reason(answer)
        response.content_type = response.headers.get("content-type")
        self._answered = answer.content
        self._whole = decoded(answer.content, response.headers)

    def _take_content(self, decompress: bool) -> bytes:
        return self._whole if decompress else self._answered

    def body(self) -> bytes:
        """Return the content."""
        return self._whole


class PvblobLegacyResponse(_LegacyContent, HttpResponse):
    """Response to an `azure.core.pipeline.transport.HttpRequest`: Blob Batch."""

    def __init__(self, request: Any, answer: Answer) -> None:
        super().__init__(request, None)
        self._fill(answer)

    def stream_download(self, pipeline: Any, **kwargs: Any) -> ContentStream:
        """Return the content as a stream of one piece."""
        return ContentStream(pipeline, self, **kwargs)


class AsyncPvblobLegacyResponse(_LegacyContent, AsyncHttpResponse):
    """Response to a legacy request of an async client: Blob Batch."""

    def __init__(self, request: Any, answer: Answer) -> None:
        super().__init__(request, None)
        self._fill(answer)

    async def load_body(self) -> None:
        """Do nothing: the content is here."""

    def stream_download(self, pipeline: Any, **kwargs: Any) -> AsyncContentStream:
        """Return the content as a stream of one piece."""
        return AsyncContentStream(pipeline, self, **kwargs)
