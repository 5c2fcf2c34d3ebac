"""Issue 4, flow control: whose mutation goes into which batch. Order and a clock of the test's, no time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pvblob.blobs.turns import BATCH_MAX, LATELY_S, SYNCS_REMEMBERED, Batch, SyncTimes, Turns

Item = tuple[str, int]
MAKING_S_MAX = 1 / 64
APPLY_S = 1 / 1024


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waiting(**counts: int) -> Turns[Item]:
    turns: Turns[Item] = Turns()
    for guest, count in counts.items():
        for number in range(count):
            turns.put(guest, (guest, number))
    return turns


def batch_of(turns: Turns[Item], clock: Clock, meanwhile: Callable[[int], None] = lambda _taken: None) -> list[Item]:
    """Make one batch; each item takes APPLY_S, and *meanwhile* is told how many have been taken."""
    batch = Batch(turns, clock.now_s, MAKING_S_MAX)
    taken: list[Item] = []
    while (item := batch.take(clock.now_s)) is not None:
        taken.append(item)
        clock.now_s += APPLY_S
        meanwhile(len(taken))
    return taken


def test_a_guest_that_is_alone_takes_all_it_had_waiting_and_what_comes_later_is_the_next_batchs(clock: Clock) -> None:
    turns = waiting(a=100)

    def another(taken: int) -> None:
        turns.put("a", ("a", 99 + taken))

    assert batch_of(turns, clock, another) == [("a", number) for number in range(100)]
    assert len(turns) == 100
    assert len(batch_of(waiting(a=BATCH_MAX + 1), clock)) == BATCH_MAX


def test_beside_a_guest_with_one_request_a_flood_lengthens_no_batch_beyond_a_sync(clock: Clock) -> None:
    turns = waiting(flood=1000, alone=1)
    batch = batch_of(turns, clock)
    assert batch[0] == ("alone", 0)
    assert len(batch) == MAKING_S_MAX / APPLY_S
    clock.now_s += LATELY_S / 2
    assert len(batch_of(turns, clock)) == MAKING_S_MAX / APPLY_S, "it has been there lately and will come again"
    clock.now_s += 2 * LATELY_S
    assert len(batch_of(turns, clock)) == BATCH_MAX


def test_who_comes_while_a_floods_batch_is_made_is_in_it_next_and_ends_it(clock: Clock) -> None:
    turns = waiting(flood=400)
    taken = batch_of(turns, clock, lambda taken: turns.put("alone", ("alone", 0)) if taken == 100 else None)
    assert taken[100:] == [("alone", 0)]


def test_time_that_is_spent_keeps_nobody_from_his_one_mutation(clock: Clock) -> None:
    turns = waiting(flood=100, **{f"guest {number}": 1 for number in range(50)})
    assert {guest for guest, _ in batch_of(turns, clock)} == {"flood", *(f"guest {number}" for number in range(50))}
    turns = waiting(flood=100, other=50, alone=1)
    batch = batch_of(turns, clock)
    assert sorted(guest for guest, _ in batch) == ["alone"] + ["flood"] * 7 + ["other"] * 8, "in turns"


def test_guests_that_all_have_many_waiting_wait_for_throughput_and_fill_the_batch(clock: Clock) -> None:
    batch = batch_of(waiting(a=200, b=100), clock)
    assert len(batch) == 300
    assert [guest for guest, _ in batch[:200]] == ["b", "a"] * 100


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_nothing_is_lost_and_each_guests_stay_in_their_order(seed: int, clock: Clock) -> None:
    chance = random.Random(seed)
    turns: Turns[Item] = Turns()
    put, got = dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 0)

    def some_come(_taken: int = 0) -> None:
        guest = chance.choice("abcd")
        for _ in range(chance.choice([0, 0, 1, 1, 30])):
            turns.put(guest, (guest, put[guest]))
            put[guest] += 1

    def make_one(come: Callable[[int], None]) -> None:
        there = {guest for guest in "abcd" if put[guest] > got[guest]}
        batch = batch_of(turns, clock, come)
        assert there <= {guest for guest, _ in batch}, "each batch takes something of everybody"
        for guest, number in batch:
            assert number == got[guest]
            got[guest] += 1

    for _ in range(300):
        some_come()
        make_one(some_come)
    while len(turns):
        make_one(lambda _taken: None)
    assert put == got


def test_a_disk_that_hesitates_once_does_not_count_as_a_slow_one() -> None:
    times = SyncTimes()
    for number in range(SYNCS_REMEMBERED):
        times.note(0.001 if number else 30.0)
    assert times.shortest_s == 0.001
    for _ in range(SYNCS_REMEMBERED):
        times.note(0.020)
    assert times.shortest_s == 0.020
