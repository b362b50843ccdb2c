"""`make faults` makes real faults and measures them. `python tests/tools/faults --help` lists the options."""

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # replaces this folder, whose modules belong to the package `faults`
# As the service sets them, before anything imports NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from tools.faults.models import UnknownModelError, artifact_of  # noqa: E402
from tools.faults.outcome import Outcome  # noqa: E402
from tools.faults.report import markdown, write_into  # noqa: E402
from tools.faults.run import EXPERIMENTS, run  # noqa: E402

DOCUMENT = ROOT / "docs" / "operations" / "reliability.md"


def main() -> int:
    """Run experiments and print their tables. Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python tests/tools/faults", description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"names of experiments: {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="run the short form, as `make test` does")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="also write all results of the folder --out into docs/operations/reliability.md",
    )
    parser.add_argument(
        "--model",
        help="model to serve in place of the bundled one: the folder of an artifact, or the name of an architecture, "
        "which gets seeded weights",
    )
    parser.add_argument("--out", type=Path, help="folder of the results as JSON; default: out/faults, or with --model "
                        "a folder of its own below out")  # fmt: skip
    chosen = parser.parse_args()
    if chosen.model is not None and chosen.docs:
        parser.error("--docs writes the results of the bundled model; leave --model out")
    out = chosen.out or ROOT / "out" / ("faults" if chosen.model is None else f"faults-{Path(chosen.model).name}")
    names = chosen.experiments or list(EXPERIMENTS)
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"unknown experiments: {', '.join(sorted(unknown))}. Choose from {', '.join(EXPERIMENTS)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit, so that started processes are stopped
    with tempfile.TemporaryDirectory(prefix="faults-model-") as folder:
        try:
            model = artifact_of(chosen.model, Path(folder))
        except UnknownModelError as error:
            parser.error(str(error))
        outcomes = run(
            names,
            quick=chosen.quick,
            model=model,
            progress=lambda step: print(f"· {step}", file=sys.stderr, flush=True),
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, outcome in zip(names, outcomes, strict=True):
        document = json.dumps(outcome.document(), indent=1, ensure_ascii=False)
        (out / f"{name}.json").write_text(document + "\n")
    print(markdown(outcomes))
    if chosen.docs:
        written = [out / f"{name}.json" for name in EXPERIMENTS]
        write_into(DOCUMENT, [Outcome.of(json.loads(path.read_text())) for path in written if path.exists()])
    broken = [promise for outcome in outcomes for promise in outcome.broken]
    for promise in broken:
        print(f"broken: {promise}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
