"""Continues training from a checkpoint on a machine with torch, NumPy and OpenCV alone: `python3 train.py --help`.

It validates, trains for some minutes and validates again. It writes files below 15 MiB: the checkpoint in parts, the
train log and a summary. They are written every two minutes, so a run that is cut off is not lost.
"""

import argparse
import copy
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # instead of this folder

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tools.gpu_train.packs import PackedPhoto, read_packs  # noqa: E402
from tools.gpu_train.weights import CHECKPOINT, read_checkpoint  # noqa: E402

from model_store.checkpoint import save_checkpoint  # noqa: E402
from model_store.network.model import PromptableModel  # noqa: E402
from model_store.training.data.windows.augmentation import Augmentation  # noqa: E402
from model_store.training.data.windows.dataset import WindowBatch, WindowDataset, WindowSize, parse_windows  # noqa: E402
from model_store.training.data.windows.loader import WindowLoader  # noqa: E402
from model_store.training.loop.device import scale_of_batches, to_device, use_device  # noqa: E402
from model_store.training.loop.progress import TrainProgress  # noqa: E402
from model_store.training.loop.run import Run, RunConfig  # noqa: E402
from model_store.training.loop.schedule import LearningRate  # noqa: E402
from model_store.training.loop.train_log import CSV_NAME  # noqa: E402
from model_store.training.loop.validation import ValidationSet, validate  # noqa: E402
from model_store.training.objectives.annotated import AnnotatedLoop, annotated_step  # noqa: E402
from model_store.training.tasks import AnnotatedTask  # noqa: E402

PART_BYTES = 14 * 2**20
_WRITE_EVERY_MINUTES = 2.0
_SHM_BYTES = 4 * 2**30  # 15 workers prepare two batches each, of 70 MB at 16 windows of 1024
_BOXES = _POINTS = 3  # prompts of a window, the defaults of `train`


def main() -> None:
    """Validate, train, and validate again."""
    chosen = _arguments()
    device = use_device(chosen.device)
    free = shutil.disk_usage("/dev/shm").free
    if device.type == "cuda" and chosen.workers and free < _SHM_BYTES:
        sys.exit(f"/dev/shm has {free / 2**30:.1f} GiB free, batches need 4: mount -o remount,size=16G /dev/shm")
    photos, validation_photos = read_packs(chosen.packs), read_packs([chosen.validation])
    model = to_device(read_checkpoint(chosen.checkpoint), device)
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(chosen, model, photos, Path(folder))
        print(f"{len(photos)} photos; batches of {job.loader.settings()['windows']}", flush=True)
        validation = ValidationSet.of(validation_photos)
        job.summary["validation_photos"] = len(validation_photos)
        job.summary["before"] = _measured(model, validation)
        job.run.train()
        job.write_files()  # first, since the validation may be cut off
        job.summary["after"] = _measured(job.run.ema.model, validation)
        job.write_files()


class _Task(AnnotatedTask):
    """The task of `train`, with a checkpoint that torch alone can write, and with the wait for batches in seconds."""

    weights_name = "model.pth"
    waited_s = 0.0

    def next_batch(self) -> WindowBatch:
        started = time.monotonic()
        batch = super().next_batch()
        self.waited_s += time.monotonic() - started
        return batch


class _Job:
    """A run with batches as large as memory allows, and the files that it writes."""

    def __init__(
        self, chosen: argparse.Namespace, model: PromptableModel, photos: Sequence[PackedPhoto], folder: Path
    ) -> None:
        self._out, self._folder = chosen.out, folder
        self._out.mkdir(parents=True, exist_ok=True)
        self._written_minutes = 0.0
        device = next(model.parameters()).device
        is_gpu = device.type == "cuda"
        is_bfloat16 = chosen.precision == "bfloat16" or (chosen.precision == "auto" and is_gpu)
        loop = AnnotatedLoop()
        sizes = parse_windows(chosen.windows)
        scale = scale_of_batches(chosen.batch_scale, device, sizes, prompts=_BOXES + _POINTS)
        scale, datasets = _largest_batches(photos, sizes, scale, model, loop, bfloat16=is_bfloat16)
        self.loader = WindowLoader(
            datasets, seed=chosen.seed, workers=chosen.workers, end_share=chosen.end_share, pin_memory=is_gpu
        )
        self._task = _Task(model, self.loader, loop)
        config = RunConfig(
            folder=folder,
            minutes=chosen.minutes,
            steps=chosen.steps,
            learning_rate=LearningRate(chosen.learning_rate, warm_up_steps=chosen.warm_up, fall=chosen.fall),
            seed=chosen.seed,
            bfloat16=is_bfloat16,
            log_every_s=10.0,
        )
        self.run = Run(config, self._task, on_progress=self._on_progress, is_trained=True)
        self.summary: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
            "torch": torch.__version__,
            "checkpoint_sha256": _sha256(chosen.checkpoint.read_bytes()),
            "photos": len(photos),
            "windows": chosen.windows,
            "batch_scale": scale,
            "learning_rate": chosen.learning_rate,
            "workers": chosen.workers,
            "losses": {},
        }

    def write_files(self) -> None:
        """Write the current checkpoint, log and summary."""
        run, used_s = self.run, max(self.run.used_s, 1e-9)
        path = self._folder / "model16.pth"
        save_checkpoint(run.ema.model, path, float16=True)
        content = path.read_bytes()
        parts = {
            f"model.pth.{number}": content[start : start + PART_BYTES]
            for number, start in enumerate(range(0, len(content), PART_BYTES))
        }
        for name, part in parts.items():
            (self._out / name).write_bytes(part)
        shutil.copyfile(self._folder / CSV_NAME, self._out / CSV_NAME)
        self.summary |= {
            "minutes": run.minutes,
            "steps": run.step,
            "images": run.images,
            "images_per_s": run.images / used_s,
            "share_waiting_for_batches": self._task.waited_s / used_s,
            "gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if run.device.type == "cuda" else 0.0,
            "parts": list(parts),
            "sha256": _sha256(content),
        }
        (self._out / "summary.json").write_text(json.dumps(self.summary, indent=1))

    def _on_progress(self, progress: TrainProgress) -> None:
        print(progress.message or progress.line(), flush=True)
        if progress.figures:
            self.summary["losses"] = dict(progress.figures)
        if progress.minutes - self._written_minutes >= _WRITE_EVERY_MINUTES:
            self._written_minutes = progress.minutes
            self.write_files()


def _largest_batches(
    photos: Sequence[PackedPhoto],
    windows: Sequence[WindowSize],
    scale: int,
    model: PromptableModel,
    loop: AnnotatedLoop,
    *,
    bfloat16: bool,
) -> tuple[int, list[WindowDataset]]:
    """Halve the batches until a step of each size, with all corrections, fits into memory."""
    while True:
        datasets = [
            WindowDataset(
                photos,
                replace(size, batch=size.batch * scale),
                boxes=_BOXES,
                points=_POINTS,
                augmentation=Augmentation(),
            )
            for size in windows
        ]
        try:
            for dataset in datasets:
                _try_step(dataset, copy.deepcopy(model).train(), loop, bfloat16=bfloat16)
        except torch.OutOfMemoryError:
            if scale == 1:
                raise
            scale //= 2
        else:
            return scale, datasets


def _try_step(dataset: WindowDataset, model: PromptableModel, loop: AnnotatedLoop, *, bfloat16: bool) -> None:
    """Compute losses and gradients on a temporary model, since a step changes its batch norms."""
    device = next(model.parameters()).device
    batch = dataset.batch(np.random.default_rng(0)).to(device)
    corrections = (True,) * (len(loop.corrections) - 1)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        generator = torch.Generator(device).manual_seed(0)
        losses = annotated_step(model, batch, loop, generator, rounds=corrections, backward=True)
    print(f"a step of {tuple(batch.frames.shape)}: loss {float(losses.total):.3f}", flush=True)


def _measured(model: torch.nn.Module, validation: ValidationSet) -> Mapping[str, float]:
    started = time.monotonic()
    figures = validate(model, validation)
    shown = "  ".join(f"{name.removeprefix('val_')} {value:.3f}" for name, value in figures.items())
    print(f"validation in {time.monotonic() - started:.0f} s: {shown}", flush=True)
    return figures


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", type=Path, nargs="+", help="packs to train on")
    parser.add_argument("--validation", type=Path, required=True, help="pack to validate on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the written files")
    parser.add_argument(
        "--checkpoint", type=Path, default=CHECKPOINT, help=".safetensors file; default: the bundled one"
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="minutes of training; default: %(default)s")
    parser.add_argument("--steps", type=int, help="steps of training instead of minutes")
    parser.add_argument(
        "--windows", default="256:6:0.60,512:2:0.25,1024:1:0.15", help="see `train`; default: %(default)s"
    )
    parser.add_argument("--batch-scale", type=int, help="factor of all batches; default: as large as memory allows")
    parser.add_argument("--end-share", type=float, default=0.9, help="see `train`; default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=7e-4, help="highest learning rate; default: %(default)s")
    parser.add_argument("--warm-up", type=int, default=60, help="steps of the warm-up; default: %(default)s")
    parser.add_argument(
        "--fall",
        type=float,
        default=0.33,
        help="last share of the budget, in which the rate decays; default: %(default)s",
    )
    parser.add_argument("--workers", type=int, default=15, help="processes that make batches; default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument(
        "--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on CUDA"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the batches; default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
