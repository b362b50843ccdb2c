"""One ONNX graph as a session of ONNX Runtime, with the options of each execution provider."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.inference.backends.providers import ORT_NAMES, Backend, ProviderUnavailable
from service.manifest import ManifestError
from service.manifest_versions import DEFAULT_IMAGE_SIZE

Array: TypeAlias = NDArray[Any] | ort.OrtValue
Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Resources:
    """Threads and limits of sessions.

    Args:
        threads: Computing threads of a session, for providers that compute on the CPU.
        max_encode_batch: Largest number of images in one call. TensorRT compiles for a range of batch sizes.
        engine_cache_dir: Folder in which OpenVINO and TensorRT keep compiled graphs; None compiles at each start.
        image_size: Side of the encoder's input, in pixels.
    """

    threads: int
    max_encode_batch: int = 1
    engine_cache_dir: Path | None = None
    image_size: int = DEFAULT_IMAGE_SIZE


class Graph:
    """One ONNX graph, loaded for one backend.

    Args:
        path: File of the graph.
        backend: Execution provider and precision.
        resources: Threads and limits of the session.

    Raises:
        ManifestError: ONNX Runtime cannot load the file.
        ProviderUnavailable: The provider cannot load the file, or does not work on this machine.
    """

    def __init__(self, path: Path, backend: Backend, resources: Resources) -> None:
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = resources.threads
        options.inter_op_num_threads = 1
        # Spinning threads use up the CPU quota that the other session needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # The device that holds the values of a GPU.
        self._device = "cuda" if backend.provider in {"cuda", "tensorrt"} else "cpu"
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=_session_providers(backend, resources), enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime has an exception type for each way in which a file can be unusable
            reason = " ".join(str(error).split())
            if backend.provider == "cpu":
                raise ManifestError(f"{path}: ONNX Runtime cannot load this graph: {reason}") from error
            raise ProviderUnavailable(f"{backend} cannot load {path.name}: {reason}") from error
        if ORT_NAMES[backend.provider] not in self._session.get_providers():
            # A library or the device is missing. ONNX Runtime writes which one on stderr, and falls back to the CPU.
            raise ProviderUnavailable(
                f"{backend} is installed and does not start on this machine; ONNX Runtime's message on stderr says why"
            )

    def check_names(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Check that the graph has these inputs and no others, and these outputs.

        Raises:
            ManifestError: It has not.
        """
        found_inputs = [value.name for value in self._session.get_inputs()]
        found_outputs = [value.name for value in self._session.get_outputs()]
        check_graph_names(self._path, found_inputs, found_outputs, inputs=inputs, outputs=outputs)

    def takes_one_row(self, name: str) -> bool:
        """Return whether the graph fixes the first axis of an input to 1."""
        return any(value.name == name and value.shape[0] == 1 for value in self._session.get_inputs())

    def resident(self, array: Floats) -> Array:
        """Return an array in the memory of the device, for runs that read it again. On a CPU it is the array itself."""
        return array if self._device == "cpu" else ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], *, resident: bool = False) -> list[Array]:
        """Run the graph, and return the named outputs in their order.

        Args:
            outputs: Names of outputs.
            feeds: Inputs by name: arrays, or values that an earlier run left on the device.
            resident: Whether the outputs stay on the device. On a CPU they are arrays in any case.
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


def check_graph_names(
    path: Path,
    found_inputs: Sequence[str],
    found_outputs: Sequence[str],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Check that a graph has the expected inputs and no others, and the expected outputs.

    Args:
        path: File of the graph, for the message.
        found_inputs: Names of its inputs.
        found_outputs: Names of its outputs.
        inputs: Names of the expected inputs.
        outputs: Names of the expected outputs.

    Raises:
        ManifestError: It has not.
    """
    if sorted(found_inputs) != sorted(inputs):
        found = ", ".join(found_inputs)
        raise ManifestError(f"{path}: the graph has the inputs {found}, not {', '.join(inputs)}")
    if missing := [name for name in outputs if name not in found_outputs]:
        raise ManifestError(f"{path}: the graph lacks the outputs {', '.join(missing)}")


def _session_providers(backend: Backend, resources: Resources) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session and their options.

    ONNX Runtime adds the CPU itself, for nodes that a provider does not support.
    """
    if backend.provider == "cpu":
        return [(ORT_NAMES["cpu"], {})]
    ort.preload_dlls()  # finds the CUDA libraries that pip has installed
    cuda = {
        # The default arena doubles at each growth until the device is full.
        "arena_extend_strategy": "kSameAsRequested",
        # The exhaustive default searches for seconds at each new number of images in a call.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0" if backend.precision == "float32" else "1",
    }
    if backend.provider == "cuda":
        return [(ORT_NAMES["cuda"], cuda)]
    frame = f"3x{resources.image_size}x{resources.image_size}"
    tensorrt = {
        "trt_fp16_enable": "True" if backend.precision == "float16" else "False",
        # Without a range TensorRT compiles for minutes at each new number of images, while requests wait.
        "trt_profile_min_shapes": f"image:1x{frame}",
        "trt_profile_opt_shapes": f"image:1x{frame}",
        "trt_profile_max_shapes": f"image:{resources.max_encode_batch}x{frame}",
    }
    if resources.engine_cache_dir is not None:
        tensorrt |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(resources.engine_cache_dir)}
    return [(ORT_NAMES["tensorrt"], tensorrt), (ORT_NAMES["cuda"], cuda)]
