"""Serve osam with graphs of the benchmark, because its own models are downloads: `osam serve` with one model more.

It runs in osam's own environment (`make osam`). Server, model class and protocol are osam's and unchanged.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import uvicorn
from osam import apis, types  # type: ignore[import-not-found]
from osam._models.sam import _models as sam  # type: ignore[import-not-found]
from osam._server import app  # type: ignore[import-not-found]


def main() -> None:
    """Register the model, then serve until the process is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    blobs = {"encoder": _blob(chosen.encoder), "decoder": _blob(chosen.decoder)}
    apis.registered_model_types.append(type("Bench", (sam.Sam,), {"name": "bench:latest", "_blobs": blobs}))
    uvicorn.run(app, port=chosen.port, log_level="warning")


def _blob(graph: Path):
    """Copy a graph into osam's folder of checked downloads, so that it downloads nothing."""
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    blob = types.Blob(url=graph.as_uri(), hash=f"sha256:{digest}")
    path = Path(blob.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(graph, path)
    return blob


if __name__ == "__main__":
    main()
