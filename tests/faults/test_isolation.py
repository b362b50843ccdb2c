"""The quick form of `isolation.py`."""

from faults.isolation import USERS, Isolation


def test_users_who_interleave_get_the_answers_they_would_get_alone(artifact) -> None:
    with Isolation({"EDGESAM_MODEL_DIR": str(artifact)}) as isolation:
        tally = isolation.run(rounds=10)
        in_memory, in_redis = isolation.evictions
    assert tally.answers == 10 * USERS
    assert tally.wrong == []
    assert set(tally.statuses) <= {200, 404}
    assert in_memory > 0
    assert in_redis > 0
    assert tally.embedded_again > 0
