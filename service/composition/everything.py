"""Everything mode for all models, made from the settings."""

from service.api.adapters.proposals import Proposals
from service.cache.everything_codec import EverythingCodec
from service.composition.cache import Cache
from service.composition.inference import Inference
from service.inference.everything_answers import EverythingAnswers
from service.inference.everything_results import EverythingResults, SharedResults
from service.settings import Settings
from service.telemetry.metrics import Metrics


def everything_answers(settings: Settings, inference: Inference, cache: Cache, metrics: Metrics) -> EverythingAnswers:
    """Return the use case that answers everything requests.

    Args:
        settings: Settings of the service.
        inference: Queues and threads of all models.
        cache: Caches in memory and in Redis.
        metrics: Metrics of the process.
    """
    results = EverythingResults(
        _shared_results(settings, inference, cache),
        cache.recent_deletions,
        inference.background,
        store_timeout_s=settings.mask_store_timeout_s,
        metrics=metrics,
    )
    return EverythingAnswers(results, inference.everything_executor, dtype=settings.embedding_dtype, metrics=metrics)


def adapter_proposals(settings: Settings, inference: Inference, answers: EverythingAnswers) -> Proposals | None:
    """Return the access of adapters to everything mode; None if they propose no objects."""
    if settings.adapter_proposals == 0:
        return None
    return Proposals(
        answers,
        inference.everything_permits,
        max_masks=settings.adapter_proposals,
        max_points_per_side=settings.max_points_per_side,
        timeout_s=settings.everything_timeout_s,
    )


def _shared_results(settings: Settings, inference: Inference, cache: Cache) -> SharedResults | None:
    """Return the parts that keep results in Redis; None without Redis, or where none are to be kept."""
    if cache.redis.deletions is None or settings.everything_ttl_s == 0:
        return None
    tier = cache.redis.tier(
        EverythingCodec(), ttl_s=settings.everything_ttl_s, executor=inference.everything_executor.executor
    )
    return None if tier is None else SharedResults(tier, cache.redis.deletions)
