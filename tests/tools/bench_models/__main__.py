"""`make bench-models` measures every architecture: size, encoding, a click, memory. Random weights suffice for speed.

Writes docs/operations/model-speed.md. `python tests/tools/bench_models --help` lists the options.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # replaces this folder, whose modules belong to the package

from tools.bench.machine import Machine  # noqa: E402
from tools.bench.report import number  # noqa: E402
from tools.bench_models.making import OFFICIAL_ENCODERS, make_artifact, parameters  # noqa: E402

from model_store.architectures import ARCHITECTURES  # noqa: E402
from service.process import available_cpus  # noqa: E402

_TIMEOUT_S = 900
_MIB = 2**20


def main() -> None:
    """Measure, print the table and, with --docs, write the document."""
    parser = argparse.ArgumentParser(prog="python tests/tools/bench_models", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAMES", default=",".join(ARCHITECTURES), help="architectures, separated by commas"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each encoder; default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench-models.json", help="results as JSON")
    parser.add_argument("--docs", action="store_true", help="also write docs/operations/model-speed.md")
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - set(ARCHITECTURES):
        parser.error(f"unknown architectures: {', '.join(sorted(unknown))}. Choose from {', '.join(ARCHITECTURES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit, so that started processes are stopped
    where = Machine.here().sentence()
    rows = [measure(name, seconds=asked.seconds) for name in names]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"where": where, "models": rows}, indent=1) + "\n")
    text = document(where, rows)
    if asked.docs:
        (ROOT / "docs" / "operations" / "model-speed.md").write_text(text)
    print(text)


def measure(name: str, *, seconds: float) -> dict[str, Any]:
    """Make the artifact of an architecture with random weights and measure it.

    Args:
        name: Name of the architecture.
        seconds: Time for the encoder, for each number of threads.

    Returns:
        Sizes, and the measurements by number of threads under `threads`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        print(f"· {name}: making it", file=sys.stderr, flush=True)
        artifact = make_artifact(name, Path(folder))
        by_threads = {}
        for threads in sorted({1, available_cpus()}):
            print(f"· {name}: {threads} threads", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "tools.bench_models.measured", str(artifact.directory),
                       "--threads", str(threads), "--seconds", str(seconds)]  # fmt: skip
            if artifact.official_encoder is not None:
                command += ["--other-encoder", str(artifact.official_encoder)]
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, env=environment, cwd=ROOT
            )
            by_threads[threads] = json.loads(done.stdout.splitlines()[-1])
        size = sum(path.stat().st_size for path in artifact.directory.iterdir())
        encoder, rest = parameters(name)
    return {
        "name": name,
        "image_size": ARCHITECTURES[name].image_size,
        "encoder": ARCHITECTURES[name].encoder,
        "encoder_parameters": encoder,
        "other_parameters": rest,
        "artifact_bytes": size,
        "convert_s": artifact.seconds,
        "threads": by_threads,
    }


def document(where: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the page, in Markdown."""
    return "\n".join([
        "# Speed and size of every architecture",
        "",
        "This page compares what the models that this service can run cost on a CPU: time, memory and disk space.",
        "",
        f"Written by `make bench-models`: {where}. The weights are random, which does not change the speed. Artifacts "
        "store large weights as float16 and compute in float32. The sessions are those of the service, with the given "
        "number of threads. Each row was measured in processes of its own.",
        "",
        *_table(rows),
        "*Encode* is one image through the encoder, *click* is one point through the decoder with all four masks, "
        "without HTTP. The click costs the same with every model: only the encoder differs. *Memory* is the peak of "
        "a process that loads the model and encodes one image at a time, with the number of threads of its row. "
        "*Convert* is the time to make the artifact from a checkpoint on disk, without the download.",
        "",
        "## Beside the authors' own graphs",
        "",
        "The authors of EdgeSAM and of EfficientViT-SAM publish or export their encoders as ONNX. Such a graph is "
        f"measured alternately with ours, with the same weights: {', '.join(f'`{name}`' for name in OFFICIAL_ENCODERS)}. "
        "The other authors export the decoder alone.",
        "",
        *_official_table(rows),
    ]).rstrip() + "\n"  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    threads = list(rows[0]["threads"])
    encodes = " | ".join(f"encode ms, {count} thread{'s' if count > 1 else ''}" for count in threads)
    clicks = " | ".join(f"click ms, {count} thread{'s' if count > 1 else ''}" for count in threads)
    lines = [
        "| architecture | encoder, side of its input | parameters, million | artifact MB "
        f"| {encodes} | {clicks} | memory MiB | load s | convert s |",
        "|---|---|---:|---:|" + "---:|" * (2 * len(threads) + 3),
    ]
    for row in rows:
        measured = list(row["threads"].values())
        cells = [
            f"`{row['name']}`",
            f"{row['encoder']}, {row['image_size']}",
            number((row["encoder_parameters"] + row["other_parameters"]) / 1e6),
            number(row["artifact_bytes"] / 1e6),
            *[number(one["encode_ms"]) for one in measured],
            *[number(one["click_ms"]) for one in measured],
            number(round(max(one["peak_mib"] for one in measured))),
            number(measured[-1]["load_s"]),
            number(row["convert_s"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _official_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| architecture | threads | n | authors' graph, p50 ms | ours, p50 ms | authors' ÷ ours |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in rows:
        for threads, one in row["threads"].items():
            if (other := one["other_encode_ms"]) is None:
                continue
            ours = one["encode_ms"]
            lines.append(
                f"| `{row['name']}` | {threads} | {one['encodes']} | {number(other)} | {number(ours)} "
                f"| {number(other / ours)} |"
            )
    return [*lines, ""]


if __name__ == "__main__":
    main()
