"""Copies the full conformance fixtures into a small folder for a GPU machine; `pack.py --help` lists the options."""

import argparse
import shutil
import sys
from pathlib import Path

NAMES = ("encoder.npz", "decoder.npz")
MAX_BYTES = 16 * 2**20


def main() -> None:
    """Copy the fixtures, unless they are too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures", type=Path, required=True, help="folder with the full fixtures")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    chosen = parser.parse_args()
    sources = [chosen.fixtures / name for name in NAMES]
    size = sum(source.stat().st_size for source in sources)
    if size > MAX_BYTES:
        sys.exit(f"{size} bytes are more than the {MAX_BYTES} that may travel")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copyfile(source, chosen.out / source.name)
    print(f"{chosen.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
