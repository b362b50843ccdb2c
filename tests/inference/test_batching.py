"""A lane: what runs together, in which order, and what happens to callers when something goes wrong."""

import asyncio
import threading

import numpy as np
import pytest
from support.redis_server import eventually

from service.errors import NotReady, Overloaded
from service.inference.batching import DynamicBatcher


def submit(lane, *items):
    return [asyncio.create_task(lane.submit(item)) for item in items]


async def results_of(tasks):
    return [done.result for done in await asyncio.gather(*tasks)]


async def test_an_idle_lane_runs_a_lone_item_at_once(open_lane):
    lane = open_lane(lambda items: [item * 10 for item in items])

    done = await lane.submit(7)

    assert (done.result, done.batch_size) == (70, 1)


async def test_what_gathers_while_the_lane_is_busy_runs_together_and_in_order(open_lane, held, waiting):
    lane = open_lane(held.run)
    first = submit(lane, 0)
    await held.has_started()
    gathered = submit(lane, 1, 2, 3)
    await eventually(lambda: waiting() == 3)

    held.let_go()

    assert await results_of([*first, *gathered]) == [0, 10, 20, 30]
    assert held.batches == [[0], [1, 2, 3]]


async def test_the_oldest_item_decides_which_group_runs_next(open_lane, held, waiting):
    lane = open_lane(held.run, group=lambda item: item % 2)
    first = submit(lane, 0)
    await held.has_started()
    gathered = submit(lane, 1, 2, 3, 4, 5)
    await eventually(lambda: waiting() == 5)

    held.let_go()

    assert await results_of([*first, *gathered]) == [0, 10, 20, 30, 40, 50]
    assert held.batches == [[0], [1, 3, 5], [2, 4]]


async def test_arrays_of_several_groups_wait_beside_each_other(open_lane, held, waiting):
    lane = open_lane(held.run, group=lambda item: float(item[0]))  # arrays cannot be compared to one truth value
    first = submit(lane, np.full(3, 0.0))
    await held.has_started()
    gathered = submit(lane, *(np.full(3, group) for group in (1.0, 2.0, 1.0, 2.0)))
    await eventually(lambda: waiting() == 4)

    held.let_go()

    results = await asyncio.wait_for(results_of([*first, *gathered]), timeout=60)
    assert [result[0] for result in results] == [0, 10, 20, 10, 20]
    assert [len(batch) for batch in held.batches] == [1, 2, 2]


async def test_a_batch_holds_no_more_than_its_size_allows(open_lane, held, waiting):
    lane = open_lane(held.run, size=lambda item: item, max_batch_size=6)
    first = submit(lane, 1)
    await held.has_started()
    gathered = submit(lane, 4, 3, 2, 1)
    await eventually(lambda: waiting() == 4)

    held.let_go()

    done = await asyncio.gather(*first, *gathered)
    assert held.batches == [[1], [4, 2], [3, 1]]
    assert [d.batch_size for d in done] == [1, 6, 4, 6, 4]


async def test_an_item_larger_than_a_batch_runs_alone(open_lane, held, waiting):
    lane = open_lane(held.run, size=lambda item: item, max_batch_size=6)
    first = submit(lane, 1)
    await held.has_started()
    gathered = submit(lane, 9, 1)
    await eventually(lambda: waiting() == 2)

    held.let_go()

    assert await results_of([*first, *gathered]) == [10, 90, 10]
    assert held.batches == [[1], [9], [1]]


async def test_a_failing_batch_fails_its_callers_and_the_next_batch_works(open_lane, held, waiting):
    def run(items):
        results = held.run(items)
        if 1 in items:
            raise MemoryError("too large")
        return results

    lane = open_lane(run)
    first = submit(lane, 0)
    await held.has_started()
    failing = submit(lane, 1, 2)
    await eventually(lambda: waiting() == 2)

    held.let_go()
    errors = await asyncio.gather(*failing, return_exceptions=True)
    later = await lane.submit(3)

    assert await results_of(first) == [0]
    assert [type(error) for error in errors] == [MemoryError, MemoryError]
    assert later.result == 30


@pytest.mark.parametrize("results", [[], [1, 2], None])
async def test_results_that_do_not_match_the_items_are_an_error_for_the_callers_alone(open_lane, results):
    lane = open_lane(lambda items: results if items == ["odd"] else items)

    with pytest.raises((AssertionError, TypeError)):
        await lane.submit("odd")
    done = await lane.submit("good")

    assert done.result == "good"


async def test_a_caller_that_has_gone_is_not_worked_for(open_lane, held, waiting):
    lane = open_lane(held.run)
    first = submit(lane, 0)
    await held.has_started()
    gone, stays = submit(lane, 1, 2)
    await eventually(lambda: waiting() == 2)

    gone.cancel()
    await asyncio.wait([gone])
    held.let_go()

    assert await results_of([*first, stays]) == [0, 20]
    assert held.batches == [[0], [2]]


async def test_a_caller_that_has_gone_holds_no_place_in_the_queue(open_lane, held, waiting):
    lane = open_lane(held.run, max_queue_size=2)
    first = submit(lane, 0)
    await held.has_started()
    gone, stays = submit(lane, 1, 2)
    await eventually(lambda: waiting() == 2)

    gone.cancel()
    await asyncio.wait([gone])
    late = submit(lane, 3)
    await eventually(lambda: waiting() == 2)
    held.let_go()

    assert await results_of([*first, stays, *late]) == [0, 20, 30]


async def test_a_caller_that_goes_while_its_batch_runs_ends_neither_the_batch_nor_the_lane(open_lane, held, waiting):
    lane = open_lane(held.run)
    blocker = submit(lane, 0)
    await held.has_started()

    blocker[0].cancel()
    await asyncio.wait(blocker)
    later = submit(lane, 1)
    await eventually(lambda: waiting() == 1)
    held.let_go()

    assert await results_of(later) == [10]
    assert held.batches == [[0], [1]]


async def test_a_full_queue_refuses_before_anything_is_started(open_lane, held, waiting):
    lane = open_lane(held.run, max_queue_size=2)
    first = submit(lane, 0)
    await held.has_started()
    queued = submit(lane, 1, 2)
    await eventually(lambda: waiting() == 2)

    with pytest.raises(Overloaded) as refusal:
        await lane.submit(3)
    held.let_go()

    assert refusal.value.extra == {"limit": 2}
    assert refusal.value.retry_after_s is not None
    assert await results_of([*first, *queued]) == [0, 10, 20]
    assert held.batches == [[0], [1, 2]]


async def test_closing_answers_whoever_is_queued_and_lets_the_running_batch_end(open_lane, held, waiting):
    lane = open_lane(held.run)
    running = submit(lane, 0)
    await held.has_started()
    queued = submit(lane, 1, 2)
    await eventually(lambda: waiting() == 2)

    closing = asyncio.create_task(lane.aclose())
    errors = await asyncio.gather(*queued, return_exceptions=True)
    assert not closing.done()
    held.let_go()
    await closing

    assert [type(error) for error in errors] == [NotReady, NotReady]
    assert await results_of(running) == [0]
    assert held.batches == [[0]]


async def test_a_closed_lane_takes_nothing(open_lane):
    lane = open_lane(lambda items: items)
    await lane.aclose()

    with pytest.raises(NotReady):
        await lane.submit(1)


async def test_a_lane_that_was_never_started_can_be_closed(metrics):
    lane = DynamicBatcher(
        "test",
        lambda items: items,
        group=lambda _: None,
        size=lambda _: 1,
        max_batch_size=1,
        max_queue_size=1,
        workers=2,
        metrics=metrics,
    )
    queued = submit(lane, 1)
    await asyncio.sleep(0)  # the task reaches the queue

    await lane.aclose()

    with pytest.raises(NotReady):
        await queued[0]


async def test_several_workers_run_batches_at_the_same_time(open_lane):
    together = threading.Barrier(3)  # nobody passes before all three are there

    def run(items):
        together.wait(60)
        return items

    lane = open_lane(run, max_batch_size=1, workers=3)

    assert await results_of(submit(lane, 1, 2, 3)) == [1, 2, 3]


async def test_all_workers_end_when_the_lane_is_closed(open_lane, held, waiting):
    lane = open_lane(held.run, max_batch_size=1, workers=2)
    running = submit(lane, 1, 2)
    await held.has_started()
    await held.has_started()
    queued = submit(lane, 3)
    await eventually(lambda: waiting() == 1)

    closing = asyncio.create_task(lane.aclose())
    (error,) = await asyncio.gather(*queued, return_exceptions=True)
    held.let_go()
    await closing

    assert isinstance(error, NotReady)
    assert await results_of(running) == [10, 20]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgesam-test")]


async def test_the_metrics_tell_depth_wait_and_batch_size(open_lane, held, metrics, waiting):
    def sample(name):
        return metrics.registry.get_sample_value(name, {"lane": "test"})

    lane = open_lane(held.run, size=lambda item: item)
    first = submit(lane, 1)
    await held.has_started()
    gathered = submit(lane, 2, 3)
    await eventually(lambda: waiting() == 2)

    held.let_go()
    done = await asyncio.gather(*first, *gathered)

    assert waiting() == 0
    assert (sample("edgesam_batch_size_count"), sample("edgesam_batch_size_sum")) == (2, 6)
    assert sample("edgesam_queue_wait_seconds_count") == 3
    assert sample("edgesam_queue_wait_seconds_sum") == pytest.approx(sum(d.queue_s for d in done))
    assert all(d.queue_s >= 0 and d.run_s > 0 for d in done)
