"""Usage of the service by API key, for an operator who charges for it or shares its costs."""

from service.telemetry.metrics import Metrics


class KeyUsage:
    """Usage of one API key. Any thread may add to it.

    Its series exist from the time that the key is known until the process ends. They start at 0, as `increase` in
    Prometheus ignores the first value of a series. They stay after the key was removed, as Prometheus may not have read
    the last values.

    Args:
        metrics: Metrics of the process.
        name: Name of the key, which becomes the label `key`.
    """

    __slots__ = ("_decode", "_encode", "_everything", "_images", "_pixels", "_prompts", "_requests")

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._requests = metrics.usage_requests_total.labels(name)
        self._images = metrics.usage_images_total.labels(name)
        self._pixels = metrics.usage_pixels_total.labels(name)
        self._prompts = metrics.usage_prompts_total.labels(name)
        self._encode, self._decode, self._everything = (
            metrics.usage_compute_seconds_total.labels(name, lane) for lane in ("encode", "decode", "everything")
        )

    def add_request(self) -> None:
        """Count a request that was answered without an error."""
        self._requests.inc()

    def add_image(self, pixels: int, seconds: float) -> None:
        """Count an image that was encoded.

        Args:
            pixels: Pixels of the part that was encoded, at full resolution.
            seconds: Time of the encoder.
        """
        self._images.inc()
        self._pixels.inc(pixels)
        self._encode.inc(seconds)

    def add_prompts(self, count: int, seconds: float) -> None:
        """Count prompts that were decoded.

        Args:
            count: Number of prompts.
            seconds: Time of the decoder.
        """
        self._prompts.inc(count)
        self._decode.inc(seconds)

    def add_everything_prompts(self, count: int, seconds: float) -> None:
        """Count points that everything mode decoded; see `add_prompts`."""
        self._prompts.inc(count)
        self._everything.inc(seconds)


class UsageMetrics:
    """The usage of all API keys.

    Args:
        metrics: Metrics of the process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._of_key: dict[str, KeyUsage] = {}

    def of(self, name: str) -> KeyUsage:
        """Return the usage of the key with this name. Two objects for one name would count in the same series."""
        usage = self._of_key.get(name)
        if usage is None:
            usage = self._of_key[name] = KeyUsage(self._metrics, name)
        return usage
