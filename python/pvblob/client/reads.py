"""Ranged reads of a blob in one native call each: what is asked is decided here once, then only moved.

A `Reads` keeps a `_native.ReadPlan` per blob and conditions of the current connection. A read that its plan cannot
finish as expected (any other answer, a busy or broken channel) returns None here and is done by the general path of
`exchange`, which alone knows retries, restarts and pieces. So both paths give the same results and errors.
"""

from __future__ import annotations

from pvblob import _native
from pvblob.client import answers
from pvblob.client.conversation import PIECE_BYTES, placed_and_fields
from pvblob.client.operations import blob_target
from pvblob.client.sinks import Answer
from pvblob.errors import DeadlineExceeded
from pvblob.vsc.device import HOST_GRACE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import Buffer

    from pvblob.client.operations import Operations
    from pvblob.client.properties import BlobProperties
    from pvblob.vsc.device import Device
    from pvblob.vsc.link import Link

    T = TypeVar("T")

PLANS_MAX = 4096
STREAM_BYTES = 8 << 20  # of a piece of a stream
IN_FLIGHT = 32  # how many of many reads are under way unless the program says otherwise
# What differs from answer to answer of one version and is no property of the blob. Source: Azure REST, "Get Blob".
VOLATILE_FIELDS = ("date", "x-ms-request-id", "x-ms-client-request-id", "server")

PlanKey = tuple[str, str, str | None, str | None]


class Reads:
    """The plans of one client. Thread-safe; they belong to one connection and are made anew after a restart or fork."""

    def __init__(self, device: Device, operations: Operations, timeout_s: float) -> None:
        self._device = device
        self._operations = operations
        self._timeout_s = timeout_s
        # Replaced together: whoever sees a link sees its plans.
        self._current: tuple[Link | None, dict[PlanKey, _native.ReadPlan]] = (None, {})

    def link(self) -> Link | None:
        """Return the current connection, whose plans `plan` returns."""
        return self._device.current()

    def plan(self, key: PlanKey) -> _native.ReadPlan | None:
        """Return the plan for *key*; None when there is no connection, or the blob's name is not for a plan."""
        link = self._device.current()
        if link is None:
            return None
        current, plans = self._current
        if current is not link:
            plans = {}
            self._current = (link, plans)
        plan = plans.get(key)
        if plan is None:
            plan = self._make(link, key)
            if len(plans) >= PLANS_MAX:
                plans.clear()  # making one costs microseconds; keeping them in order would cost some on every read
            plans[key] = plan
        return plan

    def planned(self, key: PlanKey) -> tuple[Link, _native.ReadPlan] | None:
        """Return the plan for *key* and the connection it belongs to; None when there is none."""
        plan = self.plan(key)
        link, plans = self._current
        return (link, plan) if plan is not None and link is not None and plans.get(key) is plan else None

    def memory(self, out: Buffer) -> Buffer:
        """Return what stands for the program's buffer on this connection: registered memory is lent memory here."""
        registrations = self._device.registrations
        return (registrations.attached(out, self._device.current()) or out) if registrations else out

    def _make(self, link: Link, key: PlanKey) -> _native.ReadPlan:
        container, blob, if_match, if_none_match = key
        request = self._operations.read(container, blob, 0, 1, if_match, if_none_match)
        pairs = request.fields.pairs()
        return _native.ReadPlan(
            link.channel,
            link.memory,
            link.pump,
            (request.method, request.scheme, request.authority, request.target),
            pairs,
            [name for name, _ in pairs].index("x-ms-range"),
            max(1, min(int(self._timeout_s * 1000), link.limits.timeout_ms_max)),
            self._timeout_s + HOST_GRACE_S,
            PIECE_BYTES,
        )

    # ---- the three kinds of read

    def into(self, key: PlanKey, out: Buffer, offset: int) -> BlobProperties | None:
        """Fill *out*; see `Client.read_into`."""
        if offset < 0 or (plan := self.plan(key)) is None:
            return None
        out = self.memory(out)
        read = plan.read_into(out, offset)
        if type(read) is not tuple:
            known: BlobProperties | None = in_time(read, key)  # what was learnt before
            return known
        return self.filled(key, plan, read, out, offset)

    def content(self, key: PlanKey, offset: int, size_bytes: int) -> bytes | None:
        """Return the bytes; see `Client.get`."""
        if offset < 0 or size_bytes < 0 or (plan := self.plan(key)) is None:
            return None
        read = plan.read_bytes(offset, size_bytes)
        if type(read) is not tuple:
            expected: bytes | None = in_time(read, key)
            return expected
        return self.got(key, plan, read, offset, size_bytes)

    def view(self, key: PlanKey, offset: int, size_bytes: int) -> memoryview | None:
        """Return a view of the bytes; see `Client.view`."""
        if offset < 0 or size_bytes < 0 or (plan := self.plan(key)) is None:
            return None
        read = plan.read_lent(offset, size_bytes)
        if type(read) is not tuple:
            return None if in_time(read, key) is None else memoryview(read).toreadonly()
        message, placed = read
        if placed is not None:
            plan.learn(message, VOLATILE_FIELDS, None)
            return memoryview(placed).toreadonly()
        answer = _answer(message, None)
        if answer is None:
            return None
        request = self._operations.read(key[0], key[1], offset, size_bytes, key[2], key[3])
        return memoryview(answers.content(answer, request, offset))

    # ---- answers other than the expected one

    def filled(
        self, key: PlanKey, plan: _native.ReadPlan, read: tuple[bytes, int | None], out: Buffer, offset: int
    ) -> BlobProperties | None:
        """Interpret what `read_into` gave; learn from it. None: the general path must ask again."""
        message, placed = read
        answer = _answer(message, placed)
        if answer is None:
            return None
        size_bytes = memoryview(out).nbytes
        request = self._operations.read(key[0], key[1], offset, size_bytes, key[2], key[3])
        known = answers.filled(answer, request, key[1], offset, size_bytes)
        plan.learn(message, VOLATILE_FIELDS, known)
        return known

    def got(
        self, key: PlanKey, plan: _native.ReadPlan, read: tuple[bytes, bytes | None], offset: int, size_bytes: int
    ) -> bytes | None:
        """Interpret what `read_bytes` gave; learn from it. None: the general path must ask again."""
        message, content = read
        if content is not None:
            plan.learn(message, VOLATILE_FIELDS, None)
            return content
        answer = _answer(message, None)
        if answer is None:
            return None
        request = self._operations.read(key[0], key[1], offset, size_bytes, key[2], key[3])
        return answers.content(answer, request, offset)


def in_time(read: T, key: PlanKey) -> T:
    """Return *read*, a plan's result; raise DeadlineExceeded if it says that the time is over."""
    if read is False:
        raise DeadlineExceeded(f"GET {blob_target(key[0], key[1])}: the host did not finish within the deadline")
    return read


def _answer(message: bytes, placed: int | None) -> Answer | None:
    """Return what the general path would make of *message*; None when it would have to ask for more."""
    try:
        status, pairs, content = _native.decode_response(message)
    except ValueError:
        return None
    in_data_buffer, fields = placed_and_fields(pairs)
    if placed is not None:
        return Answer(status, fields, b"", placed)
    if in_data_buffer is not None or status < 300:
        return None
    return Answer(status, fields, content)
