"""`make fuzz`: a coverage-guided fuzzer (Atheris) for all code that reads untrusted bytes.

An unexpected error or a broken invariant ends the run. The input is then in out/fuzz.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import atheris  # noqa: E402

with atheris.instrument_imports(include=["service", "PIL"]):
    from tools.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz one target, with a corpus that grows from its seeds."""
    parser = argparse.ArgumentParser(prog="python tests/tools/fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "fuzz")
    chosen = parser.parse_args()
    seeds, read, longest = TARGETS[chosen.target]
    folder = chosen.out / chosen.target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={chosen.seconds}", f"-max_len={longest}", "-rss_limit_mb=2048", "-timeout=30"]
    quiet = ["-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={chosen.out}/{chosen.target}-"]
    atheris.Setup([sys.argv[0], str(folder), *options, *quiet], counted(read, chosen.target, chosen.out))
    atheris.Fuzz()


def counted(read: Callable[[bytes], None], target: str, out: Path) -> Callable[[bytes], None]:
    """Return `read` with statistics, written to a file because the fuzzer ends the process by itself."""
    state = {"inputs": 0, "longest_ms": 0.0}
    path = out / f"{target}.json"

    def once(data: bytes) -> None:
        started = time.perf_counter()
        read(data)
        ms = (time.perf_counter() - started) * 1000.0
        state["inputs"] += 1
        state["longest_ms"] = max(state["longest_ms"], ms)
        if state["inputs"] % 1000 == 0 or state["longest_ms"] == ms:
            path.write_text(json.dumps(state))

    return once


if __name__ == "__main__":
    main()
