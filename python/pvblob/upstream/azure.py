"""One account elsewhere as a backend: every request is forwarded whole, under the host's credential.

The flow: check what cannot be sent → find where the body lies → `attempts` → `answers` or `downloads`.
"""

from __future__ import annotations

from pvblob.blobs.answers import Refusal, refuse
from pvblob.frozen import replace
from pvblob.http import Body, ByteRange, Fields, Request, Response
from pvblob.upstream import batches
from pvblob.upstream.answers import INLINE_BYTES_MAX, plain_response, read_whole
from pvblob.upstream.attempts import Attempts
from pvblob.upstream.cut import may_be_cut, put_in_blocks
from pvblob.upstream.downloads import Cutting, RemoteContent
from pvblob.upstream.endpoint import url_for
from pvblob.upstream.failures import GivenUp, unknown_outcome, unreachable
from pvblob.upstream.forward import DOTS_REFUSED, answered_fields, has_dot_segment
from pvblob.upstream.retries import is_read
from pvblob.upstream.transport import NO_BODY, Answer, Part, TransportFailure
from pvblob.upstream.uploads import Spool, SpoolFull

DOCUMENT_ATTEMPTS = 3


class AzureUpstream:
    """Serves one account from its endpoint; see `http.Backend`."""

    def __init__(self, attempts: Attempts, spool: Spool, cutting: Cutting = Cutting()) -> None:  # noqa: B008
        self.attempts = attempts
        self._spool = spool
        self._cutting = cutting

    @property
    def account(self) -> str:
        """The account's name, as guests write it."""
        return self.attempts.account

    async def execute(self, request: Request, body: Body) -> Response:
        """Forward *request*; every failure of the way there is an answer in Azure's error format."""
        if has_dot_segment(request.target):
            return DOTS_REFUSED.response(request)
        try:
            return self._as_guests_write(request, await self._execute(request, body))
        except GivenUp as given_up:
            return given_up.response
        except Refusal as refusal:
            return refuse(request, refusal)
        except SpoolFull as full:
            return refuse(request, Refusal("RequestBodyTooLarge", str(full)))

    async def _execute(self, request: Request, body: Body) -> Response:
        if request.method == "GET" and not body.size_bytes:
            return await self._get(request)
        if batches.is_batch(request):
            return await self._batch(request, body)
        async with self._spool.part(body) as part:
            block_bytes = self._cutting.put_block_bytes
            own = self.attempts.credential.guests_own  # a guest's signature is for the one request it signed
            if block_bytes and part.size_bytes > block_bytes and not own and may_be_cut(request):
                answer = await put_in_blocks(self.attempts, request, part, block_bytes, self._cutting.parallel)
                return await self._document(request, answer)
            return await self._forward(request, part)

    def _as_guests_write(self, request: Request, response: Response) -> Response:
        """Name a copy's source as the guest did, not by the endpoint it never sees."""
        source = response.fields.get("x-ms-copy-source")
        if source is not None:
            url = url_for(request, self.attempts.primary.url, self.account, source)
            response.fields.set("x-ms-copy-source", url)
        return response

    async def _forward(self, request: Request, part: Part) -> Response:
        answer = await self.attempts.perform(request, part, inline_max=INLINE_BYTES_MAX)
        return await self._document(request, answer)

    async def _document(self, request: Request, answer: Answer) -> Response:
        """Return the response of an answer that is read whole; a read whose content breaks off is repeated."""
        for _ in range(DOCUMENT_ATTEMPTS):
            try:
                return await read_whole(answer)
            except TransportFailure as failure:
                reason = str(failure)
            if not is_read(request):
                raise unknown_outcome(request, self.account, reason)
            answer = await self.attempts.perform(request, NO_BODY, inline_max=INLINE_BYTES_MAX)
        answer.drop()
        raise unreachable(request, self.account, reason)

    async def _batch(self, request: Request, body: Body) -> Response:
        attempts = self.attempts
        await attempts.credential.prepare()
        url = attempts.primary.url
        sent, content = await batches.rewritten(request, body, url, self.account, attempts.credential)
        return await self._forward(sent, Part(content, 0, len(content)))

    # ---- reads

    async def _get(self, request: Request) -> Response:
        asked = _range_of(request)
        part = self._cutting.part_size_bytes
        if asked is not None and asked.last is not None and asked.last - asked.first >= part + part // 8:
            narrowed = with_range(request, ByteRange(asked.first, asked.first + part - 1))
            answer = await self.attempts.perform(narrowed, NO_BODY, inline_max=INLINE_BYTES_MAX)
            return await self._begun(request, asked, answer)
        answer = await self.attempts.perform(request, NO_BODY, inline_max=INLINE_BYTES_MAX)
        return await self._whole(request, answer)

    async def _whole(self, request: Request, answer: Answer) -> Response:
        """Return the response of an answer that carries all that was asked for."""
        if answer.content is not None:
            return plain_response(answer.status, answer.fields, answer.content)
        etag = answer.fields.get("etag") if "x-ms-blob-type" in answer.fields else None
        first = 0 if answer.status == 200 else _first_of(answer.fields)
        # A structured message is no run of the blob's bytes: ranges cannot continue it.
        unlike_the_blob = etag is None or first is None or "x-ms-structured-body" in answer.fields
        if answer.size_bytes is None or answer.status not in (200, 206) or unlike_the_blob:
            return await self._document(request, answer)
        assert etag is not None
        assert first is not None
        content = RemoteContent(
            self.attempts, request, answer, answer.size_bytes, first=first, etag=etag, cutting=self._cutting
        )
        return Response(answer.status, answered_fields(answer.fields), content)

    async def _begun(self, request: Request, asked: ByteRange, answer: Answer) -> Response:
        """Return the response to the range *asked*, of which *answer* has the first part."""
        total = _total_of(answer.fields)
        etag = answer.fields.get("etag")
        if answer.status != 206 or total is None or etag is None:
            return await self._whole(request, answer)
        assert asked.last is not None
        length = min(asked.last, total - 1) - asked.first + 1
        have = answer.size_bytes if answer.content is None else len(answer.content)
        if have is None or have >= length:
            return await self._whole(request, answer)
        fields = answered_fields(answer.fields)
        fields.set("content-length", str(length))
        fields.set("content-range", f"bytes {asked.first}-{asked.first + length - 1}/{total}")
        content = RemoteContent(
            self.attempts,
            request,
            answer,
            length,
            first=asked.first,
            etag=etag,
            cutting=self._cutting,
            stream_end=have if answer.content is None else 0,
        )
        return Response(206, fields, content)


def _range_of(request: Request) -> ByteRange | None:
    """Return the range a read of a blob asks for, if it may be cut: no checksum of the whole range is wanted."""
    fields = request.fields
    if "x-ms-range-get-content-md5" in fields or "x-ms-range-get-content-crc64" in fields:
        return None
    if "x-ms-structured-body" in fields:
        return None
    text = fields.get("x-ms-range") or fields.get("range")
    return None if text is None else ByteRange.parse(text)


def with_range(request: Request, span: ByteRange) -> Request:
    """Return *request* for the bytes of *span*."""
    fields = Fields.lowered(list(request.fields.pairs()))
    fields.discard("range")
    fields.set("x-ms-range", str(span))
    return replace(request, fields=fields)


def _first_of(fields: Fields) -> int | None:
    """Return the first byte of `bytes first-last/total`."""
    text = (fields.get("content-range") or "").partition("bytes ")[2].partition("-")[0]
    return int(text) if text.isascii() and text.isdigit() else None


def _total_of(fields: Fields) -> int | None:
    """Return the total of `bytes first-last/total`."""
    text = (fields.get("content-range") or "").rpartition("/")[2]
    return int(text) if text.isascii() and text.isdigit() else None
