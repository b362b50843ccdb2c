"""What is forgotten, and which work is too old to keep anything of it."""

from time import monotonic

from service.inference.forgotten import ForgottenPictures


def test_work_is_too_old_for_a_picture_that_was_forgotten_since_and_for_no_other():
    forgotten, before = ForgottenPictures(1000.0), monotonic()

    forgotten.add("a")
    after = monotonic() + 1.0

    assert forgotten.was_forgotten_since("a", before)
    assert not forgotten.was_forgotten_since("a", after)
    assert not forgotten.was_forgotten_since("b", before)


def test_all_that_holds_anything_lets_go_and_one_that_had_something_is_enough():
    forgotten, held, dropped = ForgottenPictures(1000.0), {"a"}, []

    def drop(key):
        dropped.append(key)
        return key in held

    forgotten.watch(drop)
    forgotten.watch(lambda key: dropped.append(key) or False)

    assert forgotten.add("a")
    assert not forgotten.add("b")
    assert dropped == ["a", "a", "b", "b"]


def test_when_more_are_forgotten_than_are_remembered_work_is_rather_too_old():
    forgotten = ForgottenPictures(1000.0, most=2)
    before = monotonic()
    for key in "abc":
        forgotten.add(key)

    assert forgotten.was_forgotten_since("a", before)  # no longer remembered
    assert forgotten.was_forgotten_since("never forgotten", before)
    assert not forgotten.was_forgotten_since("never forgotten", monotonic() + 1.0)
    assert len(forgotten._at) == 2


def test_what_no_work_can_be_older_than_is_no_longer_remembered():
    now = 100.0
    forgotten = ForgottenPictures(10.0, clock=lambda: now)
    forgotten.add("a")
    now = 109.0
    forgotten.add("b")
    assert forgotten.was_forgotten_since("a", 99.0)
    assert not forgotten.was_forgotten_since("never forgotten", 99.0)

    now = 111.0
    forgotten.add("c")

    assert list(forgotten._at) == ["b", "c"]
    assert not forgotten.was_forgotten_since("a", 101.0)
    assert forgotten.was_forgotten_since("a", 99.0)  # however old it is
