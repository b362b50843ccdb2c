"""Fairness between callers: the order in which they are served, and the permits that one caller may have."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.inference.scheduling.admission import AdmissionController
from service.inference.scheduling.fairness import FairScheduler, may_acquire

SIZES = st.lists(st.integers(1, 64), min_size=1, max_size=40)


@given(st.dictionaries(st.sampled_from("abcdef"), SIZES, min_size=2), st.integers(1, 200))
def test_busy_callers_are_served_equally_up_to_two_of_their_largest_items(items, rounds):
    scheduler, had, largest = FairScheduler(), Counter(), max(map(max, items.values()))

    for number in range(rounds):
        caller = scheduler.next(items)
        size = items[caller][number % len(items[caller])]
        scheduler.charge(caller, size)
        had[caller] += size

        amounts = [had[one] for one in items]
        assert max(amounts) - min(amounts) < 2 * largest


@given(st.integers(1, 500), st.integers(1, 64))
def test_a_later_caller_has_neither_credit_nor_debt_for_the_time_before(before, size):
    scheduler = FairScheduler()
    for _ in range(before):
        scheduler.charge(scheduler.next(["early"]), size)

    chosen = []
    for _ in range(6):
        chosen.append(scheduler.next(["early", "late"]))
        scheduler.charge(chosen[-1], size)

    assert abs(chosen.count("early") - chosen.count("late")) <= 1


@given(st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=30))
def test_an_item_in_the_batch_of_another_caller_is_charged_to_its_own_caller(along):
    scheduler, had = FairScheduler(), Counter()
    for caller in along:
        assert had[scheduler.next(["", "a", "b"])] == min(had[one] for one in ["", "a", "b"])
        scheduler.charge(caller, 1)
        had[caller] += 1


def test_of_equally_served_callers_the_first_is_next():
    assert FairScheduler().next(["b", "a", "c"]) == "b"


@given(st.integers(4, 300), st.integers(1, 320))
def test_a_new_caller_finds_a_permit_while_there_are_fewer_callers_than_permits(limit, callers):
    held = Counter()
    while any(may_acquire(held[one], held.total(), limit) for one in range(callers)):
        for one in range(callers):
            held[one] += may_acquire(held[one], held.total(), limit)

    assert may_acquire(0, held.total(), limit) == (callers < limit)
    assert max(held.values()) - min(held[one] for one in range(callers)) <= 1
    if callers == 1 and limit % 8 == 0:
        assert held.total() == limit * 3 // 4


@given(st.integers(4, 48), st.lists(st.tuples(st.integers(0, 50), st.integers(-12, 48)), max_size=60))
def test_a_new_caller_is_refused_only_while_more_than_an_eighth_of_the_limit_hold_permits(limit, steps):
    held = Counter()

    for caller, wanted in steps:
        held[caller] -= min(held[caller], max(0, -wanted))
        for _ in range(wanted):
            held[caller] += may_acquire(held[caller], held.total(), limit)

        holders = sum(count > 0 for count in held.values())
        assert held.total() <= limit
        assert may_acquire(0, held.total(), limit) or holders >= min(limit / 8 + 1, limit)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_one_caller_alone_may_have_all_of_few_permits(limit):
    assert [may_acquire(held, held, limit) for held in range(limit + 1)] == [True] * limit + [False]


def test_one_key_may_not_have_all_permits_but_requests_without_keys_may():
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


def test_a_refusal_states_whether_the_process_is_full_or_the_key_has_its_share():
    admission = AdmissionController(4, "uploads")
    permits = [admission.permit("a") for _ in range(3)]
    for permit in permits:
        permit.__enter__()

    with pytest.raises(Overloaded, match="for this key"), admission.permit("a"):
        pass
    with admission.permit("b"), pytest.raises(Overloaded, match="4 uploads are in progress"), admission.permit("c"):
        pass
