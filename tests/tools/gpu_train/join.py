"""Joins the parts of a checkpoint that `train.py` wrote: `python tests/tools/gpu_train/join.py FOLDER`."""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # instead of this folder

from model_store.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from model_store.training.loop.recorder import CURVES  # noqa: E402
from model_store.training.loop.train_log import CSV_NAME, draw_curves  # noqa: E402


def main() -> None:
    """Join and check the parts, write the checkpoint, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the files of the GPU machine")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the curves")
    chosen = parser.parse_args()

    summary = json.loads((chosen.folder / "summary.json").read_text())
    content = b"".join((chosen.folder / name).read_bytes() for name in summary["parts"])
    if hashlib.sha256(content).hexdigest() != summary["sha256"]:
        sys.exit(f"{chosen.folder}: the parts are not those of summary.json; copy all of them again, or train again")
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "model.pth").write_bytes(content)
    model = load_checkpoint(chosen.out / "model.pth")
    (chosen.out / "model.pth").unlink()
    checkpoint = chosen.out / "model.safetensors"
    save_checkpoint(model, checkpoint, float16=True)
    shutil.copyfile(chosen.folder / CSV_NAME, chosen.out / CSV_NAME)
    draw_curves(chosen.out, CURVES)

    print(
        f"{summary['device']}: {summary['steps']} steps of scale {summary['batch_scale']} in {summary['minutes']:.1f} "
        f"minutes, {summary['images_per_s']:.0f} windows/s, {summary['gpu_gib']:.0f} GiB, "
        f"{summary['share_waiting_for_batches']:.0%} of the time waiting for batches"
    )
    after = summary.get("after", {})
    print(f"{'':14} before   after    ({summary['validation_photos']} photos)")
    for name, value in summary["before"].items():
        print(f"{name.removeprefix('val_'):14} {value:6.3f}  {after.get(name, float('nan')):6.3f}")
    if not after:
        print("The run was cut off: the learning rate has not decayed, and the result was not measured.")
    print(
        f"\n{checkpoint} is written. Next, on photos of full size:\n"
        f"  python -m model_store evaluate --data ../data/validation --checkpoint {checkpoint} --max-instances 4\n"
        f"and where it is better than before:\n"
        f"  cp {checkpoint} model_store/checkpoints/{model.architecture.name}.safetensors"
    )


if __name__ == "__main__":
    main()
