"""Issue 4, flow control: whose mutation goes into which batch. Order and a clock of the test's, no time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pvblob.blobs.turns import BATCH_MAX, GUESTS_SWEPT_AT, LATELY_S, PAUSE_S, SYNCS_REMEMBERED, Batch, SyncTimes, Turns

Item = tuple[str, int]
MAKING_S_MAX = 1 / 64
APPLY_S = 1 / 1024


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(turns: Turns[Item], clock: Clock, guest: str, count: int = 1) -> None:
    for number in range(count):
        turns.put(guest, (guest, number), clock.now_s)


def waiting(clock: Clock, **counts: int) -> Turns[Item]:
    turns: Turns[Item] = Turns()
    for guest, count in counts.items():
        put(turns, clock, guest, count)
    return turns


def batch_of(turns: Turns[Item], clock: Clock, meanwhile: Callable[[int], None] = lambda _taken: None) -> list[Item]:
    """Make one batch and answer it; each item takes APPLY_S, and *meanwhile* is told how many have been taken."""
    batch = Batch(turns, clock.now_s, MAKING_S_MAX)
    taken: list[Item] = []
    while (item := batch.take(clock.now_s)) is not None:
        taken.append(item)
        clock.now_s += APPLY_S
        meanwhile(len(taken))
    for guest, _ in taken:
        turns.answered(guest, clock.now_s)
    return taken


def test_a_guest_that_is_alone_takes_all_it_had_waiting_and_what_comes_later_is_the_next_batchs(clock: Clock) -> None:
    turns = waiting(clock, a=100)

    def another(taken: int) -> None:
        turns.put("a", ("a", 99 + taken), clock.now_s)

    assert batch_of(turns, clock, another) == [("a", number) for number in range(100)]
    assert len(turns) == 100
    assert len(batch_of(waiting(clock, a=BATCH_MAX + 1), clock)) == BATCH_MAX


def test_beside_a_guest_with_one_request_a_flood_lengthens_no_batch_beyond_a_sync(clock: Clock) -> None:
    turns = waiting(clock, flood=1000, alone=1)
    batch = batch_of(turns, clock)
    assert batch[0] == ("alone", 0)
    assert len(batch) == MAKING_S_MAX / APPLY_S
    clock.now_s += LATELY_S / 2
    assert len(batch_of(turns, clock)) == MAKING_S_MAX / APPLY_S, "it has been there lately and will come again"
    clock.now_s += 2 * LATELY_S
    assert len(batch_of(turns, clock)) == BATCH_MAX


def test_who_comes_while_a_floods_batch_is_made_is_in_it_next_and_ends_it(clock: Clock) -> None:
    turns = waiting(clock, flood=400)
    taken = batch_of(turns, clock, lambda taken: put(turns, clock, "alone") if taken == 100 else None)
    assert taken[100:] == [("alone", 0)]


def test_time_that_is_spent_keeps_nobody_from_his_one_mutation(clock: Clock) -> None:
    turns = waiting(clock, flood=100, **{f"guest {number}": 1 for number in range(50)})
    assert {guest for guest, _ in batch_of(turns, clock)} == {"flood", *(f"guest {number}" for number in range(50))}
    turns = waiting(clock, flood=100, other=50, alone=1)
    batch = batch_of(turns, clock)
    assert sorted(guest for guest, _ in batch) == ["alone"] + ["flood"] * 7 + ["other"] * 8, "in turns"


def test_guests_that_all_have_many_waiting_wait_for_throughput_and_fill_the_batch(clock: Clock) -> None:
    batch = batch_of(waiting(clock, a=200, b=100), clock)
    assert len(batch) == 300
    assert [guest for guest, _ in batch[:200]] == ["b", "a"] * 100


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_nothing_is_lost_and_each_guests_stay_in_their_order(seed: int, clock: Clock) -> None:
    chance = random.Random(seed)
    turns: Turns[Item] = Turns()
    given, got = dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 0)

    def some_come(_taken: int = 0) -> None:
        guest = chance.choice("abcd")
        for _ in range(chance.choice([0, 0, 1, 1, 30])):
            turns.put(guest, (guest, given[guest]), clock.now_s)
            given[guest] += 1

    def make_one(come: Callable[[int], None]) -> None:
        there = {guest for guest in "abcd" if given[guest] > got[guest]}
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
    assert given == got


def asked_and_answered(turns: Turns[Item], clock: Clock, guest: str, after_s: float) -> None:
    clock.now_s += after_s
    put(turns, clock, guest)
    assert (guest, 0) in batch_of(turns, clock)


def test_who_asks_again_at_once_is_given_the_time_to_before_a_batch_of_others_begins(clock: Clock) -> None:
    turns = waiting(clock, flood=500)
    asked_and_answered(turns, clock, "alone", 0)
    assert turns.pause_until_s(clock.now_s) == clock.now_s, "nobody knows yet whether it will"
    for _ in range(3):
        asked_and_answered(turns, clock, "alone", PAUSE_S / 2)
        assert turns.pause_until_s(clock.now_s) == pytest.approx(clock.now_s + PAUSE_S, abs=1e-9)
    put(turns, clock, "other")
    assert turns.pause_until_s(clock.now_s) == clock.now_s, "there is one that waits already"
    turns.answered("other", clock.now_s)
    turns.take("other")
    clock.now_s += 2 * PAUSE_S
    assert turns.pause_until_s(clock.now_s) <= clock.now_s, "it had its time"


def test_who_takes_his_time_is_not_waited_for(clock: Clock) -> None:
    turns = waiting(clock, flood=500)
    for pause_s in (0, PAUSE_S / 2, PAUSE_S * 2):
        asked_and_answered(turns, clock, "alone", pause_s)
    assert turns.pause_until_s(clock.now_s) <= clock.now_s


def test_no_batch_waits_for_a_guest_with_many(clock: Clock) -> None:
    turns = waiting(clock, flood=20, other=2)
    batch_of(turns, clock)
    put(turns, clock, "other", 2)
    batch_of(turns, clock)
    put(turns, clock, "flood")
    assert turns.pause_until_s(clock.now_s) <= clock.now_s


def test_guests_that_have_gone_are_forgotten(clock: Clock) -> None:
    turns: Turns[Item] = Turns()
    for number in range(10 * GUESTS_SWEPT_AT):
        asked_and_answered(turns, clock, f"guest {number}", 2 * LATELY_S)
        turns.forget_idle(clock.now_s)
    assert len(turns._habits) <= GUESTS_SWEPT_AT + 1


def test_a_disk_that_hesitates_once_does_not_count_as_a_slow_one() -> None:
    times = SyncTimes()
    for number in range(SYNCS_REMEMBERED):
        times.note(0.001 if number else 30.0)
    assert times.shortest_s == 0.001
    for _ in range(SYNCS_REMEMBERED):
        times.note(0.020)
    assert times.shortest_s == 0.020
