"""What is forgotten, and which work is too old to keep anything of it."""

from time import monotonic

from service.inference.forgotten import ForgottenPictures


def test_work_is_too_old_for_a_picture_that_was_forgotten_since_and_for_no_other():
    forgotten, before = ForgottenPictures(), monotonic()

    forgotten.add("a")
    after = monotonic() + 1.0

    assert forgotten.since("a", before)
    assert not forgotten.since("a", after)
    assert not forgotten.since("b", before)


def test_all_that_holds_anything_lets_go_and_one_that_had_something_is_enough():
    forgotten, held, dropped = ForgottenPictures(), {"a"}, []

    def drop(key):
        dropped.append(key)
        return key in held

    forgotten.watch(drop)
    forgotten.watch(lambda key: dropped.append(key) or False)

    assert forgotten.add("a")
    assert not forgotten.add("b")
    assert dropped == ["a", "a", "b", "b"]


def test_when_more_are_forgotten_than_are_remembered_work_is_rather_too_old():
    forgotten = ForgottenPictures(most=2)
    before = monotonic()
    for key in "abc":
        forgotten.add(key)

    assert forgotten.since("a", before)  # no longer remembered
    assert forgotten.since("never forgotten", before)
    assert not forgotten.since("never forgotten", monotonic() + 1.0)
    assert len(forgotten._at) == 2
