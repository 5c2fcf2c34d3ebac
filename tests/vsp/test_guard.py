"""What policy denies never reaches the backend, over a real channel (design rule 8); reload takes effect at once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient

from pvblob import Client
from pvblob.blobs import access
from pvblob.blobs.service import EmbeddedService
from pvblob.errors import Denied, HostRefused, OutOfCredits
from pvblob.http import Body, Request, Response
from pvblob.integrations.azure_core import PvblobTransport
from pvblob.vsp.audit import Audit, PeerLog
from pvblob.vsp.guard import Guard
from pvblob.vsp.host import SocketSettings
from pvblob.vsp.policy import Entry, GuestLimits, Policy, Rule
from tests.conftest import LiveHost, rest

ME = frozenset({os.geteuid()})
READ_LIST = frozenset({"read", "list"})
URL = "https://devstoreaccount1.blob.core.windows.net"


class Spy:
    """The embedded service, and what reached it."""

    def __init__(self, service: EmbeddedService) -> None:
        self.service = service
        self.reached: list[str] = []

    async def execute(self, request: Request, body: Body) -> Response:
        self.reached.append(f"{request.method} {request.target}")
        return await self.service.execute(request, body)


def allowing(*allow: Rule, **more: object) -> Policy:
    return Policy((Entry("me", uids=ME, allow=allow, **more),), "the test's policy")  # type: ignore[arg-type]


class Guarded:
    """A live host whose policy the test sets."""

    def __init__(self, make_host: Callable[..., LiveHost], service: EmbeddedService) -> None:
        self.spy = Spy(service)
        self.guard = Guard(self.spy, access, allowing(Rule()), Audit(PeerLog(logging.getLogger("pvblob.audit"))))
        self.host = make_host(self.spy, guard=self.guard)

    def enforce(self, policy: Policy, *sockets: SocketSettings) -> None:
        self.host.call(lambda: self.host.host.apply_policy(policy, sockets))
        self.spy.reached.clear()

    def client(self) -> Client:
        return Client.connect(self.host.socket_path)


@pytest.fixture
def guarded(make_host: Callable[..., LiveHost], tmp_path: Path) -> Iterator[Guarded]:
    with EmbeddedService(tmp_path / "guarded", durability="none") as service:
        made = Guarded(make_host, service)
        with made.client() as client:
            for container in ("open", "shut"):
                client.create_container(container)
                client.put(container, "mine/a", b"x")
                client.put(container, "b", b"y")
        yield made
        made.host.stop()


def test_a_guest_gets_what_its_policy_allows_and_403_for_the_rest(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.enforce(allowing(Rule(containers=("open",), prefixes=(b"mine/",), operations=READ_LIST)))  # type: ignore[arg-type]
    with guarded.client() as client:
        assert client.get("open", "mine/a") == b"x"
        assert [blob.name for blob in client.list("open", prefix="mine/")] == ["mine/a"]
        guarded.spy.reached.clear()
        for forbidden in (
            lambda: client.get("open", "b"),
            lambda: client.get("shut", "mine/a"),
            lambda: list(client.list("open")),
            lambda: client.put("open", "mine/c", b"z" * 100_000),
            lambda: client.delete("open", "mine/a"),
            lambda: client.create_container("fresh"),
        ):
            with pytest.raises(Denied) as denied:
                forbidden()
            assert (denied.value.status, denied.value.code) == (403, "AuthorizationPermissionMismatch")
            assert "policy entry 'me'" in denied.value.message
    assert guarded.spy.reached == [], "a denied request reaches no backend"
    lines = [line for line in caplog.messages if line.startswith("denied")]
    assert len(lines) == 6
    assert f"pid={os.getpid()} uid={os.geteuid()}" in lines[0]
    assert "asked='read /devstoreaccount1/open/b'" in lines[0]
    assert guarded.guard.audit.denied == 6


def test_the_answer_to_head_has_no_body_and_says_why_it_is_denied_all_the_same(guarded: Guarded) -> None:
    """A body is all that Azure's format has for it; the SDK shows HTTP's reason phrase, which a channel has not."""
    guarded.enforce(allowing(Rule(containers=("open",))))
    with guarded.client() as client:
        with pytest.raises(Denied) as denied:
            client.stat("shut", "über\n\\")
        assert "policy entry 'me' does not allow read there" in denied.value.message
        assert denied.value.message.isprintable()
    with BlobServiceClient(URL, transport=PvblobTransport(guarded.host.socket_path)) as service:
        with pytest.raises(HttpResponseError) as refused:
            service.get_blob_client("shut", "b").get_blob_properties()
        assert "policy entry 'me' does not allow read there" in str(refused.value)


def test_a_copy_needs_the_right_to_read_its_source(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(containers=("open",)), Rule(containers=("shut",), prefixes=(b"mine/",))))
    service = BlobServiceClient(URL, transport=PvblobTransport(guarded.host.socket_path), retry_total=0)
    with service:
        target = service.get_blob_client("open", "copy")
        target.start_copy_from_url(f"{URL}/shut/mine/a")
        guarded.spy.reached.clear()
        with pytest.raises(HttpResponseError):
            target.start_copy_from_url(f"{URL}/shut/b")
    assert guarded.spy.reached == []


def test_one_forbidden_request_in_a_batch_keeps_the_whole_batch_from_running(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(containers=("open",), prefixes=(b"mine/",)), Rule(operations=READ_LIST)))  # type: ignore[arg-type]
    transport = PvblobTransport(guarded.host.socket_path)
    with BlobServiceClient(URL, transport=transport, retry_total=0) as service:
        container = service.get_container_client("open")
        with pytest.raises(HttpResponseError) as denied:
            container.delete_blobs("mine/a", "b")
        assert denied.value.status_code == 403
        assert guarded.spy.reached == []
        assert sorted(container.list_blob_names()) == ["b", "mine/a"]
        container.delete_blobs("mine/a")
        assert list(container.list_blob_names()) == ["b"]


def test_an_azure_program_that_is_denied_gets_its_error_at_once_without_retries(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(operations=frozenset({"read"}))))
    transport = PvblobTransport(guarded.host.socket_path)
    with BlobServiceClient(URL, transport=transport) as service:
        with pytest.raises(HttpResponseError) as denied:
            service.get_blob_client("open", "new").upload_blob(b"x")
        assert denied.value.error_code == "AuthorizationPermissionMismatch"
    assert guarded.guard.audit.denied == 1, "a retry would have been denied again"


def test_a_reload_changes_the_rights_of_guests_that_are_connected(guarded: Guarded) -> None:
    with guarded.client() as client:
        assert client.get("shut", "b") == b"y"
        guarded.enforce(allowing(Rule(containers=("open",))))
        with pytest.raises(Denied):
            client.get("shut", "b")
        assert client.get("open", "b") == b"y"
        guarded.enforce(allowing(Rule()))
        assert client.get("shut", "b") == b"y"


def test_a_reload_dismisses_guests_that_are_not_named_any_more(guarded: Guarded) -> None:
    with guarded.client() as client:
        assert client.get("open", "b") == b"y"
        guarded.enforce(Policy((Entry("other", uids=frozenset({12345}), allow=(Rule(),)),), "the test's policy"))
        with pytest.raises(HostRefused, match="the test's policy names no guest like this process"):
            client.get("open", "b")
        guarded.enforce(allowing(Rule()))
    with guarded.client() as client:
        assert client.get("open", "b") == b"y"


def test_the_limits_of_an_entry_are_what_its_guests_are_offered(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(), limits=GuestLimits(requests_in_flight=3, lent_bytes=8 << 20)))
    with guarded.client() as client:
        client.get("open", "b")
        (guest,) = guarded.host.call(lambda: list(guarded.host.host._guests))  # type: ignore[misc]
        assert (guest.limits.requests_in_flight_max, guest.limits.lent_bytes_max) == (3, 8 << 20)


def test_a_reload_changes_the_limits_of_guests_that_are_connected(guarded: Guarded) -> None:
    """They are offered the new ones at their next call, and see a pause and no error."""

    def limits() -> tuple[int, int]:
        (guest,) = guarded.host.host.connections
        return guest.limits.requests_in_flight_max, guest.limits.lent_bytes_max

    with guarded.client() as client:
        assert client.get("open", "b") == b"y"
        for requests, lent in ((3, 8 << 20), (5, 8 << 20), (5, 16 << 20)):
            guarded.enforce(allowing(Rule(), limits=GuestLimits(requests_in_flight=requests, lent_bytes=lent)))
            assert client.get("open", "b") == b"y"
            assert guarded.host.call(limits) == (requests, lent)


def test_a_reload_that_changes_limits_is_no_error_for_who_is_busy(guarded: Guarded) -> None:
    """Writes too: each is executed once, whatever it was doing when the device was withdrawn (design rules 3 and 4)."""
    failures: list[BaseException] = []
    done = threading.Semaphore(0)
    stop = threading.Event()

    def work(number: int) -> None:
        try:
            with guarded.client() as client:
                while not stop.is_set():
                    client.put("open", f"busy{number}", b"x" * 1000)
                    assert client.get("open", f"busy{number}") == b"x" * 1000
                    done.release()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for requests in range(4, 16):
        assert done.acquire(timeout=20), failures
        guarded.enforce(allowing(Rule(), limits=GuestLimits(requests_in_flight=requests)))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures


def test_a_reload_that_changes_shares_only_interrupts_nobody(guarded: Guarded) -> None:
    with guarded.client() as client:
        assert client.get("open", "b") == b"y"
        (before,) = guarded.host.host.connections
        guarded.enforce(allowing(Rule(), limits=GuestLimits(weight=400, spooled_bytes=1 << 20)))
        with pytest.raises(OutOfCredits):
            client._exchange.perform(rest("PUT", "/open/big", ("x-ms-blob-type", "BlockBlob")), bytes(40 << 20))
        (after,) = guarded.host.host.connections
        (channel,) = after.channels.values()
        assert after is before
        assert guarded.host.call(lambda: guarded.host.host.dispatcher._guests[channel].weight) == 4.0


def test_the_socket_a_guest_connects_to_may_decide_what_it_may_do(guarded: Guarded, tmp_path: Path) -> None:
    second = tmp_path / "second.sock"
    policy = Policy(
        (
            Entry("second", sockets=frozenset({str(second)}), allow=(Rule(operations=READ_LIST),)),  # type: ignore[arg-type]
            Entry("first", uids=ME, allow=(Rule(),)),
        )
    )
    guarded.enforce(policy, SocketSettings(second, 0o660))
    assert second.stat().st_mode & 0o777 == 0o660
    with guarded.client() as first, Client.connect(str(second)) as reader:
        first.put("open", "c", b"z")
        assert reader.get("open", "c") == b"z"
        with pytest.raises(Denied):
            reader.put("open", "d", b"z")
        guarded.enforce(policy)
        assert reader.get("open", "c") == b"z", "a socket that is given up keeps the guests that came by it"
    assert not second.exists()


def test_a_mode_that_wants_credentials_serves_nobody_on_a_host_without_keys(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(), mode="verify"))
    with guarded.client() as client, pytest.raises(Denied, match="no keys"):
        client.get("open", "b")


def test_an_upload_in_pieces_beyond_its_guest_s_limit_is_refused_and_nothing_else_is(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(), limits=GuestLimits(spooled_bytes=40 << 20)))
    with guarded.client() as client:
        put = rest("PUT", "/open/big", ("x-ms-blob-type", "BlockBlob"))
        assert client._exchange.perform(put, b"a" * (40 << 20)).status == 201
        with pytest.raises(OutOfCredits):
            client._exchange.perform(put, b"a" * ((40 << 20) + 1))
        assert client.get("open", "b") == b"y"


def test_the_weight_of_an_entry_is_its_share_of_the_turns(guarded: Guarded) -> None:
    guarded.enforce(allowing(Rule(), limits=GuestLimits(weight=300)))
    with guarded.client() as client:
        client.get("open", "b")
        (guest,) = guarded.host.call(lambda: guarded.host.host.connections)  # type: ignore[misc]
        (key,) = guest.channels.values()
        assert guarded.host.call(lambda: guarded.host.host.dispatcher._weight_of(key)) == 3.0
