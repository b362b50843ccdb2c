"""Cache tiers without the service."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from tools.bench.samples import COLUMNS, Samples
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

from service.cache.codecs import EmbeddingCodec
from service.cache.memory import MemoryCache
from service.cache.redis.breaker import CircuitBreaker
from service.cache.redis.connect import connect
from service.cache.redis.tier import RedisCache
from service.inference.backends.image_state import ImageState
from service.sam.embedding import S0_SHAPE, S1_SHAPE, HighResMaps, ImageEmbedding, Tokens
from service.sam.float16 import as_float32
from service.sam.int8_tokens import Scales, from_int8, int8_scales, to_int8
from service.telemetry.metrics import Metrics


def measure(bench: Workbench) -> Section:
    """Measure the tiers in this process: an image state in memory, and embeddings of 2 and 8 MiB in Redis over TCP."""
    state = bench.clicks(bench.cpus).state
    samples = asyncio.run(_measure(bench.redis.url, state, bench.effort.tier_calls))
    return Section(
        "Cache tiers",
        """
            One caller on an otherwise idle event loop; Redis over TCP on the same machine, float16. An embedding has
            2 MiB, 1 MiB in int8, and 8 MiB with the three maps of EdgeTAM and SAM 2.1. The last two rows are the
            rounding of tokens behind the encoder, and their way back to float16 when an image is prepared.
            """,
        [Table("", ["", *COLUMNS], [[name, *own.cells()] for name, own in samples.items()])],
        {
            "tiers.memory_get_ms": samples["memory tier: get"].p50,
            "tiers.redis_put_ms": samples["Redis: put"].p50,
            "tiers.redis_get_ms": samples["Redis: get"].p50,
            "tiers.redis_put_int8_ms": samples["Redis: put, int8"].p50,
            "tiers.redis_get_int8_ms": samples["Redis: get, int8"].p50,
            "tiers.int8_round_ms": samples["round tokens to int8"].p50,
            "tiers.int8_read_ms": samples["read int8 tokens as float16"].p50,
            "tiers.redis_put_three_maps_ms": samples["Redis: put, three maps"].p50,
            "tiers.redis_get_three_maps_ms": samples["Redis: get, three maps"].p50,
        },
    )


async def _measure(url: str, state: ImageState, calls: int) -> dict[str, Samples]:
    metrics = Metrics(CollectorRegistry())
    memory: MemoryCache[ImageState] = MemoryCache(1 << 30, 3600.0, metrics)
    client = connect(url, max_connections=8, connect_timeout_s=5.0, read_timeout_s=5.0, queue_timeout_s=5.0)
    with ThreadPoolExecutor(2) as executor:
        redis, redis_of_maps = (
            RedisCache[ImageEmbedding](
                client,
                EmbeddingCodec("bench", has_high_res=has_high_res),
                ttl_s=3600.0,
                breaker=CircuitBreaker(metrics=metrics),
                metrics=metrics,
                executor=executor,
            )
            for has_high_res in (False, True)
        )
        three_maps, in_int8 = _with_maps(state.embedding), _in_int8(state.embedding)
        tokens = as_float32(state.embedding.tokens)
        numbers_and_scales = _to_int8(tokens)
        in_executor = partial(asyncio.get_running_loop().run_in_executor, executor)
        await memory.put("bench", state)
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "memory tier: get": lambda: memory.get("bench"),
            "Redis: put": lambda: redis.put("bench", state.embedding),
            "Redis: get": lambda: redis.get("bench"),
            "Redis: renew": lambda: redis.renew("bench"),
            "Redis: put, int8": lambda: redis.put("bench-int8", in_int8),
            "Redis: get, int8": lambda: redis.get("bench-int8"),
            "Redis: put, three maps": lambda: redis_of_maps.put("bench-maps", three_maps),
            "Redis: get, three maps": lambda: redis_of_maps.get("bench-maps"),
            "round tokens to int8": lambda: in_executor(_to_int8, tokens),
            "read int8 tokens as float16": lambda: in_executor(from_int8, *numbers_and_scales),
        }
        samples = {name: Samples() for name in steps}
        for number in range(calls + 1):
            for name, step in steps.items():
                started = perf_counter()
                answer = await step()
                if number:  # the first round connects
                    samples[name].ms.append((perf_counter() - started) * 1000.0)
                if answer is None and "get" in name:
                    raise RuntimeError(f"{name} found nothing")
        await client.aclose()
    return samples


def _with_maps(embedding: ImageEmbedding) -> ImageEmbedding:
    """Return the embedding with random maps of high resolution."""
    random = np.random.default_rng(0)
    tokens = embedding.tokens
    s1, s0 = (random.normal(size=shape).astype(tokens.dtype) for shape in (S1_SHAPE, S0_SHAPE))
    return ImageEmbedding(tokens, embedding.original_size, high_res=HighResMaps(s1, s0))


def _in_int8(embedding: ImageEmbedding) -> ImageEmbedding:
    numbers, scales = _to_int8(embedding.tokens)
    return replace(embedding, tokens=from_int8(numbers, scales), scales=scales)


def _to_int8(tokens: Tokens) -> tuple[NDArray[np.int8], Scales]:
    scales = int8_scales(tokens)
    if scales is None:
        raise RuntimeError("int8 is too coarse for the embedding of the benchmark")
    return to_int8(tokens, scales), scales
