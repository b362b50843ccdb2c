"""Embedding and segmenting through the whole application: the cache tier never changes the answer."""

import asyncio
import base64
import hashlib
import io

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from support.redis_server import RedisServer, eventually

CLICK = {"points": [{"x": 150, "y": 90}]}
BOX = {"box": [40, 30, 220, 160]}


def image(seed=0):
    """A PNG of 300 × 200 pixels with structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 15, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((300, 200)).save(file, "PNG")
    return file.getvalue()


async def embedded(service, data):
    """Embed an image, and return its hash."""
    answer = await service.embed(data)
    assert answer.status_code == 200, answer.text
    return answer.json()["image_hash"]


def masks_of(answer):
    """Return the masks of each prompt in an answer."""
    assert answer.status_code == 200, answer.text
    return [result["masks"] for result in answer.json()["results"]]


def logits_of(mask):
    return np.frombuffer(base64.b64decode(mask["logits"]), "<f2").astype(np.float32)


def problem_of(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("embedding_dtype", ["float16", "float32", "int8"])
async def test_computed_memory_and_redis_embeddings_give_the_same_answer(open_service, redis_server, embedding_dtype):
    settings = {"redis_url": redis_server.url, "embedding_dtype": embedding_dtype}
    first, second = [await open_service(**settings) for _ in range(2)]
    data = image()

    fresh = await first.embed(data)
    image_hash = fresh.json()["image_hash"]
    answers = [await first.segment(image_hash, CLICK, BOX)]
    again = await first.embed(data)
    answers.append(await first.segment(image_hash, CLICK, BOX))
    # The value is stored after the answer.
    await eventually(lambda: redis_server.ask("KEYS", f"edgesam:*:{embedding_dtype}:{image_hash}"), timeout_s=60)
    answers.append(await second.segment(image_hash, CLICK, BOX))

    assert (fresh.json()["cached"], again.json()["cached"]) == (None, "memory")
    assert await second.encodes() == 0
    assert await second.sample("edgesam_cache_lookups_total", tier="redis", outcome="hit") == 1
    assert masks_of(answers[0]) == masks_of(answers[1]) == masks_of(answers[2])


async def test_simultaneous_uploads_of_one_image_are_encoded_once(open_service):
    service, data = await open_service(), image()

    answers = await asyncio.gather(*(service.embed(data) for _ in range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["image_hash"] for answer in answers}) == 1
    assert await service.encodes() == 1


async def test_simultaneous_uploads_to_several_replicas_are_encoded_once(open_service):
    with RedisServer() as server:
        replicas = [await open_service(redis_url=server.url) for _ in range(2)]

        answers = await asyncio.gather(*(replica.embed(image(2)) for replica in replicas for _ in range(3)))

        assert {answer.status_code for answer in answers} == {200}
        assert sum([await replica.encodes() for replica in replicas]) == 1
        image_hash = answers[0].json()["image_hash"]
        segmented = [masks_of(await replica.segment(image_hash, CLICK)) for replica in replicas]
        assert segmented[0] == segmented[1]


async def test_a_disconnecting_caller_does_not_cancel_the_embedding_for_other_callers(open_service):
    service, data = await open_service(), image()
    gone, stays = [asyncio.create_task(service.embed(data)) for _ in range(2)]
    async with asyncio.timeout(60):
        while not await service.sample("edgesam_stage_duration_seconds_count", stage="preprocess"):
            pass  # the image reaches the encoder soon

    gone.cancel()
    answer = await stays

    assert answer.status_code == 200
    assert await service.encodes() == 1


async def test_refining_by_mask_id_is_refining_with_the_same_logits(open_service):
    service = await open_service()
    image_hash = await embedded(service, image())
    (masks,) = masks_of(await service.segment(image_hash, CLICK, multimask=4))
    correction = {"points": [{"x": 60, "y": 50, "label": 0}]}

    for mask in masks:
        by_id = await service.segment(image_hash, {**correction, "mask_id": mask["mask_id"]})
        by_logits = await service.segment(image_hash, {**correction, "mask_logits": mask["logits"]})

        assert masks_of(by_id) == masks_of(by_logits)
    unrefined = masks_of(await service.segment(image_hash, correction, multimask=1))
    assert unrefined[0][0]["mask_id"] != masks_of(by_id)[0][0]["mask_id"]


@pytest.mark.parametrize("embedding_dtype", ["float16", "int8"])
async def test_a_mask_made_by_one_replica_is_refined_by_another(open_service, redis_server, embedding_dtype):
    settings = {"redis_url": redis_server.url, "embedding_dtype": embedding_dtype}
    first, second = [await open_service(**settings) for _ in range(2)]
    image_hash = await embedded(first, image(3))
    ((mask,),) = masks_of(await first.segment(image_hash, BOX))
    refinement = {**CLICK, "mask_id": mask["mask_id"]}
    await eventually(lambda: redis_server.ask("KEYS", f"*{image_hash}:mask:{mask['mask_id']}") != [], timeout_s=60)

    answers = [await service.segment(image_hash, refinement) for service in (first, second)]

    assert masks_of(answers[0]) == masks_of(answers[1])


async def test_a_mask_of_another_image_is_not_found(open_service):
    service = await open_service()
    one, other = [await embedded(service, image(seed)) for seed in (0, 1)]
    masks = masks_of(await service.segment(one, CLICK))[0]

    answer = await service.segment(other, {"mask_id": masks[0]["mask_id"]})

    assert problem_of(answer) == (404, "mask-not-found")


async def test_prompts_with_and_without_masks_keep_their_order(open_service):
    service = await open_service(max_decode_batch=2)
    image_hash = await embedded(service, image())
    (masks,) = masks_of(await service.segment(image_hash, CLICK, multimask=4))
    prompts = [
        {**BOX, "mask_id": masks[0]["mask_id"]},
        CLICK,
        {"mask_logits": masks[1]["logits"]},
        BOX,
        {"points": [{"x": 20, "y": 30}, {"x": 280, "y": 190, "label": 0}, {"x": 90, "y": 20}]},
        {**CLICK, "mask_logits": masks[2]["logits"]},
        {**BOX, **CLICK},
    ]

    together = masks_of(await service.segment(image_hash, *prompts, multimask=4))

    alone = [masks_of(await service.segment(image_hash, prompt, multimask=4))[0] for prompt in prompts]
    assert len({masks[0]["mask_id"] for masks in alone}) == len(prompts)
    for found, expected in zip(together, alone, strict=True):
        # Masks of equal stability may come in another order; each has its own logits, rounded to float16.
        by_iou = [sorted(masks, key=lambda mask: mask["predicted_iou"]) for masks in (found, expected)]
        for mask, other in zip(*by_iou, strict=True):
            assert_allclose(logits_of(mask), logits_of(other), rtol=2e-3, atol=1e-4)


async def test_a_request_of_many_prompts_is_not_refused_half_way(open_service):
    service = await open_service(max_decode_queue=1, decode_workers=2, max_decode_batch=1)
    image_hash = await embedded(service, image())
    prompts = [{"points": [{"x": 20 * number, "y": 90}]} for number in range(12)]

    answer = await service.segment(image_hash, *prompts, multimask=1)

    assert len({masks[0]["mask_id"] for masks in masks_of(answer)}) == len(prompts)


async def test_a_request_of_many_prompts_leaves_capacity_to_other_requests(open_service):
    service = await open_service(max_decode_queue=2, decode_workers=1, max_decode_batch=1)
    image_hash = await embedded(service, image())
    bulk = asyncio.create_task(service.segment(image_hash, *[CLICK] * 24, multimask=1))

    clicks = []
    while not bulk.done():
        clicks.append(await service.segment(image_hash, BOX))

    assert len(masks_of(await bulk)) == 24
    assert {answer.status_code for answer in clicks} == {200}


async def test_the_stages_of_prompts_that_are_decoded_at_the_same_time_sum_to_no_more_than_the_total(open_service):
    service = await open_service(decode_workers=2, max_decode_batch=1)
    image_hash = await embedded(service, image())

    answer = await service.segment(image_hash, *[CLICK] * 16)

    parts = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
    *stages, (last, total) = [(name, round(100 * float(ms))) for name, ms in parts]  # hundredths of a millisecond
    assert last == "total"
    assert {"queue", "decode", "postprocess", "serialize"} <= {name for name, _ in stages}
    assert sum(duration for _, duration in stages) <= total


async def test_the_second_of_two_simultaneous_uploads_has_stage_wait(open_service):
    service, data = await open_service(), image()

    answers = await asyncio.gather(*(service.embed(data) for _ in range(2)))

    timings = [answer.headers["server-timing"] for answer in answers]
    assert sorted("encode;" in timing for timing in timings) == [False, True]
    assert ["wait;" in timing for timing in timings] == ["encode;" not in timing for timing in timings]


async def test_one_prompt_that_cannot_be_decoded_ends_the_request_and_no_other(open_service):
    service = await open_service(max_decode_batch=1)
    image_hash = await embedded(service, image())
    bad = {"mask_id": "0" * 32}

    failed, answered = await asyncio.gather(
        service.segment(image_hash, CLICK, bad, BOX), service.segment(image_hash, CLICK, BOX)
    )

    assert problem_of(failed) == (404, "mask-not-found")
    assert len(masks_of(answered)) == 2


async def test_work_that_takes_too_long_is_answered_with_504(open_service, redis_server):
    patient = await open_service(redis_url=redis_server.url)
    hurried = await open_service(redis_url=redis_server.url, embed_timeout_s=1e-6, segment_timeout_s=1e-6)
    image_hash = await embedded(patient, image(4))

    embedding = await hurried.embed(image(5))
    segmenting = await hurried.segment(image_hash, CLICK)

    assert problem_of(embedding) == (504, "deadline-exceeded")
    assert problem_of(segmenting) == (504, "deadline-exceeded")
    assert "Retry-After" in segmenting.headers


async def test_an_image_that_cannot_be_decoded_is_an_error_for_all_and_blocks_nothing(open_service, redis_server):
    service = await open_service(redis_url=redis_server.url)
    broken = image(6)[:-200]

    answers = await asyncio.gather(*(service.embed(broken) for _ in range(3)))
    answers.append(await service.embed(broken))

    assert {problem_of(answer) for answer in answers} == {(422, "undecodable-image")}
    assert redis_server.ask("KEYS", f"lock:*{hashlib.sha256(broken).hexdigest()}") == []


@pytest.mark.alone
async def test_without_redis_a_replica_still_serves(open_service):
    with RedisServer() as server:
        service = await open_service(redis_url=server.url, redis_read_timeout_s=0.1, redis_connect_timeout_s=0.1)
        server.kill()

        image_hash = await embedded(service, image())
        answer = await service.segment(image_hash, CLICK)
        unknown: httpx.Response = await service.segment("0" * 64, CLICK)

    assert len(masks_of(answer)[0]) == 4
    assert problem_of(unknown) == (503, "cache-unavailable")


async def test_masks_of_one_key_leave_background_capacity_to_another_key(open_service):
    with RedisServer() as server:
        service = await open_service(
            redis_url=server.url, api_keys=["the-key-of-the-first", "the-key-of-the-second"], redis_max_connections=64
        )
        service.use_key("the-key-of-the-first")
        image_hash = await embedded(service, image(8))
        server.pause()
        try:
            clicks = [{"points": [{"x": 10 + 3 * number, "y": 90}]} for number in range(40)]
            await asyncio.gather(*(service.segment(image_hash, click, multimask=1) for click in clicks))
            dropped = await service.sample("edgesam_rejected_total", reason="background")
            service.use_key("the-key-of-the-second")
            ((mask,),) = masks_of(await service.segment(image_hash, BOX, multimask=1))
        finally:
            server.resume()

        await eventually(lambda: server.ask("KEYS", f"*{mask['mask_id']}*") != [], timeout_s=60)
        assert dropped == 40 - 24
