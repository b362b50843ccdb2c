"""Opens and checks the graphs of an artifact on disk; needs ONNX Runtime, not torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.manifest import Manifest, ManifestError, load_manifest, verify_files

_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def verify_artifact(directory: Path) -> Manifest:
    """Compare every file's size and hash with the manifest and run each graph once on zeros.

    Raises:
        ManifestError: something is missing, differs or does not run; the message names the file.
    """
    manifest = load_manifest(directory)
    verify_files(directory, manifest)
    for graph in manifest.graphs.values():
        path = directory / graph.file
        try:
            _run_once(path)
        except Exception as error:  # ONNX Runtime raises many types of its own; all mean the same here
            raise ManifestError(f"{path}: the graph does not run: {error}") from error
    return manifest


def open_graph(path: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """A session on the CPU that leaves the cores to others when it does not compute.

    Args:
        path: File of the graph.
        threads: Threads that compute; 0 takes one for each core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run_once(path: Path) -> None:
    session = open_graph(path)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        feeds[spec.name] = np.zeros(shape, _INPUT_TYPES[spec.type])
    for name, output in zip((spec.name for spec in session.get_outputs()), session.run(None, feeds), strict=True):
        if not np.isfinite(output).all():
            raise ValueError(f"output {name} is not finite")
