"""Verifies the artifact in a folder; needs ONNX Runtime, not torch."""

from pathlib import Path
from typing import Any

import numpy as np

from model_store.export.onnx_session import open_graph
from service.artifact_files import verify_files
from service.manifest import Manifest, ManifestError, load_manifest

_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def verify_artifact(directory: Path) -> Manifest:
    """Compare size and hash of every file with the manifest, and run each graph once on zeros.

    Args:
        directory: Folder of the artifact.

    Raises:
        ManifestError: A file is missing, differs or does not run; the message names it.
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


def _run_once(path: Path) -> None:
    session = open_graph(path)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        feeds[spec.name] = np.zeros(shape, _INPUT_TYPES[spec.type])
    for name, output in zip((spec.name for spec in session.get_outputs()), session.run(None, feeds), strict=True):
        if not np.isfinite(output).all():
            raise ValueError(f"output {name} is not finite")
