"""Opens graphs of artifacts in ONNX Runtime, on the CPU."""

from pathlib import Path

import onnxruntime


def open_graph(path: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """Return a CPU session whose threads sleep between runs.

    Args:
        path: ONNX file of the graph.
        threads: Number of computing threads; 0 takes one for each core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
