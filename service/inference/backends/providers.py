"""Execution providers of ONNX Runtime: what each is told, and which of those that are installed is the fastest here."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.manifest import ManifestError

logger = logging.getLogger(__name__)

Provider = Literal["cpu", "openvino", "cuda", "tensorrt"]
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Array: TypeAlias = NDArray[Any] | ort.OrtValue
Made = TypeVar("Made")

PRECISIONS: dict[Provider, tuple[Precision, ...]] = {
    "cpu": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "cuda": ("float32", "tf32"),
    "tensorrt": ("tf32", "float16"),  # it has no switch for plain float32
}
# What auto may take, the reference first. TensorRT compiles for minutes, so it has to be asked for by name.
AUTO: tuple[Provider, ...] = ("cpu", "openvino", "cuda")

# A choice is made from the medians of so many rounds, or of those that began in this time.
MAX_ROUNDS = 7
TIMING_S = 2.0
# What is not clearly faster does not replace the CPU, so that replicas do not differ by noise.
CLEARLY_FASTER = 0.9
# Against the largest number of the first kind's answer. Measured in float32: 1e-5. What is further off is broken here.
MAX_DIFFERENCE: dict[Precision, float] = {"float32": 1e-2, "tf32": 0.1, "bfloat16": 0.3, "float16": 0.3}

_ORT_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_EXTRAS: dict[Provider, str] = {"cpu": "cpu", "openvino": "openvino", "cuda": "gpu", "tensorrt": "gpu"}


class ProviderUnavailable(RuntimeError):
    """What was asked to compute with cannot be had here; the service does not start, and the message says why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider and what it computes in."""

    provider: Provider
    precision: Precision

    def __str__(self) -> str:
        return self.provider if self.precision == "float32" else f"{self.provider} {self.precision}"


CPU = Kind("cpu", "float32")
"""The reference: what every installation has."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What sessions may use.

    Args:
        threads: a session computes with; for the CPU's providers.
        max_encode_batch: pictures at most in one call; TensorRT compiles for a range.
        engine_cache_dir: where TensorRT keeps what it compiled; None compiles at each start.
    """

    threads: int
    max_encode_batch: int = 1
    engine_cache_dir: Path | None = None


class Graph:
    """One ONNX graph, loaded for one provider.

    Raises:
        ManifestError: ONNX Runtime cannot load the file.
        ProviderUnavailable: the provider cannot load it, or does not work on this machine.
    """

    def __init__(self, path: Path, kind: Kind, resources: Resources) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = resources.threads
        options.inter_op_num_threads = 1
        # Spinning threads burn the quota that the other lane needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # Where a GPU's values stay; OpenVINO computes in the CPU's memory.
        self._device = "cuda" if kind.provider in {"cuda", "tensorrt"} else "cpu"
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=_providers(kind, resources), enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime has a type of its own for each way a file can be unusable
            reason = " ".join(str(error).split())
            if kind.provider == "cpu":
                raise ManifestError(f"{path}: ONNX Runtime cannot load this graph: {reason}") from error
            raise ProviderUnavailable(f"{kind} cannot load {path.name}: {reason}") from error
        if _ORT_NAMES[kind.provider] not in self._session.get_providers():
            # A library or the device is missing. ONNX Runtime says which on stderr and goes on with the CPU.
            raise ProviderUnavailable(
                f"{kind} is installed and does not start on this machine; ONNX Runtime's message on stderr says why"
            )

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], *, resident: bool = False) -> list[Array]:
        """The named outputs, in their order.

        Args:
            feeds: by input name: arrays, or what an earlier run has left on the device.
            resident: leave the outputs on the device. On a CPU they are arrays in any case.
        """
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, value)
        for name in outputs:
            binding.bind_output(name, self._device if resident else "cpu")
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return [value.numpy() if value.device_name().lower() == "cpu" else value for value in values]


@dataclass(frozen=True, slots=True)
class Chosen(Generic[Made]):
    """The fastest of several, and how fast each was; no timings where there was nothing to choose."""

    kind: Kind
    made: Made
    timings_ms: dict[str, float]


def installed_providers() -> list[Provider]:
    """Those that this ONNX Runtime was built with; their libraries or their device may still be missing."""
    names = ort.get_available_providers()
    return [provider for provider, name in _ORT_NAMES.items() if name in names]


def encoder_kinds(asked: Provider | Literal["auto"], precision: Precision) -> list[Kind]:
    """What the encoder may run on, in exactly this precision: it decides what the caches keep.

    Raises:
        ProviderUnavailable: `asked` is not installed or does not compute in `precision`.
    """
    installed = installed_providers()
    if asked == "auto":
        kinds = [Kind(each, precision) for each in AUTO if each in installed and precision in PRECISIONS[each]]
        if not kinds:
            able = [each for each in PRECISIONS if precision in PRECISIONS[each]]
            raise ProviderUnavailable(
                f"EDGESAM_PRECISION={precision} is for {' and '.join(able)}, and auto finds {', '.join(installed)} "
                f"here; install the extra {_EXTRAS[able[0]]!r} in place of onnxruntime and name the provider"
            )
        return kinds
    if asked not in installed:
        raise ProviderUnavailable(
            f"EDGESAM_PROVIDER={asked} is not in this ONNX Runtime, which has {', '.join(installed)}; install the "
            f"extra {_EXTRAS[asked]!r} in place of onnxruntime, or set EDGESAM_PROVIDER=auto"
        )
    if precision not in PRECISIONS[asked]:
        raise ProviderUnavailable(
            f"EDGESAM_PROVIDER={asked} does not compute in {precision}; "
            f"set EDGESAM_PRECISION to {' or '.join(PRECISIONS[asked])}"
        )
    return [Kind(asked, precision)]


def decoder_kinds(asked: Provider | Literal["auto"], precision: Precision) -> list[Kind]:
    """What clicks may run on. Nobody caches their numbers by precision, so auto may take a better one that is faster.

    Raises:
        ProviderUnavailable: as `encoder_kinds`.
    """
    kinds = encoder_kinds(asked, precision)
    if asked == "tensorrt":
        # Prompts come in many shapes, and TensorRT would compile in the middle of a click.
        return [Kind("cuda", "tf32")]
    if asked == "auto" and precision != "float32":
        return encoder_kinds(asked, "float32") + kinds
    return kinds


def lone_decoder_kinds(asked: Provider | Literal["auto"]) -> list[Kind]:
    """What clicks may run on where nothing encodes: the provider's first precision, whatever others encode in.

    Raises:
        ProviderUnavailable: `asked` is not installed.
    """
    return decoder_kinds(asked, "float32" if asked == "auto" else PRECISIONS[asked][0])


def choose(
    what: str,
    kinds: Sequence[Kind],
    make: Callable[[Kind], Made],
    rehearsal: Callable[[Made], Callable[[], NDArray[Any]]],
) -> Chosen[Made]:
    """The fastest of `kinds` that works here; a single one is taken as it is.

    Of several, those are left out, with a line in the log, that cannot be made, fail in a run, or answer otherwise
    than the first. The others run in turn, so that whatever else the machine does meets all alike.

    Args:
        make: loads what is to be timed.
        rehearsal: what is timed of it.

    Raises:
        ManifestError, ProviderUnavailable: the first kind cannot be made.
    """
    if len(kinds) == 1:
        return Chosen(kinds[0], make(kinds[0]), {})
    made = {kinds[0]: make(kinds[0])}
    runs = {kinds[0]: rehearsal(made[kinds[0]])}
    expected = runs[kinds[0]]()
    for kind in kinds[1:]:
        try:
            candidate = make(kind)
            run = rehearsal(candidate)
            _check(kind, run(), expected)
        except Exception as error:  # noqa: BLE001 - a provider fails in ways of its own, and auto goes on without it
            logger.warning("%s runs without %s: %s", what, kind, error)
        else:
            made[kind], runs[kind] = candidate, run
    if len(made) == 1:
        return Chosen(kinds[0], made[kinds[0]], {})
    timings_ms = _timed(runs)
    fastest = min(timings_ms, key=timings_ms.__getitem__)
    if timings_ms[fastest] > CLEARLY_FASTER * timings_ms[kinds[0]]:
        fastest = kinds[0]
    return Chosen(fastest, made[fastest], {str(kind): round(timing, 1) for kind, timing in timings_ms.items()})


def _timed(runs: Mapping[Kind, Callable[[], object]]) -> dict[Kind, float]:
    """Median milliseconds of each, interleaved."""
    times: dict[Kind, list[float]] = {kind: [] for kind in runs}
    began_at = perf_counter()
    for _ in range(MAX_ROUNDS):
        for kind, run in runs.items():
            start = perf_counter()
            run()
            times[kind].append((perf_counter() - start) * 1000.0)
        if perf_counter() - began_at > TIMING_S:
            break
    return {kind: median(some) for kind, some in times.items()}


def _check(kind: Kind, answer: NDArray[Any], expected: NDArray[Any]) -> None:
    difference = float(np.abs(answer - expected).max() / np.abs(expected).max())
    if not difference <= MAX_DIFFERENCE[kind.precision]:  # a NaN fails, too
        raise ProviderUnavailable(f"its answer differs from the first one's by {difference:.1e} of the largest number")


def _providers(kind: Kind, resources: Resources) -> list[tuple[str, dict[str, str]]]:
    """What ONNX Runtime is told; it adds the CPU itself, for nodes that a provider does not know."""
    if kind.provider == "openvino":
        return [(_ORT_NAMES["openvino"], {"device_type": "CPU", "load_config": _openvino_config(kind, resources)})]
    if kind.provider == "cpu":
        return [(_ORT_NAMES["cpu"], {})]
    ort.preload_dlls()  # finds the CUDA libraries that pip has installed
    cuda = {
        # The default arena doubles at each growth until the device is full.
        "arena_extend_strategy": "kSameAsRequested",
        # The exhaustive default searches anew, for seconds, at each number of pictures encoded together.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0" if kind.precision == "float32" else "1",
    }
    if kind.provider == "cuda":
        return [(_ORT_NAMES["cuda"], cuda)]
    frame = "3x1024x1024"
    tensorrt = {
        "trt_fp16_enable": "True" if kind.precision == "float16" else "False",
        # Without a range each new number of pictures would be compiled for, for minutes, while others wait.
        "trt_profile_min_shapes": f"image:1x{frame}",
        "trt_profile_opt_shapes": f"image:1x{frame}",
        "trt_profile_max_shapes": f"image:{resources.max_encode_batch}x{frame}",
    }
    if resources.engine_cache_dir is not None:
        tensorrt |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(resources.engine_cache_dir)}
    return [(_ORT_NAMES["tensorrt"], tensorrt), (_ORT_NAMES["cuda"], cuda)]


def _openvino_config(kind: Kind, resources: Resources) -> str:
    """OpenVINO's own properties of the CPU, as JSON."""
    config = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[kind.precision],
        "INFERENCE_NUM_THREADS": str(resources.threads),
        "NUM_STREAMS": "1",
        # By default each process pins its threads to the first cores, where the other processes of the machine are.
        "ENABLE_CPU_PINNING": "NO",
    }
    if kind.precision == "bfloat16":
        # Its fused attention cannot compile the decoder: "incompatible input element types: f32 and bf16" (2025.4).
        config["SNIPPETS_MODE"] = "DISABLE"
    return json.dumps({"CPU": config})
