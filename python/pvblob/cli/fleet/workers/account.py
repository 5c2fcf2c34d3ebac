"""The account whose blobs are read: the development account with its published key."""

from __future__ import annotations

from base64 import b64encode

from pvblob.blobs.auth import DEVELOPMENT_ACCOUNT, DEVELOPMENT_ACCOUNT_KEY

ACCOUNT = DEVELOPMENT_ACCOUNT
KEY = b64encode(DEVELOPMENT_ACCOUNT_KEY).decode("ascii")
CREDENTIAL = {"account_name": ACCOUNT, "account_key": KEY}
