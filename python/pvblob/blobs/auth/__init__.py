"""Who sent this request: checks of the credentials a REST request carries, as Azure checks them.

The flow: front or policy → `shared_key.authenticate` → an account name, or a `Rejection` that becomes the answer.
Nothing here reads a body, a store or a clock.
"""

from pvblob.blobs.auth.rejection import Rejection
from pvblob.blobs.auth.shared_key import (
    DEVELOPMENT_ACCOUNT,
    DEVELOPMENT_ACCOUNT_KEY,
    authenticate,
    string_to_sign,
)

__all__ = ["DEVELOPMENT_ACCOUNT", "DEVELOPMENT_ACCOUNT_KEY", "Rejection", "authenticate", "string_to_sign"]
