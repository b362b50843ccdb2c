"""The rules between settings: values that cannot hold together. `service.settings` applies them."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from service.settings import Settings

LEAST_MEMORY_BYTES: Final = 16 << 20  # one prepared image takes 5 to 12 MiB


def check_together(settings: "Settings") -> None:
    """Check settings that depend on each other.

    Args:
        settings: Settings, each valid by itself.

    Raises:
        ValueError: Two settings contradict each other. The message names them and says what to set.
    """
    if settings.redis_url is None and settings.memory_cache_bytes < LEAST_MEMORY_BYTES:
        raise ValueError(
            f"EDGESAM_MEMORY_CACHE_BYTES is too small to keep a single image, and there is no EDGESAM_REDIS_URL; "
            f"give at least {LEAST_MEMORY_BYTES} bytes"
        )
    if "admin" in (settings.metrics_access, settings.docs_access) and not settings.asks_for_keys:
        raise ValueError(
            "EDGESAM_METRICS_ACCESS and EDGESAM_DOCS_ACCESS can be admin only where there are keys; set "
            "EDGESAM_API_KEYS_FILE or EDGESAM_API_KEYS"
        )
    if settings.usage_metrics and not settings.asks_for_keys:
        raise ValueError(
            "EDGESAM_USAGE_METRICS counts by API key; set EDGESAM_API_KEYS_FILE or EDGESAM_API_KEYS, or leave it unset"
        )
    if settings.metrics_port is not None and settings.metrics_access == "admin":
        raise ValueError(
            "EDGESAM_METRICS_PORT asks nobody for a key; leave EDGESAM_METRICS_ACCESS unset and close the port to "
            "others, or leave EDGESAM_METRICS_PORT unset"
        )
    if settings.role == "segment" and settings.redis_url is None:
        raise ValueError(
            "EDGESAM_ROLE=segment finds its images in Redis alone; set EDGESAM_REDIS_URL to the Redis of the "
            "replicas that embed, or EDGESAM_ROLE=all"
        )
    if settings.keep_images_s and settings.redis_url is None:
        raise ValueError(
            "EDGESAM_KEEP_IMAGES_S keeps copies of uploads in Redis; set EDGESAM_REDIS_URL, or leave it unset"
        )
    if settings.role != "all" and settings.adapters:
        raise ValueError("EDGESAM_ADAPTERS embed and segment in one request; they need EDGESAM_ROLE=all")
    tokens = [settings.label_studio_token, settings.label_studio_token_file]
    if len([token for token in tokens if token is not None]) != (settings.label_studio_url is not None):
        raise ValueError(
            "EDGESAM_LABEL_STUDIO_URL needs a token; set EDGESAM_LABEL_STUDIO_TOKEN or "
            "EDGESAM_LABEL_STUDIO_TOKEN_FILE, not both. Without the address a token has no use"
        )
    if settings.metrics_port and settings.metrics_port == settings.port:
        raise ValueError("EDGESAM_METRICS_PORT equals EDGESAM_PORT; leave it unset to serve /metrics there")
