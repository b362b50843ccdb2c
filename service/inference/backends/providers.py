"""Execution providers: which ones may be used, and which is the fastest on this machine.

OpenVINO is a package of its own and computes the encoder alone. The others are parts of ONNX Runtime.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.extras import install_command

logger = logging.getLogger(__name__)

Provider = Literal["cpu", "openvino", "cuda", "tensorrt"]
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Loaded = TypeVar("Loaded")

PRECISIONS: dict[Provider, tuple[Precision, ...]] = {
    "cpu": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "cuda": ("float32", "tf32"),
    "tensorrt": ("tf32", "float16"),  # it has no switch for plain float32
}
# Candidates of `auto`, the reference first. TensorRT compiles for minutes, so the operator has to name it.
AUTO: tuple[Provider, ...] = ("cpu", "openvino", "cuda")

# A selection compares the medians of this many rounds, or of the rounds that began within this time.
MAX_ROUNDS = 7
PROBE_S = 2.0
# A provider that is not clearly faster does not replace the CPU. Otherwise noise would decide, and replicas differ.
CLEARLY_FASTER = 0.9
# Largest difference from the first backend's answer, as a share of the largest number in it. Measured in float32: 1e-5.
# A larger difference means that the backend is broken on this machine.
MAX_DIFFERENCE: dict[Precision, float] = {"float32": 1e-2, "tf32": 0.1, "bfloat16": 0.3, "float16": 0.3}

ORT_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Names in ONNX Runtime of those providers that are parts of it."""
_EXTRAS: dict[Provider, str] = {"cpu": "cpu", "openvino": "openvino", "cuda": "gpu", "tensorrt": "gpu"}


class ProviderUnavailable(RuntimeError):
    """The configured provider, precision or decoder is not available here. The service does not start."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An execution provider and the precision in which it computes."""

    provider: Provider
    precision: Precision

    def __str__(self) -> str:
        return self.provider if self.precision == "float32" else f"{self.provider} {self.precision}"


CPU = Backend("cpu", "float32")
"""The reference, which every installation has."""


@dataclass(frozen=True, slots=True)
class Selection(Generic[Loaded]):
    """The fastest of several backends.

    Args:
        backend: Execution provider and precision that were selected.
        loaded: Graphs that were loaded for it.
        timings_ms: Median milliseconds of each candidate; empty where there was one candidate.
    """

    backend: Backend
    loaded: Loaded
    timings_ms: dict[str, float]


def installed_providers() -> list[Provider]:
    """Return the providers in this build of ONNX Runtime, and OpenVINO where its package is installed.

    Their libraries or their device may still be missing.
    """
    names = ort.get_available_providers()
    found = {provider for provider, name in ORT_NAMES.items() if name in names}
    package = importlib.util.find_spec("openvino")
    if package is not None and package.origin is not None:  # a plain folder of this name has no origin
        found.add("openvino")
    return [provider for provider in PRECISIONS if provider in found]


def encoder_backends(asked: Provider | Literal["auto"], precision: Precision) -> list[Backend]:
    """Return the candidates for the encoder, in exactly this precision: embeddings in the caches depend on it.

    Args:
        asked: Provider by the settings.
        precision: Precision by the settings.

    Raises:
        ProviderUnavailable: `asked` is not installed, or does not compute in `precision`.
    """
    installed = installed_providers()
    if asked == "auto":
        backends = [Backend(each, precision) for each in AUTO if each in installed and precision in PRECISIONS[each]]
        if not backends:
            able = [each for each in PRECISIONS if precision in PRECISIONS[each]]
            raise ProviderUnavailable(
                f"EDGESAM_PRECISION={precision} is for {' and '.join(able)}, and auto finds {', '.join(installed)} "
                f"here. {_how_to_install(able[0])} Then name the provider in EDGESAM_PROVIDER."
            )
        return backends
    if asked not in installed:
        raise ProviderUnavailable(
            f"EDGESAM_PROVIDER={asked} is not installed here; {', '.join(installed)} can be used. "
            f"{_how_to_install(asked)} Or set EDGESAM_PROVIDER=auto."
        )
    if precision not in PRECISIONS[asked]:
        raise ProviderUnavailable(
            f"EDGESAM_PROVIDER={asked} does not compute in {precision}; "
            f"set EDGESAM_PRECISION to {' or '.join(PRECISIONS[asked])}"
        )
    return [Backend(asked, precision)]


def decoder_backends(asked: Provider | Literal["auto"], precision: Precision) -> list[Backend]:
    """Return the candidates for the decoder.

    No cache depends on the decoder's precision. So `auto` may also decode in float32, if that is faster. OpenVINO does
    not decode: the C decoder is twice as fast.

    Args:
        asked: Provider by the settings.
        precision: Precision by the settings.

    Raises:
        ProviderUnavailable: `asked` is not installed, or does not compute in `precision`.
    """
    backends = encoder_backends(asked, precision)
    if asked == "tensorrt":
        # Prompts come in many shapes, and TensorRT would compile while a request waits.
        return [Backend("cuda", "tf32")]
    if asked == "auto" and precision != "float32":
        backends = encoder_backends(asked, "float32") + backends
    return [backend for backend in backends if backend.provider != "openvino"] or [CPU]


def decoder_only_backends(asked: Provider | Literal["auto"]) -> list[Backend]:
    """Return the candidates for the decoder of a replica without an encoder, in the provider's first precision.

    With OpenVINO it is the CPU, and the package is not needed.

    Args:
        asked: Provider by the settings.

    Raises:
        ProviderUnavailable: `asked` is not installed.
    """
    if asked == "openvino":
        return [CPU]
    return decoder_backends(asked, "float32" if asked == "auto" else PRECISIONS[asked][0])


def select_fastest(
    name: str,
    backends: Sequence[Backend],
    load: Callable[[Backend], Loaded],
    probe: Callable[[Loaded], Callable[[], NDArray[Any]]],
) -> Selection[Loaded]:
    """Load several backends, time them, and return the fastest one. A single one is not timed.

    A candidate is skipped and logged if it cannot be loaded, fails in a run, or answers differently from the first one.
    The others run alternately, so that other load on the machine slows all of them equally.

    Args:
        name: Name of the graphs in the log, such as `The encoder`.
        backends: Candidates, the reference first.
        load: Function that loads the graphs for a backend.
        probe: Function that returns the run to be timed.

    Raises:
        ManifestError, ProviderUnavailable: The first candidate cannot be loaded.
    """
    if len(backends) == 1:
        return Selection(backends[0], load(backends[0]), {})
    loaded = {backends[0]: load(backends[0])}
    runs = {backends[0]: probe(loaded[backends[0]])}
    expected = runs[backends[0]]()
    for backend in backends[1:]:
        try:
            candidate = load(backend)
            run = probe(candidate)
            _check_answer(backend, run(), expected)
        except Exception as error:  # noqa: BLE001 - each provider raises exceptions of its own, and auto does without it
            logger.warning("%s runs without %s: %s", name, backend, error)
        else:
            loaded[backend], runs[backend] = candidate, run
    if len(loaded) == 1:
        return Selection(backends[0], loaded[backends[0]], {})
    timings_ms = _median_ms(runs)
    fastest = min(timings_ms, key=timings_ms.__getitem__)
    if timings_ms[fastest] > CLEARLY_FASTER * timings_ms[backends[0]]:
        fastest = backends[0]
    return Selection(fastest, loaded[fastest], {str(each): round(timing, 1) for each, timing in timings_ms.items()})


def _median_ms(runs: Mapping[Backend, Callable[[], object]]) -> dict[Backend, float]:
    """Return the median milliseconds of each run; the runs alternate."""
    times: dict[Backend, list[float]] = {backend: [] for backend in runs}
    began_at = perf_counter()
    for _ in range(MAX_ROUNDS):
        for backend, run in runs.items():
            start = perf_counter()
            run()
            times[backend].append((perf_counter() - start) * 1000.0)
        if perf_counter() - began_at > PROBE_S:
            break
    return {backend: median(each) for backend, each in times.items()}


def _check_answer(backend: Backend, answer: NDArray[Any], expected: NDArray[Any]) -> None:
    difference = float(np.abs(answer - expected).max() / np.abs(expected).max())
    if not difference <= MAX_DIFFERENCE[backend.precision]:  # a NaN fails, too
        raise ProviderUnavailable(f"its answer differs from the first one's by {difference:.1e} of the largest number")


def _how_to_install(provider: Provider) -> str:
    command = install_command(_EXTRAS[provider])
    if provider == "openvino":
        return f"Run `{command}`."
    # The builds of ONNX Runtime are one module, so that only one of them may be installed.
    return f"Uninstall onnxruntime, then run `{command}`."
