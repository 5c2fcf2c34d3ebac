"""What a guest may do: entries that name guests, rules that name accounts, containers, prefixes and operations.

`Policy.entry_for(guest)` finds the first entry that names the guest; `decide(entry, access)` says yes or no and why.
Both are pure: they read nothing, they change nothing. A deny rule wins over every allow rule; what no rule allows is
denied. Where entries come from is not known here (`policy_file`), nor how a request is read (`pvblob.access`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from pvblob.access import OPERATIONS, Access, Operation

WEIGHT_ORDINARY = 100
CredentialMode = Literal["channel", "verify"]

_scopes = itertools.count(1)  # never the same number twice in a process, so an old offload entry answers nobody


@dataclass(frozen=True, slots=True)
class Guest:
    """Who asks, as the kernel says.

    groups: every gid, the primary one included.  cgroup: path in the cgroup v2 tree, None where it cannot be known.
    socket: the path it connected to.  front: it is the HTTP front, and then the rest says nothing.
    """

    pid: int = 0
    uid: int = -1
    groups: frozenset[int] = frozenset()
    cgroup: str | None = None
    socket: str = ""
    front: bool = False

    @property
    def identity(self) -> str:
        """The name under which its writes are once-only (design rule 4)."""
        return "front" if self.front else f"uid:{self.uid}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A set of accesses. Names are shell patterns (`*`, `?`, `[a-z]`), prefixes are bytes blob names begin with."""

    accounts: tuple[str, ...] = ("*",)
    containers: tuple[str, ...] = ("*",)
    prefixes: tuple[bytes, ...] = (b"",)
    operations: frozenset[Operation] = frozenset(OPERATIONS)

    @property
    def whole_containers(self) -> bool:
        """Whether it reaches every name in its containers."""
        return b"" in self.prefixes

    @property
    def whole_accounts(self) -> bool:
        """Whether it reaches everything in its accounts."""
        return "*" in self.containers and self.whole_containers

    def covers(self, access: Access) -> bool:
        """Whether all of *access* lies inside this rule: what an allow rule must say."""
        if access.operation not in self.operations or not _matches(access.account, self.accounts):
            return False
        if access.operation == "unknown":
            return self.whole_accounts and self.operations == frozenset(OPERATIONS)
        if access.container is None:
            return self._covers_account(access)
        if not _matches(access.container, self.containers):
            return False
        if access.prefix is not None:
            return access.prefix.startswith(self.prefixes)
        if access.blob is None:
            return access.operation == "read" or self.whole_containers
        return access.blob.startswith(self.prefixes) and (self.whole_containers or not _may_climb(access.blob))

    def _covers_account(self, access: Access) -> bool:
        if access.prefix is not None:
            begin = access.prefix.decode("utf-8", "replace")
            return any(pattern == "*" or begin.startswith(_literal(pattern) or "/") for pattern in self.containers)
        return access.operation == "read" or self.whole_accounts

    def touches(self, access: Access) -> bool:
        """Whether any of *access* lies inside this rule: what a deny rule must say.

        The list of containers is kept from nobody by a rule about some of them; what is in them is.
        """
        if access.operation not in self.operations or not _matches(access.account, self.accounts):
            return False
        if access.container is None:
            spans_containers = access.operation == "list" and access.prefix is None
            return self.whole_accounts or spans_containers or access.operation not in ("read", "list")
        if not _matches(access.container, self.containers):
            return False
        if access.prefix is not None:
            begin = access.prefix
            return any(begin.startswith(prefix) or prefix.startswith(begin) for prefix in self.prefixes)
        if access.blob is None:
            return access.operation != "read" or self.whole_containers
        return access.blob.startswith(self.prefixes) or _may_climb(access.blob)


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """What one guest may hold; None is the host's own limit. weight: its share against other guests' under load."""

    requests_in_flight: int | None = None
    lent_bytes: int | None = None
    spooled_bytes: int | None = None
    weight: int = WEIGHT_ORDINARY


@dataclass(frozen=True, slots=True)
class Entry:
    """One guest of the policy: who it is (every condition given must hold), and what it may do.

    uids, gids: None is any.  cgroups: patterns, in which `*` also crosses `/`.  sockets: paths.
    mode: "channel" trusts the peer's identity; "verify" also wants a credential in every request (design rule 8).
    """

    name: str
    uids: frozenset[int] | None = None
    gids: frozenset[int] | None = None
    cgroups: tuple[str, ...] | None = None
    sockets: frozenset[str] | None = None
    front: bool = False
    mode: CredentialMode = "channel"
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    limits: GuestLimits = field(default_factory=GuestLimits)

    def names(self, guest: Guest) -> bool:
        """Whether this entry is about *guest*."""
        if guest.front or self.front:
            return guest.front and self.front
        return (
            (self.uids is None or guest.uid in self.uids)
            and (self.gids is None or not self.gids.isdisjoint(guest.groups))
            and (self.cgroups is None or (guest.cgroup is not None and _matches(guest.cgroup, self.cgroups)))
            and (self.sockets is None or guest.socket in self.sockets)
        )


class Decision(NamedTuple):
    """The answer: reason says what decided, in words for the log and for the guest."""

    allowed: bool
    reason: str


def decide(entry: Entry, access: Access) -> Decision:
    """Judge *access* by the rules of *entry*."""
    if any(rule.touches(access) for rule in entry.deny):
        return Decision(False, f"policy entry '{entry.name}' denies {access.operation} there")
    if any(rule.covers(access) for rule in entry.allow):
        return Decision(True, f"policy entry '{entry.name}' allows it")
    if access.operation == "unknown":
        return Decision(False, f"policy entry '{entry.name}' allows no operation that it cannot classify")
    return Decision(False, f"policy entry '{entry.name}' does not allow {access.operation} there")


@dataclass(frozen=True)
class Policy:
    """The entries, first match first. source: where they come from, for messages."""

    entries: tuple[Entry, ...]
    source: str = "the built-in policy"
    _scope_of: dict[tuple[tuple[Rule, ...], tuple[Rule, ...]], int] = field(default_factory=dict, compare=False)

    def entry_for(self, guest: Guest) -> Entry | None:
        """Return the entry that speaks of *guest*; None: it is not served at all."""
        return next((entry for entry in self.entries if entry.names(guest)), None)

    def scope(self, entry: Entry) -> int | None:
        """Return the number under which the data plane may keep answers for the guests of *entry*.

        Entries with the same rules share one; another policy's numbers are always others, so that what was kept under
        the old one is never found again. None: nothing may be kept, for every request's credential must be looked at.
        """
        if entry.mode == "verify":
            return None
        rules = (entry.allow, entry.deny)
        if rules not in self._scope_of:
            self._scope_of[rules] = next(_scopes)
        return self._scope_of[rules]


def built_in(uid: int) -> Policy:
    """Return the policy of a host without a policy file: its own user and root, and the front if it is on, do all."""
    everything = (Rule(),)
    return Policy(
        (
            Entry("same user", uids=frozenset({uid, 0}), allow=everything),
            Entry("front", front=True, allow=everything),
        )
    )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _literal(pattern: str) -> str | None:
    """Return what every name begins with that a pattern `text*` matches, and that suffices; None for other patterns."""
    text = pattern.removesuffix("*")
    return None if text == pattern or any(mark in text for mark in "*?[") else text


def _may_climb(blob: bytes) -> bool:
    """Whether a service that normalises paths could read the name as one elsewhere."""
    return any(segment in (b".", b"..") for segment in blob.replace(b"\\", b"/").split(b"/"))
