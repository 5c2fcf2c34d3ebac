"""What a guest is told when the service gave no answer: one clean outcome, in Azure's error format.

The texts name the account and the reason, and never hold a target, a field or a credential.
"""

from __future__ import annotations

from pvblob.blobs.auth import Rejection
from pvblob.http import Request, Response
from pvblob.upstream.transport import TransportFailure


class GivenUp(Exception):
    """No answer will come from the service; *response* is what to say instead."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def unknown_outcome(request: Request, account: str, reason: str) -> GivenUp:
    """A write that may or may not have been executed. Source: Azure REST, OperationTimedOut says exactly this."""
    return _given_up(
        request,
        500,
        "OperationTimedOut",
        f"The operation may or may not have been executed by account {account}: {reason}.",
    )


def unreachable(request: Request, account: str, reason: str) -> GivenUp:
    """Nothing was executed, and trying longer would pass the deadline."""
    return _given_up(request, 503, "ServerBusy", f"Account {account} cannot be reached now: {reason}.")


def untrusted(request: Request, account: str, reason: str) -> GivenUp:
    """Somebody answers who cannot prove to be the service."""
    return _given_up(
        request,
        502,
        "PvblobUpstreamUntrusted",
        f"What answers for account {account} could not prove who it is: {reason}. Check ca_file and the endpoint.",
    )


def no_credential(request: Request, account: str, reason: str) -> GivenUp:
    """The host's own credential cannot be had."""
    return _given_up(request, 503, "PvblobCredentialUnavailable", f"No credential for account {account}: {reason}.")


def from_failure(request: Request, account: str, failure: TransportFailure, *, write: bool) -> GivenUp:
    """Return what to say after the last attempt failed with *failure*."""
    if failure.kind == "unsendable":
        return _given_up(request, 400, "InvalidUri", f"The request cannot be sent unchanged: {failure}.")
    if failure.kind == "untrusted":
        return untrusted(request, account, str(failure))
    if write and not failure.nothing_was_sent:
        return unknown_outcome(request, account, str(failure))
    return unreachable(request, account, str(failure))


def _given_up(request: Request, status: int, code: str, message: str) -> GivenUp:
    return GivenUp(Rejection(status, code, message).response(request))
