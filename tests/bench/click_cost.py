"""What a click costs, side by side in one run: the official decoder graph, ours, and our service over HTTP.

`make bench`, or with fewer rounds: `python tests/bench/click_cost.py --rounds 20`. Every round runs each contender
once, so that whatever else the machine does meets all of them alike.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
from PIL import Image  # noqa: E402
from support.random_model import random_model  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

from model_store.export import export_model  # noqa: E402
from model_store.model_info import ModelInfo  # noqa: E402
from service.inference.threads import available_cpus  # noqa: E402
from service.sam.manifest import STATE_NAMES  # noqa: E402

SIZE = (1200, 1600)  # the picture behind the HTTP clicks, 2 megapixels


def main() -> None:
    """Measure, print a table, write out/bench.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds

    with tempfile.TemporaryDirectory() as folder:
        contenders = plain_sessions(Path(folder))
        settings = {"EDGESAM_MODEL_DIR": f"{folder}/served", "EDGESAM_LOG_LEVEL": "warning"}
        with ServiceProcess({**settings, "EDGESAM_LOG_LEVEL": "info"}) as service, httpx.Client() as client:
            contenders["our service, HTTP, RLE of 2 MP"] = http_click(client, service.url)
            times = interleaved(contenders, rounds)
    report(times, rounds)


def plain_sessions(folder: Path) -> dict[str, Callable[[], object]]:
    """One click through a bare session, per graph and thread count; and `prepare`, once a picture."""
    info = ModelInfo(licence="none", trained=False, source_sha256=None, training_data="none: random weights")
    model = random_model()
    export_model(model, folder / "served", name="served", info=info, layout="served")
    export_model(model, folder / "official", name="official", info=info, layout="official")
    random = np.random.default_rng(0)
    tokens = random.normal(0, 1, (4096, 256)).astype(np.float32)
    points, labels = np.array([[[400, 300], [0, 0]]], np.float32), np.array([[1, -1]])
    official_feeds = {
        "image_embeddings": tokens.T.reshape(1, 256, 64, 64).copy(),
        "point_coords": points,
        "point_labels": labels.astype(np.float32),
    }
    prepare_feeds = {
        "tokens": tokens,
        "mask_logits": np.zeros((1, 256, 256), np.float32),
        "has_mask": np.array([False]),
    }
    contenders: dict[str, Callable[[], object]] = {}
    for threads in sorted({1, available_cpus()}):
        official = session(folder / "official" / "official_decoder.onnx", threads)
        prepare = session(folder / "served" / "prepare.onnx", threads)
        ours = session(folder / "served" / "decoder.onnx", threads)
        state = prepare.run(list(STATE_NAMES), prepare_feeds)
        feeds = {"points": points, "labels": labels, **dict(zip(STATE_NAMES, state, strict=True))}
        contenders[f"official decoder, {threads} thread(s)"] = lambda s=official: s.run(None, official_feeds)
        contenders[f"our decoder, {threads} thread(s)"] = lambda s=ours, f=feeds: s.run(None, f)
        contenders[f"our prepare, {threads} thread(s)"] = lambda s=prepare: s.run(None, prepare_feeds)
    return contenders


def session(path: Path, threads: int) -> ort.InferenceSession:
    """As the service makes them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def http_click(client: httpx.Client, url: str) -> Callable[[], object]:
    """One positive point on an embedded picture, one mask back."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)
    Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG")
    embedded = client.post(
        f"{url}/embed", content=buffer.getvalue(), headers={"Content-Type": "image/jpeg"}, timeout=60
    )
    body = {
        "image_hash": embedded.raise_for_status().json()["image_hash"],
        "multimask": 1,
        "prompts": [{"points": [{"x": 600, "y": 450, "label": 1}]}],
    }
    return lambda: client.post(f"{url}/segment", json=body, timeout=60).raise_for_status()


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, by contender; one round warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, call in contenders.items():
            start = perf_counter()
            call()
            if round_number:
                times[name].append((perf_counter() - start) * 1000)
    return times


def report(times: dict[str, list[float]], rounds: int) -> None:
    """A Markdown table with ratios, and everything as JSON."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout.strip()
    where = f"commit {commit or 'unknown'}, {cpu}, {available_cpus()} CPUs, ONNX Runtime {ort.__version__}, float32"
    print(f"\n{where}, {rounds} rounds, interleaved\n")
    print("| contender | p50 ms | p90 ms | p99 ms | official ÷ this |")
    print("|---|---:|---:|---:|---:|")
    most = max(available_cpus(), 1)
    for name, values in times.items():
        threads = 1 if ", 1 thread" in name else most
        reference = times[f"official decoder, {threads} thread(s)"]
        ratio = statistics.median(reference) / statistics.median(values)
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        print(f"| {name} | {p50:.1f} | {p90:.1f} | {p99:.1f} | {ratio:.2f} |")
    target = ROOT / "out" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"where": where, "rounds": rounds, "milliseconds": times}, indent=1))
    print(f"\nwritten: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
