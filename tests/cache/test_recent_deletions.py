"""Recent deletions, and which work is too old to store its result."""

from time import monotonic

from service.cache.recent_deletions import RecentDeletions


def test_work_is_too_old_for_an_image_that_was_deleted_since_and_for_no_other():
    recent_deletions, before = RecentDeletions(1000.0), monotonic()

    recent_deletions.add("a")
    after = monotonic() + 1.0

    assert recent_deletions.was_deleted_since("a", before)
    assert not recent_deletions.was_deleted_since("a", after)
    assert not recent_deletions.was_deleted_since("b", before)


def test_all_that_holds_anything_lets_go_and_one_that_had_something_is_enough():
    recent_deletions, held, dropped = RecentDeletions(1000.0), {"a"}, []

    def drop(key):
        dropped.append(key)
        return key in held

    recent_deletions.watch(drop)
    recent_deletions.watch(lambda key: dropped.append(key) or False)

    assert recent_deletions.add("a")
    assert not recent_deletions.add("b")
    assert dropped == ["a", "a", "b", "b"]


def test_when_more_are_deleted_than_are_remembered_work_is_rather_too_old():
    recent_deletions = RecentDeletions(1000.0, max_keys=2)
    before = monotonic()
    for key in "abc":
        recent_deletions.add(key)

    assert recent_deletions.was_deleted_since("a", before)  # no longer remembered
    assert recent_deletions.was_deleted_since("never deleted", before)
    assert not recent_deletions.was_deleted_since("never deleted", monotonic() + 1.0)
    assert len(recent_deletions._at) == 2


def test_what_no_work_can_be_older_than_is_no_longer_remembered():
    now = 100.0
    recent_deletions = RecentDeletions(10.0, clock=lambda: now)
    recent_deletions.add("a")
    now = 109.0
    recent_deletions.add("b")
    assert recent_deletions.was_deleted_since("a", 99.0)
    assert not recent_deletions.was_deleted_since("never deleted", 99.0)

    now = 111.0
    recent_deletions.add("c")

    assert list(recent_deletions._at) == ["b", "c"]
    assert not recent_deletions.was_deleted_since("a", 101.0)
    assert recent_deletions.was_deleted_since("a", 99.0)  # however old it is
