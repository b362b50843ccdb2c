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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # replaces this folder, whose modules belong to the package

from tools.bench.machine import Machine  # noqa: E402
from tools.bench.report import paragraphs, table  # noqa: E402
from tools.bench_models.making import made_artifact, parameters  # noqa: E402

from model_store.architectures import ARCHITECTURES  # noqa: E402
from service.process import available_cpus  # noqa: E402

_TIMEOUT_S = 900


def main() -> None:
    """Measure, print the table and, with --docs, write the document."""
    parser = argparse.ArgumentParser(prog="python tests/tools/bench_models", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAMES", default=",".join(ARCHITECTURES), help="architectures, separated by commas"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each encoder; default: %(default)s")
    parser.add_argument("--artifacts", type=Path, help="folder that keeps the artifacts for another run, up to 4 GB")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "bench-models.json",
        help="results as JSON; those of other architectures in it stay",
    )
    parser.add_argument("--docs", action="store_true", help="also write docs/operations/model-speed.md")
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - set(ARCHITECTURES):
        parser.error(f"unknown architectures: {', '.join(sorted(unknown))}. Choose from {', '.join(ARCHITECTURES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit, so that started processes are stopped
    where = Machine.here().sentence()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in json.loads(asked.out.read_text())["models"]} if asked.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        for name in names:
            rows[name] = measure(name, asked.artifacts or Path(folder), seconds=asked.seconds)
            measured = [rows[each] for each in ARCHITECTURES if each in rows]
            asked.out.write_text(json.dumps({"where": where, "models": measured}, indent=1) + "\n")
    measured = json.loads(asked.out.read_text())["models"]  # numbers of threads are texts there
    text = document(where, measured)
    if asked.docs:
        (ROOT / "docs" / "operations" / "model-speed.md").write_text(text)
    print(text)


def measure(name: str, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure the artifact of an architecture with random weights.

    Args:
        name: Name of the architecture.
        folder: Folder of artifacts; one that is not there yet is made.
        seconds: Time for the encoder, for each number of threads.

    Returns:
        Sizes, and the measurements by number of threads under `threads`.
    """
    print(f"· {name}", file=sys.stderr, flush=True)
    artifact = made_artifact(name, folder)
    by_threads = {
        threads: _measured(artifact.directory, threads, seconds, artifact.official_encoder)
        for threads in sorted({1, available_cpus()})
    }
    # The authors' graph has memory of its own, so the peak is that of a process without it.
    alone = _measured(artifact.directory, available_cpus(), 0.0, None)
    encoder, rest = parameters(name)
    return {
        "name": name,
        "image_size": ARCHITECTURES[name].image_size,
        "encoder": ARCHITECTURES[name].encoder,
        "encoder_parameters": encoder,
        "other_parameters": rest,
        "artifact_bytes": sum(path.stat().st_size for path in artifact.directory.iterdir()),
        "peak_mib": alone["peak_mib"],
        "threads": by_threads,
    }


def _measured(directory: Path, threads: int, seconds: float, official_encoder: Path | None) -> dict[str, Any]:
    """Return what `measured` prints, run in a process of its own."""
    command = [sys.executable, "-m", "tools.bench_models.measured", str(directory), "--threads", str(threads),
               "--seconds", str(seconds)]  # fmt: skip
    if official_encoder is not None:
        command += ["--other-encoder", str(official_encoder)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, env=environment, cwd=ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])


def document(where: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page, in Markdown.

    Args:
        where: Description of machine and software.
        rows: Results of `measure`.
    """
    lines = [
        "# Speed and size of every architecture",
        "",
        *paragraphs(f"""
            This page compares what the models that this service can run cost on a CPU: time, memory and disk space.

            Written by `make bench-models`: {where}.

            The weights are random, which does not change the speed. Artifacts store large weights as float16, and the
            sessions compute in float32, as in the service. The process of each row and number of threads is its own.

            *Encode* is one image through the encoder. *Click* is one point through the decoder, with all four masks and
            without HTTP. *Memory* is the largest resident memory of a process that loads the model, encodes one image
            at a time and decodes clicks. *Load* is the time until the sessions are open.
        """),
        *table(_costs(rows)),
        "## Beside the authors' own graphs",
        "",
        *paragraphs("""
            The authors of EdgeSAM and of EfficientViT-SAM export their encoders as ONNX. Such a graph, with the same
            weights, is measured alternately with ours. The other authors export the decoder alone.
        """),
        *table(_beside_official(rows)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    threads = [f"{count} thread{'s' if int(count) > 1 else ''}" for count in rows[0]["threads"]]
    columns = ["architecture", "encoder", "side of its input", "parameters, million", "artifact MB"]
    columns += [f"{what} ms, {count}" for what in ("encode", "click") for count in threads]
    columns += ["memory MiB", "load s"]
    cells = [
        [
            f"`{row['name']}`", row["encoder"], row["image_size"],
            (row["encoder_parameters"] + row["other_parameters"]) / 1e6, row["artifact_bytes"] / 1e6,
            *[one[f"{what}_ms"] for what in ("encode", "click") for one in row["threads"].values()],
            row["peak_mib"] and round(row["peak_mib"]), list(row["threads"].values())[-1]["load_s"],
        ]
        for row in rows
    ]  # fmt: skip
    return {"title": "", "columns": columns, "rows": cells}


def _beside_official(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells = [
        [f"`{row['name']}`", int(threads), one["encodes"], other, one["encode_ms"], other / one["encode_ms"]]
        for row in rows
        for threads, one in row["threads"].items()
        if (other := one["other_encode_ms"]) is not None
    ]
    columns = ["architecture", "threads", "n", "authors' graph, p50 ms", "ours, p50 ms", "authors' ÷ ours"]
    return {"title": "", "columns": columns, "rows": cells}


if __name__ == "__main__":
    main()
