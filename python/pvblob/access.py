"""The noun of policy: what one request asks to do, and to what.

A backend's side says what a REST request amounts to (`blobs.access`), the provider's policy judges it (`vsp.policy`).
Neither knows the other; both know these.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Operation = Literal["read", "write", "list", "delete", "unknown"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class Access(NamedTuple):
    """One thing a request asks for.

    operation: "unknown" is an operation nobody has classified; only a rule without any limit allows it.
    container: None for the account itself.  blob: the decoded name, None for the container itself.
    prefix: of a listing: only names that begin with it are listed (b"" for all of them). It is None for other
    operations, and for the one listing that shows the blobs of a whole account.
    """

    operation: Operation
    account: str
    container: str | None = None
    blob: bytes | None = None
    prefix: bytes | None = None

    def __str__(self) -> str:
        parts = [self.account, self.container, None if self.blob is None else self.blob.decode("utf-8", "replace")]
        place = "/".join(part for part in parts if part is not None)
        return f"{self.operation} /{place}" + (f"/{self.prefix.decode('utf-8', 'replace')}*" if self.prefix else "")
