"""Each operation of the embedded service needs its right, by policy and by SAS (design rule 8): with every other right
it is denied before it is executed, with that one alone it is not."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime, timedelta

import pytest
from azure.storage.blob import generate_account_sas

from pvblob.access import OPERATIONS
from pvblob.blobs import access, service
from pvblob.blobs.access import KINDS, Key
from pvblob.blobs.auth.gate import CredentialGate
from pvblob.http import Body, BytesBody, Request, Response
from pvblob.vsp.audit import Audit, PeerLog
from pvblob.vsp.guard import Guard
from pvblob.vsp.policy import CredentialMode, Entry, Guest, Policy, Rule
from tests.conftest import rest

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = base64.b64encode(b"a key of the test").decode()
LETTERS = "rwdlacupxyftmei"
KEYS = [key for key in service.OPERATIONS if key in KINDS]
PATHS = {"account": "/", "container": "/box", "blob": "/box/b"}


class Reached:
    """A backend that only says that it was reached."""

    async def execute(self, request: Request, body: Body) -> Response:
        return Response(299, request.fields)


def target_of(key: Key) -> str:
    _, level, restype, comp = key
    query = "&".join(f"{name}={value}" for name, value in (("restype", restype), ("comp", comp)) if value)
    return f"{PATHS[level]}?{query}" if query else PATHS[level]


async def status(key: Key, operations: set[str], mode: CredentialMode = "channel", permission: str = "") -> int:
    """Ask for *key* as a guest that may do *operations*, with an account SAS for *permission* in mode "verify"."""
    entry = Entry("me", uids=frozenset({1}), mode=mode, allow=(Rule(operations=frozenset(operations)),))  # type: ignore[arg-type]
    gate = CredentialGate({ACCOUNT: base64.b64decode(ACCOUNT_KEY)})
    audit = Audit(PeerLog(logging.getLogger("pvblob.audit")))
    backend = Guard(Reached(), access, Policy((entry,)), audit, credentials=gate).admit(Guest(uid=1))
    assert backend is not None
    target = target_of(key)
    if mode == "verify":
        token = generate_account_sas(ACCOUNT, ACCOUNT_KEY, "sco", permission, datetime.now(UTC) + timedelta(hours=1))
        target += ("&" if "?" in target else "?") + token
    return (await backend.execute(rest(key[0], target), BytesBody())).status


@pytest.mark.parametrize("key", KEYS, ids=str)
async def test_policy_denies_it_without_its_operation_and_lets_it_pass_with_that_alone(key: Key) -> None:
    needed = KINDS[key].operation
    assert await status(key, set(OPERATIONS) - {needed}) == 403
    assert await status(key, {needed}) == 299


@pytest.mark.parametrize("key", KEYS, ids=str)
async def test_a_sas_needs_one_of_its_letters(key: Key) -> None:
    needed = KINDS[key].account
    others = "".join(letter for letter in LETTERS if letter not in needed)
    assert await status(key, set(OPERATIONS), "verify", others) == 403
    for letter in needed:
        assert await status(key, set(OPERATIONS), "verify", letter) == 299, letter
    assert await status(key, set(OPERATIONS) - {KINDS[key].operation}, "verify", LETTERS) == 403
