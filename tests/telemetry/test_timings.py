"""Stage timings: stages that run at the same time share that time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.timings import StageSpan, shared_time

STAGES = ("queue", "decode", "serialize")
SPANS = st.lists(
    st.builds(
        lambda stage, start, ticks: StageSpan(stage, float(start), float(start + ticks)),
        st.sampled_from(STAGES),
        st.integers(0, 30),
        st.integers(0, 10),
    ),
    max_size=20,
)


def share_by_tick(spans):
    """Return the shares by a slow reference: each tick is divided equally among the stages that run in it."""
    seconds = dict.fromkeys((span.stage for span in spans), 0.0)
    for tick in range(40):
        running = Counter(span.stage for span in spans if span.started_at <= tick < span.ended_at)
        for stage, count in running.items():
            seconds[stage] += count / running.total()
    return seconds


def test_stages_that_run_one_after_the_other_have_their_whole_duration():
    spans = [StageSpan("hash", 0.0, 1.0), StageSpan("queue", 1.0, 1.5), StageSpan("hash", 2.0, 2.25)]

    assert shared_time(spans) == {"hash": 1.25, "queue": 0.5}


def test_stages_at_the_same_time_share_it():
    spans = [StageSpan("queue", 0.0, 4.0), StageSpan("decode", 2.0, 4.0), StageSpan("decode", 2.0, 3.0)]

    assert shared_time(spans) == pytest.approx({"queue": 2 + 1 / 3 + 1 / 2, "decode": 2 / 3 + 1 / 2})


@given(SPANS)
def test_each_moment_is_counted_once(spans):
    assert shared_time(spans) == pytest.approx(share_by_tick(spans))


def test_stages_are_in_the_order_in_which_they_first_ended_and_later_ones_are_added(metrics):
    timings = metrics.timings()
    timings.add("queue", 0.5, ended_at=2.0)
    timings.add("decode", 1.0, ended_at=3.0)
    before = timings.elapsed_ms()

    timings.add("queue", 0.25, ended_at=4.0)

    assert list(before.items()) == [("queue", 500.0), ("decode", 1000.0)]
    assert list(timings.elapsed_ms().items()) == [("queue", 750.0), ("decode", 1000.0)]


def test_a_trace_has_the_first_hundred_stages(metrics):
    timings = metrics.timings()
    for number in range(101):
        timings.add("decode", 1.0, ended_at=float(number))

    assert [span.ended_at for span in timings.spans()] == list(map(float, range(100)))
