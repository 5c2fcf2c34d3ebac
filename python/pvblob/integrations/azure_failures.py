"""What the link's errors are to the Azure SDK: the class of error chooses whether and how its retry policy acts.

The SDK retries every `AzureError` (by default three times, 87 s in all), so by the time one leaves the transport the
exchange has already waited its deadline for the host. What no retry can mend is therefore no `AzureError`: a refusal
becomes the HTTP answer it amounts to, which the SDK reports at once; our own bugs pass through as they are. Nothing is
made a 5xx here, for that would be retried too.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from azure.core.exceptions import (
    AzureError,
    ServiceRequestError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)

from pvblob.client.exchange import Answer
from pvblob.errors import (
    BlobError,
    ChannelError,
    DeadlineExceeded,
    HostRefused,
    HostUnavailable,
    LentMemoryExhausted,
    OutOfCredits,
    PvblobError,
    RemoteProtocolError,
    RequestCancelled,
)
from pvblob.http_request import Fields

_NOTHING_EXECUTED = (HostUnavailable, LentMemoryExhausted, OutOfCredits, RequestCancelled)


def refusal(error: PvblobError) -> Answer | None:
    """Return the answer that *error* amounts to, if the host refused the request or this process; else None."""
    if isinstance(error, HostRefused):
        return _error_answer(403, "AuthorizationFailure", f"the pvblob host refused this process: {error}")
    if isinstance(error, BlobError):
        return _error_answer(error.status, error.code, error.message)
    return None


def azure_error(error: PvblobError) -> Exception:
    """Return what to raise for *error*, which is not a refusal.

    ServiceRequestError: nothing was executed.  ServiceResponseTimeoutError: the deadline passed.  ServiceResponseError:
    the link broke and what became of the request is unknown.  *error* itself: no retry can help.
    """
    kind = _kind(error)
    return error if kind is None else kind(str(error), error=error)


def _kind(error: PvblobError) -> type[AzureError] | None:
    if isinstance(error, _NOTHING_EXECUTED):
        return ServiceRequestError
    if isinstance(error, DeadlineExceeded):
        return ServiceResponseTimeoutError
    return ServiceResponseError if isinstance(error, (ChannelError, RemoteProtocolError)) else None


def _error_answer(status: int, code: str, message: str) -> Answer:
    content = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{escape(code)}</Code><Message>{escape(message)}'
    encoded = f"{content}</Message></Error>".encode()
    fields = Fields.lowered(
        [
            ("content-type", "application/xml"),
            ("content-length", str(len(encoded))),
            ("x-ms-error-code", code),
        ]
    )
    return Answer(status, fields, encoded)
