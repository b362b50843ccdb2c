"""`create_app`: the service as an ASGI application, made from the settings."""

from contextlib import AsyncExitStack

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.api.access.key_file import KeyFile
from service.api.access.keys import ApiKeys
from service.composition.api import build_api
from service.composition.cache import build_cache
from service.composition.inference import build_inference, worker_threads
from service.composition.model_folders import ModelFolders
from service.composition.models import load_models, served_model
from service.inference.scheduling.executors import TimedExecutor
from service.inference.served_models import ServedModels
from service.process import configure_image_libraries
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.usage import UsageMetrics


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the service as an ASGI application.

    `app.state.readiness` is the state that /readyz reports, and `app.state.models` the served models.
    The models are loaded here and not in the lifespan, so that a damaged artifact fails before the server starts.

    Args:
        settings: Settings of the service; None reads them from the environment.

    Raises:
        ManifestError, ProviderUnavailable, ValueError: The settings cannot be served. The message gives the reason.
    """
    settings = settings or Settings()
    configure_image_libraries()
    metrics = Metrics(CollectorRegistry())
    keys, key_file = _api_keys(settings, metrics)
    loaded = load_models(settings, ModelFolders.of(settings).configured())
    closing = AsyncExitStack()  # closes in reverse order
    prompt_executor = TimedExecutor("prompt", worker_threads(settings) + 1)
    closing.callback(prompt_executor.close)
    upload_executor = TimedExecutor("upload", max(1, worker_threads(settings) // 2), low_priority=True)
    closing.callback(upload_executor.close)
    cache = build_cache(settings, prompt_executor, metrics, closing)
    inference = build_inference(
        settings,
        has_native_decoder=any(model.runtime.is_native for model in loaded),
        prompt_executor=prompt_executor,
        upload_executor=upload_executor,
        metrics=metrics,
        closing=closing,
    )
    served = [served_model(settings, model, cache, inference) for model in loaded]
    models = ServedModels(served, upload_executor, cache.redis.kept)
    return build_api(settings, models, inference, cache, keys=keys, key_file=key_file, metrics=metrics, closing=closing)


def _api_keys(settings: Settings, metrics: Metrics) -> tuple[ApiKeys | None, KeyFile | None]:
    """Return the known API keys and the file they are read from; None where none are required.

    Raises:
        KeyFileError: The file cannot be used.
    """
    if not settings.asks_for_keys:
        return None, None
    usage = UsageMetrics(metrics) if settings.usage_metrics else None
    keys = ApiKeys([key.get_secret_value() for key in settings.api_keys], metrics, usage)
    if settings.api_keys_file is None:
        return keys, None
    file = KeyFile(settings.api_keys_file, keys, metrics)
    file.load()
    return keys, file
