"""Copies the committed part of the full fixtures: ``python tests/training/make_subset.py FIXTURES``.

Nothing of the two files can be left out, as the losses are of all their elements; LZMA makes them a little smaller.
"""

import sys
import zipfile
from pathlib import Path

DATA = Path(__file__).parent / "data"


def main(folder: Path) -> None:
    """Writes data/ beside this file."""
    DATA.mkdir(exist_ok=True)
    for name in ("distill.npz", "distill_trace.npz"):
        with (
            zipfile.ZipFile(folder / name) as full,
            zipfile.ZipFile(DATA / name, "w", zipfile.ZIP_LZMA) as committed,
        ):
            for entry in full.namelist():
                committed.writestr(zipfile.ZipInfo(entry), full.read(entry), zipfile.ZIP_LZMA)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sizes = {path.name: path.stat().st_size for path in sorted(DATA.iterdir())}
    print(sizes, "total", sum(sizes.values()), "bytes")
