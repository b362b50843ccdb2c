"""The batcher: grouping, order, fairness, threads, and errors and cancellation of callers."""

import asyncio
import threading
import weakref

import numpy as np
import pytest
from support.redis_server import eventually

from service.errors import NotReady, Overloaded
from service.inference.scheduling.batching import DynamicBatcher


def submit(batcher, *items):
    return [asyncio.create_task(batcher.submit(item)) for item in items]


def threads_named(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"edgesam-{name}")]


async def results_of(tasks):
    return [done.result for done in await asyncio.gather(*tasks)]


async def test_an_idle_batcher_runs_a_single_item_at_once(open_batcher):
    batcher = open_batcher(lambda items, _: [item * 10 for item in items])

    done = await batcher.submit(7)

    assert (done.result, done.batch_size) == (70, 1)


async def test_items_that_gather_while_the_batcher_is_busy_run_together_and_in_order(open_batcher, held, waiting):
    batcher = open_batcher(held.run)
    first = submit(batcher, 0)
    await held.has_started()
    gathered = submit(batcher, 1, 2, 3)
    await eventually(lambda: waiting() == 3)

    held.release()

    assert await results_of([*first, *gathered]) == [0, 10, 20, 30]
    assert held.batches == [[0], [1, 2, 3]]


async def test_the_oldest_item_decides_which_group_runs_next(open_batcher, held, waiting):
    batcher = open_batcher(held.run, group=lambda item: item % 2)
    first = submit(batcher, 0)
    await held.has_started()
    gathered = submit(batcher, 1, 2, 3, 4, 5)
    await eventually(lambda: waiting() == 5)

    held.release()

    assert await results_of([*first, *gathered]) == [0, 10, 20, 30, 40, 50]
    assert held.batches == [[0], [1, 3, 5], [2, 4]]


async def test_arrays_of_several_groups_wait_beside_each_other(open_batcher, held, waiting):
    batcher = open_batcher(held.run, group=lambda item: float(item[0]))  # arrays cannot be compared to one truth value
    first = submit(batcher, np.full(3, 0.0))
    await held.has_started()
    gathered = submit(batcher, *(np.full(3, group) for group in (1.0, 2.0, 1.0, 2.0)))
    await eventually(lambda: waiting() == 4)

    held.release()

    results = await asyncio.wait_for(results_of([*first, *gathered]), timeout=60)
    assert [result[0] for result in results] == [0, 10, 20, 10, 20]
    assert [len(batch) for batch in held.batches] == [1, 2, 2]


async def test_a_batch_holds_no_more_than_its_size_allows(open_batcher, held, waiting):
    batcher = open_batcher(held.run, size=lambda item: item, max_batch_size=6)
    first = submit(batcher, 1)
    await held.has_started()
    gathered = submit(batcher, 4, 3, 2, 1)
    await eventually(lambda: waiting() == 4)

    held.release()

    done = await asyncio.gather(*first, *gathered)
    assert held.batches == [[1], [4, 2], [3, 1]]
    assert [d.batch_size for d in done] == [1, 6, 4, 6, 4]


async def test_an_item_larger_than_a_batch_runs_alone(open_batcher, held, waiting):
    batcher = open_batcher(held.run, size=lambda item: item, max_batch_size=6)
    first = submit(batcher, 1)
    await held.has_started()
    gathered = submit(batcher, 9, 1)
    await eventually(lambda: waiting() == 2)

    held.release()

    assert await results_of([*first, *gathered]) == [10, 90, 10]
    assert held.batches == [[1], [9], [1]]


async def test_a_failing_batch_fails_its_callers_and_the_next_batch_works(open_batcher, held, waiting):
    def run(items, threads):
        results = held.run(items, threads)
        if 1 in items:
            raise MemoryError("too large")
        return results

    batcher = open_batcher(run)
    first = submit(batcher, 0)
    await held.has_started()
    failing = submit(batcher, 1, 2)
    await eventually(lambda: waiting() == 2)

    held.release()
    errors = await asyncio.gather(*failing, return_exceptions=True)
    later = await batcher.submit(3)

    assert await results_of(first) == [0]
    assert [type(error) for error in errors] == [MemoryError, MemoryError]
    assert later.result == 30


@pytest.mark.parametrize("results", [[], [1, 2], None])
async def test_results_that_do_not_match_the_items_are_an_error_for_the_callers_alone(open_batcher, results):
    batcher = open_batcher(lambda items, _: results if items == ["odd"] else items)

    with pytest.raises((AssertionError, TypeError)):
        await batcher.submit("odd")
    done = await batcher.submit("good")

    assert done.result == "good"


async def test_the_item_of_a_cancelled_caller_is_not_run(open_batcher, held, waiting):
    batcher = open_batcher(held.run)
    first = submit(batcher, 0)
    await held.has_started()
    cancelled, stays = submit(batcher, 1, 2)
    await eventually(lambda: waiting() == 2)

    cancelled.cancel()
    await asyncio.wait([cancelled])
    held.release()

    assert await results_of([*first, stays]) == [0, 20]
    assert held.batches == [[0], [2]]


async def test_a_cancelled_caller_takes_no_capacity_of_the_queue(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_queue_size=2)
    first = submit(batcher, 0)
    await held.has_started()
    cancelled, stays = submit(batcher, 1, 2)
    await eventually(lambda: waiting() == 2)

    cancelled.cancel()
    await asyncio.wait([cancelled])
    late = submit(batcher, 3)
    await eventually(lambda: waiting() == 2)
    held.release()

    assert await results_of([*first, stays, *late]) == [0, 20, 30]


async def test_a_caller_that_is_cancelled_while_its_batch_runs_ends_neither_the_batch_nor_the_batcher(
    open_batcher, held, waiting
):
    batcher = open_batcher(held.run)
    blocker = submit(batcher, 0)
    await held.has_started()

    blocker[0].cancel()
    await asyncio.wait(blocker)
    later = submit(batcher, 1)
    await eventually(lambda: waiting() == 1)
    held.release()

    assert await results_of(later) == [10]
    assert held.batches == [[0], [1]]


async def test_a_full_queue_refuses_before_anything_is_started(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_queue_size=2)
    first = submit(batcher, 0)
    await held.has_started()
    queued = submit(batcher, 1, 2)
    await eventually(lambda: waiting() == 2)

    with pytest.raises(Overloaded) as refusal:
        await batcher.submit(3)
    held.release()

    assert refusal.value.extra == {"limit": 2}
    assert refusal.value.retry_after_s is not None
    assert await results_of([*first, *queued]) == [0, 10, 20]
    assert held.batches == [[0], [1, 2]]


async def test_closing_fails_queued_items_and_waits_for_the_running_batch(open_batcher, held, waiting):
    batcher = open_batcher(held.run)
    running = submit(batcher, 0)
    await held.has_started()
    queued = submit(batcher, 1, 2)
    await eventually(lambda: waiting() == 2)

    closing = asyncio.create_task(batcher.aclose())
    errors = await asyncio.gather(*queued, return_exceptions=True)
    assert not closing.done()
    held.release()
    await closing

    assert [type(error) for error in errors] == [NotReady, NotReady]
    assert await results_of(running) == [0]
    assert held.batches == [[0]]


async def test_a_closed_batcher_refuses_items(open_batcher):
    batcher = open_batcher(lambda items, _: items)
    await batcher.aclose()

    with pytest.raises(NotReady):
        await batcher.submit(1)


async def test_a_batcher_that_was_never_started_can_be_closed(metrics):
    batcher = DynamicBatcher(
        "test",
        lambda items, _: items,
        group=lambda _: None,
        size=lambda _: 1,
        max_batch_size=1,
        max_queue_size=1,
        calls=2,
        threads=2,
        metrics=metrics,
    )
    queued = submit(batcher, 1)
    await asyncio.sleep(0)  # the task reaches the queue

    await batcher.aclose()

    with pytest.raises(NotReady):
        await queued[0]


async def test_several_calls_run_at_the_same_time(open_batcher):
    together = threading.Barrier(3)  # no call continues before all three have started

    def run(items, threads):
        together.wait(60)
        return items

    batcher = open_batcher(run, max_batch_size=1, calls=3)

    assert await results_of(submit(batcher, 1, 2, 3)) == [1, 2, 3]


async def test_all_workers_end_when_the_batcher_is_closed(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_batch_size=1, calls=2)
    running = submit(batcher, 1, 2)
    await held.has_started()
    await held.has_started()
    queued = submit(batcher, 3)
    await eventually(lambda: waiting() == 1)

    closing = asyncio.create_task(batcher.aclose())
    (error,) = await asyncio.gather(*queued, return_exceptions=True)
    held.release()
    await closing

    assert isinstance(error, NotReady)
    assert await results_of(running) == [10, 20]
    assert not threads_named("test")


async def test_the_metrics_have_depth_wait_and_batch_size(open_batcher, held, metrics, waiting):
    def sample(name):
        return metrics.registry.get_sample_value(name, {"lane": "test"})

    batcher = open_batcher(held.run, size=lambda item: item)
    first = submit(batcher, 1)
    await held.has_started()
    gathered = submit(batcher, 2, 3)
    await eventually(lambda: waiting() == 2)

    held.release()
    done = await asyncio.gather(*first, *gathered)

    assert waiting() == 0
    assert (sample("edgesam_batch_size_count"), sample("edgesam_batch_size_sum")) == (2, 6)
    assert sample("edgesam_queue_wait_seconds_count") == 3
    assert sample("edgesam_queue_wait_seconds_sum") == pytest.approx(sum(d.queue_s for d in done))
    assert all(d.queue_s >= 0 and d.run_s > 0 for d in done)


async def test_a_single_item_has_all_threads(open_batcher, held):
    batcher = open_batcher(held.run, calls=4, threads=4)
    held.release()

    for item in (1, 2):
        await batcher.submit(item)

    assert held.threads == [4, 4]


async def test_calls_of_bounded_threads_run_beside_each_other(open_batcher, held):
    batcher = open_batcher(held.run, calls=4, threads=4, threads_per_call=1)
    tasks = []
    for item in range(4):
        tasks += submit(batcher, item)
        await eventually(lambda count=item + 1: len(held.threads) == count)

    held.release()
    await asyncio.gather(*tasks)

    assert held.threads == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("items", "threads"), [(1, [4]), (2, [2, 2]), (3, [1, 1, 2]), (4, [1, 1, 1, 1]), (9, [1, 1, 1, 1])]
)
async def test_items_that_wait_are_spread_over_the_threads(metrics, held, items, threads):
    batcher = DynamicBatcher(
        "test",
        held.run,
        group=lambda _: None,
        size=lambda _: 1,
        max_batch_size=1,
        max_queue_size=16,
        calls=4,
        threads=4,
        metrics=metrics,
    )
    tasks = submit(batcher, *range(items))
    await asyncio.sleep(0)  # they reach the queue, all before the first is taken

    batcher.start()
    for _ in threads:
        await held.has_started()
    started = sorted(held.threads)
    held.release()

    assert await results_of(tasks) == [10 * item for item in range(items)]
    assert started == threads
    await batcher.aclose()


async def test_while_all_threads_compute_an_item_waits_although_a_call_is_free(open_batcher, held, waiting):
    batcher = open_batcher(held.run, calls=2, threads=2)
    first = submit(batcher, 1)
    await held.has_started()
    second = submit(batcher, 2)
    await eventually(lambda: waiting() == 1)

    started = list(held.batches)
    held.release()

    assert await results_of([*first, *second]) == [10, 20]
    assert started == [[1]]
    assert held.threads == [2, 2]


async def test_an_item_takes_the_first_free_thread(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_batch_size=1, calls=2, threads=2)
    tasks = submit(batcher, 0)
    await held.has_started()
    tasks += submit(batcher, 1, 2, 3)
    await eventually(lambda: waiting() == 3)

    held.release_one()  # releases the first item, which had both threads
    for _ in range(2):
        await held.has_started()
    for _ in range(3):
        held.release_one()

    assert await results_of(tasks) == [0, 10, 20, 30]
    assert held.batches == [[0], [1], [2], [3]]
    assert held.threads[:3] == [2, 1, 1]


async def test_a_batch_leaves_items_for_the_other_calls(metrics, held):
    batcher = DynamicBatcher(
        "test",
        held.run,
        group=lambda _: None,
        size=lambda _: 1,
        max_batch_size=8,
        max_queue_size=16,
        calls=2,
        threads=2,
        metrics=metrics,
    )
    tasks = submit(batcher, *range(6))
    await asyncio.sleep(0)

    batcher.start()
    for _ in range(2):
        await held.has_started()
    held.release()

    assert await results_of(tasks) == [0, 10, 20, 30, 40, 50]
    assert sorted(held.batches) == [[0, 1, 2], [3, 4, 5]]
    await batcher.aclose()


async def test_a_failing_call_releases_its_threads(open_batcher, held):
    def run(items, threads):
        held.run(items, threads)
        raise MemoryError("too large")

    batcher = open_batcher(run, calls=2, threads=2)
    held.release()

    errors = [await asyncio.gather(batcher.submit(item), return_exceptions=True) for item in range(3)]

    assert [type(error) for (error,) in errors] == [MemoryError] * 3
    assert held.threads == [2, 2, 2]


async def test_items_of_cancelled_callers_are_run_by_none_of_several_workers(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_batch_size=1, calls=2, threads=2, finishers=1)
    running = submit(batcher, 0)
    await held.has_started()
    cancelled, stays = submit(batcher, 1, 2)
    await eventually(lambda: waiting() == 2)

    cancelled.cancel()
    await asyncio.wait([cancelled])
    held.release()

    assert await results_of([*running, stays]) == [0, 20]
    assert held.batches == [[0], [2]]


async def test_a_result_is_finished_in_a_worker_thread(open_batcher):
    batcher = open_batcher(lambda items, _: items)

    done = await batcher.submit(7, lambda result: (result, threading.current_thread().name))

    assert done.result == (7, "edgesam-test_0")


async def test_finishing_delays_no_call(open_batcher):
    go = threading.Event()
    batcher = open_batcher(lambda items, _: items, finishers=1)

    slow = asyncio.create_task(batcher.submit(1, lambda _: go.wait(60)))
    quick = await asyncio.wait_for(batcher.submit(2), 60)
    go.set()

    assert quick.result == 2
    assert (await slow).result is True


async def test_results_of_a_batch_are_finished_at_the_same_time(open_batcher, held, waiting):
    together = threading.Barrier(3)
    batcher = open_batcher(held.run, finishers=2)
    first = submit(batcher, 0)
    await held.has_started()
    tasks = [asyncio.create_task(batcher.submit(item, lambda _: together.wait(60))) for item in (1, 2, 3)]
    await eventually(lambda: waiting() == 3)

    held.release()

    assert sorted(await results_of(tasks)) == [0, 1, 2]
    assert await results_of(first) == [0]
    assert held.batches == [[0], [1, 2, 3]]


async def test_an_error_in_finishing_reaches_its_caller_alone(open_batcher, held, waiting):
    batcher = open_batcher(held.run)
    first = submit(batcher, 0)
    await held.has_started()
    failing = asyncio.create_task(batcher.submit(1, lambda result: result / 0))
    beside = submit(batcher, 2)
    await eventually(lambda: waiting() == 2)

    held.release()
    (error,) = await asyncio.gather(failing, return_exceptions=True)

    assert isinstance(error, ZeroDivisionError)
    assert await results_of([*first, *beside]) == [0, 20]
    assert (await batcher.submit(3)).result == 30
    assert held.batches[1] == [1, 2]


async def test_nothing_is_finished_for_a_cancelled_caller(open_batcher, held):
    finished = []
    batcher = open_batcher(held.run)
    cancelled = asyncio.create_task(batcher.submit(1, finished.append))
    await held.has_started()

    cancelled.cancel()
    await asyncio.wait([cancelled])
    held.release()
    await batcher.submit(2, finished.append)

    assert finished == [20]


async def test_closing_waits_for_running_finish_functions(open_batcher, held):
    batcher = open_batcher(lambda items, _: items, finishers=1)
    task = asyncio.create_task(batcher.submit(4, lambda result: held.run([result], 1)[0]))
    await held.has_started()

    closing = asyncio.create_task(batcher.aclose())
    held.release()
    await closing

    assert (await task).result == 40
    assert not threads_named("test")


async def test_an_idle_batcher_keeps_no_items(open_batcher):
    class Big:
        pass

    batcher = open_batcher(lambda items, _: items, calls=2, threads=2, finishers=2)
    references = []
    for _ in range(8):
        item = Big()
        references.append(weakref.ref(item))
        await batcher.submit(item, lambda _: None)
    del item

    await eventually(lambda: all(reference() is None for reference in references))


async def test_items_of_admitted_requests_take_no_capacity_from_others(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_queue_size=1)
    first = submit(batcher, 0)
    await held.has_started()
    begun = [asyncio.create_task(batcher.submit(item, lambda result: result, is_admitted=True)) for item in (1, 2)]
    await eventually(lambda: waiting() == 2)

    other = submit(batcher, 3)
    held.release()

    assert await results_of([*first, *begun, *other]) == [0, 10, 20, 30]


async def test_an_item_of_an_admitted_request_is_not_refused(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_queue_size=1)
    first = submit(batcher, 0)
    await held.has_started()
    second = submit(batcher, 1)
    await eventually(lambda: waiting() == 1)

    begun = asyncio.create_task(batcher.submit(2, lambda result: result, is_admitted=True))
    with pytest.raises(Overloaded):
        await batcher.submit(3)
    held.release()

    assert await results_of([*first, *second, begun]) == [0, 10, 20]


async def test_callers_are_served_alternately_whatever_their_numbers_of_items(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_batch_size=1, max_queue_size=64)
    first = submit(batcher, 0)
    await held.has_started()
    flood = [asyncio.create_task(batcher.submit(item, caller="flood")) for item in range(1, 9)]
    await eventually(lambda: waiting() == 8)
    few = [asyncio.create_task(batcher.submit(item, caller="few")) for item in (100, 101)]
    await eventually(lambda: waiting() == 10)

    held.release()

    await asyncio.gather(*first, *flood, *few)
    assert [batch[0] for batch in held.batches] == [0, 1, 100, 2, 101, 3, 4, 5, 6, 7, 8]


async def test_an_item_in_another_caller_s_call_is_charged_to_its_own_caller(open_batcher, held, waiting):
    batcher = open_batcher(held.run, group=lambda item: item // 100, max_batch_size=2, max_queue_size=64)
    first = submit(batcher, 999)
    await held.has_started()
    queued = [
        asyncio.create_task(batcher.submit(item, caller=c)) for item, c in ((1, "a"), (2, "b"), (101, "b"), (201, "a"))
    ]
    await eventually(lambda: waiting() == 4)

    held.release()

    await asyncio.gather(*first, *queued)
    assert held.batches == [[999], [1, 2], [101], [201]]


async def test_one_caller_cannot_fill_the_queue(open_batcher, held, waiting):
    batcher = open_batcher(held.run, max_queue_size=8)
    first = submit(batcher, 0)
    await held.has_started()
    flood = [asyncio.create_task(batcher.submit(item, caller="flood")) for item in range(6)]
    await eventually(lambda: waiting() == 6)

    with pytest.raises(Overloaded, match="for this key"):
        await batcher.submit(6, caller="flood")
    other = asyncio.create_task(batcher.submit(7, caller="other"))
    await eventually(lambda: waiting() == 7)
    held.release()

    assert await results_of([*first, *flood, other]) == [0, 0, 10, 20, 30, 40, 50, 70]


class Item:
    """An item that supports weak references."""


@pytest.mark.parametrize("fails", ["run", "finish"])
async def test_an_item_that_fails_is_not_kept(open_batcher, without_collector, fails):
    batcher = open_batcher(lambda items, _: items if fails == "finish" else [1 / 0])

    async def fail() -> weakref.ref[Item]:
        item = Item()
        with pytest.raises(ZeroDivisionError):
            await batcher.submit(item, lambda _: 1 / 0)
        return weakref.ref(item)

    left = await fail()

    await eventually(lambda: left() is None)
