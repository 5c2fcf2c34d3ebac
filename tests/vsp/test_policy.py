"""Policy says who may do what (design rule 8): first entry that names the guest, deny before allow, else denied."""

from __future__ import annotations

import pytest

from pvblob.access import Access
from pvblob.vsp.policy import Entry, Guest, Policy, Rule, built_in, decide

A = "account"
READER = Rule(("acc*",), ("logs-*",), (b"2026/", b"old/"), frozenset({"read", "list"}))
CASES = [
    # allowed to read below its prefixes, and nowhere else
    (Access("read", A, "logs-web", b"2026/a"), True),
    (Access("read", A, "logs-web", b"2025/a"), False),
    (Access("read", A, "logs-web", b"2026"), False),
    (Access("read", A, "photos", b"2026/a"), False),
    (Access("read", "other", "logs-web", b"2026/a"), False),
    (Access("write", A, "logs-web", b"2026/a"), False),
    (Access("delete", A, "logs-web", b"2026/a"), False),
    # a service that normalises paths would read these elsewhere
    (Access("read", A, "logs-web", b"2026/../2025/a"), False),
    (Access("read", A, "logs-web", b"2026/..\\2025/a"), False),
    (Access("read", A, "logs-web", b"2026/..a"), True),
    # it may list only below its prefixes
    (Access("list", A, "logs-web", None, b"2026/01"), True),
    (Access("list", A, "logs-web", None, b"2026/"), True),
    (Access("list", A, "logs-web", None, b"20"), False),
    (Access("list", A, "logs-web", None, b""), False),
    # it may see the containers that its patterns name and the properties of what it reads
    (Access("list", A, None, None, b"logs-"), True),
    (Access("list", A, None, None, b"logs-w"), True),
    (Access("list", A, None, None, b"log"), False),
    (Access("list", A, None, None, b""), False),
    (Access("read", A, "logs-web"), True),
    (Access("read", A), True),
    (Access("unknown", A, "logs-web", b"2026/a"), False),
]


@pytest.mark.parametrize(("access", "allowed"), CASES, ids=lambda case: str(case))
def test_a_reader_below_a_prefix_gets_that_and_no_more(access: Access, allowed: bool) -> None:
    assert decide(Entry("reader", allow=(READER,)), access).allowed is allowed


@pytest.mark.parametrize("operation", ["write", "delete"])
def test_a_guest_limited_to_a_prefix_changes_no_container(operation: str) -> None:
    limited = Entry("limited", allow=(Rule(prefixes=(b"mine/",)),))
    assert not decide(limited, Access(operation, A, "box")).allowed  # type: ignore[arg-type]
    assert decide(limited, Access(operation, A, "box", b"mine/x")).allowed  # type: ignore[arg-type]
    whole = Entry("whole", allow=(Rule(containers=("box",)),))
    assert decide(whole, Access(operation, A, "box")).allowed  # type: ignore[arg-type]
    assert not decide(whole, Access(operation, A)).allowed  # type: ignore[arg-type]


def test_what_nobody_has_classified_needs_a_rule_without_any_limit() -> None:
    unknown = Access("unknown", A, "box", b"x")
    assert decide(Entry("all", allow=(Rule(),)), unknown).allowed
    for rule in (Rule(accounts=(A,)), Rule(containers=("b*",)), Rule(prefixes=(b"x",)), READER):
        expected = rule == Rule(accounts=(A,))  # which is without limit inside its account
        assert decide(Entry("limited", allow=(rule,)), unknown).allowed is expected
    assert "cannot classify" in decide(Entry("limited", allow=(READER,)), unknown).reason


def test_a_deny_rule_wins_over_every_allow_rule() -> None:
    entry = Entry("most", allow=(Rule(),), deny=(Rule(containers=("secret",)), Rule(prefixes=(b"hidden/",))))
    assert not decide(entry, Access("read", A, "secret", b"x")).allowed
    assert not decide(entry, Access("list", A, "secret", None, b"")).allowed
    assert not decide(entry, Access("read", A, "box", b"hidden/x")).allowed
    assert not decide(entry, Access("read", A, "box", b"a/../hidden/x")).allowed
    assert decide(entry, Access("read", A, "box", b"open/x")).allowed
    # a listing that would show what is denied, and the deletion of what holds it, are denied too
    assert not decide(entry, Access("list", A, "box", None, b"")).allowed
    assert not decide(entry, Access("list", A, "box", None, b"hid")).allowed
    assert decide(entry, Access("list", A, "box", None, b"open/")).allowed
    assert not decide(entry, Access("delete", A, "box")).allowed
    assert not decide(entry, Access("unknown", A, "secret", b"x")).allowed
    assert decide(entry, Access("list", A, None, None, b"")).allowed


def test_a_search_through_a_whole_account_needs_all_of_it() -> None:
    """Found by their tags, blobs of any container and under any name are told of, whatever the search says."""
    search = Access("list", A)
    assert decide(Entry("all", allow=(Rule(),)), search).allowed
    assert decide(Entry("lists", allow=(Rule(operations=frozenset({"list"})),)), search).allowed
    for rule in (Rule(containers=("box",)), Rule(prefixes=(b"a/",)), Rule(accounts=("other",))):
        assert not decide(Entry("some", allow=(rule,)), search).allowed
        if rule.accounts == ("*",):
            assert not decide(Entry("most", allow=(Rule(),), deny=(rule,)), search).allowed


def test_every_decision_says_which_entry_made_it() -> None:
    entry = Entry("web", allow=(READER,), deny=(Rule(containers=("secret",)),))
    assert decide(entry, Access("read", A, "secret", b"x")).reason == "policy entry 'web' denies read there"
    assert decide(entry, Access("write", A, "box", b"x")).reason == "policy entry 'web' does not allow write there"


def test_the_first_entry_that_names_a_guest_speaks_for_it() -> None:
    policy = Policy(
        (
            Entry("web", uids=frozenset({7}), cgroups=("/web*.slice/*",)),
            Entry("group", gids=frozenset({20, 21})),
            Entry("socket", sockets=frozenset({"/run/a.sock"})),
            Entry("anybody", uids=None, gids=None, cgroups=("*",)),
        )
    )

    def name(**facts: object) -> str | None:
        entry = policy.entry_for(Guest(**facts))  # type: ignore[arg-type]
        return entry.name if entry else None

    assert name(uid=7, cgroup="/web-1.slice/a/b") == "web"
    assert name(uid=8, cgroup="/web-1.slice/a") == "anybody"
    assert name(uid=7, cgroup="/other.slice") == "anybody"
    assert name(uid=7, groups=frozenset({3, 21}), cgroup=None) == "group"
    assert name(uid=7, socket="/run/a.sock") == "socket"
    assert name(uid=7) is None, "a cgroup that is not known matches no pattern"
    assert name(front=True, uid=7, cgroup="/web-1.slice/a") is None, "no entry about guests is about the front"


def test_without_a_file_the_own_user_root_and_the_front_do_everything_and_nobody_else_anything() -> None:
    policy = built_in(1000)
    for guest in (Guest(uid=1000), Guest(uid=0), Guest(front=True)):
        entry = policy.entry_for(guest)
        assert entry is not None
        assert decide(entry, Access("unknown", A)).allowed
    assert policy.entry_for(Guest(uid=1001, groups=frozenset({0, 1000}))) is None


def test_equal_rules_share_a_scope_and_another_policy_never_the_same(  # design §7: entries are keyed by it
) -> None:
    def policy() -> Policy:
        same = Entry("same", uids=frozenset({1}), allow=(READER,))
        also = Entry("also", uids=frozenset({2}), allow=(READER,))
        other = Entry("other", uids=frozenset({3}), allow=(READER,), deny=(Rule(containers=("x",)),))
        checked = Entry("checked", uids=frozenset({4}), allow=(READER,), mode="verify")
        return Policy((same, also, other, checked))

    before, after = policy(), policy()
    scopes = [before.scope(entry) for entry in before.entries]
    assert scopes[0] == scopes[1] != scopes[2]
    assert scopes[3] is None, "a request whose credential must be looked at is never answered without Python"
    assert set(scopes[:3]).isdisjoint(after.scope(entry) for entry in after.entries)
