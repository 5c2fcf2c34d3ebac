"""An answer to a request that must not reach the service: status, error code, and a text that says what to do.

The flow: a check returns a `Rejection`; whoever holds the request turns it into a `Response` in Azure's error format.
It knows nothing of why a request is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from pvblob.blobs.answers import answer, answer_xml, reason
from pvblob.http import Request, Response

# XML 1.0 has no way to write most control characters; a string to sign may hold any byte a client sent.
_UNPRINTABLE = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\t\n\r"}


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request is not executed.

    status: HTTP status.  code: Azure's error code.  message: Azure's sentence for that code.
    detail: what exactly was wrong, for `AuthenticationErrorDetail`.  challenge: value of WWW-Authenticate, or "".
    """

    status: int
    code: str
    message: str
    detail: str = ""
    challenge: str = ""

    def response(self, request: Request) -> Response:
        """Return the error answer to *request*: fields complete, content XML (none for HEAD).

        Source: Azure REST, "Status and error codes".
        """
        pairs = [("x-ms-error-code", self.code)]
        if self.challenge:
            pairs.append(("www-authenticate", self.challenge))
        if request.method == "HEAD":
            pairs.append(reason(f"{self.message} {self.detail}".rstrip()))
            return answer(request, self.status, pairs)
        return answer_xml(request, self.status, self._document(), pairs)

    def _document(self) -> str:
        message = f"{self.message}\nTime:{datetime.now(UTC).isoformat(timespec='microseconds')}"
        parts = [f"<Code>{self.code}</Code>", f"<Message>{_text(message)}</Message>"]
        if self.detail:
            parts.append(f"<AuthenticationErrorDetail>{_text(self.detail)}</AuthenticationErrorDetail>")
        return f"<Error>{''.join(parts)}</Error>"


def authentication_failed(detail: str) -> Rejection:
    """Return the rejection of a signature that does not hold; *detail*: what exactly was wrong."""
    return Rejection(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
        "including the signature.",
        detail=detail,
    )


def _text(text: str) -> str:
    return escape(text.translate(_UNPRINTABLE))
