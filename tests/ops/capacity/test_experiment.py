"""The capacity model against real replicas: hit ratios of the in-memory cache, and no failed request."""

import pytest
from tools.capacity.experiment import Setup, run


def test_hit_ratios_are_as_predicted() -> None:
    _, outcomes = run(Setup(images=120, tier_images=8, clicks_per_s=10.0, warm_s=20.0, seconds=25.0, calm_clicks=15))
    assert [outcome.by_hash for outcome in outcomes] == [True, False]
    for outcome in outcomes:
        assert outcome.failed == 0
        assert outcome.measured_hits == pytest.approx(outcome.predicted_hits, rel=0.2)
    by_hash, round_robin = outcomes
    assert by_hash.measured_hits > round_robin.measured_hits
