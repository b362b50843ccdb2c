"""Proposals stay with their embedding in the batcher, memory and Redis. Other models do not get them."""

import io

import numpy as np
import pytest
from PIL import Image
from support.redis_server import eventually

from service.cache.codecs import EmbeddingCodec
from service.inference.backends.runtime import Runtime
from service.inference.model_batchers import EncodeItem, encode_batcher
from service.manifest import load_manifest
from service.sam.embedding_bytes import embedding_to_bytes

CLICK = {"points": [{"x": 150, "y": 90}]}


def image(seed=0):
    """A PNG of 300 × 200 pixels with structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 15, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((300, 200)).save(file, "PNG")
    return file.getvalue()


def boxes_of(answer):
    assert answer.status_code == 200, answer.text
    return [result["granularity_box"] for result in answer.json()["results"]]


async def test_each_image_of_a_batch_has_its_own_copy_of_its_proposals(proposing_artifact, metrics):
    runtime = Runtime(proposing_artifact, provider="cpu", threads=2)
    frames = np.random.default_rng(0).normal(0, 1, (2, 3, 1024, 1024)).astype(np.float32)
    batcher = encode_batcher(dtype="float16", max_batch_size=2, max_queue_size=2, metrics=metrics)

    together = runtime.encode(frames).proposals
    alone = runtime.encode(frames[1:]).proposals
    batcher.start()
    try:
        in_batcher = (await batcher.submit(EncodeItem(runtime, frames[1]))).result.proposals
    finally:
        await batcher.aclose()

    assert len(together) == 2
    assert not np.array_equal(together[0].boxes, together[1].boxes)
    for other in (alone[0], in_batcher):
        np.testing.assert_allclose(other.scores, together[1].scores, rtol=0, atol=1e-4)
    assert in_batcher.boxes.base is None
    assert in_batcher.scores.base is None


@pytest.mark.parametrize("embedding_dtype", ["float16", "int8"])
async def test_a_replica_finds_the_proposals_in_redis(open_service, redis_server, proposing_artifact, embedding_dtype):
    settings = {"redis_url": redis_server.url, "model_dir": proposing_artifact, "embedding_dtype": embedding_dtype}
    first, second = [await open_service(**settings) for _ in range(2)]
    image_hash = (await first.embed(image(1))).json()["image_hash"]
    await eventually(lambda: redis_server.ask("KEYS", f"edgesam:*:{embedding_dtype}:{image_hash}"), timeout_s=60)

    answers = [await service.segment(image_hash, CLICK, granularity="auto") for service in (first, second)]

    assert boxes_of(answers[0])[0] is not None
    assert answers[0].json() == answers[1].json()
    assert await second.encodes() == 0


async def test_models_with_and_without_the_module_do_not_share_embeddings(
    open_service, redis_server, proposing_artifact
):
    plain = await open_service(redis_url=redis_server.url)
    proposing = await open_service(redis_url=redis_server.url, model_dir=proposing_artifact)
    image_hash = (await plain.embed(image(2))).json()["image_hash"]

    before = await proposing.segment(image_hash, CLICK, granularity="auto")
    again = await proposing.embed(image(2))
    after = await proposing.segment(image_hash, CLICK, granularity="auto")

    assert (before.status_code, before.json()["code"]) == (404, "embedding-not-found")
    assert again.json()["cached"] is None
    assert boxes_of(after)[0] is not None


async def test_an_embedding_without_proposals_gives_a_click_no_box(open_service, redis_server, proposing_artifact):
    """No release writes such a value for a model with the module, but it must be served if it is read."""
    fingerprint = load_manifest(proposing_artifact).fingerprint
    first, second = [await open_service(redis_url=redis_server.url, model_dir=proposing_artifact) for _ in range(2)]
    image_hash = (await first.embed(image(3))).json()["image_hash"]
    (key,) = redis_server.ask("KEYS", f"edgesam:*:{fingerprint}:*:{image_hash}")
    value = EmbeddingCodec(fingerprint).decode(redis_server.ask("GET", key))
    bare = type(value)(value.tokens, value.original_size)
    redis_server.ask("SET", key, embedding_to_bytes(bare, fingerprint))

    answer = await second.segment(image_hash, CLICK, granularity="auto")

    assert boxes_of(answer) == [None]
    assert len(answer.json()["results"][0]["masks"]) == 4
