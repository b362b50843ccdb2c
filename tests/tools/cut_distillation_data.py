"""Copies the reference arrays of distillation: ``python tests/tools/cut_distillation_data.py FIXTURES``.

Both files are copied in full, since the losses are over all their elements. LZMA makes them a little smaller.
"""

import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.official_reference import COMMITTED

NAMES = ("distill.npz", "distill_trace.npz")


def main(folder: Path) -> None:
    """Write the committed files.

    Args:
        folder: Folder of the full fixtures.
    """
    for name in NAMES:
        with (
            zipfile.ZipFile(folder / name) as full,
            zipfile.ZipFile(COMMITTED / name, "w", zipfile.ZIP_LZMA) as committed,
        ):
            for entry in full.namelist():
                committed.writestr(zipfile.ZipInfo(entry), full.read(entry), zipfile.ZIP_LZMA)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print({name: (COMMITTED / name).stat().st_size for name in NAMES})
