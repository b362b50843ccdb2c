"""The encoder's graph on OpenVINO, through the package `openvino`. ONNX Runtime stays installed beside it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from service.extras import install_command
from service.inference.backends.onnx_graph import Floats, Resources, check_graph_names
from service.inference.backends.providers import Backend, Precision, ProviderUnavailable

logger = logging.getLogger(__name__)

_DEVICE: Final = "CPU"
_TYPES: Final[dict[Precision, str]] = {"float32": "f32", "bfloat16": "bf16"}
"""Precisions in OpenVINO's words."""


class OpenVinoGraph:
    """One ONNX graph on OpenVINO's CPU device. It takes one image in a call.

    A call of several images is no faster for each of them and keeps 90 MiB of memory for each (edgesam-lite). With
    a fixed shape OpenVINO is 2 to 5 % faster, too.

    Args:
        path: File of the graph.
        backend: The provider `openvino`, and the precision.
        resources: Threads and limits.

    Raises:
        ProviderUnavailable: OpenVINO does not work on this machine, lacks the precision, or cannot load the file.
    """

    def __init__(self, path: Path, backend: Backend, resources: Resources) -> None:
        self._path = path
        try:
            # Imported when it is needed: it takes 0.1 s, and `auto` does without a package that is broken.
            import openvino  # noqa: PLC0415

            core = openvino.Core()
            abilities = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        except Exception as error:  # a broken installation can raise anything
            raise ProviderUnavailable(
                f"{backend} is installed and does not start: {_one_line(error)}. Install it again with "
                f"`{install_command('openvino')} --force-reinstall`, or set EDGESAM_PROVIDER=cpu."
            ) from error
        if backend.precision == "bfloat16" and "BF16" not in abilities:
            # OpenVINO would emulate it with AVX-512: measured, 2.2 times slower than float32.
            raise ProviderUnavailable(
                "EDGESAM_PRECISION=bfloat16 needs a processor with AVX512_BF16 or AMX, which this one lacks; without "
                "them it is slower than float32. Set EDGESAM_PRECISION=float32."
            )
        try:
            started = perf_counter()
            model = core.read_model(path)
            for value in model.inputs:
                shape = value.partial_shape
                shape[0] = 1
                model.reshape({value: shape})
            self._compiled = core.compile_model(model, _DEVICE, _properties(backend, resources))
            computes_in = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:  # OpenVINO raises RuntimeError, and its bindings TypeError and others
            raise ProviderUnavailable(f"{backend} cannot load {path.name}: {_one_line(error)}") from error
        if computes_in != _TYPES[backend.precision]:
            raise ProviderUnavailable(f"{backend} would compute {path.name} in {computes_in} on this machine")
        logger.info("OpenVINO compiled %s for %s in %.1f s", path.name, backend, perf_counter() - started)

    def check_names(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """See `Graph.check_names`."""
        found_inputs = [value.any_name for value in self._compiled.inputs]
        found_outputs = [name for value in self._compiled.outputs for name in value.names]
        check_graph_names(self._path, found_inputs, found_outputs, inputs=inputs, outputs=outputs)

    def takes_one_row(self, name: str) -> bool:
        """Return whether the first axis of an input is fixed to 1."""
        return any(name in value.names and value.partial_shape[0].get_length() == 1 for value in self._compiled.inputs)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Floats]) -> list[Floats]:
        """Run the graph on one image, and return the named outputs in their order.

        Args:
            outputs: Names of outputs.
            feeds: Inputs by name.
        """
        # Each call has a request of its own, which costs nothing. So calls may run at the same time, and the arrays of
        # an answer stay valid.
        request = self._compiled.create_infer_request()
        request.infer(feeds, share_inputs=True, share_outputs=True)
        return [request.get_tensor(name).data for name in outputs]


def _properties(backend: Backend, resources: Resources) -> dict[str, Any]:
    """Return the properties of a compiled graph."""
    properties: dict[str, Any] = {
        # By default OpenVINO computes in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": _TYPES[backend.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": resources.threads,
        # By default the number of threads ends at that of the physical cores.
        "ENABLE_HYPER_THREADING": True,
        # By default each process pins its threads to the first cores, where other processes of the machine also run.
        "ENABLE_CPU_PINNING": False,
    }
    if resources.engine_cache_dir is not None:
        properties["CACHE_DIR"] = str(resources.engine_cache_dir)
    return properties


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
