"""Train under torchrun, first a run whose processes are compared, then by the command: DISCS CHECKPOINT OUT."""

import sys
from pathlib import Path

import torch
from torch import distributed

from model_store.checkpoint import load_checkpoint
from model_store.cli import app
from model_store.training.data.annotations import read_annotations
from model_store.training.data.windows.augmentation import Augmentation
from model_store.training.data.windows.dataset import WindowDataset, parse_windows
from model_store.training.data.windows.loader import WindowLoader
from model_store.training.loop.distributed import DistributedContext, distributed_context
from model_store.training.loop.run import Run, RunConfig
from model_store.training.loop.schedule import LearningRate
from model_store.training.objectives.annotated import AnnotatedLoop
from model_store.training.tasks import AnnotatedTask

WINDOWS = "64:2:0.7,128:1:0.3"


def a_run(context: DistributedContext, discs: Path, checkpoint: Path, out: Path) -> Run:
    """Three steps from a checkpoint."""
    records = read_annotations(discs)
    datasets = [
        WindowDataset(records, size, boxes=1, points=1, augmentation=Augmentation()) for size in parse_windows(WINDOWS)
    ]
    task = AnnotatedTask(
        load_checkpoint(checkpoint), WindowLoader(datasets, seed=0, rank=context.rank), AnnotatedLoop((0.5, 0.5))
    )
    config = RunConfig(out, 0.0, LearningRate(1e-3, warm_up_steps=0), steps=3)
    return Run(config, task, context=context)


def compare(run: Run) -> None:
    """Fail unless weights, statistics and averages are the same in both processes."""
    for model in (run.model, run.ema.model):
        for key, value in model.state_dict().items():
            both = [torch.empty_like(value.contiguous()) for _ in range(2)]
            distributed.all_gather(both, value.contiguous())
            assert torch.equal(*both), key


def main(discs: str, checkpoint: str, out: str) -> None:
    """Train and compare, then run the command in the same processes."""
    torch.set_num_threads(1)
    command = (
        f"train --data {discs} --resume {checkpoint} --out {out}/command --windows {WINDOWS} --boxes 1 --points 1 "
        f"--validation {discs} --validation-stride 4 --workers 0 --steps 1 --device cpu --threads 1"
    )
    with distributed_context() as context:
        run = a_run(context, Path(discs), Path(checkpoint), Path(out) / "compared")
        run.train()
        compare(run)
        if context.is_first:
            print("the same in both")
        app(command.split(), standalone_mode=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
