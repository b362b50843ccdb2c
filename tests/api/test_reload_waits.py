"""Reloads that follow each other at once: each request gets the answer of its own reload."""

import asyncio
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from service.composition.cache import build_cache
from service.composition.inference import build_inference
from service.composition.models import load_models, served_model
from service.composition.reload import ModelReload
from service.errors import ReloadInProgress
from service.inference.scheduling.executors import TimedExecutor
from service.inference.served_models import ServedModels
from service.settings import Settings
from service.telemetry.metrics import Metrics


async def test_a_reload_that_begins_before_an_earlier_one_is_answered_does_not_take_its_answer(artifact):
    settings = Settings(model_dir=artifact)
    metrics = Metrics(CollectorRegistry())
    loaded = load_models(settings, [artifact])
    async with AsyncExitStack() as closing:
        executor = TimedExecutor("prompt", 1)
        closing.callback(executor.close)
        cache = build_cache(settings, executor, metrics, closing)
        inference = build_inference(
            settings,
            has_native_decoder=True,
            prompt_executor=executor,
            upload_executor=executor,
            metrics=metrics,
            closing=closing,
        )
        models = ServedModels([served_model(settings, model, cache, inference) for model in loaded], executor)
        reload = ModelReload(settings, models, cache, inference, on_replaced=lambda _: None)
        closing.push_async_callback(reload.aclose)

        async def reload_as_soon_as_possible() -> list[str]:
            while True:
                try:
                    return [change.change for change in await reload.reload(None)]
                except ReloadInProgress:
                    await asyncio.sleep(0)  # so the next attempt is in the very step in which the other one ends

        found = await asyncio.gather(*[reload_as_soon_as_possible() for _ in range(3)])

    assert found == [["kept"]] * 3
