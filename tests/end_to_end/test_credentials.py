"""azure-storage-blob's keys and SAS tokens open what they should over the front, and over a channel in mode "verify".

Source: Azure REST, "Create a service SAS", "Create an account SAS"; design rule 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from pvblob.integrations.azure_core import PvblobTransport
from tests.end_to_end.serving import Serving

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
OTHER_KEY = "bm90IHRoZSBrZXkgb2YgdGhpcyBhY2NvdW50LCBvZiBubyBvdGhlciBlaXRoZXI="
POLICY = """
[[guest]]
name = "checked"
uid = "*"
mode = "verify"
[[guest.allow]]

[[guest]]
name = "front"
front = true
[[guest.allow]]
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("verify")
    policy = directory / "policy.toml"
    policy.write_text(POLICY)
    with Serving(directory, "--http", "127.0.0.1:0", "--policy", str(policy)) as serving:
        yield serving


Connect = Callable[[Any], BlobServiceClient]


@pytest.fixture(params=["front", "channel"])
def connect(serving: Serving, request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Connect with a credential, over HTTP or over the channel."""
    with ExitStack() as stack:

        def over_front(credential: Any) -> BlobServiceClient:
            return stack.enter_context(BlobServiceClient(serving.url, credential, retry_total=0))

        def over_channel(credential: Any) -> BlobServiceClient:
            url, transport = f"https://{ACCOUNT}.blob.core.windows.net", PvblobTransport(serving.socket)
            return stack.enter_context(BlobServiceClient(url, credential, transport=transport, retry_total=0))

        yield over_front if request.param == "front" else over_channel


@pytest.fixture
def box(connect: Connect, request: pytest.FixtureRequest) -> ContainerClient:
    """A container with blobs `a` and `dir/b`, opened with the account's key."""
    name = f"box{abs(hash(request.node.nodeid)):x}"[:40]
    box = connect({"account_name": ACCOUNT, "account_key": KEY}).create_container(name)
    box.upload_blob("a", b"content of a", content_settings=ContentSettings(content_type="text/plain"))
    box.upload_blob("dir/b", b"content of b")
    return box


def until(minutes: float) -> datetime:
    return datetime.now(UTC) + timedelta(minutes=minutes)


def container_sas(box: ContainerClient, permission: str, **more: Any) -> str:
    more = {"expiry": until(5), **more}
    return generate_container_sas(ACCOUNT, box.container_name, more.pop("key", KEY), permission=permission, **more)


def blob_sas(box: ContainerClient, blob: str, permission: str, **more: Any) -> str:
    more = {"expiry": until(5), **more}
    return generate_blob_sas(ACCOUNT, box.container_name, blob, account_key=KEY, permission=permission, **more)


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(HttpResponseError) as refused:
        call()
    assert refused.value.status_code in (401, 403)
    code = refused.value.error_code
    return str(getattr(code, "value", code))


def test_the_account_s_key_opens_everything_in_it(connect: Connect, box: ContainerClient) -> None:
    assert box.download_blob("a").readall() == b"content of a"
    box.get_blob_client("copy").start_copy_from_url(box.get_blob_client("a").url)
    assert sorted(box.list_blob_names()) == ["a", "copy", "dir/b"]
    box.delete_blobs("a", "copy")
    assert list(box.list_blob_names()) == ["dir/b"]
    box.delete_container()


def test_another_key_and_no_key_open_nothing(connect: Connect, box: ContainerClient) -> None:
    wrong = connect({"account_name": ACCOUNT, "account_key": OTHER_KEY})
    assert code_of(lambda: wrong.get_blob_client(box.container_name, "a").download_blob()) == "AuthenticationFailed"
    nobody = connect(None)
    code = code_of(lambda: nobody.get_blob_client(box.container_name, "a").download_blob())
    assert code == "NoAuthenticationInformation"


def test_an_account_sas_opens_what_its_permissions_and_resource_types_say(
    connect: Connect, box: ContainerClient
) -> None:
    service = connect(generate_account_sas(ACCOUNT, KEY, "sco", "rwdlac", until(5)))
    assert box.container_name in [found.name for found in service.list_containers()]
    its_box = service.get_container_client(box.container_name)
    its_box.upload_blob("a", b"again", overwrite=True)
    assert its_box.download_blob("a").readall() == b"again"
    its_box.delete_blob("a")
    objects = connect(generate_account_sas(ACCOUNT, KEY, "o", "rl", until(5)))
    assert objects.get_blob_client(box.container_name, "dir/b").download_blob().readall() == b"content of b"
    assert code_of(lambda: list(objects.list_containers())) == "AuthorizationResourceTypeMismatch"
    blob = objects.get_blob_client(box.container_name, "new")
    assert code_of(lambda: blob.upload_blob(b"x")) == "AuthorizationPermissionMismatch"


def test_a_sas_that_adds_appends_and_neither_reads_nor_overwrites(connect: Connect, box: ContainerClient) -> None:
    log = box.get_blob_client("log")
    log.create_append_blob()
    adds = connect(container_sas(box, "a")).get_blob_client(box.container_name, "log")
    adds.append_block(b"line")
    for other in (adds.download_blob, adds.create_append_blob, adds.create_snapshot, adds.acquire_lease):
        assert code_of(other) == "AuthorizationPermissionMismatch"
    assert log.download_blob().readall() == b"line"


def test_tags_and_searches_need_permissions_of_their_own(connect: Connect, box: ContainerClient) -> None:
    def opened(permission: str) -> ContainerClient:
        return connect(container_sas(box, permission)).get_container_client(box.container_name)

    mismatch = "AuthorizationPermissionMismatch"
    opened("t").get_blob_client("a").set_blob_tags({"k": "v"})
    assert opened("t").get_blob_client("a").get_blob_tags() == {"k": "v"}
    assert [one.name for one in opened("f").find_blobs_by_tags("\"k\"='v'")] == ["a"]
    others = opened("rwdlac").get_blob_client("a")
    assert code_of(others.get_blob_tags) == mismatch
    assert code_of(lambda: others.set_blob_tags({})) == mismatch
    assert code_of(lambda: others.upload_blob(b"x", overwrite=True, tags={"k": "w"})) == mismatch
    assert code_of(lambda: others.download_blob(if_tags_match_condition="\"k\"='v'")) == mismatch
    assert code_of(lambda: list(opened("rwdlact").find_blobs_by_tags("\"k\"='v'"))) == mismatch


def test_leases_need_the_right_to_write(connect: Connect, box: ContainerClient) -> None:
    reads = connect(container_sas(box, "rl")).get_blob_client(box.container_name, "a")
    assert code_of(reads.acquire_lease) == "AuthorizationPermissionMismatch"
    lease = connect(container_sas(box, "w")).get_blob_client(box.container_name, "a").acquire_lease()
    assert reads.download_blob(lease=lease).readall() == b"content of a"


def test_a_sas_for_a_blob_opens_its_snapshots_only_where_it_says_so(connect: Connect, box: ContainerClient) -> None:
    moment = box.get_blob_client("a").create_snapshot()["snapshot"]
    box.upload_blob("a", b"later", overwrite=True)
    inside = connect(container_sas(box, "r")).get_blob_client(box.container_name, "a", snapshot=moment)
    assert inside.download_blob().readall() == b"content of a"
    alone = connect(blob_sas(box, "a", "r", snapshot=moment)).get_blob_client(box.container_name, "a", snapshot=moment)
    assert alone.download_blob().readall() == b"content of a"
    base = connect(blob_sas(box, "a", "r")).get_blob_client(box.container_name, "a", snapshot=moment)
    assert code_of(base.download_blob) == "AuthenticationFailed"


def test_a_container_sas_reads_and_lists_its_container_and_no_other(connect: Connect, box: ContainerClient) -> None:
    service = connect(container_sas(box, "rl"))
    its_box = service.get_container_client(box.container_name)
    assert sorted(its_box.list_blob_names()) == ["a", "dir/b"]
    assert its_box.download_blob("dir/b").readall() == b"content of b"
    assert code_of(lambda: its_box.delete_blob("a")) == "AuthorizationPermissionMismatch"
    assert code_of(lambda: its_box.upload_blob("c", b"x")) == "AuthorizationPermissionMismatch"
    assert code_of(its_box.delete_container) == "AuthorizationFailure"
    assert code_of(lambda: list(service.list_containers())) == "AuthenticationFailed"
    assert code_of(lambda: service.get_blob_client("elsewhere", "a").download_blob()) == "AuthenticationFailed"


def test_a_blob_sas_reads_its_blob_with_the_fields_it_sets(connect: Connect, box: ContainerClient) -> None:
    token = blob_sas(box, "a", "r", content_type="application/x-test", cache_control="no-store")
    service = connect(token)
    blob = service.get_blob_client(box.container_name, "a")
    downloaded = blob.download_blob()
    assert downloaded.readall() == b"content of a"
    for properties in (downloaded.properties, blob.get_blob_properties()):
        assert properties.content_settings.content_type == "application/x-test"
        assert properties.content_settings.cache_control == "no-store"
    other = service.get_blob_client(box.container_name, "dir/b")
    assert code_of(other.download_blob) == "AuthenticationFailed"
    assert box.get_blob_client("a").get_blob_properties().content_settings.content_type == "text/plain"


def test_a_sas_that_only_creates_never_overwrites(connect: Connect, box: ContainerClient) -> None:
    blob = connect(container_sas(box, "c")).get_blob_client(box.container_name, "new")
    blob.upload_blob(b"first", overwrite=True)
    assert code_of(lambda: blob.upload_blob(b"second", overwrite=True)) == "UnauthorizedBlobOverwrite"
    etag = box.get_blob_client("new").get_blob_properties().etag
    unequal = {"etag": f'"{etag}x"', "match_condition": MatchConditions.IfModified}
    assert code_of(lambda: blob.upload_blob(b"third", overwrite=True, **unequal)) == "UnauthorizedBlobOverwrite"
    assert box.download_blob("new").readall() == b"first"


def test_a_directory_sas_opens_the_blobs_below_it(connect: Connect, box: ContainerClient) -> None:
    service = connect(blob_sas(box, "dir", "r", is_directory=True))
    assert service.get_blob_client(box.container_name, "dir/b").download_blob().readall() == b"content of b"
    assert code_of(service.get_blob_client(box.container_name, "a").download_blob) == "AuthenticationFailed"


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"expiry": until(-1)}, "AuthenticationFailed"),
        ({"expiry": until(60), "start": until(30)}, "AuthenticationFailed"),
        ({"key": OTHER_KEY}, "AuthenticationFailed"),
        ({"ip": "10.1.2.3"}, "AuthorizationSourceIPMismatch"),
        ({"policy_id": "kept"}, "AuthenticationFailed"),
    ],
    ids=["expired", "not yet valid", "of another key", "of another address", "with a stored policy"],
)
def test_a_sas_whose_terms_do_not_hold_opens_nothing(
    connect: Connect, box: ContainerClient, terms: dict[str, Any], code: str
) -> None:
    blob = connect(container_sas(box, "r", **terms)).get_blob_client(box.container_name, "a")
    assert code_of(blob.download_blob) == code


def test_what_a_sas_says_of_protocol_and_address_is_held_to_the_way_it_came(
    serving: Serving, connect: Connect, box: ContainerClient
) -> None:
    front = box.url.startswith("http:")
    secure = connect(container_sas(box, "r", protocol="https")).get_blob_client(box.container_name, "a")
    local = connect(container_sas(box, "r", ip="127.0.0.0-127.0.0.9")).get_blob_client(box.container_name, "a")
    if front:
        assert code_of(secure.download_blob) == "AuthorizationProtocolMismatch"
        assert local.download_blob().readall() == b"content of a"
    else:
        assert secure.download_blob().readall() == b"content of a"
        assert code_of(local.download_blob) == "AuthorizationSourceIPMismatch"


def test_every_request_of_a_batch_is_held_to_its_sas(connect: Connect, box: ContainerClient) -> None:
    for permission, deleted in (("rl", False), ("rld", True)):
        its_box = connect(container_sas(box, permission)).get_container_client(box.container_name)
        if deleted:
            its_box.delete_blobs("a", "dir/b")
        else:
            assert code_of(lambda its_box=its_box: its_box.delete_blobs("a", "dir/b")) == (
                "AuthorizationPermissionMismatch"
            )
        assert list(box.list_blob_names()) == ([] if deleted else ["a", "dir/b"])


def test_the_source_of_a_copy_needs_a_sas_of_its_own(connect: Connect, box: ContainerClient) -> None:
    target = connect(container_sas(box, "cw")).get_blob_client(box.container_name, "copy")
    source = box.get_blob_client("a").url
    assert code_of(lambda: target.start_copy_from_url(source)) == "CannotVerifyCopySource"
    weak = f"{source}?{blob_sas(box, 'a', 'w')}"
    assert code_of(lambda: target.start_copy_from_url(weak)) == "CannotVerifyCopySource"
    target.start_copy_from_url(f"{source}?{blob_sas(box, 'a', str(BlobSasPermissions(read=True)))}")
    assert box.download_blob("copy").readall() == b"content of a"


def test_what_cannot_be_verified_here_is_refused_with_its_reason(connect: Connect, box: ContainerClient) -> None:
    token = container_sas(box, "r")
    blob = connect(f"{token}&skoid=x&sktid=y").get_blob_client(box.container_name, "a")
    with pytest.raises(HttpResponseError, match="user delegation SAS cannot be verified"):
        blob.download_blob()

    version = token.partition("sv=")[2][:10]
    old = connect(token.replace(version, "2013-08-15")).get_blob_client(box.container_name, "a")
    with pytest.raises(HttpResponseError, match="versions from 2015-04-05 on"):
        old.download_blob()


def test_a_guest_that_was_not_accepted_leaves_a_line_in_the_audit_log(serving: Serving) -> None:
    transport = PvblobTransport(serving.socket)
    url = f"https://{ACCOUNT}.blob.core.windows.net"
    with BlobServiceClient(url, transport=transport, retry_total=0) as nobody, pytest.raises(AzureError):
        nobody.get_blob_client("box", "a").download_blob()
    assert "its credential was not accepted" in serving.log.read_text()
