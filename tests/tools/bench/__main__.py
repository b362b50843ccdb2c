"""`make bench`: what a click costs, side by side in one run. `python tests/tools/bench --help` lists the choices.

Compares the official graphs on plain ONNX Runtime, ours, our service over HTTP and a server as peers write them.
Runs with other providers or on other machines come into the document from docs/operations/bench-*.json, as
`--provider cuda --only graphs,click,load --out docs/operations/bench-cuda.json` writes them there.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # in place of this folder, whose modules are `bench`'s
# As the service sets them, before anything imports NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from tools.bench.plot import as_svg, draw  # noqa: E402
from tools.bench.report import markdown  # noqa: E402
from tools.bench.run import SECTIONS, run  # noqa: E402


def main() -> None:
    """Measure, print the tables, write the JSON and, with --docs, the documents."""
    parser = argparse.ArgumentParser(prog="python tests/tools/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: some two minutes, and rougher figures")
    parser.add_argument("--only", metavar="NAMES", default=",".join(SECTIONS), help="sections, as in %(default)s")
    parser.add_argument("--provider", default="cpu", help="as EDGESAM_PROVIDER; %(default)s")
    parser.add_argument("--precision", default="float32", help="as EDGESAM_PRECISION; %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench.json", help="all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="also write benchmarks.md and bench.svg in docs/operations")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
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
