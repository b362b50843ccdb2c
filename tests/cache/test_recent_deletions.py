"""Recent deletions, and the work that is too old to store its result."""

from time import monotonic

from service.cache.recent_deletions import RecentDeletions


def test_work_is_too_old_only_for_images_that_were_deleted_since_its_start():
    recent_deletions, before = RecentDeletions(1000.0), monotonic()

    recent_deletions.add("a")
    after = monotonic() + 1.0

    assert recent_deletions.was_deleted_since("a", before)
    assert not recent_deletions.was_deleted_since("a", after)
    assert not recent_deletions.was_deleted_since("b", before)


def test_every_watcher_drops_the_image_and_one_with_a_value_is_enough():
    recent_deletions, held, dropped = RecentDeletions(1000.0), {"a"}, []

    def drop(key):
        dropped.append(key)
        return key in held

    recent_deletions.watch(drop)
    recent_deletions.watch(lambda key: dropped.append(key) or False)

    assert recent_deletions.add("a")
    assert not recent_deletions.add("b")
    assert dropped == ["a", "a", "b", "b"]


def test_beyond_the_largest_number_of_deletions_older_work_counts_as_too_old():
    recent_deletions = RecentDeletions(1000.0, max_keys=2)
    before = monotonic()
    for key in "abc":
        recent_deletions.add(key)

    assert recent_deletions.was_deleted_since("a", before)  # no longer stored
    assert recent_deletions.was_deleted_since("never deleted", before)
    assert not recent_deletions.was_deleted_since("never deleted", monotonic() + 1.0)
    assert len(recent_deletions._at) == 2


def test_deletions_older_than_the_longest_work_are_dropped():
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
    assert recent_deletions.was_deleted_since("a", 99.0)  # the deletion is dropped, but older work is too old
