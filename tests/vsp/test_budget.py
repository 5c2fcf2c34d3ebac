"""Issue 4, flow control: shares of the machine and whose turn it is, as pure logic."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pvblob.vsp.budget import REQUEST_COST_BYTES, FairQueue, Shares


def queue_of(count_max: int, size_bytes_max: int = 1 << 60, **options: object) -> FairQueue[str, int]:
    return FairQueue(Shares(count_max, size_bytes_max), **options)  # type: ignore[arg-type]


def served(queue: FairQueue[str, int], times: int) -> list[str]:
    """Take one after the other, each leaving at once."""
    guests = []
    for _ in range(times):
        taken = queue.take()
        assert taken is not None
        guests.append(taken[0])
        queue.leave(taken[0], taken[2])
    return guests


def test_one_guest_alone_gets_half_and_a_newcomer_always_finds_room() -> None:
    shares: Shares[str] = Shares(64, 1 << 30)
    while shares.may_take("greedy", 1):
        shares.take("greedy", 1)
    assert shares.held_by("greedy") == 32
    while shares.may_take("next", 1):
        shares.take("next", 1)
    assert shares.held_by("next") == 16
    assert shares.may_take("third", 1)


def test_bytes_bound_as_counts_do_and_one_item_of_any_size_is_always_taken() -> None:
    shares: Shares[str] = Shares(1000, 100)
    assert shares.may_take("big", 10**9)
    shares.take("big", 80)
    assert not shares.may_take("big", 11)
    assert shares.may_take("small", 30)
    shares.take("small", 30)
    assert shares.size_bytes == 110
    shares.give("big", 80)
    assert shares.may_take("small", 20)
    assert shares.held_by("big") == 0


def test_one_request_overtakes_a_thousand_of_another_guest() -> None:
    queue = queue_of(64)
    for item in range(1000):
        queue.put("flood", item, 0)
    assert served(queue, 3) == ["flood"] * 3
    queue.put("quiet", 5000, 0)
    assert "quiet" in served(queue, 2)


def test_guests_that_wait_are_served_by_cost_and_not_by_number() -> None:
    """One sends requests of 1 MiB, the other of nothing: in the long run both get the same cost."""
    queue = queue_of(64)
    for item in range(1000):
        queue.put("big", item, 1 << 20)
        queue.put("small", 1000 + item, 0)
    counts = Counter(served(queue, 600))
    cost = {"big": REQUEST_COST_BYTES + (1 << 20), "small": REQUEST_COST_BYTES}
    assert abs(counts["big"] * cost["big"] - counts["small"] * cost["small"]) <= max(cost.values())


def test_a_weight_of_three_is_served_three_times_as_often() -> None:
    queue = queue_of(64, weight_of={"heavy": 3.0, "light": 1.0}.__getitem__)
    for item in range(1000):
        queue.put("heavy", item, 0)
        queue.put("light", 1000 + item, 0)
    counts = Counter(served(queue, 400))
    assert abs(counts["heavy"] - 3 * counts["light"]) <= 4


def test_idle_time_earns_no_credit() -> None:
    """A guest that comes back after a long silence is next, and then again one of two."""
    queue = queue_of(64)
    for item in range(1000):
        queue.put("steady", item, 0)
    served(queue, 500)
    for item in range(2000, 2100):
        queue.put("back", item, 0)
    assert abs(Counter(served(queue, 100))["back"] - 50) <= 1


def test_a_guest_at_its_share_waits_and_stops_nobody() -> None:
    queue = queue_of(8)
    for item in range(100):
        queue.put("greedy", item, 0)
    running = []
    while (taken := queue.take()) is not None:
        running.append(taken)
    assert len(running) == 4
    queue.put("quiet", 500, 0)
    assert queue.take() == ("quiet", 500, 0)
    assert queue.take() is None
    queue.leave("greedy", 0)
    taken = queue.take()
    assert taken is not None
    assert taken[0] == "greedy"


def test_what_is_withdrawn_is_not_served_and_holds_nobody_up() -> None:
    queue = queue_of(2, 100)
    queue.put("guest", 1, 10)
    assert queue.take() == ("guest", 1, 10)
    queue.put("guest", 2, 10_000)
    queue.put("guest", 3, 10)
    assert queue.take() is None
    assert queue.withdraw("guest", 2)
    assert not queue.withdraw("guest", 2)
    queue.leave("guest", 10)
    assert queue.take() == ("guest", 3, 10)
    queue.leave("guest", 10)
    assert len(queue) == 0
    assert queue.guests == 0, "an idle guest leaves nothing behind"


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_of_events_nothing_is_lost_starved_or_over_the_bounds(seed: int) -> None:
    chance = random.Random(seed)
    guests = [f"g{number}" for number in range(chance.randrange(1, 12))]
    queue = queue_of(chance.randrange(1, 20), chance.randrange(100, 5000))
    waiting: dict[int, tuple[str, int]] = {}
    running: list[tuple[str, int, int]] = []
    put = taken_or_withdrawn = 0
    for _ in range(3000):
        kind = chance.random()
        if kind < 0.4:
            guest, size = chance.choice(guests), chance.randrange(1000)
            queue.put(guest, put, size)
            waiting[put] = (guest, size)
            put += 1
        elif kind < 0.7:
            taken = queue.take()
            if taken is not None:
                guest, item, size = taken
                assert waiting.pop(item) == (guest, size)
                taken_or_withdrawn += 1
                running.append((guest, item, size))
            else:
                idle = set(guests) - {guest for guest, _, _ in running}
                assert not idle & {guest for guest, _ in waiting.values()}, "a guest that holds nothing may start"
        elif kind < 0.75 and waiting:
            item = chance.choice(list(waiting))
            assert queue.withdraw(waiting.pop(item)[0], item)
            taken_or_withdrawn += 1
        elif running:
            guest, _, size = running.pop(chance.randrange(len(running)))
            queue.leave(guest, size)
        assert len(queue) == len(waiting)
        assert queue.shares.count == len(running) <= queue.shares.count_max + len(guests)
    drain(queue, waiting, running)
    assert queue.guests == 0
    assert (queue.shares.count, queue.shares.size_bytes) == (0, 0)


def drain(queue: FairQueue[str, int], waiting: dict[int, tuple[str, int]], running: list[tuple[str, int, int]]) -> None:
    """Everything that was put is served, and what waits is never stuck."""
    while waiting or running:
        while (taken := queue.take()) is not None:
            assert waiting.pop(taken[1]) == (taken[0], taken[2])
            running.append(taken)
        assert running
        guest, _, size = running.pop()
        queue.leave(guest, size)
