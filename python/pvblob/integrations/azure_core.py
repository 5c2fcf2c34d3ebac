"""Transports for the Azure SDK: hand one to a client and its requests go to the pvblob host instead of the network.

    BlobServiceClient("https://devstoreaccount1.blob.core.windows.net", transport=PvblobTransport())

No credential is needed: the host knows this process by its channel. The flow of one call: `azure_requests` takes the
request apart, the exchange performs it, `azure_responses` dresses the answer, `azure_failures` the error. Content is
handed up as `bytes`, so nothing depends on when a program drops its responses. Transports know URLs, header fields and
deadlines; channels, pages and retries stay below the exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from azure.core.pipeline.transport import AsyncHttpTransport, HttpTransport
except ModuleNotFoundError as missing:
    raise ImportError("pvblob's Azure transports need azure-core: pip install pvblob[azure]") from missing

from pvblob.client.exchange import AsyncExchange, Exchange
from pvblob.errors import PvblobError
from pvblob.integrations.azure_failures import azure_error, refusal
from pvblob.integrations.azure_requests import async_body_of, body_of, deadline_s, is_rest, request_head
from pvblob.integrations.azure_responses import (
    AsyncPvblobLegacyResponse,
    AsyncPvblobRestResponse,
    PvblobLegacyResponse,
    PvblobRestResponse,
)
from pvblob.integrations.process_memory import FREED_BYTES_KEPT, keep_freed_memory

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["AsyncPvblobTransport", "PvblobTransport"]

TIMEOUT_S = 60.0


class _Restored:
    """What both transports do in every process they come to, made or unpickled there."""

    _freed_bytes_kept: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        keep_freed_memory(self._freed_bytes_kept)


class PvblobTransport(_Restored, HttpTransport[Any, Any]):
    """Sends the requests of a synchronous client to the pvblob host.

    socket_path: the host's socket; None: `$PVBLOB_SOCKET`, else the default.  exchange: one to share with other users;
    it stays theirs to close.  timeout_s: a request's deadline where the call itself gives none (see `deadline_s`).
    freed_bytes_kept: how much freed memory malloc keeps in this process instead of giving it back after each response,
    which is what most of a large download through the SDK costs (see `process_memory`); 0 leaves malloc alone.
    Safe to share between threads and clients, and across a fork; pickles as its settings. It connects at first use;
    `close` ends the channel, and a later request opens another.
    """

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        exchange: Exchange | None = None,
        timeout_s: float = TIMEOUT_S,
        freed_bytes_kept: int = FREED_BYTES_KEPT,
    ) -> None:
        self._exchange = Exchange(socket_path) if exchange is None else exchange
        self._owns_exchange = exchange is None
        self._timeout_s = timeout_s
        self._freed_bytes_kept = freed_bytes_kept
        keep_freed_memory(freed_bytes_kept)

    def send(
        self,
        request: Any,
        *,
        stream: bool = False,
        read_timeout: float | None = None,
        connection_timeout: float | tuple[float, float] | None = None,
        **_for_a_network: Any,
    ) -> PvblobRestResponse | PvblobLegacyResponse:
        """Perform *request* and return a response of its family.

        stream: leave the content to be streamed.  read_timeout, connection_timeout: seconds, see `deadline_s`. Whatever
        else a caller may pass to a transport (proxies, certificates) has no meaning here and is dropped. Raises
        azure.core's ServiceRequestError (nothing executed), ServiceResponseError (outcome unknown) and its timeout.
        """
        head = request_head(request)
        body = body_of(request, head)
        timeout_s = deadline_s(head.target, self._timeout_s, read_timeout, connection_timeout)
        try:
            answer = self._exchange.perform(head, body, timeout_s=timeout_s)
        except PvblobError as error:
            refused = refusal(error)
            if refused is None:
                raise azure_error(error) from error
            answer = refused
        if is_rest(request):
            return PvblobRestResponse(request, answer, stream=stream)
        return PvblobLegacyResponse(request, answer)

    def open(self) -> None:
        """Do nothing: the channel is opened by the first request."""

    def close(self) -> None:
        """Close the channel, unless the exchange was given. The transport stays usable."""
        if self._owns_exchange:
            self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.close()


class AsyncPvblobTransport(_Restored, AsyncHttpTransport[Any, Any]):
    """Sends the requests of an async client to the pvblob host; otherwise as `PvblobTransport`.

    It may be used from several event loops. Cancelling a task cancels its request at the host.
    """

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        exchange: AsyncExchange | None = None,
        timeout_s: float = TIMEOUT_S,
        freed_bytes_kept: int = FREED_BYTES_KEPT,
    ) -> None:
        self._exchange = AsyncExchange(socket_path) if exchange is None else exchange
        self._owns_exchange = exchange is None
        self._timeout_s = timeout_s
        self._freed_bytes_kept = freed_bytes_kept
        keep_freed_memory(freed_bytes_kept)

    async def send(
        self,
        request: Any,
        *,
        stream: bool = False,
        read_timeout: float | None = None,
        connection_timeout: float | tuple[float, float] | None = None,
        **_for_a_network: Any,
    ) -> AsyncPvblobRestResponse | AsyncPvblobLegacyResponse:
        """Perform *request* and return a response of its family; see `PvblobTransport.send`."""
        head = request_head(request)
        body = await async_body_of(request, head)
        timeout_s = deadline_s(head.target, self._timeout_s, read_timeout, connection_timeout)
        try:
            answer = await self._exchange.perform(head, body, timeout_s=timeout_s)
        except PvblobError as error:
            refused = refusal(error)
            if refused is None:
                raise azure_error(error) from error
            answer = refused
        if is_rest(request):
            return AsyncPvblobRestResponse(request, answer, stream=stream)
        return AsyncPvblobLegacyResponse(request, answer)

    async def open(self) -> None:
        """Do nothing: the channel is opened by the first request."""

    async def close(self) -> None:
        """Close the channel, unless the exchange was given. The transport stays usable."""
        if self._owns_exchange:
            await self._exchange.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.close()
