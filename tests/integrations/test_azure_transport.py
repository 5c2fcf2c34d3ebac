"""The transports as azure-core sees them: heads, deadlines, errors and their retries, life, pickling, batches."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline.transport import HttpRequest as LegacyRequest
from azure.core.rest import HttpRequest
from azure.storage.blob import BlobServiceClient, PartialBatchErrorException, StandardBlobTier

from pvblob import errors
from pvblob.integrations.azure_core import AsyncPvblobTransport, PvblobTransport
from pvblob.integrations.azure_requests import deadline_s, request_head
from pvblob.integrations.azure_responses import PvblobRestResponse

URL = "https://devstoreaccount1.blob.core.windows.net"

# ---- heads


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        (f"{URL}/c/a%20b/%C3%BC%25?sv=1&sig=a%2Bb%3D", URL[8:], "/c/a%20b/%C3%BC%25?sv=1&sig=a%2Bb%3D"),
        ("http://127.0.0.1:10000/devstoreaccount1/c?x=/y", "127.0.0.1:10000", "/devstoreaccount1/c?x=/y"),
        (URL, URL[8:], "/"),
        (f"{URL}?comp=list", URL[8:], "/?comp=list"),
        (f"{URL}?sig=a/b", URL[8:], "/?sig=a/b"),
        (f"{URL}/c/b c ü?prefix=é#fragment", URL[8:], "/c/b%20c%20%C3%BC?prefix=%C3%A9"),
    ],
)
def test_the_url_is_taken_apart_and_its_path_left_untouched(url: str, authority: str, target: str) -> None:
    """The host parses the target; a signature covers it as it is (ecosystem §1.2, SharedKey trap)."""
    head = request_head(HttpRequest("get", url))
    assert (head.method, head.scheme, head.authority, head.target) == ("GET", url[: url.find(":")], authority, target)


def test_a_relative_url_is_refused() -> None:
    with pytest.raises(ValueError, match="no scheme"):
        request_head(HttpRequest("GET", "/c/b"))


def test_header_names_arrive_in_lower_case_and_values_as_they_are() -> None:
    request = HttpRequest("GET", URL, headers={"X-Ms-Range": "bytes=0-1", "ETag": '"x"'})
    assert request_head(request).fields.pairs() == [("x-ms-range", "bytes=0-1"), ("etag", '"x"')]


@pytest.mark.parametrize("mapping", ["azure-core's", "a dict"])
def test_odd_header_values_become_text(mapping: str) -> None:
    """UTF-8 is what the SDK signs; None means absent, as for the stock transports."""
    request = HttpRequest("GET", URL, headers={"X-Ms-Meta-A": "é€", "N": 5, "B": b"raw", "none": None})  # type: ignore
    if mapping == "a dict":
        request.headers = dict(request.headers)
    pairs = request_head(request).fields.pairs()
    assert pairs == [("x-ms-meta-a", "é€".encode().decode("latin-1")), ("n", "5"), ("b", "raw")]


@pytest.mark.parametrize(("method", "length"), [("PUT", "0"), ("POST", "0"), ("DELETE", "0"), ("GET", None)])
@pytest.mark.parametrize("family", [HttpRequest, LegacyRequest])
def test_a_write_without_body_says_so(method: str, length: str | None, family: Any, transport: Any, exchange: Any):
    """ecosystem §1.3: the SDK sends no Content-Length, the service wants 0."""
    transport.send(family(method, f"{URL}/c"))
    assert exchange.passed[0].request.fields.get("content-length") == length


def test_metadata_that_is_not_ascii_comes_back_as_it_went(container: Any) -> None:
    container.upload_blob("b", b"", metadata={"name": "straße €"})
    assert container.get_blob_client("b").get_blob_properties().metadata == {"name": "straße €"}


def test_names_that_need_quoting_reach_the_blob_they_name(container: Any) -> None:
    names = sorted(["a b", "ü/%25", "q?x=1&y", "#frag", "plus+", "it's"])
    for name in names:
        container.upload_blob(name, name.encode())
    assert [container.download_blob(name).readall().decode() for name in names] == names
    assert sorted(container.list_blob_names()) == names


# ---- deadlines


@pytest.mark.parametrize(
    ("target", "read_timeout", "connection_timeout", "expected_s"),
    [
        ("/c/b", None, None, 60.0),
        ("/c/b", 5, None, 5.0),
        ("/c/b", None, 3, 60.0),
        ("/c/b", None, (3, 7), 7.0),
        ("/c/b?timeout=300&comp=x", None, None, 300.0),
        ("/c/b?comp=x&timeout=9", 30, None, 9.0),
        ("/c/b?timeout=300", 30, None, 30.0),
        ("/c/timeout=9?x=nontimeout=4", None, None, 60.0),
        ("/c/b?timeout=soon", None, None, 60.0),
    ],
)
def test_the_deadline_is_what_the_caller_said(
    target: str, read_timeout: Any, connection_timeout: Any, expected_s: float
) -> None:
    assert deadline_s(target, 60.0, read_timeout, connection_timeout) == expected_s


def test_deadlines_are_per_call_and_per_transport(exchange: Any) -> None:
    """ecosystem §2, 44–48: a real per-request deadline. Keywords a network would need are dropped (§1.1)."""
    client = BlobServiceClient(URL, transport=PvblobTransport(exchange=exchange, timeout_s=20.0), retry_total=0)
    client.get_service_properties()
    client.get_service_properties(timeout=7)
    client.get_service_properties(read_timeout=4, connection_timeout=1, connection_verify=False, proxies={}, odd=1)
    assert [passed.timeout_s for passed in exchange.passed] == [20.0, 7.0, 4.0]


# ---- errors

NOTHING_EXECUTED = [
    errors.HostUnavailable("no host"),
    errors.OutOfCredits("spent"),
    errors.LentMemoryExhausted("spent"),
    errors.RequestCancelled("cancelled"),
]
OUTCOME_UNKNOWN = [
    errors.DeviceGone("gone"),
    errors.ChannelCorrupt("corrupt"),
    errors.RemoteProtocolError("nonsense"),
]
EXPECTED = [
    *((error, ServiceRequestError) for error in NOTHING_EXECUTED),
    *((error, ServiceResponseError) for error in OUTCOME_UNKNOWN),
    (errors.DeadlineExceeded("late"), ServiceResponseTimeoutError),
]


@pytest.mark.parametrize(("error", "expected"), EXPECTED, ids=lambda value: type(value).__name__)
async def test_the_links_errors_choose_the_sdks_retry_path(
    error: Exception, expected: type, exchange: Any, transport: Any, aexchange: Any, atransport: Any
) -> None:
    """ecosystem §1.1: ServiceRequestError is safe to retry, ServiceResponseError may have been processed."""
    exchange.fail_with = aexchange.fail_with = error
    with pytest.raises(AzureError, match=str(error)) as caught:
        transport.send(HttpRequest("GET", URL))
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    with pytest.raises(AzureError, match=str(error)) as caught:
        await atransport.send(HttpRequest("GET", URL))
    assert type(caught.value) is expected
    assert caught.value.inner_exception is error


@pytest.mark.parametrize(
    "error", [errors.LocalProtocolError("our bug"), errors.DeviceStatusError("malformed", 0x80070057)]
)
def test_what_no_retry_can_mend_is_not_retried(error: Exception, exchange: Any, make_client: Any) -> None:
    """ecosystem §1.2: every AzureError costs 87 s of retries; these are none."""
    exchange.fail_with = error
    with pytest.raises(type(error)) as caught:
        make_client(retry_total=3).get_service_properties()
    assert caught.value is error
    assert len(exchange.passed) == 1


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.HostRefused("uid 7 is not admitted"), "AuthorizationFailure", "uid 7 is not admitted"),
        (errors.Denied(403, "PvblobDenied", "policy <says> no"), "PvblobDenied", "policy <says> no"),
    ],
)
async def test_a_refusal_is_an_answer_the_sdk_reports_at_once(
    error: Exception, code: str, text: str, exchange: Any, aexchange: Any, make_client: Any, make_aclient: Any
) -> None:
    exchange.fail_with = aexchange.fail_with = error
    with pytest.raises(HttpResponseError, match=text) as caught:
        make_client(retry_total=3).get_service_properties()
    assert (caught.value.status_code, caught.value.error_code) == (403, code)
    async with make_aclient(retry_total=3) as client:
        with pytest.raises(HttpResponseError, match=text) as caught:
            await client.get_service_properties()
    assert (caught.value.status_code, caught.value.error_code) == (403, code)
    assert len(exchange.passed) == len(aexchange.passed) == 1


# ---- life


def test_closing_a_client_leaves_a_shared_exchange_open(exchange: Any, transport: Any) -> None:
    with BlobServiceClient(URL, transport=transport) as client:
        client.get_service_properties()
    assert exchange.closed == 0
    client.get_service_properties()


def test_close_ends_the_transports_own_exchange_and_a_later_call_uses_it_again(exchange: Any) -> None:
    transport = PvblobTransport()
    transport._exchange = exchange
    client = BlobServiceClient(URL, transport=transport)
    with client:
        client.get_service_properties()
        with client.get_container_client("c"):  # a child's close does not reach the transport (ecosystem §1.1)
            pass
        assert exchange.closed == 0
    assert exchange.closed == 1
    with client:
        client.get_service_properties()
    assert len(exchange.passed) == 2


async def test_the_async_transport_closes_its_own_exchange(aexchange: Any) -> None:
    transport = AsyncPvblobTransport()
    transport._exchange = aexchange
    async with transport:
        await transport.open()
        await transport.send(HttpRequest("GET", URL))
    assert aexchange.closed == 1
    await transport.send(HttpRequest("GET", URL))


@pytest.mark.parametrize("kind", [PvblobTransport, AsyncPvblobTransport])
def test_a_transport_pickles_as_its_settings(kind: Any) -> None:
    """Design rule 7; ecosystem §1.1: dask rebuilds clients on the other side."""
    copy = pickle.loads(pickle.dumps(kind("/run/elsewhere.sock", timeout_s=5.0)))
    assert type(copy) is kind
    assert copy._exchange.__reduce__()[1] == ("/run/elsewhere.sock",)
    assert copy._owns_exchange
    assert copy._timeout_s == 5.0


def test_without_azure_core_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['azure.core'] = None; import pvblob.integrations.azure_core"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: pvblob's Azure transports need azure-core: pip install pvblob[azure]" in done.stderr


# ---- responses


def test_response_headers_ignore_case_in_every_look_up(container: Any, transport: Any) -> None:
    container.upload_blob("b", b"x")
    headers = transport.send(HttpRequest("HEAD", container.url + "/b")).headers
    assert headers["Content-Length"] == headers.get("CONTENT-length") == "1"
    assert "ETag" in headers
    assert "absent" not in headers
    assert 5 not in headers
    assert headers.get("absent") is None
    with pytest.raises(KeyError):
        headers["Absent"]
    changed = headers.copy()
    changed["X-New"] = "1"
    changed.update({"ETAG": "e"})
    assert (changed["x-new"], changed.pop("Etag"), changed.pop("etag", None)) == ("1", "e", None)
    assert changed.setdefault("X-NEW", "2") == "1"
    del changed["X-New"]
    assert "x-new" not in changed
    assert "etag" in headers


def test_repeated_fields_are_joined() -> None:
    from pvblob.http import Fields
    from pvblob.integrations.azure_responses import ResponseHeaders

    fields = Fields([("www-authenticate", "Bearer a"), ("date", "d"), ("WWW-Authenticate", "Bearer b")])
    assert ResponseHeaders.of(fields) == {"www-authenticate": "Bearer a, Bearer b", "date": "d"}


# What the storage pipeline touched on a rest response when this was written (ecosystem §1.1), azure.core.rest aside.
TOUCHED_BY_THE_SDK = {
    "status_code",
    "headers",
    "content_type",
    "reason",
    "request",
    "read",
    "close",
    "text",
    "content",
    "encoding",
    "is_closed",
    "is_stream_consumed",
    "stream_download",
    "body",
    "location_mode",
    "context",
}


def test_the_sdk_touches_nothing_the_responses_do_not_have(
    make_client: Any, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private base classes are azure-core's; a new attribute in use shows up here."""
    touched: set[str] = set()

    def spy(response: Any, name: str) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not caller.startswith(("azure.core.rest", "pvblob.")):
            touched.add(name)
        return object.__getattribute__(response, name)

    monkeypatch.setattr(PvblobRestResponse, "__getattribute__", spy, raising=False)
    blob = container.get_blob_client("b")
    blob.upload_blob(b"x" * 10, validate_content=True, metadata={"a": "b"})
    blob.download_blob(validate_content=True).readall()
    blob.get_blob_properties()
    list(container.walk_blobs())
    list(make_client().list_containers(name_starts_with=container.container_name))
    with pytest.raises(HttpResponseError):
        blob.upload_blob(b"again")
    with pytest.raises(HttpResponseError):
        container.download_blob("missing")
    assert {"status_code", "headers", "stream_download", "content_type"} <= touched
    assert {name for name in touched if not name.startswith("__")} <= TOUCHED_BY_THE_SDK


# ---- batches: the legacy family


def test_blobs_are_deleted_in_one_batch(container: Any, exchange: Any) -> None:
    """ecosystem §1.1: only Blob Batch sends a legacy request, and reads the parts of its answer."""
    for name in "abc":
        container.upload_blob(name, b"x")
    exchange.passed.clear()
    answers = list(container.delete_blobs("a", "b"))
    assert [answer.status_code for answer in answers] == [202, 202]
    (passed,) = exchange.passed
    assert passed.request.method == "POST"
    assert "comp=batch" in passed.request.target
    assert list(container.list_blob_names()) == ["c"]


def test_a_partly_failed_batch_names_its_parts(container: Any) -> None:
    container.upload_blob("a", b"x")
    with pytest.raises(PartialBatchErrorException) as caught:
        container.delete_blobs("a", "missing")
    assert [part.status_code for part in caught.value.parts] == [202, 404]
    assert caught.value.parts[1].headers["x-ms-error-code"] == "BlobNotFound"


def test_tiers_are_set_in_one_batch(container: Any) -> None:
    container.upload_blob("a", b"x")
    answers = container.set_standard_blob_tier_blobs(StandardBlobTier.COOL, "a")
    assert [answer.status_code for answer in answers] == [200]
    assert container.get_blob_client("a").get_blob_properties().blob_tier == "Cool"


async def test_an_async_client_deletes_blobs_in_one_batch(acontainer: Any) -> None:
    for name in "abc":
        await acontainer.upload_blob(name, b"x")
    answers = [answer async for answer in await acontainer.delete_blobs("a", "b")]
    assert [answer.status_code for answer in answers] == [202, 202]
    with pytest.raises(PartialBatchErrorException):
        await acontainer.delete_blobs("c", "missing")


def test_a_batch_that_fails_as_a_whole_is_an_error(make_client: Any) -> None:
    with pytest.raises(HttpResponseError) as caught:
        make_client().get_container_client("nosuchcontainer").delete_blobs("a")
    assert caught.value.status_code in (202, 404)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_legacy_response_can_be_streamed(stream: bool, container: Any, transport: Any, atransport: Any) -> None:
    container.upload_blob("b", b"content")
    response = transport.send(LegacyRequest("GET", container.url + "/b"), stream=stream)
    assert response.body() == b"content"
    assert response.text() == "content"
    assert list(response.stream_download(None)) == [b"content"]
    aresponse = await atransport.send(LegacyRequest("GET", container.url + "/b"), stream=stream)
    await aresponse.load_body()
    assert aresponse.body() == b"content"
    assert [piece async for piece in aresponse.stream_download(None)] == [b"content"]
