"""Measures one artifact in a process of its own: `python -m tools.bench_models.measured`, started by `__main__`.

A process of its own has a peak of memory that belongs to one model alone.
"""

import argparse
import json
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from tools.bench.ours import Clicks, embedding_of, open_runtime
from tools.bench.samples import Samples, interleaved

_SIZE = (1200, 1600)
_CLICK_ROUNDS, _CLICK_CALLS = 10, 2


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one artifact with one number of threads.

    Attributes:
        load_s: Time until all sessions are loaded, seconds.
        encode_ms: Median of encoding one image, milliseconds.
        encodes: Number of measured encodings.
        other_encode_ms: Median of the other encoder graph, measured alternately; None without one.
        prepare_ms: Median of preparing the state of an image, milliseconds.
        click_ms: Median of decoding one point, all four masks, milliseconds.
        peak_mib: Largest resident memory of the process, MiB.
    """

    load_s: float
    encode_ms: float
    encodes: int
    other_encode_ms: float | None
    prepare_ms: float
    click_ms: float
    peak_mib: float


def measure(directory: Path, *, threads: int, seconds: float, other_encoder: Path | None) -> Measured:
    """Measure an artifact with the sessions of the service.

    Args:
        directory: Folder of the artifact.
        threads: Threads of each session.
        seconds: Time for measuring the encoder; a slow one is measured once all the same.
        other_encoder: Graph of the same encoder as its authors export it; None for none.
    """
    started = perf_counter()
    runtime = open_runtime(directory, threads=threads, provider="cpu", precision="float32")
    load_s = perf_counter() - started
    side = runtime.manifest.image_size
    frame = np.random.default_rng(0).normal(0.0, 1.0, (1, 3, side, side)).astype(np.float32)
    embedding = embedding_of(runtime, frame, _SIZE)
    calls = {"ours": lambda: runtime.encode(frame)}
    if other_encoder is not None:
        # Not at the top: it imports torch, whose memory would count as the model's.
        from tools.bench.models import session

        run = session(other_encoder, threads=threads, provider="cpu").run
        calls["other"] = lambda: run(None, {"image": frame})
        calls["other"]()
    started = perf_counter()
    encodes = interleaved(calls, 1, 1, warms=False)
    rounds = int(np.clip(seconds / (perf_counter() - started), 0, 40))
    if rounds:
        encodes = interleaved(calls, rounds, 1, warms=False)
    clicks = Clicks(runtime, embedding)
    point = (_SIZE[1] / 2, _SIZE[0] / 2)
    decoding = interleaved(
        {"prepare": clicks.prepare, "click": lambda: clicks.decode([point])}, _CLICK_ROUNDS, _CLICK_CALLS
    )
    other: Samples | None = encodes.get("other")
    return Measured(
        load_s=load_s,
        encode_ms=encodes["ours"].p50,
        encodes=len(encodes["ours"].ms),
        other_encode_ms=None if other is None else other.p50,
        prepare_ms=decoding["prepare"].p50,
        click_ms=decoding["click"].p50,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--other-encoder", type=Path)
    asked = parser.parse_args()
    measured = measure(asked.directory, threads=asked.threads, seconds=asked.seconds, other_encoder=asked.other_encoder)
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
