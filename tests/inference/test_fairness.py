"""Fairness between callers: whose turn it is, and how much of a bounded thing one of them may have."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.inference.scheduling.admission import AdmissionController
from service.inference.scheduling.fairness import FairScheduler, has_room

SIZES = st.lists(st.integers(1, 64), min_size=1, max_size=40)


@given(st.dictionaries(st.sampled_from("abcdef"), SIZES, min_size=2), st.integers(1, 200))
def test_between_two_that_wait_all_the_time_the_difference_is_below_two_of_their_largest_items(items, rounds):
    turns, had, largest = FairScheduler(), Counter(), max(map(max, items.values()))

    for number in range(rounds):
        caller = turns.next(items)
        size = items[caller][number % len(items[caller])]
        turns.took(caller, size)
        had[caller] += size

        amounts = [had[one] for one in items]
        assert max(amounts) - min(amounts) < 2 * largest


@given(st.integers(1, 500), st.integers(1, 64))
def test_who_comes_later_has_no_credit_for_the_time_before_and_no_debt_either(before, size):
    turns = FairScheduler()
    for _ in range(before):
        turns.took(turns.next(["early"]), size)

    chosen = []
    for _ in range(6):
        chosen.append(turns.next(["early", "late"]))
        turns.took(chosen[-1], size)

    assert abs(chosen.count("early") - chosen.count("late")) <= 1


@given(st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=30))
def test_what_comes_along_in_a_batch_counts_for_its_own_caller(along):
    turns, had = FairScheduler(), Counter()
    for caller in along:
        assert had[turns.next(["", "a", "b"])] == min(had[one] for one in ["", "a", "b"])
        turns.took(caller, 1)
        had[caller] += 1


def test_of_equals_the_first_to_wait_is_next():
    assert FairScheduler().next(["b", "a", "c"]) == "b"


@given(st.integers(4, 300), st.integers(1, 320))
def test_however_many_have_all_they_may_a_newcomer_finds_a_place_while_there_are_fewer_callers_than_places(
    limit, callers
):
    held = Counter()
    while any(has_room(held[one], held.total(), limit) for one in range(callers)):
        for one in range(callers):
            held[one] += has_room(held[one], held.total(), limit)

    assert has_room(0, held.total(), limit) == (callers < limit)
    assert max(held.values()) - min(held[one] for one in range(callers)) <= 1
    if callers == 1 and limit % 8 == 0:
        assert held.total() == limit * 3 // 4


@given(st.integers(4, 48), st.lists(st.tuples(st.integers(0, 50), st.integers(-12, 48)), max_size=60))
def test_in_whatever_order_they_come_and_go_a_newcomer_is_refused_only_while_more_than_an_eighth_hold_places(
    limit, steps
):
    held = Counter()

    for caller, wanted in steps:
        held[caller] -= min(held[caller], max(0, -wanted))
        for _ in range(wanted):
            held[caller] += has_room(held[caller], held.total(), limit)

        holders = sum(places > 0 for places in held.values())
        assert held.total() <= limit
        assert has_room(0, held.total(), limit) or holders >= min(limit / 8 + 1, limit)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_of_few_places_one_caller_alone_may_have_all(limit):
    assert [has_room(held, held, limit) for held in range(limit + 1)] == [True] * limit + [False]


def test_one_caller_alone_may_not_have_every_permit_and_nobody_at_all_may():
    told_apart, together = AdmissionController(8, "requests"), AdmissionController(8, "requests")

    for caller, admission, expected in (("key", told_apart, 6), ("", together, 8)):
        held = [admission.permit(caller) for _ in range(expected)]
        for permit in held:
            permit.__enter__()
        with pytest.raises(Overloaded), admission.permit(caller):
            pass
        for permit in held:
            permit.__exit__(None, None, None)
        with admission.permit(caller):
            pass


def test_a_refusal_says_whether_the_process_is_full_or_the_key_has_its_share():
    admission = AdmissionController(4, "uploads")
    permits = [admission.permit("a") for _ in range(3)]
    for permit in permits:
        permit.__enter__()

    with pytest.raises(Overloaded, match="for this key"), admission.permit("a"):
        pass
    with admission.permit("b"), pytest.raises(Overloaded, match="4 uploads are in progress"), admission.permit("c"):
        pass
