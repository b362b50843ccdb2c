"""`make bench` measures prompts and uploads. `python tests/tools/bench --help` lists the options.

Compares in one run the official graphs on plain ONNX Runtime, our graphs, our service over HTTP, a typical server
and osam, if `make osam` has installed it.
The document also shows runs with other providers or on other machines, from docs/operations/bench-*.json. Write them
with `--provider cuda --only graphs,click,load --out docs/operations/bench-cuda.json`.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # replaces this folder, whose modules belong to the package `bench`
# As the service sets them, before anything imports NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from tools.bench.plot import as_svg, draw  # noqa: E402
from tools.bench.report import markdown  # noqa: E402
from tools.bench.run import SECTIONS, run  # noqa: E402


def main() -> None:
    """Measure, print the tables, write the JSON and, with --docs, the documents."""
    parser = argparse.ArgumentParser(prog="python tests/tools/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about two minutes, less precise")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        default=",".join(SECTIONS),
        help="sections, separated by commas; default: %(default)s",
    )
    parser.add_argument("--provider", default="cpu", help="EDGESAM_PROVIDER of the service; default: %(default)s")
    parser.add_argument("--precision", default="float32", help="EDGESAM_PRECISION of the service; default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "bench.json",
        help="file of the results as JSON; default: %(default)s",
    )
    parser.add_argument("--docs", action="store_true", help="also write benchmarks.md and bench.svg in docs/operations")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}. Choose from {', '.join(SECTIONS)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit, so that started processes are stopped
    made = run(
        "quick" if chosen.quick else "full",
        names,
        provider=chosen.provider,
        precision=chosen.precision,
        progress=lambda step: print(f"· {step}", file=sys.stderr, flush=True),
    )
    written = [chosen.out]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    if chosen.docs:
        docs = ROOT / "docs" / "operations"
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "bench.svg").write_text(as_svg(draw(made["values"], made["where"])))
        others = [json.loads(path.read_text()) for path in sorted(docs.glob("bench-*.json"))]
        (docs / "benchmarks.md").write_text(markdown(made, plot="bench.svg", others=others))
        written += [docs / "bench.svg", docs / "benchmarks.md"]
    print(markdown(made))
    print(f"written: {', '.join(str(path) for path in written)}")


if __name__ == "__main__":
    main()
