"""`[[upstream]]` tables: what is wrong is said with its place, and a secret put anywhere is never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvblob.cli.upstream import account_settings
from pvblob.errors import SettingsError
from pvblob.upstream.versions import CacheRule
from pvblob.vsp.settings import load

SECRET = "c2VjcmV0LXNlY3JldA"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f'[[upstream]]\naccount = "contoso"\naccount_key = "{SECRET}"', "upstream.0.account_key"),
        (f'[[upstream]]\naccount = "{SECRET}"\nidentity = "managed"', "upstream.0.account"),
        ('[[upstream]]\naccount = "contoso"', "exactly one of account_key_file"),
        ('[[upstream]]\naccount = "contoso"\nsas_env = "A"\nidentity = "cli"', "not sas_env and identity"),
        ('[[upstream]]\naccount = "a12"\nidentity = "cli"\n[[upstream]]\naccount = "a12"\nidentity = "cli"', "twice"),
        ('[[upstream]]\naccount = "a12"\nidentity = "cli"\n[[upstream.cache]]\ncontainer = "c"', "cache_dir"),
        ('[[upstream]]\naccount = "a12"\nidentity = "cli"\naddresses = ["nowhere"]', "upstream.0.addresses"),
        ('[[upstream]]\naccount = "a12"\nidentity = "cli"\nproxy_credential_env = "P"', "none is named"),
        (
            '[[upstream]]\naccount = "a12"\nidentity = "cli"\nproxy = "http://p:1"\naddresses = ["10.0.0.4"]',
            "addresses are not used",
        ),
        (f'[accounts]\ncontoso = "{SECRET}*"', "not base64"),
        ('http_certificate = "c.pem"', "go together"),
    ],
)
def test_a_wrong_table_is_refused_without_its_secrets(table: str, said: str, tmp_path: Path) -> None:
    config = tmp_path / "pvblob.toml"
    config.write_text(table)
    with pytest.raises(SettingsError) as refused:
        load({}, config)
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_table_becomes_an_account(tmp_path: Path) -> None:
    config = tmp_path / "pvblob.toml"
    config.write_text(
        'cache_dir = "/c"\n[[upstream]]\naccount = "contoso"\nsas_file = "token"\npart_size = 1048576\n'
        'addresses = ["10.0.0.4", "fd00::4"]\n'
        '[[upstream.cache]]\ncontainer = "models"\nprefix = "v1/"\nmode = "immutable"\n'
    )
    (table,) = load({}, config).upstream
    account = account_settings(table)
    assert (account.authorization, account.secret_file, account.part_size_bytes) == ("sas", Path("token"), 1 << 20)
    assert account.addresses == ("10.0.0.4", "fd00::4")
    assert account.cache == (CacheRule("models", b"v1/", "immutable"),)
