"""How the command line writes blobs: `CONTAINER/BLOB` or `pvblob://ACCOUNT/CONTAINER/BLOB`.

Names are taken as they are: nothing is percent-decoded, so a name with a "%" needs no care.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pvblob.errors import SettingsError

SCHEME = "pvblob://"


@dataclass(frozen=True, slots=True)
class Locator:
    """A place in an account.

    account: None leaves it to `--account`.  container: "" only where a whole account may be named.  blob: a name, a
    prefix, or "" for none.
    """

    account: str | None
    container: str
    blob: str

    @classmethod
    def parse(cls, text: str, *, whole_account: bool = False) -> Locator:
        """Parse *text*. Raises SettingsError when the container is missing and no *whole_account* may be named."""
        account = None
        rest = text
        if text.startswith(SCHEME):
            account, _, rest = text.removeprefix(SCHEME).partition("/")
        container, _, blob = rest.partition("/")
        if account == "" or not (container or (whole_account and account and not blob)):
            raise SettingsError(f"{text!r}: write CONTAINER/BLOB or {SCHEME}ACCOUNT/CONTAINER/BLOB")
        return cls(account, container, blob)

    @property
    def is_prefix(self) -> bool:
        """Whether it names no single blob: the container alone, or a name that ends with "/"."""
        return self.blob == "" or self.blob.endswith("/")

    def prefix(self) -> str:
        """Return the name as the beginning of other names: "" or something that ends with "/"."""
        return self.blob if self.is_prefix else self.blob + "/"

    def child(self, name: str) -> Locator:
        """Return the blob *name* below this place."""
        return replace(self, blob=self.prefix() + name)

    def __str__(self) -> str:
        path = f"{self.container}/{self.blob}" if self.blob else self.container
        return f"{SCHEME}{self.account}/{path}" if self.account else path
