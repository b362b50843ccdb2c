"""The two batchers over the real graphs: each caller gets the answer to its own image and prompts."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from support.redis_server import eventually

from service.inference.backends.runtime import Runtime
from service.inference.model_batchers import DecodeItem, EncodeItem, decode_batcher, encode_batcher
from service.sam.embedding import ImageEmbedding
from service.sam.frame import Frame
from service.sam.int8_tokens import from_int8, to_int8
from service.sam.prompts import NEGATIVE, POSITIVE, Prompt, decoder_inputs


def random_state(runtime, seed):
    tokens = np.random.default_rng(seed).normal(0, 0.3, (4096, 256)).astype(np.float32)
    return runtime.prepare(ImageEmbedding(tokens, (1024, 1024))).arrays


def clicks(runtime, state, *places):
    """Return one prompt: a positive click and further negative ones."""
    labels = np.array([POSITIVE, *[NEGATIVE] * (len(places) - 1)], np.int64)
    return DecodeItem(runtime, state, [Prompt(points=np.array(places, np.float64), labels=labels)], Frame((1024, 1024)))


@asynccontextmanager
async def submitted_together(batcher, metrics, items, name):
    """Submit all items before the batcher starts, so that they wait together. Close the batcher at the end."""
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    depth = lambda: metrics.registry.get_sample_value("edgesam_queue_depth", {"lane": name})
    await eventually(lambda: depth() == len(items))
    batcher.start()
    try:
        yield await asyncio.gather(*tasks)
    finally:
        await batcher.aclose()


async def test_prompts_on_several_images_at_once_are_decoded_on_their_own(runtime, metrics):
    first, second = random_state(runtime, 1), random_state(runtime, 2)
    items = [
        clicks(runtime, first, (100, 200)),
        clicks(runtime, second, (100, 200), (700, 30)),
        clicks(runtime, first, (900, 400), (20, 20), (500, 500)),
        clicks(runtime, second, (30, 800)),
    ]
    batcher = decode_batcher(max_batch_size=8, max_queue_size=8, calls=1, threads=2, finishers=0, metrics=metrics)

    async with submitted_together(batcher, metrics, items, "decode") as answers:
        pass

    assert [done.batch_size for done in answers] == [2, 2, 2, 2]  # one call an image
    for item, done in zip(items, answers, strict=True):
        alone = runtime.decode(item.state, *decoder_inputs(item.prompts, item.frame))
        assert_allclose(done.result.mask_logits, alone.mask_logits, rtol=0, atol=1e-5)
        assert_allclose(done.result.iou_predictions, alone.iou_predictions, rtol=0, atol=1e-5)


async def test_a_call_holds_no_more_prompts_than_the_bound(runtime, metrics):
    state = random_state(runtime, 1)
    three = [clicks(runtime, state, (100 * i, 50)) for i in range(3)]
    joined = DecodeItem(runtime, state, [prompt for item in three for prompt in item.prompts], Frame((1024, 1024)))
    batcher = decode_batcher(max_batch_size=4, max_queue_size=8, calls=1, threads=2, finishers=0, metrics=metrics)

    async with submitted_together(batcher, metrics, [joined, *three], "decode") as answers:
        pass

    assert [done.batch_size for done in answers] == [4, 4, 2, 2]
    for row, done in enumerate(answers[1:]):
        assert_allclose(done.result.mask_logits, answers[0].result.rows(row, row + 1).mask_logits, rtol=0, atol=1e-5)


async def test_images_encoded_together_come_back_in_order(runtime, metrics):
    frames = list(np.random.default_rng(0).normal(0, 1, (2, 3, 1024, 1024)).astype(np.float32))
    batcher = encode_batcher(dtype="float32", max_batch_size=2, max_queue_size=2, metrics=metrics)

    async with submitted_together(
        batcher, metrics, [EncodeItem(runtime, frame) for frame in frames], "encode"
    ) as answers:
        pass

    assert [done.batch_size for done in answers] == [2, 2]
    for frame, done in zip(frames, answers, strict=True):
        assert_allclose(done.result.tokens, runtime.encode(frame[None]).tokens[0], rtol=0, atol=1e-4)


async def test_tokens_are_rounded_in_the_batcher_and_own_their_memory(runtime, metrics):
    frames = list(np.random.default_rng(0).normal(0, 1, (2, 3, 1024, 1024)).astype(np.float32))
    batcher = encode_batcher(dtype="float16", max_batch_size=2, max_queue_size=2, metrics=metrics)

    async with submitted_together(
        batcher, metrics, [EncodeItem(runtime, frame) for frame in frames], "encode"
    ) as answers:
        pass

    assert [done.result.tokens.dtype for done in answers] == [np.float16, np.float16]
    assert all(done.result.tokens.base is None for done in answers)


async def test_tokens_become_those_of_int8_in_the_batcher_and_own_their_memory(runtime, metrics):
    frames = list(np.random.default_rng(0).normal(0, 1, (2, 3, 1024, 1024)).astype(np.float32))
    batcher = encode_batcher(dtype="int8", max_batch_size=2, max_queue_size=2, metrics=metrics)

    async with submitted_together(
        batcher, metrics, [EncodeItem(runtime, frame) for frame in frames], "encode"
    ) as answers:
        pass

    for frame, done in zip(frames, answers, strict=True):
        tokens, scales = done.result.tokens, done.result.scales
        exact = runtime.encode(frame[None]).tokens[0]
        assert (tokens.dtype, tokens.base, scales.base) == (np.float16, None, None)
        assert_array_equal(from_int8(to_int8(tokens, scales), scales), tokens)
        assert_allclose(tokens, exact, rtol=0, atol=np.abs(exact).max() / 200)


async def test_images_for_two_models_share_no_call(runtime, artifact, metrics):
    other = Runtime(artifact, provider="cpu", threads=2)
    frames = list(np.random.default_rng(0).normal(0, 1, (3, 3, 1024, 1024)).astype(np.float32))
    items = [EncodeItem(model, frame) for model, frame in zip((runtime, other, runtime), frames, strict=True)]
    batcher = encode_batcher(dtype="float32", max_batch_size=3, max_queue_size=3, metrics=metrics)

    async with submitted_together(batcher, metrics, items, "encode") as answers:
        pass

    assert [done.batch_size for done in answers] == [2, 1, 2]


async def test_items_for_the_native_decoder_share_no_call(runtime, metrics):
    state = random_state(runtime, 1)
    items = [replace(clicks(runtime, state, (100 * i, 50)), shares_call=False) for i in range(3)]
    batcher = decode_batcher(max_batch_size=8, max_queue_size=8, calls=1, threads=2, finishers=0, metrics=metrics)

    async with submitted_together(batcher, metrics, items, "decode") as answers:
        pass

    assert [done.batch_size for done in answers] == [1, 1, 1]
