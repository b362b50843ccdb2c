"""Fixtures of the inference tests: real graphs, work that waits until it is released, one Redis, the whole service."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import fastapi.dependencies.models
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.inference.backends.runtime import Runtime
from service.inference.context import RequestContext
from service.inference.scheduling.batching import DynamicBatcher
from service.inference.scheduling.deadline import Deadline
from service.inference.scheduling.fairness import Caller
from service.settings import Settings

WAIT_S = 60.0  # limit for a busy machine; a test that passes does not depend on it


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Switch the garbage collector off. Objects in reference cycles then stay in memory until the test ends."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class HeldWork:
    """A batcher's `run` that blocks until it is released, and records its batches. It answers items × 10."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.threads: list[int] = []
        self._started = threading.Semaphore(0)
        self._steps = threading.Semaphore(0)
        self._go = threading.Event()

    def run(self, items: list[Any], threads: int) -> list[Any]:
        self.batches.append(list(items))
        self.threads.append(threads)
        self._started.release()
        until = monotonic() + WAIT_S
        while not self._go.is_set() and not self._steps.acquire(timeout=0.01):
            assert monotonic() < until, "nothing released the work"
        return [item * 10 for item in items]

    async def has_started(self) -> None:
        """Wait for the start of one more batch."""
        assert await asyncio.to_thread(self._started.acquire, timeout=WAIT_S), "no batch was started"

    def release(self) -> None:
        """Release the waiting batches and all later ones."""
        self._go.set()

    def release_one(self) -> None:
        """Release one batch, a waiting one or the next one."""
        self._steps.release()


class Service:
    """The whole application in this process, without a socket."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    def use_key(self, key: str) -> None:
        """Send this API key from now on."""
        self._client.headers["X-API-Key"] = key

    async def embed(self, data: bytes) -> httpx.Response:
        return await self._client.post("/embed", content=data, headers={"Content-Type": "image/png"})

    async def segment(self, image_hash: str, *prompts: dict[str, Any], **options: Any) -> httpx.Response:
        body = {"image_hash": image_hash, "prompts": list(prompts), "format": "logits", **options}
        return await self._client.post("/segment", json=body)

    async def find_all(self, image_hash: str, **parameters: Any) -> httpx.Response:
        """Ask for all objects of an image, as the lines of a stream."""
        body = {"image_hash": image_hash, **parameters}
        accept = {"Accept": "application/x-ndjson"}
        return await self._client.post("/segment/everything", json=body, headers=accept)

    async def sample(self, name: str, **labels: str) -> float:
        """Return a sample of /metrics, 0 if it is absent."""
        text = (await self._client.get("/metrics")).text
        return next(
            (
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name and sample.labels == labels
            ),
            0.0,
        )

    async def encodes(self) -> float:
        """Return the number of encoder runs for requests."""
        return await self.sample("edgesam_batch_size_count", lane="encode")


@pytest.fixture
def new_context(metrics) -> Callable[..., RequestContext]:
    """A function that returns the context of one request with the key of this name."""

    def new(name: str = "") -> RequestContext:
        return RequestContext(metrics.timings(), Caller(name, name), Deadline(WAIT_S, "A test"))

    return new


@pytest.fixture
async def open_batcher(metrics) -> AsyncIterator[Callable[..., DynamicBatcher]]:
    """A function that starts a batcher `test` for numbers of one group and size 1. It is closed after the test."""
    async with AsyncExitStack() as stack:

        def open_(run, *, group=lambda _: None, size=lambda _: 1, **bounds: int) -> DynamicBatcher:
            bounds = {"max_batch_size": 8, "max_queue_size": 16, "calls": 1, "threads": 1} | bounds
            batcher = DynamicBatcher("test", run, group=group, size=size, metrics=metrics, **bounds)
            batcher.start()
            stack.push_async_callback(batcher.aclose)
            return batcher

        yield open_


@pytest.fixture
def held(open_batcher) -> Iterator[HeldWork]:
    """Blocked work, which is released before the batcher is closed, also when the test fails."""
    work = HeldWork()
    yield work
    work.release()


@pytest.fixture
def waiting(metrics) -> Callable[[], float | None]:
    """Return the number of items in the queue of the batcher `test`, by the metric."""
    return lambda: metrics.registry.get_sample_value("edgesam_queue_depth", {"lane": "test"})


@pytest.fixture(scope="session")
def runtime(artifact: Path) -> Runtime:
    return Runtime(artifact, provider=os.environ.get("EDGESAM_TEST_PROVIDER", "cpu"), threads=2)


@pytest.fixture
async def open_service(artifact) -> AsyncIterator[Callable[..., Any]]:
    """A function that starts the application as one replica, with Redis timeouts for a busy machine."""
    async with AsyncExitStack() as stack:

        async def open_(**settings: Any) -> Service:
            patient = {"redis_connect_timeout_s": 10.0, "redis_read_timeout_s": 10.0, "redis_lock_ttl_s": 300.0}
            app = create_app(Settings(**{"model_dir": artifact, "threads": 2, **patient, **settings}))
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://service", timeout=WAIT_S)
            return Service(await stack.enter_async_context(client))

        yield open_
    forget_applications()


def forget_applications() -> None:
    """Clear the caches in which FastAPI keeps handlers. A handler holds its application, a quarter of a GiB."""
    for remembered in vars(fastapi.dependencies.models).values():
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()
    gc.collect()
