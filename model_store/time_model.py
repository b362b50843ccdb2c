"""`python -m model_store.time_model FOLDER`: times one encode and one click on the CPU, and prints them as JSON."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_store.export.graph_names import encoder_outputs, map_names
from model_store.export.onnx_session import open_graph
from model_store.timings import Timings, processor_name
from service.manifest import STATE_NAMES, Manifest, load_manifest
from service.native import best_level
from service.native.decoder import NativeDecoder

_REPEAT_BELOW_S: Final = 5.0  # the first run of a session also allocates its memory
_CLICKS: Final = 5
_POINT = np.array([[[512.0, 512.0], [0.0, 0.0]]], np.float32)
_LABELS = np.array([[1, -1]], np.int64)  # a point and the padding point


def time_model(directory: Path, *, threads: int) -> Timings:
    """Return the times of one model.

    Args:
        directory: Folder of an artifact in the served layout.
        threads: Number of computing threads.
    """
    manifest = load_manifest(directory)
    encode_s, encoded = _encode(directory, manifest, threads)
    click = _click(directory, manifest, encoded, threads)
    click_s = min(_seconds(click) for _ in range(_CLICKS))
    return Timings(round(encode_s, 4), round(click_s, 5), threads, processor_name())


def _encode(directory: Path, manifest: Manifest, threads: int) -> tuple[float, dict[str, NDArray[np.float32]]]:
    """Return the time of the encoder in seconds, and its outputs for one image by name, each with a batch axis."""
    session = open_graph(directory / manifest.graphs["encoder"].file, threads=threads)
    image = np.full((1, 3, manifest.image_size, manifest.image_size), 0.5, np.float32)
    names = encoder_outputs(manifest.mask_decoder)
    for _ in range(2):
        started = time.perf_counter()
        outputs = session.run(names, {"image": image})
        seconds = time.perf_counter() - started
        if seconds > _REPEAT_BELOW_S:
            break
    return seconds, dict(zip(names, outputs, strict=True))


def _click(
    directory: Path, manifest: Manifest, encoded: Mapping[str, NDArray[np.float32]], threads: int
) -> Callable[[], Any]:
    """Return a function that decodes one point, with the decoder that the service takes on this machine's CPU."""
    tokens = encoded["tokens"][0]
    maps = {name: encoded[name] for name in map_names(manifest.mask_decoder)}
    if manifest.decoder_parameters is not None and best_level() is not None:
        with np.load(directory / manifest.decoder_parameters.file) as parameters:
            decoder = NativeDecoder(dict(parameters), norm_epsilon=manifest.norm_epsilon, threads=threads)
        state = decoder.prepare(tokens, threads=threads)
        if maps:
            # The service keeps the maps as float16.
            s1, s0 = (values[0].astype(np.float16) for values in maps.values())
            return lambda: decoder.decode(*state, _POINT, _LABELS, threads=threads, high_res=(s1, s0))
        return lambda: decoder.decode(*state, _POINT, _LABELS, threads=threads)
    prepare = open_graph(directory / manifest.graphs["prepare"].file, threads=threads)
    graph = open_graph(directory / manifest.graphs["decoder"].file, threads=threads)
    mask = {"mask_logits": np.zeros((1, 256, 256), np.float32), "has_mask": np.zeros(1, np.bool_)}
    arrays = prepare.run(list(STATE_NAMES), {"tokens": tokens, **mask})
    feeds = {**dict(zip(STATE_NAMES, arrays, strict=True)), **maps, "points": _POINT, "labels": _LABELS}
    return lambda: graph.run(None, feeds)


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    print(json.dumps(asdict(time_model(Path(sys.argv[1]), threads=_cores()))))
