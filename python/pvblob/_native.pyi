"""Typed face of the compiled data plane (crates/python). It converts and moves bytes; it decides nothing.

Every function that copies bulk data or waits releases the GIL. `Buffer` is anything with the buffer protocol.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

from typing_extensions import Buffer

from pvblob.http import Offer

FieldPairs = list[tuple[str, str]]

# ---- device status (blobdev::hresult) ----

HRESULT: dict[str, int]
"""Device status by name, unsigned 32 bits: OK, DEADLINE, MALFORMED, DENIED, INSUFFICIENT_BUFFER, CANCELLED,
UNKNOWN_OPERATION, QUOTA, INTERNAL. Source: design §3."""

# ---- RFC 9292, known-length messages (blobdev::bhttp) ----

def encode_request(
    method: str, scheme: str, authority: str, path: str, fields: Sequence[tuple[str, str]], content: Buffer
) -> bytes:
    """Encode a known-length request (framing 0).

    Text is ISO 8859-1, one character a byte. Names are lowered; blanks around values are dropped (RFC 9110 §5.5).
    Raises ValueError that names the part (`path`, `fields[3]`, ...) and the rule it breaks.
    """

def decode_request(message: Buffer) -> tuple[str, str, str, str, FieldPairs, bytes]:
    """Decode (method, scheme, authority, path, fields, content) from a message and its padding.

    A message that is not `bytes` is copied before it is judged. Raises ValueError that names the broken rule and the
    byte at which the offending item begins.
    """

def encode_response(status: int, fields: Sequence[tuple[str, str]], content: Buffer) -> bytes:
    """Encode a known-length response (framing 1), status 200 to 599; otherwise as `encode_request`."""

def decode_response(message: Buffer) -> tuple[int, FieldPairs, bytes]:
    """Decode (status, fields, content); otherwise as `decode_request`."""

# ---- bytes in files (blobdev::extents) ----

def crc64(data: Buffer, initial: int = 0) -> int:
    """Return the CRC-64/NVME of *data*; *initial* continues an earlier value."""

def store_bytes(data: Buffer, fd: int, offset: int, md5: bool) -> tuple[int, bytes | None]:
    """Write all of *data* to *fd* at *offset*; return (CRC-64/NVME, MD5 or None). OSError as from pwrite(2).

    What is not `bytes` is copied first: the checksums are those of the bytes written, whoever changes *data* meanwhile.
    """

def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the file system back these bytes; the file's size stays. OSError as from fallocate(2)."""

@final
class Digest:
    """Running checksums over several stores: CRC-64/NVME, and MD5 if asked for."""

    def __new__(cls, md5: bool) -> Digest: ...
    def write(self, data: Buffer, fd: int, offset: int) -> None:
        """Write all of *data* to *fd* at *offset* and add it. OSError as from pwrite(2)."""

    @property
    def crc64(self) -> int:
        """The CRC-64/NVME of all bytes so far."""

    def md5(self) -> bytes | None:
        """Return the MD5 (16 bytes) of all bytes so far, or None when it was not asked for."""

# ---- the guest: lent memory, waiters, the channel (blobdev::vsc) ----

WAIT_READY: int
WAIT_CONTROL: int
WAIT_TIMED_OUT: int
WAIT_CLOSED: int

def note_fork() -> None:
    """Tell the data plane that this process is a fork's child: inherited objects are forgotten, not given back."""

@final
class LentBuffer:
    """Bytes of lent memory: writable, contiguous, shared with the host; supports the buffer protocol.

    Its pages go back when the last reference to it, to its slices and to its views is dropped and no request uses them.
    """

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def slice(self, offset: int, length: int) -> LentBuffer:
        """Return another buffer over *length* bytes from *offset*, on the same pages. IndexError: outside."""

    def copy_to(self, out: Buffer, length: int) -> None:
        """Copy the first *length* bytes to the start of *out*. IndexError: outside; BufferError: *out* is read-only."""

    def write_request(
        self, method: str, scheme: str, authority: str, path: str, fields: Sequence[tuple[str, str]], room: int
    ) -> int:
        """Write an RFC 9292 request at the start if it fits *room* bytes; return its size either way."""

    def read_response(self, length: int) -> tuple[int, FieldPairs, bytes]:
        """Decode an RFC 9292 response of *length* bytes from the start, from a private copy. ValueError: it is none."""

@final
class BytesBuilder:
    """A `bytes` of *size* bytes that is filled from lent memory piece by piece, without a copy more."""

    def __new__(cls, size: int) -> BytesBuilder: ...
    def add(self, piece: LentBuffer, length: int) -> None:
        """Append the first *length* bytes of *piece*. IndexError: it has fewer, or more than are missing."""

    def finish(self) -> bytes:
        """Return the bytes, once. ValueError: some are missing."""

@final
class LentMemory:
    """The page allocator of one connection (design rule 10)."""

    def __new__(cls, limit_bytes: int) -> LentMemory: ...
    def prepare(self, size_bytes: int) -> tuple[int, int, int] | None:
        """Create a sealed region; return (guest address, length, descriptor: the caller's). None: over the limit."""

    def activate(self, gpa: int) -> None:
        """Let the region serve allocations: the host has mapped it."""

    def forget(self, gpa: int) -> bool:
        """Drop a region of which nothing is in use."""

    def retire_idle(self) -> int | None:
        """Withdraw one unused region beyond the first; return its address."""

    def allocate(self, size_bytes: int) -> LentBuffer | None:
        """Allocate whole pages for *size_bytes* > 0. None: no region has such a run."""

    def owns(self, buffer: LentBuffer) -> bool:
        """Whether *buffer* was allocated here."""

    def register(self, mapping: SharedMapping) -> tuple[int, LentBuffer] | None:
        """Give the program's own memory a guest address; return it and a buffer over it all. None: over the limit."""

    def is_free(self, gpa: int) -> bool:
        """Whether nothing of the region is in use."""

    def usage(self) -> tuple[int, int, int]:
        """Return (regions in service, bytes lent, bytes in use)."""

@final
class SharedMapping:
    """Whole pages of a descriptor of shared memory, mapped for reading and writing; has the buffer protocol."""

    def __new__(cls, fd: int, file_page: int, size_bytes: int) -> SharedMapping:
        """Map *size_bytes* (whole pages) from page *file_page* on. ValueError: no memory that can be lent; OSError."""

    def fileno(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def address(self) -> int: ...

def buffer_address(buffer: Any) -> tuple[int, int]:
    """Return (address, bytes) of a contiguous buffer. ValueError: it is scattered."""

@final
class Rings:
    """The memory of a channel's two rings, guest → host first, initialised and sealed."""

    def __new__(cls, bytes_each: int) -> Rings: ...
    def fileno(self) -> int: ...

@final
class Waiter:
    """A thread or an event loop that waits; woken through a descriptor of its own."""

    def __new__(cls) -> Waiter: ...
    def fileno(self) -> int: ...
    def clear(self) -> None: ...
    def has_completed(self) -> bool:
        """Whether requests have completed that nobody took."""

    def take_completed(self) -> list[int]:
        """Return the tokens completed since the last call."""

@final
class GuestChannel:
    """The guest's end of an open channel; duplicates the descriptors it is given. Any thread may call."""

    def __new__(
        cls, rings: Rings, bell: int, bell_socket: int, control: int, host_page: int, requests_in_flight_max: int
    ) -> GuestChannel: ...
    def submit(
        self,
        waiter: Waiter,
        request: LentBuffer,
        response: LentBuffer,
        data: LentBuffer | None,
        data_valid: int,
        timeout_ms: int,
        guid: bytes,
    ) -> int | None:
        """Send a request; return its token. None: no credit or no room now. ConnectionError: the channel has ended."""

    def wait(self, waiter: Waiter, token: int | None, timeout_s: float) -> int:
        """Block until *token* is done (None: until anything changed); a WAIT_ value. Python's signal handlers run."""

    def take(self, token: int) -> tuple[int, int] | None:
        """Return (device status, response bytes) of a completed request and free its slot; None: in flight."""

    def abandon(self, token: int) -> None:
        """Stop waiting; ask the host to stop. The pages stay in quarantine until the completion."""

    def drain(self) -> None:
        """Take what has arrived, wake the owners, arm the doorbell."""

    def watch(self, waiter: Waiter, for_change: bool) -> bool:
        """An event loop takes part in the waiting; True: it must watch doorbell and control socket itself."""

    def see_changes(self, waiter: Waiter) -> bool:
        """Whether anything changed since this waiter last looked."""

    def leave(self, waiter: Waiter) -> None: ...
    def wake_all(self) -> None: ...
    def fileno(self) -> int: ...
    def clear_doorbell(self) -> None: ...
    def control_fileno(self) -> int: ...
    def close(self) -> None: ...
    def is_closed(self) -> bool: ...
    def corruption(self) -> str | None: ...
    def counts(self) -> tuple[int, int, int]:
        """Return (requests in flight, abandoned ones among them, completions that matched nothing)."""

@final
class ReadPlan:
    """How to read ranges of one blob under fixed conditions, on one connection; each read is one call.

    The `read_` methods give the value of the expected answer; for any other answer of the service a tuple
    `(message, placed)`: the RFC 9292 response, and what was placed, None when that is not all of a successful answer's
    content; False when the time is over; and None when the read is to be done the general way (no credit, no room, no
    pages, the channel has ended, a device status). Signal handlers run while they wait; what these raise cancels the
    read.
    """

    def __new__(
        cls,
        channel: GuestChannel,
        memory: LentMemory,
        pump: Callable[[], None],
        control: tuple[str, str, str, str],
        fields: Sequence[tuple[str, str]],
        range_field: int,
        timeout_ms: int,
        give_up_s: float,
        length_max: int,
    ) -> ReadPlan:
        """Prepare a plan.

        pump: handles control messages while a call waits.  control: method, scheme, authority, target.
        range_field: position of the field whose value becomes the range.  timeout_ms: the host's deadline.
        give_up_s: how long to wait for its answer.  length_max: longer reads, and empty ones, give None.
        ValueError: a part is illegal in a request.
        """

    def learn(self, message: bytes, volatile: Sequence[str], value: object) -> bool:
        """Expect answers like *message* (206) from now on; `read_into` returns *value* for them, unless it is None.

        Fields must be the same, those named in *volatile* aside; lengths and Content-Range must be right for each read.
        False: it is no answer to expect.
        """

    def read_into(self, out: Buffer, offset: int) -> Any:
        """Fill *out* from byte *offset* of the blob; a LentBuffer of this connection is filled by the host.

        placed: bytes. The expected answer must fill it whole.
        """

    def read_bytes(self, offset: int, length: int) -> Any:
        """Return *length* bytes from *offset*, or as many as there are. placed: the bytes."""

    def read_lent(self, offset: int, length: int) -> Any:
        """Do the same without a copy: the value is a LentBuffer of the bytes. placed: the LentBuffer."""

@final
class ReadBatch:
    """Reads of one connection that are sent together and taken as they come. Dropping it cancels what is under way."""

    def __new__(cls, channel: GuestChannel, pump: Callable[[], None], waiter: Waiter) -> ReadBatch:
        """Prepare an empty batch. pump: as for ReadPlan.  waiter: who is woken; the batch's alone."""

    def __len__(self) -> int:
        """Return how many reads are under way."""

    def add(self, plan: ReadPlan, name: Any, offset: int, target: int | Buffer) -> bool | None:
        """Write one read; *target*: a number of bytes, or memory to be filled whole. It is sent at the next flush.

        True: done. False: no credit, no room or no pages now. None: it must go the general way.
        """

    def flush(self) -> None:
        """Show the host what was added, with one signal if it needs one."""

    def wait(self) -> list[tuple[Any, Any]]:
        """Wait until a read is done; return (name, value) of all that are. Empty: nothing is under way.

        value: as from `ReadPlan.read_bytes` or `ReadPlan.read_into`. Signal handlers run; what they raise leaves.
        """

    def take(self) -> list[tuple[Any, Any]]:
        """Return what is done, without waiting."""

    def expire(self) -> list[tuple[Any, Any]]:
        """Give up what has waited for too long, and everything if the channel has ended; return it."""

    def seconds_left(self) -> float:
        """Return the time until the next read is to be given up."""

    def cancel(self) -> None:
        """Stop waiting; ask the host to stop. The pages stay in quarantine until the completions."""

@final
class PendingRead:
    """One read that an event loop awaits. Dropping it cancels the read."""

    @staticmethod
    def begin(plan: ReadPlan, waiter: Waiter, offset: int, target: int | Buffer, spins: bool) -> PendingRead | None:
        """Send one read; *target*: a number of bytes, or memory to be filled whole.

        waiter: who is told when it is done.  spins: look for the answer first, for as long as the host grants; only
        when the waiter has nothing under way.  None: it must go the general way.
        """

    @property
    def token(self) -> int:
        """The request's token, as the waiter is told it."""

    def take(self) -> tuple[Any] | None:
        """Return None while it is under way; then, once, its value in a tuple, as from `ReadPlan`."""

    def abandon(self) -> None:
        """Stop waiting and ask the host to stop; does nothing when it was taken."""

# ---- the host: engine, guests' memory, requests (blobdev::vsp) ----

EVENT_REQUEST: int
EVENT_CANCEL: int
EVENT_FILLED: int
EVENT_RELEASED: int
EVENT_CHANNEL_FAILED: int
EVENT_STORED: int

@final
class GuestMemory:
    """What one guest lends."""

    def __new__(cls) -> GuestMemory: ...
    def add_region(self, gpa: int, length: int, fd: int) -> None:
        """Map a sealed memfd. ValueError: it breaks a rule; OSError: the system refuses."""

    def add_unsealed_region(self, gpa: int, length: int, fd: int, file_page: int) -> None:
        """Map memory that may shrink, from a page of *fd* on, for data buffers only. Errors as for `add_region`."""

    def remove_region(self, gpa: int) -> LeavingRegion | None:
        """Forget a region: no later request can name it. None: there is none."""

    def clear(self) -> ClearedMemory:
        """Forget all regions; the answer has them still mapped."""

@final
class ClearedMemory:
    """Regions that nobody can name any more. They are unmapped by `unmap`, or else when this is dropped."""

    def unmap(self) -> None:
        """Unmap what no request uses any more, without the GIL: it may take milliseconds for each that was filled."""

@final
class LeavingRegion:
    """A region that was taken back. length: bytes."""

    @property
    def length(self) -> int: ...
    @property
    def in_use(self) -> bool:
        """Whether a request that named it still runs."""

@final
class HostPage:
    """The page that its guest can only read: how long it may poll before it sleeps."""

    def __new__(cls) -> HostPage: ...
    def fileno(self) -> int: ...

@final
class HostRequest:
    """One request of a guest, to be completed exactly once; dropped without, it completes with INTERNAL."""

    @property
    def id(self) -> int: ...
    @property
    def channel(self) -> int: ...
    @property
    def guid(self) -> bytes: ...
    @property
    def timeout_ms(self) -> int: ...
    @property
    def age_s(self) -> float:
        """How long ago it was taken off the ring."""

    @property
    def data_length(self) -> int: ...
    @property
    def data_valid(self) -> int: ...
    @property
    def response_capacity(self) -> int: ...
    @property
    def request_length(self) -> int: ...
    @property
    def addresses(self) -> tuple[int, int, int]:
        """Guest addresses of the request, response and data buffer, for people who look."""

    @property
    def wants_offload(self) -> bool:
        """Whether an offload entry for this request's target would be used."""
    def head(self) -> tuple[str, str, str, str, FieldPairs, bytes]:
        """Return (method, scheme, authority, path, fields, content) of the private copy."""

    def read_data(self) -> bytes:
        """Copy the guest's content to private bytes. ConnectionError: the guest has shrunk its memory."""

    def load_data(self, at: int, fd: int, offset: int, length: int) -> None:
        """Read *length* bytes of *fd* from *offset* into *at* of the data buffer; complete afterwards. May block."""

    def store_data(self, fd: int, offset: int, digest: Digest) -> None:
        """Write the guest's content to *fd* at *offset* block by block: copy, digest the copy, write the copy.

        ConnectionError: the guest has shrunk its memory; the request then completes with MALFORMED.
        """

    def store_soon(self, fd: int, offset: int, digest: Digest) -> None:
        """Have a filler do the same; EVENT_STORED follows, with what `store_data` would raise. *fd* may be closed."""

    def complete(self, status: int, response: bytes, needed: int | None = None) -> bool:
        """Complete; False when it was completed before. needed: the capacity to report with INSUFFICIENT_BUFFER."""

    def complete_with_bytes(self, response: bytes, content: bytes) -> bool:
        """Place *content* in the data buffer, then complete with status 0."""

    def complete_from_cache(self, response: bytes, runs: list[tuple[int, int, int]]) -> bool:
        """Read (fd, offset, length) runs into the data buffer and complete, if that needs no disk. False: nothing was
        done. True: no byte is read any more."""

    def complete_with_files(self, response: bytes, runs: list[tuple[int, int, int]]) -> bool:
        """Have fillers read (fd, offset, length) runs into the data buffer and complete; EVENT_FILLED follows, if not
        False is returned: it was completed before."""

@final
class Generation:
    """A sequence lock in the host's private memory: odd while a change is about to become visible (design §7)."""

    def __new__(cls) -> Generation: ...
    @property
    def value(self) -> int: ...
    def begin(self) -> None:
        """Make it odd, before a change can be seen by anyone. Does nothing when it is odd."""

    def end(self) -> None:
        """Make it even, after the change; entries that depended on it are gone. Does nothing when it is even."""

@final
class Parts:
    """Places for the parts of one version of a blob, of which the data plane reads those that are here."""

    def __new__(cls, size_bytes: int, part_bytes: int) -> Parts:
        """Make empty places for *size_bytes* bytes in parts of *part_bytes*. Raises ValueError."""

    def put(self, number: int, fd: int, *, untold: bool = False) -> None:
        """Have a part read from the beginning of the file that *fd*, the caller's to close, has open.

        Its bytes must not change as long as it may be read. untold: its first read is left to Python.
        Raises OSError, ValueError.
        """

    def remove(self, number: int) -> None:
        """Empty a place: no read begins on it any more. The file stays open until the last one that has is over."""

    def take_uses(self, number: int) -> int:
        """Return how often a part was used since the last call, or since it was put; one pass in order is no use."""

@final
class HostEngine:
    """The host's data plane: workers that serve rings, fillers that read files, a queue to the control plane."""

    def __new__(
        cls,
        workers: int,
        fillers: int,
        offload_entries_max: int = 0,
        *,
        spinners_max: int = 0,
        spin_us: int = 0,
        stallable: bool = False,
    ) -> HostEngine:
        """Start the threads.

        offload_entries_max: 0 takes no entry.  spinners_max: how many threads, guests' and workers' together, may spin
        while they wait, each for *spin_us* at most before it sleeps (design §6).  stallable: `stall` and `resume` work
        (tests).
        """

    def fileno(self) -> int:
        """Return the descriptor that is readable while events wait."""

    def take(self, limit: int, share: int) -> list[tuple[int, Any]]:
        """Take up to *limit* events: (EVENT_REQUEST, HostRequest), (EVENT_CANCEL | EVENT_FILLED, id),
        (EVENT_STORED, (id, exception or None)), (EVENT_RELEASED, token), (EVENT_CHANNEL_FAILED, (key, reason)).

        share: how many requests and cancels of one channel at most; channels take turns.
        """

    def doorbells(self) -> tuple[int, int]:
        """Return how often a guest signalled and had nothing, and how often its doorbell was muted for that."""

    def queued(self, key: int) -> int:
        """Return how many requests and cancels of a channel wait to be taken."""

    def waiting(self, limit: int) -> tuple[int, list[HostRequest]]:
        """Return how many requests wait to be taken, and the first *limit* of them, channel by channel."""

    def reading(self, limit: int) -> tuple[int, list[HostRequest]]:
        """Return how many requests fillers complete from files, now or in their turn, and the first *limit* of them."""

    def hits(self, key: int) -> tuple[int, int] | None:
        """Return how many of a channel's requests entries answered and their bytes; None: there is no such channel."""

    def open_channel(
        self,
        key: int,
        memory: GuestMemory,
        host_page: HostPage,
        pfns: Sequence[int],
        downstream: int,
        requests_max: int,
        scope: int | None = None,
    ) -> tuple[int, int]:
        """Open a channel on rings in these pages; return (eventfd, socket) for the guest, the caller's to close.

        host_page: where its guest reads whether it may poll now.
        scope: the policy scope whose offload entries answer its requests; None: none do.
        """

    def ring_usage(self, key: int) -> tuple[int, int, int, int] | None:
        """Return (size, bytes used) of the guest → host ring and of the other; None when there is no such channel."""

    def set_scope(self, key: int, scope: int | None) -> None:
        """Have the entries of another policy scope answer the channel's requests from now on."""

    def close_channel(self, key: int) -> None: ...
    def install(self, scope: int, target: tuple[str, str, str], offer: Offer, token: int) -> bool:
        """Install an offload entry for (scheme, authority, raw target); False: a generation has moved, or no room.

        EVENT_RELEASED with *token* follows when nobody reads from it any more, also after False, but not after an
        exception: OSError, ValueError (a head that cannot be sent).
        """

    def offload_counters(self) -> dict[str, int]:
        """Count since the start: hits, misses, cold, bytes, installs, late, evictions, invalidations, and why requests
        were not eligible: method, content, query, field, value, range, condition, room."""

    def offload_entries(self) -> list[tuple[int, str, str, str, int, str]]:
        """Return (scope, scheme, authority, target, size in bytes, opaque tag) of every entry that answers now."""

    def stall(self, fd: int) -> None:
        """Let every read of this file wait until `resume`, as if a disk did not answer. Only with stallable=True."""

    def resume(self) -> None: ...
    @property
    def stalled_reads(self) -> int:
        """How many reads wait in a filler thread now."""

    def stop(self) -> None: ...

@final
class UpstreamEndpoint:
    """The connections of one endpoint elsewhere; idle ones are used again. Raises ValueError: no host name, no CA.

    authorities: PEM text of the certificates that may vouch for it; None speaks plain HTTP.
    """

    def __new__(
        cls,
        host: str,
        port: int,
        authorities: bytes | None,
        *,
        connect_timeout_s: float,
        stall_timeout_s: float,
        idle_timeout_s: float,
        age_s_max: float,
        idle_max: int,
    ) -> UpstreamEndpoint: ...
    @property
    def open(self) -> int:
        """Connections open now."""
    @property
    def idle(self) -> int:
        """Of these, those that wait for a request."""
    @property
    def dialed(self) -> int:
        """Connections made so far."""
    def resolve_to(self, addresses: list[str]) -> None: ...
    def go_through(self, host: str, port: int, authorization: str | None) -> None:
        """Have connections from now on made by the HTTP proxy there. authorization: value of Proxy-Authorization."""

    def drop_idle(self) -> None: ...

@final
class UpstreamExchange:
    """One request and its answer; dropped with content unread, its connection is closed."""

    def cancel(self) -> None:
        """Stop it. When this returns no buffer is touched any more, and no outcome follows that matters."""

@final
class UpstreamClient:
    """The runtime that runs exchanges: a few threads in the host's process, and a queue to the control plane.

    Every operation ends as one (id, failure, value) of `take`, failure being None or (kind, text); kinds: "unsendable",
    "unreachable", "untrusted" (nothing was sent), "broken" (outcome unknown), "truncated", "local".
    """

    def __new__(cls, threads: int) -> UpstreamClient: ...
    def fileno(self) -> int: ...
    def take(self, limit: int) -> list[tuple[int, tuple[str, str] | None, Any]]: ...
    def send(
        self,
        operation: int,
        endpoint: UpstreamEndpoint,
        head: tuple[str, str, FieldPairs],
        body: bytes | HostRequest | int | None,
        at: int,
        length: int,
        timeout_s: float,
        inline_max: int,
    ) -> UpstreamExchange:
        """Send (method, target, fields) and *length* bytes of *body* from *at*: bytes, a guest's buffer, a descriptor.

        Value: (status, fields, length or None, content or None, reused); content comes with the head up to inline_max.
        """

    def read(self, operation: int, exchange: UpstreamExchange, limit: int) -> None:
        """Read up to *limit* bytes of content. Value: bytes; fewer at the end, or before a failure that comes next."""

    def fill(
        self,
        operation: int,
        exchange: UpstreamExchange,
        sink: HostRequest | int,
        at: int,
        length: int,
        digest: Digest | None = None,
    ) -> None:
        """Place content at *at* of a guest's data buffer or a file. Value: bytes placed, fewer as for `read`."""

    def warm(self, operation: int, endpoint: UpstreamEndpoint, count: int) -> None:
        """Have *count* idle connections. Value: how many were made."""

    def stop(self) -> None: ...
